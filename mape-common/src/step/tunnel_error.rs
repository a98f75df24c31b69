//! ICMPv6 errors about tunnel packets: noted (the path's MTU), and told to the LAN host whose packet it was as an ICMPv4 error
//! (RFC 2473 §8, RFC 7597 §8.2).
//!
//! Anybody can send one, so it counts only where the packet that it quotes is one that a live session may have sent.

use crate::{
    env::{Env, Side},
    hop::{Hop, NextHop},
    nat::table,
    packet::Packet,
    verdict::{Broken, Reason, Verdict},
    wire::{
        eth, icmp,
        ipv4::{self, Protocol},
        ipv6,
    },
};

use super::{
    admit::Arrival,
    answer::{self, Error},
    quoted,
};

/// Where an ICMPv6 message begins behind the IPv6 header.
const MESSAGE: usize = eth::LEN + ipv6::LEN;
/// Bytes before the packet that it quotes.
const HEADER: usize = 8;
/// Where the tunnel packet that it quotes begins.
const OUTER: usize = MESSAGE + HEADER;
/// Where the inner packet of that begins.
const INNER: usize = OUTER + ipv6::LEN;
/// What goes away when the inner packet becomes the one that an ICMPv4 error quotes.
const CUT: usize = INNER - (eth::LEN + ipv4::LEN + icmp::LEN);
const PACKET_TOO_BIG: u8 = 2;

/// An ICMPv4 error and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    hop: Hop,
    error: Error,
}

/// Decides what becomes of an ICMPv6 packet to the tunnel's address.
///
/// # Errors
/// [`Reason::Icmpv6`] where it says nothing about the tunnel, [`Reason::ErrorWithoutSession`], [`Reason::ErrorUnusable`];
/// [`Reason::TunnelError`] where what it says was noted and is no news for the LAN host.
#[inline(always)]
pub fn plan<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<Plan, Reason> {
    let config = arrival.config;
    let Ok([kind, _, _, _, beyond_high, beyond_low, mtu_high, mtu_low]) = frame.read::<HEADER>(MESSAGE) else {
        return Err(Reason::Icmpv6);
    };
    let Ok(outer) = ipv6::Header::read(frame, OUTER) else {
        return Err(Reason::Icmpv6);
    };
    if !matches!(kind, 1..=4)
        || !outer.is_ipv6()
        || !outer.source().is(config.tunnel_address)
        || outer.next_header() != Protocol::IPV4
    {
        return Err(Reason::Icmpv6);
    }
    let room = frame.len().saturating_sub(INNER);
    let quoted = quoted::read::<P, INNER>(frame, room)?;
    // Its place in the frame must be a constant for what is written behind it.
    if quoted.header.has_options() {
        return Err(Reason::ErrorUnusable);
    }
    if !config.owns(quoted.header.source()) {
        return Err(Reason::ErrorWithoutSession);
    }
    let (found, _) = table::find(env, Side::Outside, &quoted.from_here()).ok_or(Reason::ErrorWithoutSession)?;
    let record = env.session(found.slot).ok_or(Reason::ErrorWithoutSession)?;
    let (state, facts) = record.read(found.generation).ok_or(Reason::ErrorWithoutSession)?;
    if !outer.destination().is(facts.far_end) || table::is_over(env, config, record, state, arrival.now) {
        return Err(Reason::ErrorWithoutSession);
    }
    let far = env.hop(facts.wan_hop).ok_or(Reason::NextHopUnknown)?;
    // The field has 32 bits: a router that says more than 16 can hold narrows nothing.
    let told = match (beyond_high, beyond_low) {
        (0, 0) => u16::from_be_bytes([mtu_high, mtu_low]),
        _ => u16::MAX,
    };
    if kind == PACKET_TOO_BIG {
        // No IPv6 path is as narrow: the message is discarded, and nobody is told (RFC 8201 §4).
        if told < NextHop::LEAST_MTU {
            return Err(Reason::ErrorUnusable);
        }
        far.learn_path_mtu(told, arrival.now);
        if !quoted.header.dont_fragment() {
            return Err(Reason::TunnelError);
        }
    }
    let mtu = far
        .path_mtu(arrival.now)
        .map_or(config.tunnel_mtu, |path| path.saturating_sub(40).min(config.tunnel_mtu));
    let hop = env
        .hop(facts.lan_hop)
        .and_then(|hop| hop.get(facts.inside))
        .ok_or(Reason::NextHopUnknown)?;
    if !answer::may_send(env, arrival.now) {
        return Err(Reason::TunnelError);
    }
    let Ok(payload) = frame.read::<8>(INNER.wrapping_add(ipv4::LEN)) else {
        return Err(Reason::ErrorUnusable);
    };
    Ok(Plan {
        hop,
        error: Error {
            macs: (hop.destination, hop.source),
            from: answer::own_address(env, hop.ifindex),
            to: facts.inside,
            kind: icmp::UNREACHABLE,
            code: if kind == PACKET_TOO_BIG {
                icmp::TOO_BIG
            } else {
                icmp::HOST
            },
            mtu: if kind == PACKET_TOO_BIG { mtu } else { 0 },
            quoted: quoted.header.with_source(facts.inside),
            payload: quoted.restored(payload, facts.inside, facts.inside_port),
        },
    })
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply<P: Packet>(frame: &mut P, plan: &Plan) -> Result<Verdict, Broken> {
    frame.write(INNER, &plan.error.quoted.to_bytes())?;
    frame.write(INNER.wrapping_add(ipv4::LEN), &plan.error.payload)?;
    frame.shrink_front::<CUT>()?;
    answer::write(frame, &plan.error)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}
