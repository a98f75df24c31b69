//! Any bytes as what people give to mape-ctl: a configuration, rules, a command line, a capture, a frame in hexadecimal.

use std::{collections::BTreeMap, io::Cursor, path::Path, str::FromStr};

use clap::Parser as _;
use mape_common::{
    env::Env as _,
    layout::programs,
    map::prefix::{Ipv4Prefix, Ipv6Prefix},
    verdict::Direction,
};
use mape_ctl::{
    cli::{Cli, Command, Endpoint, LoadArgs, MapFlags},
    config,
    datapath::tables::{self, Secrets},
    explain::{
        Port, capture, explain,
        flow::{self, Way},
        observer::Observer,
        report,
    },
    forward::{Inside, PortRange},
    gateway::Gateway,
    instance::Instance,
    service,
    view::packet::Seen,
};

use super::{cut::Cut, passage};
use crate::table::{
    host::{HostWorld, LAN, WAN},
    world::{CE, HOST_MAC, LAN_MAC, Outcome, Program, RELAY, World as _},
};

/// The first byte says what the others are.
///
/// # Panics
/// Where a reader contradicts itself.
pub fn run(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 8 {
        0 => capture(data),
        1 => explained(data),
        kind => {
            let Ok(text) = str::from_utf8(data) else { return };
            match kind {
                2 | 3 => file(text),
                4 => rules(text),
                5 => command_line(text),
                6 => words(text),
                _ => hexadecimal(text),
            }
        }
    }
}

/// A configuration file.
fn file(text: &str) {
    match config::read(&Instance::default(), Some(("mape.toml", text)), &LoadArgs::default()) {
        Ok(resolved) => gateway(&resolved.gateway),
        Err(error) => assert!(!error.to_string().is_empty(), "a mistake has a name"),
    }
}

/// Rules as they stand in flags, one a line; the first line is the prefix.
fn rules(text: &str) {
    let mut lines = text.lines().map(str::to_owned);
    let flags = LoadArgs {
        lan: vec!["lan0".to_owned()],
        wan: Some("wan0".to_owned()),
        map: MapFlags {
            prefix: lines.next(),
            br: Some(RELAY.to_string()),
            rule: lines.collect(),
            ..MapFlags::default()
        },
        ..LoadArgs::default()
    };
    match config::read(&Instance::default(), None, &flags) {
        Ok(resolved) => gateway(&resolved.gateway),
        Err(error) => assert!(!error.to_string().is_empty(), "a mistake has a name"),
    }
}

/// What is loaded of a gateway that was taken for good.
fn gateway(gateway: &Gateway) {
    let config = tables::config(
        gateway,
        7,
        Secrets {
            hash_key: [1, 2],
            flow_keys: [0x0f1e_2d3c_4b5a_6978, 0x8796_a5b4_c3d2_e1f0, 0x9e37_79b9_7f4a_7c15],
        },
    );
    let sizes = tables::sizes(gateway, 7);
    assert_eq!(sizes.sessions, config.sessions, "room for the records");
    if let Some(domain) = &gateway.domain {
        let set = domain.port_set();
        assert_eq!(config.ports, set.len());
        assert_eq!(config.tunnel_address, domain.ce_address().octets());
        let known: Vec<u32> = tables::fresh_ports(&set, &gateway.nat.reserved_ports)
            .into_iter()
            .map(|(ordinal, _)| ordinal)
            .collect();
        assert!(known.iter().all(|place| *place < 3 * set.len()), "places of the set");
        for forward in &gateway.forwards {
            for single in forward.singles() {
                assert!(
                    set.contains(mape_common::wire::port::Port(single.external)),
                    "a forward's port"
                );
            }
        }
    } else {
        assert!(!gateway.rules.is_empty(), "a border relay has rules");
    }
    assert!(config.mss == 0 || config.mss <= gateway.tunnel.mtu - 40);
}

