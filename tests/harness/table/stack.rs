//! The stack around the tunnel device: which packets it leads there, and what it does to them before and after. The translation is
//! somebody else's.

use mape_common::{
    host::HostEnv,
    packet::VecPacket,
    step::slow,
    verdict::{Action, Direction, Failure},
};

use super::world::{CE, GATEWAY, LAN_MAC, Outcome, Program, RELAY, WAN_MAC};
use crate::model::packet::{ETHERNET, TUNNELLED, is_lan, is_routable, is_tunnelled};

/// The MTU of the tunnel device, and of the LAN NIC.
const TUNNEL_MTU: usize = 1_460;
const LAN_MTU: usize = 1_500;

/// Words of an IPv4 header.
const TOS: usize = 0;
const TTL: usize = 8;
const CHECKSUM: usize = 10;

/// A packet as the tunnel device's program gets it.
#[derive(Clone, Debug)]
pub struct AtDevice {
    /// From its IPv4 header on.
    pub packet: Vec<u8>,
    /// Who has sent it through the tunnel; the border relay where nobody has yet.
    pub from: [u8; 16],
}

/// Leads a frame's packet to the device.
///
/// # Errors
/// What the stack does with it instead.
pub fn lead(program: Program, frame: &[u8]) -> Result<AtDevice, &'static str> {
    match program {
        Program::Lan => routed(frame).map(|packet| AtDevice {
            packet,
            from: RELAY.octets(),
        }),
        Program::Wan => unwrapped(frame),
    }
}

/// Whether the packet has IPv4 options.
pub fn has_options(packet: &[u8]) -> bool {
    packet.first().is_some_and(|byte| byte & 15 > 5)
}

/// Translates it by the core on the host. What leaves is the packet as it leaves the device.
///
/// # Panics
/// Where what is refused is not as it came.
pub fn translate(env: &HostEnv, program: Program, at: &AtDevice) -> (Outcome, &'static str) {
    let direction = match program {
        Program::Lan => Direction::Outbound,
        Program::Wan => Direction::Inbound,
    };
    let mut translated = VecPacket(at.packet.clone());
    match slow::all(&mut translated, env, direction, &at.from) {
        Ok(_) => (Outcome::Forwarded(translated.0), "translated"),
        Err(Failure::Refused(reason)) => {
            assert_eq!(
                translated.0,
                at.packet,
                "a refusal leaves the packet as it came ({})",
                reason.label()
            );
            // As `mape-ebpf` does it.
            let is_passed = program == Program::Wan && matches!(reason.action(), Action::PassNotOurs);
            let outcome = if is_passed {
                Outcome::Passed(translated.0)
            } else {
                Outcome::Dropped
            };
            (outcome, reason.label())
        }
        Err(broken @ Failure::Broken(_)) => panic!("half written: {}", broken.reason().label()),
    }
}

/// What leaves the gateway of a packet that has left the device: out of the tunnel, it is still to be routed.
pub fn after(program: Program, mut packet: Vec<u8>) -> Vec<u8> {
    if program == Program::Wan {
        if let Some(total) = length(&packet) {
            packet.truncate(total);
        }
        change(&mut packet, TTL, |word| word.wrapping_sub(0x0100));
    }
    packet
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

fn length(packet: &[u8]) -> Option<usize> {
    word(packet, 2).map(usize::from)
}

fn address(header: &[u8], at: usize) -> [u8; 4] {
    header
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0; 4])
}

/// Changes a word of an IPv4 header, and its checksum by as much (RFC 1624).
fn change(packet: &mut [u8], at: usize, to: impl Fn(u16) -> u16) {
    let stands = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (old, sum) = (stands(at), stands(CHECKSUM));
    let new = to(old);
    let mut changed = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while changed > 0xffff {
        changed = (changed & 0xffff) + (changed >> 16);
    }
    let changed = !u16::try_from(changed).expect("folded");
    packet[at..at + 2].copy_from_slice(&new.to_be_bytes());
    packet[CHECKSUM..CHECKSUM + 2].copy_from_slice(&changed.to_be_bytes());
}

/// The packet of a frame from the LAN as it enters the device, with one hop less.
fn routed(frame: &[u8]) -> Result<Vec<u8>, &'static str> {
    let is_for_us = frame.get(..6).is_some_and(|to| to == LAN_MAC.0);
    if !is_for_us || frame.get(12..14) != Some(&[0x08, 0x00]) {
        return Err("no IPv4 for the LAN NIC");
    }
    let packet = frame.get(ETHERNET..).unwrap_or(&[]);
    let len = packet.first().map_or(0, |byte| usize::from(byte & 15) * 4);
    let Some(header) = packet.get(..len.max(20)) else {
        return Err("not an IPv4 header that the stack takes");
    };
    let total = length(header).unwrap_or(0);
    if header[0] >> 4 != 4
        || len < 20
        || !(len..=packet.len()).contains(&total)
        || mape_common::checksum::of([header]) != 0
    {
        return Err("not an IPv4 header that the stack takes");
    }
    let (source, destination) = (address(header, 12), address(header, 16));
    if !is_routable(destination) || !is_tunnelled(destination) {
        return Err("not routed into the tunnel");
    }
    // RFC 3704, as the kernel's `rp_filter` does it.
    if !is_lan(source) || source == GATEWAY.octets() {
        return Err("not from a LAN host");
    }
    if header[TTL] <= 1 {
        return Err("its TTL ends here");
    }
    if total > TUNNEL_MTU {
        return Err("larger than the tunnel takes");
    }
    let mut packet = packet.get(..total).unwrap_or(&[]).to_vec();
    change(&mut packet, TTL, |word| word.wrapping_sub(0x0100));
    Ok(packet)
}

/// The packet in a tunnelled frame as it comes out of the device, with the congestion that was marked on its way (RFC 6040 §4.2).
fn unwrapped(frame: &[u8]) -> Result<AtDevice, &'static str> {
    let is_for_us = frame.get(..6).is_some_and(|to| to == WAN_MAC.0);
    if !is_for_us || frame.get(12..14) != Some(&[0x86, 0xdd]) {
        return Err("no IPv6 for the WAN NIC");
    }
    let Some(outer) = frame.get(ETHERNET..TUNNELLED) else {
        return Err("no IPv6 for the WAN NIC");
    };
    if outer[0] >> 4 != 6 || outer[24..40] != CE.octets() || outer[6] != 4 {
        return Err("not a tunnel packet by itself");
    }
    let room = word(outer, 4).map_or(0, usize::from);
    let packet = frame.get(TUNNELLED..TUNNELLED + room);
    let Some(packet) = packet.filter(|packet| packet.len() >= 20) else {
        return Err("not an outer header that the stack takes");
    };
    if packet[TTL] <= 1 {
        return Err("its TTL ends here");
    }
    if length(packet).is_none_or(|total| total > LAN_MTU) {
        return Err("larger than the LAN takes");
    }
    let mut packet = packet.to_vec();
    let (inner, outside) = (packet[1] & 3, outer[1] >> 4 & 3);
    let ecn = match (inner, outside) {
        (0, 3) => return Err("congestion that nobody can be told of: the device drops it"),
        (0, _) => 0,
        (_, 3) => 3,
        (1 | 2, 1) => 1,
        (inner, _) => inner,
    };
    if ecn != inner {
        change(&mut packet, TOS, |word| word & !3 | u16::from(ecn));
    }
    let mut from = [0; 16];
    from.copy_from_slice(&outer[8..24]);
    Ok(AtDevice { packet, from })
}
