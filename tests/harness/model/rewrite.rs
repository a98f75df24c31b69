//! What a forwarded frame looks like: fields written, checksums summed from scratch, headers put around it.
//!
//! A packet whose checksum was right gets one that is right; one that was wrong stays wrong by as much (RFC 3022 §4.1), so
//! that the receiver notices.

use super::{packet::Packet, policy::Transport};
use crate::table::world::{CE, GATEWAY, HOST_MAC, LAN_MAC, RELAY, ROUTER_MAC, WAN_MAC};

/// A frame as it must come out.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The bytes; those of the flow label are zero.
    pub bytes: Vec<u8>,
    /// Where a checksum stands that was wrong before: zero and all ones are the same there.
    pub wrong: Vec<usize>,
    /// Whether there is an outer header, with a flow label.
    pub is_tunnelled: bool,
}

/// Which end is another one outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

/// The sum of what a transport checksum covers, the checksum itself at `at` left out.
fn covered(packet: &[u8], transport: Transport, at: usize) -> u16 {
    let mut body = packet[20..].to_vec();
    if transport == Transport::Udp {
        body.truncate(usize::from(u16::from_be_bytes([body[4], body[5]])));
    }
    body[at - 20..at - 18].fill(0);
    let pseudo = match transport {
        Transport::Icmp => 0,
        Transport::Udp | Transport::Tcp => {
            sum(&packet[12..20]) + u64::from(packet[9]) + u64::try_from(body.len()).expect("a length")
        }
    };
    fold(pseudo + sum(&body))
}

/// The checksum after what it covers has changed; false where it was wrong before.
fn changed(old: u16, before: u16, after: u16) -> (u16, bool) {
    if old == !before || (old == 0xffff && !before == 0) {
        (!after, true)
    } else {
        (fold(u64::from(old) + u64::from(before) + u64::from(!after)), false)
    }
}

/// The IPv4 packet with ends replaced, one hop less, another type of service and its MSS clamped.
fn translated(
    frame: &[u8],
    packet: &Packet,
    ends: &[(Which, ([u8; 4], u16))],
    tos: u8,
    mss: u16,
    identification: Option<u16>,
) -> (Vec<u8>, Vec<usize>) {
    let old = &frame[packet.at..packet.at + packet.total];
    let mut new = old.to_vec();
    let mut wrong = Vec::new();
    new[1] = tos;
    new[8] -= 1;
    if let Some(identification) = identification {
        new[4..6].copy_from_slice(&identification.to_be_bytes());
    }
    for (which, end) in ends {
        let (address_at, port_at) = match (which, packet.transport) {
            (Which::Source, Transport::Icmp) => (12, 24),
            (Which::Source, _) => (12, 20),
            (Which::Destination, Transport::Icmp) => (16, 24),
            (Which::Destination, _) => (16, 22),
        };
        new[address_at..address_at + 4].copy_from_slice(&end.0);
        new[port_at..port_at + 2].copy_from_slice(&end.1.to_be_bytes());
    }
    if packet.transport == Transport::Tcp && packet.flags & super::tcp::SYN != 0 {
        clamp(&mut new, mss);
    }
    let checksum_at = match packet.transport {
        Transport::Udp => 26,
        Transport::Tcp => 36,
        Transport::Icmp => 22,
    };
    let stands = |at: usize| u16::from_be_bytes([old[at], old[at + 1]]);
    // No checksum (RFC 768) stays none.
    if packet.transport != Transport::Udp || stands(checksum_at) != 0 {
        let (value, right) = changed(
            stands(checksum_at),
            covered(old, packet.transport, checksum_at),
            covered(&new, packet.transport, checksum_at),
        );
        let value = if packet.transport == Transport::Udp && value == 0 {
            0xffff
        } else {
            value
        };
        new[checksum_at..checksum_at + 2].copy_from_slice(&value.to_be_bytes());
        // Of a part nobody can say whether it was right.
        if !right || packet.is_part {
            wrong.push(checksum_at);
        }
    }
    wrong.extend(finish_header(old, &mut new, 0, 20));
    (new, wrong)
}

/// Updates the checksum of the IPv4 header at `at`; gives its place if it was wrong.
fn finish_header(old: &[u8], new: &mut [u8], at: usize, len: usize) -> Option<usize> {
    let header = |packet: &[u8]| fold(sum(&packet[at..at + 10]) + sum(&packet[at + 12..at + len]));
    let stands = u16::from_be_bytes([old[at + 10], old[at + 11]]);
    let (value, right) = changed(stands, header(old), header(new));
    new[at + 10..at + 12].copy_from_slice(&value.to_be_bytes());
    (!right).then_some(at + 10)
}

