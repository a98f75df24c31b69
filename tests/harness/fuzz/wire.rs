//! Any bytes as a frame: every reader of a header, and what it may say.

use mape_common::{
    checksum::Delta,
    hop::Mac,
    layout::Transport,
    packet::{Packet, VecPacket},
    step::{
        error, fragment,
        inner::{self, Inner},
        mss,
        quoted::{self, Quoted},
        tunnel,
    },
    verdict::Reason,
    wire::{
        eth, icmp,
        ipv4::{self, Protocol},
        ipv6, tcp, udp,
    },
};

use super::cut::{class, word};

const PLAIN: usize = eth::LEN;
const TUNNELLED: usize = tunnel::INNER;
/// Behind an ICMPv6 error's header, the tunnel packet that it quotes, and its header.
const IN_TUNNEL_ERROR: usize = eth::LEN + ipv6::LEN + 8 + ipv6::LEN;

/// Reads the bytes as everything that a frame can be.
///
/// # Panics
/// Where a reader contradicts the bytes or itself.
pub fn run(data: &[u8]) {
    let frame = VecPacket(data.to_vec());
    headers(&frame);
    packet::<PLAIN>(&frame, data.len().saturating_sub(PLAIN));
    packet::<TUNNELLED>(&frame, data.len().saturating_sub(TUNNELLED));
    quote::<{ error::QUOTED_OUTBOUND }>(&frame);
    quote::<{ error::QUOTED_INBOUND }>(&frame);
    quote::<IN_TUNNEL_ERROR>(&frame);
    if let Ok(address) = frame.read(38) {
        outer(&frame, &address);
    }
}

fn headers(frame: &VecPacket) {
    if let Ok(bytes) = frame.read(0) {
        let header = eth::Header::read(frame).expect("as long");
        let again = eth::Header::new(
            Mac::from_bits(header.destination()),
            header.source(),
            header.ether_type(),
        );
        assert_eq!(again.to_bytes(), bytes, "Ethernet");
    }
    if let Ok(bytes) = frame.read::<{ ipv6::LEN }>(PLAIN) {
        let header = ipv6::Header::read(frame, PLAIN).expect("as long");
        assert_eq!(header.to_bytes(), bytes, "IPv6");
        let (source, destination) = (header.source(), header.destination());
        let [a, b, c, d, ..] = bytes;
        let again = ipv6::Header::new(
            (source, destination),
            header.traffic_class(),
            u32::from_be_bytes([0, b & 15, c, d]),
            header.payload_len(),
            header.next_header(),
            header.hop_limit(),
        );
        assert_eq!(again == header, a >> 4 == 6, "IPv6 in parts");
        assert!(source.is(source.to_bytes()) && source.is(destination.to_bytes()) == (source == destination));
        assert_eq!(header.is_ipv6(), a >> 4 == 6);
    }
    if let Ok(bytes) = frame.read::<20>(PLAIN) {
        let header = ipv4::Header::from_bytes(bytes);
        assert_eq!(ipv4::Header::read(frame, PLAIN), Ok(header));
        assert_eq!(header.to_bytes(), bytes, "IPv4");
        let renamed = header.with_source([198, 51, 100, 7]);
        assert_eq!(renamed.source(), [198, 51, 100, 7]);
        assert_eq!(renamed.destination(), header.destination());
        assert_eq!(class(&[&renamed.to_bytes()]), class(&[&bytes]), "IPv4 header checksum");
        assert!(!header.is_later_fragment() || header.is_fragment());
        assert!(header.header_len() <= 60 && header.offset().is_multiple_of(8));
        let segment = tcp::Header::read(frame, PLAIN).expect("as long");
        assert!(segment.header_len() <= 60 && segment.header_len().is_multiple_of(4));
        assert_eq!(Some(segment.source().0), word(&bytes, 0));
        assert_eq!(Some(segment.destination().0), word(&bytes, 2));
    }
    if let Ok(bytes) = frame.read::<8>(PLAIN) {
        let (datagram, message) = (udp::Header::from_bytes(bytes), icmp::Header::from_bytes(bytes));
        assert_eq!(Some(datagram.length()), word(&bytes, 4));
        assert_eq!(Some(message.identifier().0), word(&bytes, 4));
        assert!(u8::from(message.is_error()) + u8::from(message.is_echo_reply()) < 2);
    }
}

fn packet<const L3: usize>(frame: &VecPacket, room: usize) {
    if let Ok(inner) = inner::read::<_, L3>(frame, room) {
        assert!(!inner.header.is_fragment(), "a whole packet");
        read::<L3>(frame, &inner, room);
    }
    match inner::read_part::<_, L3, true>(frame, room) {
        Ok(inner) => read::<L3>(frame, &inner, room),
        Err(reason) => assert!(
            matches!(
                reason,
                Reason::BadLength
                    | Reason::IpOptions
                    | Reason::Fragment
                    | Reason::FragmentTiny
                    | Reason::IcmpError
                    | Reason::UnsupportedProtocol
            ),
            "{reason:?}"
        ),
    }
    if let Ok(piece) = fragment::read::<_, L3>(frame, room) {
        let total = usize::from(piece.header.total_len());
        assert_eq!(total + usize::from(piece.excess), room, "a fragment's end");
        assert!(usize::from(piece.header.offset()) + total <= 65_535 && total > 20);
    }
}