/// A command line, one argument a line.
fn command_line(text: &str) {
    let Ok(cli) = Cli::try_parse_from(std::iter::once("mape-ctl").chain(text.lines())) else {
        return;
    };
    let Command::Explain(args) = cli.command else { return };
    let Ok(ends) = flow::ends(&args) else { return };
    for (way, program) in [
        (Way::Plain, Program::Lan),
        (Way::Tunnelled { from: RELAY, to: CE }, Program::Wan),
    ] {
        let Ok(frame) = flow::frame(&args, &ends, way, HOST_MAC, LAN_MAC) else {
            continue;
        };
        let cut = Cut::of(&frame).expect("an IPv4 packet");
        assert!(cut.rest.is_empty() && (cut.outer.is_some() == (program == Program::Wan)));
        assert_eq!(super::cut::class(&[&cut.packet[..20]]), 0, "IPv4 header checksum");
        if cut.protocol() != 1 {
            assert_eq!(cut.transport_class(), 0, "transport checksum");
        }
        assert_eq!(cut.source(), ends.source.address.octets());
    }
}

/// Words of one line each: whatever can be read is written the same.
fn words(text: &str) {
    same::<Ipv6Prefix>(text);
    same::<Ipv4Prefix>(text);
    same::<PortRange>(text);
    same::<Instance>(text);
    if let Ok(range) = text.parse::<PortRange>() {
        assert!(range.first <= range.last && range.first != 0);
    }
    if let Ok(inside) = text.parse::<Inside>() {
        assert_ne!(inside.port, Some(0));
    }
    if let Ok(end) = text.parse::<Endpoint>() {
        assert!(end.port != Some(0) && !end.address.is_unspecified());
    }
    if let Err(error) = service::find(text) {
        assert!(!error.to_string().is_empty());
    }
}

fn same<T: FromStr + ToString + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string().parse::<T>();
        assert!(again.is_ok_and(|again| again == value), "{text}: {}", value.to_string());
    }
}

/// A capture, and each frame of it in words.
fn capture(data: &[u8]) {
    let name = Path::new("a.pcap");
    match capture::frames(Cursor::new(data), name, None) {
        Ok(frames) => {
            assert!(!frames.is_empty() && frames.len() <= capture::MOST);
            for frame in &frames {
                assert!(frame.bytes.len() <= data.len());
                seen(&frame.bytes);
            }
            let last = capture::frames(Cursor::new(data), name, Some(frames.len())).expect("one of them");
            assert_eq!(last.first(), frames.last());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn hexadecimal(text: &str) {
    if let Ok(frame) = capture::hex(text) {
        let digits = super::cut::digits(&frame.bytes);
        let again = capture::hex(&digits).expect("hexadecimal");
        assert_eq!(again, frame);
        seen(&frame.bytes);
    }
}

fn seen(frame: &[u8]) {
    let seen = Seen::frame(frame);
    assert!(!seen.to_string().is_empty() && seen.json().is_object());
}

/// A frame explained: told as it happens.
fn explained(data: &[u8]) {
    let Some((side, frame)) = data.split_first() else {
        return;
    };
    let (name, ifindex, program, given) = if side & 1 == 0 {
        ("lan0", LAN, programs::LAN, Program::Lan)
    } else {
        ("wan0", WAN, programs::WAN, Program::Wan)
    };
    let mut world = HostWorld::new(8);
    let (outcome, _) = world.give(given, frame);
    let names = BTreeMap::from([(LAN, "lan0".to_owned()), (WAN, "wan0".to_owned())]);
    let observer = Observer::new(HostWorld::new(8).env, names);
    let port = Port {
        name: name.to_owned(),
        ifindex,
        program: program.to_owned(),
    };
    let told = explain(&observer, &port, frame);
    let is_outbound = told.direction == Direction::Outbound;
    assert_eq!(is_outbound, given == Program::Lan);
    match outcome {
        Outcome::Forwarded(after) => {
            assert!(told.outcome.is_ok(), "forwarded, but not told so");
            assert_eq!(told.after.len(), after.len());
            passage::whole(&told.after);
        }
        Outcome::Answered(_) => assert!(told.outcome.is_ok(), "answered, but not told so"),
        Outcome::Passed(_) | Outcome::Dropped => {
            assert!(told.outcome.is_err(), "refused, but not told so");
            assert_eq!(told.after, frame);
        }
    }
    let config = observer.config().expect("configured");
    let name = |ifindex| observer.name(ifindex);
    assert!(report::text(&told, config, &name).is_ok_and(|text| !text.is_empty()));
    assert!(report::json(&told, &name).is_object());
}
