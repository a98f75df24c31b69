//! What a forwarded frame looks like: fields written, checksums summed from scratch, headers put around it.
//!
//! A packet whose checksum was right gets one that is right; one that was wrong stays wrong by as much (RFC 3022 §4.1), so
//! that the receiver notices.

use super::{packet::Packet, policy::Transport};
use crate::table::world::{CE, HOST_MAC, LAN_MAC, RELAY, ROUTER_MAC, WAN_MAC};

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
) -> (Vec<u8>, Vec<usize>) {
    let old = &frame[packet.at..packet.at + packet.total];
    let mut new = old.to_vec();
    let mut wrong = Vec::new();
    new[1] = tos;
    new[8] -= 1;
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
        if !right {
            wrong.push(checksum_at);
        }
    }
    let header = |packet: &[u8]| fold(sum(&packet[..10]) + sum(&packet[12..20]));
    let (value, right) = changed(stands(10), header(old), header(&new));
    new[10..12].copy_from_slice(&value.to_be_bytes());
    if !right {
        wrong.push(10);
    }
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
pub fn into_tunnel(frame: &[u8], packet: &Packet, external: ([u8; 4], u16), mss: u16, copy_dscp: bool) -> Expected {
    let (inner, wrong) = translated(frame, packet, &[(Which::Source, external)], packet.tos, mss);
    let class = if copy_dscp { packet.tos } else { packet.tos & 3 };
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
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const CE_MARK: u8 = 3;
    let ecn = match (packet.tos & 3, packet.class & 3) {
        (NOT_ECT, CE_MARK) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (_, CE_MARK) | (CE_MARK, _) => CE_MARK,
        (_, ECT_1) => ECT_1,
        (inner, _) => inner,
    };
    let (inner, wrong) = translated(
        frame,
        packet,
        &[(Which::Destination, inside)],
        packet.tos & 0xfc | ecn,
        mss,
    );
    let mut bytes = [HOST_MAC.0, LAN_MAC.0].concat();
    bytes.extend([0x08, 0x00]);
    bytes.extend(inner);
    Some(Expected {
        bytes,
        wrong: wrong.into_iter().map(|at| at + super::packet::ETHERNET).collect(),
        is_tunnelled: false,
    })
}

/// The frame from one LAN host to another.
pub fn turned(frame: &[u8], packet: &Packet, sender: ([u8; 4], u16), receiver: ([u8; 4], u16)) -> Expected {
    let ends = [(Which::Source, sender), (Which::Destination, receiver)];
    let (inner, wrong) = translated(frame, packet, &ends, packet.tos, u16::MAX);
    let mut bytes = [HOST_MAC.0, LAN_MAC.0].concat();
    bytes.extend([0x08, 0x00]);
    bytes.extend(inner);
    Expected {
        bytes,
        wrong: wrong.into_iter().map(|at| at + super::packet::ETHERNET).collect(),
        is_tunnelled: false,
    }
}
