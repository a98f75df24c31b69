//! A border relay's two directions (RFC 7597 §5.4, §8): no state, any number of rules.

use crate::{
    checksum::Delta,
    env::{Env, Route},
    hop::{Hop, Link, Mac, NextHop},
    layout::{Config, Transport},
    map::address::map_address,
    packet::Packet,
    verdict::{Failure, Reason, Verdict},
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
    tunnel::{self, Encapsulation, INNER, Outer},
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
    tunnel::encapsulate(frame, &plan)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}

/// Out of the tunnel, or from one customer edge to another: takes a frame from the IPv6 side.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn from_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    let arrival = admit(frame, env, ifindex)?;
    if arrival.ether_type != EtherType::IPV6 {
        return Err(Reason::OtherEtherType.into());
    }
    let (outer, inner) = read_from_domain(frame, env, arrival.config)?;
    if env.rule_by_ipv4(inner.header.destination()).is_some() {
        let plan = plan_across(env, arrival.config, &outer, &inner)?;
        tunnel::exchange(frame, &plan)?;
        return Ok(Verdict::Forward {
            ifindex: plan.hop.ifindex,
        });
    }
    let plan = tunnel::plan_decapsulation(&outer, &inner.header, Delta::ZERO, inner.excess)?;
    if let Some(hop) = neighbour(env, &arrival, &inner)? {
        tunnel::decapsulate(
            frame,
            &plan,
            &eth::Header::new(hop.destination, hop.source, EtherType::IPV4),
        )?;
        return Ok(Verdict::Forward { ifindex: hop.ifindex });
    }
    let here = eth::Header::new(link_mac(env, ifindex), arrival.source, EtherType::IPV4);
    tunnel::decapsulate(frame, &plan, &here)?;
    Ok(Verdict::Deliver)
}

/// Decides what becomes of an IPv4 frame from the Internet.
#[inline(always)]
fn plan_to_domain<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<Encapsulation, Reason> {
    let bytes = frame.read(eth::LEN).map_err(|_| Reason::BadLength)?;
    if env
        .rule_by_ipv4(ipv4::Header::from_bytes(bytes).destination())
        .is_none()
    {
        return Err(Reason::NoRule);
    }
    let room = frame.len().saturating_sub(eth::LEN);
    let inner = inner::read::<P, { eth::LEN }>(frame, room)?;
    let (far_end, hop) = customer_edge(env, inner.header.destination(), inner.destination_port)?;
    tunnel::plan_encapsulation(
        arrival.config,
        &inner.header,
        Delta::ZERO,
        hop,
        far_end,
        label(&inner),
        inner.excess,
    )
}

/// The packet of an IPv6 frame from the domain, if its sender may have sent it and it can be forwarded at all.
#[inline(always)]
fn read_from_domain<P: Packet, E: Env>(frame: &P, env: &E, config: &Config) -> Result<(Outer, Inner), Reason> {
    let outer = tunnel::read_outer(frame, &config.tunnel_address)?;
    let inner = inner::read::<P, INNER>(frame, usize::from(outer.payload_len))?;
    path::check_source(env, &outer.source, inner.header.source(), inner.source_port)?;
    if ipv4::is_routable(inner.header.destination()) {
        Ok((outer, inner))
    } else {
        Err(Reason::NotUnicast)
    }
}

/// To another customer edge: a new outer header.
#[inline(always)]
fn plan_across<E: Env>(env: &E, config: &Config, outer: &Outer, inner: &Inner) -> Result<Encapsulation, Reason> {
    let (far_end, hop) = customer_edge(env, inner.header.destination(), inner.destination_port)?;
    tunnel::plan_exchange(config, outer, &inner.header, hop, far_end, label(inner), inner.excess)
}

/// To the Internet: the neighbour, or none where this machine's stack has to find it, as if the packet had come over this
/// link without a tunnel.
#[inline(always)]
fn neighbour<E: Env>(env: &E, arrival: &Arrival<'_>, inner: &Inner) -> Result<Option<Hop>, Reason> {
    match env.route(arrival.ifindex, inner.header.source(), inner.header.destination()) {
        Route::Resolved(hop) if is_proven(env, hop.ifindex) => tunnel::fits(&inner.header, &hop).map(|()| Some(hop)),
        Route::Resolved(_) | Route::Unresolved { .. } | Route::Other => Ok(None),
    }
}

/// The customer edge that has an address and port, and the next hop towards it.
#[inline(always)]
fn customer_edge<E: Env>(env: &E, address: [u8; 4], port: Port) -> Result<([u8; 16], Hop), Reason> {
    let found = env.rule_by_ipv4(address).ok_or(Reason::NoRule)?;
    let rule = env.rule(found.rule).ok_or(Reason::NoRule)?;
    let far_end = map_address(rule, address, port).ok_or(Reason::ForeignPort)?;
    let hop = u16::try_from(found.hop)
        .ok()
        .and_then(|index| env.hop(index))
        .and_then(|hop| hop.get(NextHop::FAR_END));
    let hop = hop.ok_or(Reason::NextHopUnknown)?;
    if is_proven(env, hop.ifindex) {
        Ok((far_end, hop))
    } else {
        Err(Reason::LinkUnproven)
    }
}

#[inline(always)]
fn label(inner: &Inner) -> u32 {
    let remote_port = if matches!(inner.transport, Transport::Icmp) {
        Port(0)
    } else {
        inner.source_port
    };
    tunnel::flow_label(
        inner.destination_port,
        inner.header.source(),
        remote_port,
        inner.transport.protocol(),
    )
}

#[inline(always)]
fn link_mac<E: Env>(env: &E, ifindex: u32) -> Mac {
    Mac::from_bits(env.link(ifindex).map_or(0, Link::mac))
}
