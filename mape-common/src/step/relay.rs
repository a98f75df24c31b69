//! A border relay's two directions (RFC 7597 §5.4, §8): no state, any number of rules.

use crate::{
    env::{Env, Route},
    hop::{Hop, NextHop},
    layout::Transport,
    map::address::map_address,
    packet::Packet,
    verdict::{Broken, Failure, Reason, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv4,
        port::Port,
    },
};

use super::{
    admit::{Arrival, admit, is_proven},
    inner::{self, Inner},
    path,
    tunnel::{self, Decapsulation, Encapsulation, INNER},
};

/// Internet to domain: takes a frame from the IPv4 side.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn to_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    let arrival = admit(frame, env, ifindex)?;
    if arrival.ether_type != EtherType::IPV4 {
        return Err(Reason::OtherEtherType.into());
    }
    let plan = plan_to_domain(frame, env, &arrival)?;
    Ok(apply_to_domain(frame, &plan)?)
}

/// Domain to Internet: takes a frame from the IPv6 side.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn to_internet<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    let arrival = admit(frame, env, ifindex)?;
    if arrival.ether_type != EtherType::IPV6 {
        return Err(Reason::OtherEtherType.into());
    }
    let plan = plan_to_internet(frame, env, &arrival)?;
    Ok(apply_to_internet(frame, &plan)?)
}

/// What becomes of a packet from the Internet.
pub type ToDomain = Encapsulation;

/// Decides what becomes of an IPv4 frame from the Internet.
///
/// # Errors
/// Why it is not forwarded; the frame is as it came.
#[inline(always)]
pub fn plan_to_domain<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<ToDomain, Reason> {
    let bytes = frame.read(eth::LEN).map_err(|_| Reason::BadLength)?;
    if env.rule_by_ipv4(ipv4::Header::from_bytes(bytes).destination()).is_none() {
        return Err(Reason::NoRule);
    }
    let room = frame.len().saturating_sub(eth::LEN);
    let inner = inner::read::<P, { eth::LEN }>(frame, room)?;
    let (far_end, hop) = customer_edge(env, inner.header.destination(), inner.destination_port)?;
    tunnel::plan_encapsulation(arrival.config, &inner.header, crate::checksum::Delta::ZERO, hop, far_end, label(&inner), inner.excess)
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply_to_domain<P: Packet>(frame: &mut P, plan: &ToDomain) -> Result<Verdict, Broken> {
    tunnel::encapsulate(frame, plan)?;
    Ok(Verdict::Forward { ifindex: plan.hop.ifindex })
}

/// What becomes of a packet from the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToInternet {
    decapsulation: Decapsulation,
    /// Where to; none = this machine's stack finds the neighbour.
    hop: Option<Hop>,
    ether: eth::Header,
}

/// Decides what becomes of an IPv6 frame from the domain.
///
/// # Errors
/// Why it is not forwarded; the frame is as it came.
#[inline(always)]
pub fn plan_to_internet<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<ToInternet, Reason> {
    let config = arrival.config;
    let outer = tunnel::read_outer(frame, &config.tunnel_address)?;
    let inner = inner::read::<P, INNER>(frame, usize::from(outer.payload_len))?;
    let (source, destination) = (inner.header.source(), inner.header.destination());
    path::check_source(env, &outer.source, source, inner.source_port)?;
    if !ipv4::is_routable(destination) {
        return Err(Reason::NotUnicast);
    }
    let decapsulation = tunnel::plan_decapsulation(&outer, &inner.header, crate::checksum::Delta::ZERO, inner.excess)?;
    let hop = match env.route(arrival.ifindex, source, destination) {
        Route::Resolved(hop) if is_proven(env, hop.ifindex) => Some(hop),
        Route::Resolved(_) | Route::Unresolved { .. } | Route::Other => None,
    };
    let ether = match &hop {
        Some(hop) => {
            tunnel::fits(&inner.header, hop)?;
            eth::Header::new(hop.destination, hop.source, EtherType::IPV4)
        }
        // To the stack as if it had come over this link without a tunnel.
        None => eth::Header::new(link_mac(env, arrival.ifindex), arrival.source, EtherType::IPV4),
    };
    Ok(ToInternet { decapsulation, hop, ether })
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply_to_internet<P: Packet>(frame: &mut P, plan: &ToInternet) -> Result<Verdict, Broken> {
    tunnel::decapsulate(frame, &plan.decapsulation, &plan.ether)?;
    Ok(match &plan.hop {
        Some(hop) => Verdict::Forward { ifindex: hop.ifindex },
        None => Verdict::Deliver,
    })
}

/// The customer edge that has an address and port, and the next hop towards it.
#[inline(always)]
fn customer_edge<E: Env>(env: &E, address: [u8; 4], port: Port) -> Result<([u8; 16], Hop), Reason> {
    let found = env.rule_by_ipv4(address).ok_or(Reason::NoRule)?;
    let rule = env.rule(found.rule).ok_or(Reason::NoRule)?;
    let far_end = map_address(rule, address, port).ok_or(Reason::ForeignPort)?;
    let hop = u16::try_from(found.hop).ok().and_then(|index| env.hop(index)).and_then(|hop| hop.get(NextHop::FAR_END));
    let hop = hop.ok_or(Reason::NextHopUnknown)?;
    if is_proven(env, hop.ifindex) { Ok((far_end, hop)) } else { Err(Reason::LinkUnproven) }
}

#[inline(always)]
fn label(inner: &Inner) -> u32 {
    let remote_port = if matches!(inner.transport, Transport::Icmp) { Port(0) } else { inner.source_port };
    tunnel::flow_label(inner.destination_port, inner.header.source(), remote_port, inner.transport.protocol())
}

#[inline(always)]
fn link_mac<E: Env>(env: &E, ifindex: u32) -> crate::hop::Mac {
    crate::hop::Mac::from_bits(env.link(ifindex).map_or(0, crate::hop::Link::mac))
}