/// One end of a fragment without ports: address, one hop less, type of service, identification.
fn piece(old: &[u8], (which, address): (Which, [u8; 4]), tos: u8, identification: u16) -> (Vec<u8>, Vec<usize>) {
    let mut new = old.to_vec();
    new[1] = tos;
    new[4..6].copy_from_slice(&identification.to_be_bytes());
    new[8] -= 1;
    let at = if which == Which::Source { 12 } else { 16 };
    new[at..at + 4].copy_from_slice(&address);
    let wrong = finish_header(old, &mut new, 0, 20);
    (new, wrong.into_iter().collect())
}

/// Where the packet that an error quotes begins.
const QUOTED: usize = 28;

/// What the checksum of a quoted transport header covers of all that may change.
fn quoted_parts(packet: &[u8], transport: Transport) -> u16 {
    let body = QUOTED + usize::from(packet[QUOTED] & 15) * 4;
    fold(match transport {
        Transport::Icmp => sum(&packet[body + 4..body + 6]),
        Transport::Udp | Transport::Tcp => sum(&packet[QUOTED + 12..QUOTED + 20]) + sum(&packet[body..body + 4]),
    })
}

/// An ICMP error (RFC 5508 §4): each end of it, and the other end of the packet that it quotes, become another one; one hop less;
/// another type of service. All checksums are updated: of the quoted header, of what follows that as far as it is quoted, of
/// the message, of the header.
fn reported(old: &[u8], transport: Transport, ends: &[(Which, ([u8; 4], u16))], tos: u8) -> (Vec<u8>, Vec<usize>) {
    let mut new = old.to_vec();
    let mut wrong = Vec::new();
    new[1] = tos;
    new[8] -= 1;
    let len = usize::from(old[QUOTED] & 15) * 4;
    let body = QUOTED + len;
    for (which, end) in ends {
        let (outer_at, address_at, port_at) = match which {
            Which::Source => (12, QUOTED + 16, body + 2),
            Which::Destination => (16, QUOTED + 12, body),
        };
        let port_at = if transport == Transport::Icmp {
            body + 4
        } else {
            port_at
        };
        new[outer_at..outer_at + 4].copy_from_slice(&end.0);
        new[address_at..address_at + 4].copy_from_slice(&end.0);
        new[port_at..port_at + 2].copy_from_slice(&end.1.to_be_bytes());
    }
    wrong.extend(finish_header(old, &mut new, QUOTED, len));
    let checksum_at = body
        + match transport {
            Transport::Udp => 6,
            Transport::Tcp => 16,
            Transport::Icmp => 2,
        };
    if let Some(bytes) = old.get(checksum_at..checksum_at + 2)
        && (transport != Transport::Udp || *bytes != [0, 0])
    {
        // What is quoted is not all that it covers: it changes by what has changed.
        let stands = u64::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let (before, after) = (quoted_parts(old, transport), quoted_parts(&new, transport));
        let value = fold(stands + u64::from(before) + u64::from(!after));
        let value = if transport == Transport::Udp && value == 0 {
            0xffff
        } else {
            value
        };
        new[checksum_at..checksum_at + 2].copy_from_slice(&value.to_be_bytes());
        wrong.push(checksum_at);
    }
    let message = |packet: &[u8]| fold(sum(&packet[20..22]) + sum(&packet[24..]));
    let stands = u16::from_be_bytes([old[22], old[23]]);
    let (value, right) = changed(stands, message(old), message(&new));
    new[22..24].copy_from_slice(&value.to_be_bytes());
    if !right {
        wrong.push(22);
    }
    wrong.extend(finish_header(old, &mut new, 0, 20));
    (new, wrong)
}

/// Lowers the segment size that a SYN asks for (RFC 4459 §3.2).
fn clamp(packet: &mut [u8], limit: u16) {
    let end = 20 + usize::from(packet[32] >> 4) * 4;
    let mut at = 40;
    while at + 4 <= end {
        match packet[at] {
            0 => return,
            1 => at += 1,
            2 if packet[at + 1] == 4 => {
                let size = u16::from_be_bytes([packet[at + 2], packet[at + 3]]).min(limit);
                packet[at + 2..at + 4].copy_from_slice(&size.to_be_bytes());
                return;
            }
            _ if packet[at + 1] < 2 => return,
            _ => at += usize::from(packet[at + 1]),
        }
    }
}

/// The frame into the tunnel (RFC 2473), its source the external end.
///
/// # Panics
/// For a packet longer than a packet can be.
pub fn into_tunnel(
    frame: &[u8],
    packet: &Packet,
    external: ([u8; 4], u16),
    mss: u16,
    copy_dscp: bool,
    identification: Option<u16>,
) -> Expected {
    let ends = [(Which::Source, external)];
    tunnelled(
        translated(frame, packet, &ends, packet.tos, mss, identification),
        copy_dscp,
    )
}

/// A fragment without ports into the tunnel.
pub fn piece_into_tunnel(packet: &[u8], external: [u8; 4], identification: u16, copy_dscp: bool) -> Expected {
    let end = (Which::Source, external);
    tunnelled(piece(packet, end, packet[1], identification), copy_dscp)
}