fn read<const L3: usize>(frame: &VecPacket, inner: &Inner, room: usize) {
    let total = usize::from(inner.header.total_len());
    assert_eq!(total + usize::from(inner.excess), room, "the packet's end");
    assert!(
        20 + usize::from(inner.header_len) <= total,
        "the transport header's end"
    );
    let bytes = &frame.0[L3 + 20..L3 + total];
    let (from, to, sum) = match inner.transport {
        Transport::Tcp => (0, 2, 16),
        Transport::Udp => (0, 2, 6),
        Transport::Icmp => (4, 4, 2),
    };
    assert_eq!(Some(inner.source_port.0), word(bytes, from));
    assert_eq!(Some(inner.destination_port.0), word(bytes, to));
    assert_eq!(Some(inner.checksum), word(bytes, sum));
    assert_eq!(Protocol(inner.transport.protocol()), inner.header.protocol());
    if mss::is_candidate(inner) {
        for limit in [536, 1_420] {
            clamp(frame, L3 + 20, inner, limit);
        }
    }
}

/// The walk over TCP's options, beside a plain one.
fn clamp(frame: &VecPacket, l4: usize, inner: &Inner, limit: u16) {
    let (clamp, delta) = mss::plan(frame, l4, inner.header_len, limit);
    let header = &frame.0[l4..l4 + usize::from(inner.header_len)];
    let found = first_mss(header);
    if clamp.offset == 0 {
        assert_eq!(delta, Delta::ZERO);
        assert!(
            found.is_none_or(|(_, value, options)| value <= limit || options > 12),
            "an MSS that was not found"
        );
        return;
    }
    let at = usize::from(clamp.offset);
    assert_eq!(found.map(|(at, ..)| at), Some(at), "which option is the MSS");
    assert!(found.is_some_and(|(_, value, _)| value > limit) && clamp.value == limit);
    let mut after = header.to_vec();
    after[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    after[16..18].copy_from_slice(&delta.apply(inner.checksum).to_be_bytes());
    assert_eq!(class(&[header]), class(&[&after]), "TCP checksum after the clamp");
}

/// Where the first MSS option's value is, the value, and which option it is, from 1.
fn first_mss(header: &[u8]) -> Option<(usize, u16, usize)> {
    let mut at = 20;
    for number in 1.. {
        match header.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if *kind == 2 && len == 4 {
                    return Some((at + 2, word(header, at + 2)?, number));
                }
                at += if len < 2 { return None } else { len };
            }
        }
    }
    None
}

fn quote<const AT: usize>(frame: &VecPacket) {
    let room = frame.len().saturating_sub(AT);
    let Ok(quoted) = quoted::read::<_, AT>(frame, room) else {
        return;
    };
    let at = usize::from(quoted.transport_at);
    assert!((20..=60).contains(&at) && at + 8 <= room, "the quoted transport header");
    let bytes = &frame.0[AT + at..];
    if quoted.has_checksum {
        let sum = word(bytes, quoted::checksum_at(quoted.transport));
        assert_eq!(Some(quoted.checksum), sum, "the quoted checksum");
    }
    if let Some(eight) = bytes.first_chunk() {
        restored(&quoted, *eight);
    }
}

/// Eight quoted bytes given back to a LAN host: their checksum, if it is among them, is as right as before.
fn restored(quoted: &Quoted, bytes: [u8; 8]) {
    let (address, port) = ([192, 168, 10, 10], quoted.destination_port);
    let back = quoted.restored(bytes, address, port);
    let (before, after) = (quoted.header.source(), address);
    match quoted.transport {
        Transport::Tcp => assert_eq!(back[2..], bytes[2..]),
        Transport::Udp if bytes[6..] == [0, 0] => assert_eq!(back[2..], bytes[2..]),
        Transport::Udp => assert_eq!(class(&[&before, &bytes]), class(&[&after, &back])),
        Transport::Icmp => assert_eq!(class(&[&bytes]), class(&[&back])),
    }
}

fn outer(frame: &VecPacket, address: &[u8; 16]) {
    if let Ok(outer) = tunnel::read_outer(frame, *address) {
        let end = TUNNELLED + usize::from(outer.payload_len) + usize::from(outer.excess);
        assert_eq!(end, frame.len(), "the tunnel packet's end");
        assert_eq!(outer.source.to_bytes(), frame.0[22..38]);
    }
}
