//! Reading a frame: is it for the gateway, is it whole, what does it carry. Byte by byte, in the order of the headers.

use std::net::Ipv4Addr;

use super::{Class, policy::Transport};
use crate::table::world::{CE, ELSEWHERE, LAN_MAC, RELAY, SHARED, WAN_MAC};

/// Bytes before the IPv4 header of a frame from the LAN.
pub const ETHERNET: usize = 14;
/// Bytes before the IPv4 header of a tunnelled frame.
pub const TUNNELLED: usize = 54;

/// Why a frame goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The stack gets it.
    Pass,
    /// It is dropped.
    Drop(Class),
    /// It is an ICMP message that is no echo.
    Message,
    /// It is a fragment.
    Piece,
    /// It is an ICMPv6 message.
    Tunnel,
    /// It would be dropped if it went into the tunnel, but the stack sends it elsewhere.
    Elsewhere,
}

/// An IPv4 packet that can be translated.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Where its header starts.
    pub at: usize,
    /// Its bytes, header included.
    pub total: usize,
    /// What it carries.
    pub transport: Transport,
    /// Source address and port or identifier.
    pub source: ([u8; 4], u16),
    /// Destination address and port or identifier.
    pub destination: ([u8; 4], u16),
    /// TCP's control bits.
    pub flags: u8,
    /// Whether it is an ICMP query.
    pub is_query: bool,
    /// Hops left.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Traffic class of the outer header.
    pub class: u8,
    /// Whether it is only the first fragment of one.
    pub is_part: bool,
}

impl Packet {
    /// Where it goes, as sessions know it: an echo has no port there.
    pub const fn remote_end(&self) -> ([u8; 4], u16) {
        match self.transport {
            Transport::Icmp => (self.destination.0, 0),
            Transport::Udp | Transport::Tcp => self.destination,
        }
    }