/// An ICMP error into the tunnel.
pub fn error_into_tunnel(packet: &[u8], transport: Transport, external: ([u8; 4], u16), copy_dscp: bool) -> Expected {
    let ends = [(Which::Source, external)];
    tunnelled(reported(packet, transport, &ends, packet[1]), copy_dscp)
}

/// # Panics
/// For a packet longer than a packet can be.
fn tunnelled((inner, wrong): (Vec<u8>, Vec<usize>), copy_dscp: bool) -> Expected {
    let class = if copy_dscp { inner[1] } else { inner[1] & 3 };
    let mut bytes = [ROUTER_MAC.0, WAN_MAC.0].concat();
    bytes.extend([0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0]);
    bytes.extend(u16::try_from(inner.len()).expect("a length").to_be_bytes());
    bytes.extend([4, 64]);
    bytes.extend(CE.octets());
    bytes.extend(RELAY.octets());
    bytes.extend(inner);
    Expected {
        bytes,
        wrong: wrong.into_iter().map(|at| at + super::packet::TUNNELLED).collect(),
        is_tunnelled: true,
    }
}

/// The frame to the LAN host, or nothing where congestion cannot be told to the receiver (RFC 6040 §4.2).
pub fn onto_lan(frame: &[u8], packet: &Packet, inside: ([u8; 4], u16), mss: u16) -> Option<Expected> {
    let tos = merged(packet.tos, packet.class)?;
    let ends = [(Which::Destination, inside)];
    Some(on_lan(translated(frame, packet, &ends, tos, mss, None)))
}

/// A fragment without ports to the LAN host.
pub fn piece_onto_lan(packet: &[u8], class: u8, inside: [u8; 4], identification: u16) -> Option<Expected> {
    let tos = merged(packet[1], class)?;
    let end = (Which::Destination, inside);
    Some(on_lan(piece(packet, end, tos, identification)))
}

/// An ICMP error to the LAN host.
pub fn error_onto_lan(packet: &[u8], class: u8, transport: Transport, inside: ([u8; 4], u16)) -> Option<Expected> {
    let tos = merged(packet[1], class)?;
    let ends = [(Which::Destination, inside)];
    Some(on_lan(reported(packet, transport, &ends, tos)))
}

/// An ICMP error from one LAN host to another.
pub fn error_turned(packet: &[u8], transport: Transport, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Expected {
    let ends = [(Which::Source, from), (Which::Destination, to)];
    on_lan(reported(packet, transport, &ends, packet[1]))
}

/// The type of service after the tunnel (RFC 6040 §4.2).
const fn merged(tos: u8, class: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const CE_MARK: u8 = 3;
    let ecn = match (tos & 3, class & 3) {
        (NOT_ECT, CE_MARK) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (_, CE_MARK) | (CE_MARK, _) => CE_MARK,
        (_, ECT_1) => ECT_1,
        (inner, _) => inner,
    };
    Some(tos & 0xfc | ecn)
}

fn on_lan((inner, wrong): (Vec<u8>, Vec<usize>)) -> Expected {
    let mut bytes = [HOST_MAC.0, LAN_MAC.0].concat();
    bytes.extend([0x08, 0x00]);
    bytes.extend(inner);
    Expected {
        bytes,
        wrong: wrong.into_iter().map(|at| at + super::packet::ETHERNET).collect(),
        is_tunnelled: false,
    }
}

/// The frame from one LAN host to another.
pub fn turned(frame: &[u8], packet: &Packet, sender: ([u8; 4], u16), receiver: ([u8; 4], u16)) -> Expected {
    let ends = [(Which::Source, sender), (Which::Destination, receiver)];
    on_lan(translated(frame, packet, &ends, packet.tos, u16::MAX, None))
}

/// An ICMPv4 error of the gateway's to a LAN host about a packet that it has sent through the tunnel (RFC 2473 §8): code and MTU, the
/// first 28 bytes of the packet as it was in the tunnel, and whose it was.
pub fn told(code: u8, mtu: u16, packet: &[u8], transport: Transport, inside: ([u8; 4], u16)) -> Expected {
    // As an error about the translated packet would be, and that translated.
    let mut message = vec![0x45, 0xc0, 0, 56, 0, 0, 0x40, 0, 65, 1, 0, 0];
    message.extend(GATEWAY.octets());
    message.extend(&packet[12..16]);
    message.extend([3, code, 0, 0, 0, 0]);
    message.extend(mtu.to_be_bytes());
    message.extend(packet);
    let (mut new, mut wrong) = reported(&message, transport, &[(Which::Destination, inside)], 0xc0);
    for (place, covered) in [(10, 0..20), (22, 20..56)] {
        new[place..place + 2].fill(0);
        let value = !fold(sum(&new[covered]));
        new[place..place + 2].copy_from_slice(&value.to_be_bytes());
    }
    wrong.retain(|at| ![10, 22].contains(at));
    on_lan((new, wrong))
}
