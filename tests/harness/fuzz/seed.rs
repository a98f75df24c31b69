//! Inputs to begin with: the frames of the step tables, the configurations of the manual, and one ordinary thing of each kind.

use super::{hold, relay, step};
use crate::table::world::Program;

/// The manual, whose examples are configurations.
const MANUAL: &str = include_str!("../../../docs/config.md");
const README: &str = include_str!("../../../README.md");

/// Frames given one after the other.
pub type Row = Vec<(Program, Vec<u8>)>;

/// The inputs that a target begins with; `rows` are the step tables'.
pub fn inputs(target: &str, rows: &[Row]) -> Vec<Vec<u8>> {
    match target {
        "wire" => rows.iter().flatten().map(|(_, frame)| frame.clone()).collect(),
        "step" => rows
            .iter()
            .map(|row| step::script(row))
            .chain(step::examples())
            .collect(),
        "relay" => {
            // Rows are a customer edge's: what a relay has no rule for says little.
            let rows = rows.iter().step_by(4).map(|row| relay::script(row));
            rows.chain(relay::examples()).collect()
        }
        "hold" => hold::examples(),
        "map" => lines(),
        "config" => texts(rows),
        _ => Vec::new(),
    }
}

/// Lines of services and RFC 7597's examples, as `map::run` reads them.
fn lines() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (prefix, length, address, ipv4_len, ea_len, offset) in [
        ([0x20, 0x01, 0x0d, 0xb8, 0, 0], 40, [192, 0, 2, 18], 24, 16, 4),
        ([0x20, 0x01, 0x0d, 0xb8, 0, 0xf0], 48, [198, 18, 0, 12], 24, 12, 6),
        ([0x24, 0x04, 0x92, 0, 0, 0], 31, [106, 72, 0, 0], 15, 25, 4),
        ([0x20, 0x01, 0x0d, 0xb8, 0, 0], 64, [192, 0, 2, 1], 32, 16, 0),
        ([0x20, 0x01, 0x0d, 0xb8, 0, 0], 40, [192, 0, 0, 0], 16, 8, 6),
    ] {
        for flags in [0, 4, 8, 3] {
            let mut input = vec![offset, 8, 0x34, 0, 0xd0, 4, 1, 0, 0, 0];
            input.extend(prefix);
            input.extend([0; 10]);
            input.push(length);
            input.extend(address);
            input.extend([ipv4_len, flags, 8, 0x34, 0, ea_len, offset]);
            input.extend([0x12, 0x34, 0, 0, 192, 0, 2, 99]);
            input.extend([0x12; 16]);
            input.extend([0, 1, 7, 0, 0, 0]);
            inputs.push(input);
        }
    }
    inputs
}

/// Texts as `config::run` reads them: which reader, then what it reads.
fn texts(rows: &[Row]) -> Vec<Vec<u8>> {
    let kind = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
    let examples = [MANUAL, README].into_iter().flat_map(examples);
    let mut inputs: Vec<Vec<u8>> = examples.map(|text| kind(2, text)).collect();
    inputs.extend(
        [
            "2001:db8:12:3400::/56\nipv6=2001:db8::/40,ipv4=192.0.2.0/24,ea-len=16,psid-offset=4",
            "2001:db8:12:3400::/56\n2001:db8::/40,192.0.2.0/24,16,4",
            "2001:db8:12:3400::/56\n2001:db8::/40,192.0.2.0/24,16,6,fmr\n2001:db8:f0::/48,198.18.0.0/24,12,6",
        ]
        .map(|text| kind(4, text)),
    );
    inputs.extend(
        [
            "explain\nudp\n192.168.10.10:5000\n198.51.100.7:53",
            "explain\ntcp\n198.51.100.7:443\n192.0.2.18:1232\n--inbound\n--flags\nsyn,ack\n--mss\n1400",
            "explain\nicmp\n192.168.10.10\n198.51.100.7\n--ttl\n1\n--length\n1500\n--may-fragment",
            "explain\n--hex\n4500",
            "load\n--lan\nlan0\n--wan\nwan0\n--prefix\n2001:db8:12:3400::/56\n--mss-clamp\nfalse",
            "forward\nadd\ntcp\n1232-1235\n192.168.10.5:80",
            "sessions\n--protocol\nudp\n--inside\n192.168.10.10:5000\n--flush\n--yes",
            "trace\n--host\n192.168.10.10\n--outcome\nforwarded",
        ]
        .map(|text| kind(5, text)),
    );
    inputs.extend(
        [
            "2001:db8::/40",
            "192.0.2.0/24",
            "1232-1235",
            "192.168.10.5:80",
            "lan_1",
            "ocn",
        ]
        .map(|text| kind(6, text)),
    );
    for (side, (_, frame)) in rows.iter().step_by(8).flatten().enumerate() {
        let digits = super::cut::digits(&frame[..frame.len().min(120)]);
        inputs.push(kind(7, &digits));
        let side = u8::try_from(side & 1).unwrap_or(0);
        inputs.push([&[1, side][..], frame].concat());
    }
    let frames: Vec<&[u8]> = rows.iter().step_by(40).flatten().map(|(_, frame)| &frame[..]).collect();
    inputs.push([&[0][..], &pcap(&frames)].concat());
    inputs.push([&[0][..], &pcapng(&frames)].concat());
    inputs
}

/// The configurations in a text.
fn examples(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```toml\n").skip(1);
    blocks.filter_map(|block| block.split("```").next())
}

/// A capture of Ethernet frames.
fn pcap(frames: &[&[u8]]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap_or(0);
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*frame);
    }
    file
}

/// The same in the newer format.
fn pcapng(frames: &[&[u8]]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut block = |kind: u32, body: &[u8]| {
        let body_len = body.len().next_multiple_of(4);
        let len = u32::try_from(12 + body_len).unwrap_or(0).to_le_bytes();
        file.extend(kind.to_le_bytes());
        file.extend(len);
        file.extend(body);
        file.resize(file.len() + body_len - body.len(), 0);
        file.extend(len);
    };
    block(
        0x0a0d_0d0a,
        &[
            0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
        ],
    );
    block(1, &[1, 0, 0, 0, 0, 0, 4, 0]);
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap_or(0).to_le_bytes();
        block(6, &[&[0; 12][..], &len, &len, frame].concat());
    }
    file
}