    /// Where it comes from, likewise.
    pub const fn remote_source(&self) -> ([u8; 4], u16) {
        match self.transport {
            Transport::Icmp => (self.source.0, 0),
            Transport::Udp | Transport::Tcp => self.source,
        }
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

pub(super) fn address(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

/// No multicast, broadcast, loopback or "this network".
pub const fn is_routable(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

/// Whether the routing table of the tests' gateway sends a packet to this address into the tunnel.
pub fn is_tunnelled(address: [u8; 4]) -> bool {
    address != ELSEWHERE.octets() && !is_lan(address)
}

/// Whether it leads back to a LAN host.
pub const fn is_lan(address: [u8; 4]) -> bool {
    matches!(address, [192, 168, 10, _])
}

/// A frame from the LAN.
///
/// # Errors
/// Where it goes instead. What is refused is refused only if it would have gone into the tunnel: the stack gets the rest.
pub fn from_lan(frame: &[u8]) -> Result<Packet, Stop> {
    link(frame, LAN_MAC.0, [0x08, 0x00])?;
    read_from_lan(frame, false)
}

/// A packet of a frame from the LAN whose Ethernet header was read, or the first fragment of one if `part` says so.
///
/// # Errors
/// As [`from_lan`].
pub(super) fn read_from_lan(frame: &[u8], part: bool) -> Result<Packet, Stop> {
    let packet = match inner(frame, ETHERNET, frame.len() - ETHERNET, part) {
        Err(Stop::Drop(class)) => return Err(unless_elsewhere(frame, class)),
        read => read?,
    };
    if !is_routable(packet.source.0) || !is_routable(packet.destination.0) || packet.ttl <= 1 {
        return Err(Stop::Pass);
    }
    Ok(packet)
}

pub(super) fn unless_elsewhere(frame: &[u8], class: Class) -> Stop {
    let is_ipv4 = frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == 4);
    match address(frame, ETHERNET + 16) {
        Some(to) if is_ipv4 && (!is_routable(to) || !is_tunnelled(to)) => Stop::Elsewhere,
        _ => Stop::Drop(class),
    }
}

/// A frame from the WAN, its sender checked (RFC 7597 §8.1).
///
/// # Errors
/// Where it goes instead.
pub fn from_wan(frame: &[u8], policy: &super::policy::Policy) -> Result<Packet, Stop> {
    link(frame, WAN_MAC.0, [0x86, 0xdd])?;
    let Some(outer) = frame.get(14..54) else {
        return Err(Stop::Pass);
    };
    if outer[0] >> 4 != 6 || outer[24..40] != CE.octets() {
        return Err(Stop::Pass);
    }
    if outer[6] == 58 {
        return Err(Stop::Tunnel);
    }
    if outer[6] != 4 {
        return Err(Stop::Pass);
    }
    if room(frame) > frame.len() - TUNNELLED {
        return Err(Stop::Drop(Class::Malformed));
    }
    read_from_wan(frame, policy, false)
}

/// Bytes that the outer header of a frame leaves for the packet.
fn room(frame: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([frame[18], frame[19]]))
}

/// Who sent a tunnelled frame.
pub(super) fn outer_source(frame: &[u8]) -> [u8; 16] {
    frame[22..38].try_into().expect("sixteen bytes")
}

/// The traffic class of a tunnelled frame.
pub(super) const fn outer_class(frame: &[u8]) -> u8 {
    frame[14] << 4 | frame[15] >> 4
}

/// A packet of a frame from the WAN whose outer header was read, or the first fragment of one if `part` says so.
///
/// # Errors
/// As [`from_wan`].
pub(super) fn read_from_wan(frame: &[u8], policy: &super::policy::Policy, part: bool) -> Result<Packet, Stop> {
    let mut packet = inner(frame, TUNNELLED, room(frame), part)?;
    packet.class = outer_class(frame);
    if packet.destination.0 != SHARED.octets() {
        return Err(Stop::Drop(Class::NotMine));
    }
    if !policy.has(packet.destination.1) {
        return Err(Stop::Drop(Class::Foreign));
    }
    if outer_source(frame) != RELAY.octets() {
        return Err(Stop::Drop(Class::Stranger));
    }
    Ok(packet)
}

fn link(frame: &[u8], mac: [u8; 6], kind: [u8; 2]) -> Result<(), Stop> {
    let header = frame.get(..14).ok_or(Stop::Pass)?;
    if header[..6] == mac && header[12..] == kind {
        Ok(())
    } else {
        Err(Stop::Pass)
    }
}

/// The IPv4 packet at `at`, which may have `room` bytes; or, if `part` says so, the first fragment of one.
fn inner(frame: &[u8], at: usize, room: usize, part: bool) -> Result<Packet, Stop> {
    const BAD: Stop = Stop::Drop(Class::Malformed);
    let header = frame.get(at..at + 20).ok_or(BAD)?;
    let total = usize::from(word(header, 2).ok_or(BAD)?);
    let words = header[0] & 15;
    if header[0] >> 4 != 4 || words < 5 || total > room {
        return Err(BAD);
    }
    // Options are the slow path's.
    if words > 5 {
        return Err(Stop::Pass);
    }
    let place = word(header, 6).ok_or(BAD)?;
    let is_part = place & 0x3fff != 0;
    if is_part && (!part || place & 0x1fff != 0) {
        return Err(Stop::Piece);
    }
    let carried = total.checked_sub(20).ok_or(BAD)?;
    // The whole transport header is in the first fragment (RFC 1858 §3, RFC 3128), and it holds a multiple of eight bytes.
    let short = if is_part { Stop::Drop(Class::Tiny) } else { BAD };
    if is_part && carried < 8 {
        return Err(short);
    }
    if is_part && carried % 8 != 0 {
        return Err(BAD);
    }
    let body = frame.get(at + 20..).ok_or(BAD)?;
    let transport = match header[9] {
        1 => Transport::Icmp,
        6 => Transport::Tcp,
        17 => Transport::Udp,
        _ => return Err(Stop::Drop(Class::Unsupported)),
    };
    let least = match transport {
        Transport::Tcp => 20,
        Transport::Udp | Transport::Icmp => 8,
    };
    if body.len() < least {
        return Err(short);
    }
    if carried < least && !is_part {
        return Err(BAD);
    }
    let (mut ports, mut flags) = ((word(body, 0).ok_or(BAD)?, word(body, 2).ok_or(BAD)?), 0);
    match transport {
        Transport::Tcp => {
            let len = usize::from(body[12] >> 4) * 4;
            if len < 20 {
                return Err(BAD);
            }
            if len > carried {
                return Err(short);
            }
            flags = body[13];
        }
        Transport::Udp => {
            let len = usize::from(word(body, 4).ok_or(BAD)?);
            // The whole datagram's.
            if len < 8 || (len > carried && !is_part) {
                return Err(BAD);
            }
        }
        Transport::Icmp if matches!(body[0], 0 | 8) => {
            let identifier = word(body, 4).ok_or(BAD)?;
            ports = (identifier, identifier);
        }
        Transport::Icmp => return Err(Stop::Message),
    }
    Ok(Packet {
        at,
        total,
        transport,
        source: (address(header, 12).ok_or(BAD)?, ports.0),
        destination: (address(header, 16).ok_or(BAD)?, ports.1),
        flags,
        is_query: transport == Transport::Icmp && body[0] == 8,
        ttl: header[8],
        tos: header[1],
        class: 0,
        is_part,
    })
}

/// An address for messages.
pub fn shown(end: ([u8; 4], u16)) -> String {
    format!("{}:{}", Ipv4Addr::from(end.0), end.1)
}
