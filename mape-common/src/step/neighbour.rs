//! What the stack knows of the routers towards the tunnel's far ends, as its own frames show it (RFC 4861): the fast path has no
//! neighbour discovery, and its frames are not seen by the stack's.
//!
//! A router that has been silent is asked for by leaving a packet to the stack (see [`NextHop::asks`]). What the stack then sends
//! says which MAC address it has found, and a neighbour's announcement is a reason to ask at once.

use crate::{
    env::Env,
    hop::{Hop, Mac, NextHop},
    layout::{Config, STATIC_HOPS},
    packet::Packet,
    wire::{
        eth::{self, EtherType},
        ipv4::Protocol,
        ipv6,
    },
};

use super::{admit::is_proven, path::RELAY_HOP};

/// Router advertisement, neighbour advertisement, redirect (RFC 4861 §4).
const ANNOUNCEMENTS: [u8; 3] = [134, 136, 137];

#[inline(always)]
fn read<P: Packet>(frame: &P) -> Option<(eth::Header, ipv6::Header)> {
    let ethernet = eth::Header::read(frame).ok()?;
    if ethernet.ether_type() != EtherType::IPV6 {
        return None;
    }
    let header = ipv6::Header::read(frame, eth::LEN).ok()?;
    header.is_ipv6().then_some((ethernet, header))
}

/// A frame that the stack sends by a NIC: one of the tunnel's shows the way to its far end.
#[inline(always)]
pub fn sent<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) {
    let Some((ethernet, header)) = read(frame) else { return };
    let Some(config) = env.config() else { return };
    if !header.source().is(config.tunnel_address) || !is_proven(env, ifindex) {
        return;
    }
    // With extensions: in fragments.
    if header.next_header() != Protocol::IPV4 && !header.has_extension() {
        return;
    }
    if let Some(index) = towards(env, config, header.destination().to_bytes()) {
        note(
            env,
            index,
            ifindex,
            Mac::from_bits(ethernet.destination()),
            ethernet.source(),
        );
    }
}

/// Index of the next hop towards a far end.
#[inline(always)]
fn towards<E: Env>(env: &E, config: &Config, far_end: [u8; 16]) -> Option<u16> {
    if far_end == config.relay_address {
        return Some(RELAY_HOP);
    }
    u16::try_from(env.rule_by_ipv6(far_end)?.hop).ok()
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn note<E: Env>(env: &E, index: u16, ifindex: u32, neighbour: Mac, own: Mac) -> bool {
    let Some(record) = env.hop(index).filter(|_| u32::from(index) < STATIC_HOPS) else {
        return false;
    };
    let now = env.now();
    match record.get(NextHop::FAR_END) {
        Some(known) if known.ifindex == ifindex && (known.destination, known.source) == (neighbour, own) => {
            record.confirm(now);
            true
        }
        // Of a NIC that it is not on, user space has to say more: its MTU, its program.
        Some(known) if known.ifindex == ifindex && !neighbour.is_unusable() => record.assign(
            NextHop::FAR_END,
            &Hop {
                destination: neighbour,
                source: own,
                ..known
            },
            now,
        ),
        _ => false,
    }
}

/// A frame that has come by a NIC: after a neighbour's announcement the stack is asked for the routers there.
#[inline(always)]
pub fn heard<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) {
    let Some((_, header)) = read(frame) else { return };
    if header.next_header() != Protocol::ICMPV6 {
        return;
    }
    let Ok([kind]) = frame.read(eth::LEN.wrapping_add(ipv6::LEN)) else {
        return;
    };
    if !ANNOUNCEMENTS.contains(&kind) {
        return;
    }
    let now = env.now();
    for index in 0..STATIC_HOPS {
        if let Ok(index) = u16::try_from(index)
            && let Some(record) = env.hop(index)
            && record.ifindex() == ifindex
        {
            record.doubt(now);
        }
    }
}
