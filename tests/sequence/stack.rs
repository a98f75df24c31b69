//! The stack around the tunnel device: which packets it leads there, and what it does to them before and after. The translation is
//! the core's.

use mape_common::{
    host::HostEnv,
    packet::VecPacket,
    step::slow,
    verdict::{Action, Direction, Failure},
};
use mape_tests::{
    model::packet::{ETHERNET, TUNNELLED, is_lan, is_routable, is_tunnelled},
    table::world::{CE, GATEWAY, LAN_MAC, Outcome, Program, WAN_MAC},
};

/// The MTU of the tunnel device, and of the LAN NIC.
const TUNNEL_MTU: usize = 1_460;
const LAN_MTU: usize = 1_500;

/// Offsets in an IPv4 header.
const TOS: usize = 0;
const TTL: usize = 8;
const CHECKSUM: usize = 10;

/// Takes a frame's packet to the device and has it translated there; none where the stack does something else with the frame, which
/// then is the fast path's to judge. What leaves is the packet as the next NIC gets it.
pub(crate) fn translate(env: &HostEnv, program: Program, frame: &[u8]) -> Option<(Outcome, &'static str)> {
    let (direction, packet, from) = match program {
        Program::Lan => (Direction::Outbound, routed(frame)?, [0; 16]),
        Program::Wan => (
            Direction::Inbound,
            unwrapped(frame)?,
            frame.get(22..38)?.try_into().ok()?,
        ),
    };
    let mut translated = VecPacket(packet.clone());
    let outcome = match slow::all(&mut translated, env, direction, &from) {
        Ok(_) => {
            let mut packet = translated.0;
            if program == Program::Wan {
                packet.truncate(length(&packet)?);
                change(&mut packet, TTL, |word| word - 0x0100);
            }
            (Outcome::Forwarded(packet), "translated")
        }
        Err(Failure::Refused(reason)) => {
            assert_eq!(
                translated.0,
                packet,
                "a refusal leaves the packet as it came ({})",
                reason.label()
            );
            // As `mape-ebpf` does it.
            let is_passed = program == Program::Wan && matches!(reason.action(), Action::PassNotOurs);
            let outcome = if is_passed {
                Outcome::Passed(packet)
            } else {
                Outcome::Dropped
            };
            (outcome, reason.label())
        }
        Err(broken @ Failure::Broken(_)) => panic!("half written: {}", broken.reason().label()),
    };
    Some(outcome)
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

fn length(packet: &[u8]) -> Option<usize> {
    word(packet, 2).map(usize::from)
}

fn address(packet: &[u8], at: usize) -> Option<[u8; 4]> {
    packet.get(at..at + 4)?.try_into().ok()
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

/// The packet of a frame from the LAN as it enters the device: whole, from a LAN host, not for the gateway itself, small enough, with one
/// hop less.
fn routed(frame: &[u8]) -> Option<Vec<u8>> {
    if frame.get(..6)? != LAN_MAC.0 || frame.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    let packet = frame.get(ETHERNET..)?;
    let header = packet.get(..20)?;
    let total = length(header)?;
    let (source, destination) = (address(header, 12)?, address(header, 16)?);
    let is_whole = header[0] == 0x45
        && (20..=TUNNEL_MTU.min(packet.len())).contains(&total)
        && mape_common::checksum::of([header]) == 0;
    let is_forwarded = is_lan(source)
        && source != GATEWAY.octets()
        && is_routable(destination)
        && is_tunnelled(destination)
        && header[TTL] > 1;
    if !is_whole || !is_forwarded {
        return None;
    }
    let mut packet = packet.get(..total)?.to_vec();
    change(&mut packet, TTL, |word| word - 0x0100);
    Some(packet)
}

/// The packet in a tunnelled frame as it comes out of the device, with the congestion that was marked on its way (RFC 6040 §4.2). What the
/// stack would not let leave by the LAN stays out of it.
fn unwrapped(frame: &[u8]) -> Option<Vec<u8>> {
    let outer = frame.get(ETHERNET..TUNNELLED)?;
    let is_for_us = frame.get(..6)? == WAN_MAC.0
        && frame.get(12..14)? == [0x86, 0xdd]
        && outer[0] >> 4 == 6
        && outer[6] == 4
        && outer[24..40] == CE.octets();
    let room = usize::from(word(outer, 4)?);
    let packet = frame.get(TUNNELLED..TUNNELLED + room)?;
    let header = packet.get(..20)?;
    if !is_for_us || header[0] & 15 > 5 || header[TTL] <= 1 || length(header)? > LAN_MTU {
        return None;
    }
    let mut packet = packet.to_vec();
    let (inner, outer) = (packet[1] & 3, outer[1] >> 4 & 3);
    let ecn = match (inner, outer) {
        (0, 3) => return None,
        (0, _) => 0,
        (_, 3) => 3,
        (1 | 2, 1) => 1,
        (inner, _) => inner,
    };
    if ecn != inner {
        change(&mut packet, TOS, |word| word & !3 | u16::from(ecn));
    }
    Some(packet)
}
