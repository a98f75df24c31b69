//! A border relay's two directions (RFC 7597 §5.4, §8): no state, any number of rules.

use crate::{
    checksum::Delta,
    env::{Env, Route},
    hop::{Hop, Link, Mac, NextHop},
    layout::{Config, Transport},
    map::address::map_address,
    nat::fragment::Note,
    packet::Packet,
    verdict::{Direction, Failure, Reason, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv4,
        port::Port,
    },
};

use super::{
    admit::{Arrival, admit, is_proven},
    fragment::{self, relay as ports},
    inner::{self, Inner},
    path,
    stage::{Attempt, Stage},
    tunnel::{self, Encapsulation, INNER, OUTER_SOURCE, Outer},
};

/// Internet to domain: takes a frame from the IPv4 side.
#[inline(always)]
pub fn to_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match into::<P, E, false>(frame, env, ifindex, &Note::EMPTY) {
        Err(Failure::Refused(reason @ Reason::Fragment)) => Attempt::go_on(Stage::RelayOutboundFragment, reason),
        Err(Failure::Refused(reason @ (Reason::IcmpError | Reason::TooBig))) => {
            Attempt::go_on(Stage::RelayOutboundIcmp, reason)
        }
        outcome => Attempt::ended(outcome),
    }
}

/// The same for a fragment.
#[inline(always)]
pub fn to_domain_fragment<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let mut note = Note::EMPTY;
    let looked = look_to_domain(frame, env, ifindex, &mut note).and_then(|()| {
        if fragment::is_first::<P, { eth::LEN }>(frame) {
            fragment::note::<P, E, { eth::LEN }, { fragment::NO_OUTER }>(frame, env, Direction::Outbound, &mut note)
        } else {
            Ok(())
        }
    });
    match looked {
        Ok(()) => fragment_into(frame, env, ifindex, &note),
        Err(reason) => Attempt::refused(reason),
    }
}

/// Out of the tunnel, or from one customer edge to another: takes a frame from the IPv6 side.
#[inline(always)]
pub fn from_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match out_of(frame, env, ifindex) {
        Err(Failure::Refused(reason @ Reason::Fragment)) => Attempt::go_on(Stage::RelayInboundFragment, reason),
        Err(Failure::Refused(reason @ (Reason::IcmpError | Reason::TooBig | Reason::TtlExpired))) => {
            Attempt::go_on(Stage::RelayInboundIcmp, reason)
        }
        outcome => Attempt::ended(outcome),
    }
}

/// The same for a fragment.
#[inline(always)]
pub fn from_domain_fragment<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let mut note = Note::EMPTY;
    // One after the other, since all in one are more than a program's stack.
    let looked = look_from_domain(frame, env, ifindex, &mut note).and_then(|()| {
        if fragment::is_first::<P, INNER>(frame) {
            fragment::note::<P, E, INNER, OUTER_SOURCE>(frame, env, Direction::Inbound, &mut note)
        } else {
            Ok(())
        }
    });
    if let Err(reason) = looked {
        return Attempt::refused(reason);
    }
    let is_across = frame.read(INNER).is_ok_and(|bytes| {
        let header = ipv4::Header::from_bytes(bytes);
        env.rule_by_ipv4(header.destination()).is_some()
    });
    if is_across {
        fragment_across(frame, env, ifindex, &note)
    } else {
        fragment_out(frame, env, ifindex, &note)
    }
}

/// A frame's whole way through a border relay, as [`edge::all`](super::edge::all) is through a customer edge.
///
/// # Errors
/// [`Failure`].
#[cfg(any(test, feature = "host"))]
pub fn all<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, direction: Direction) -> Result<Verdict, Failure> {
    let attempt = match direction {
        Direction::Outbound => to_domain(frame, env, ifindex),
        Direction::Inbound => from_domain(frame, env, ifindex),
    };
    super::edge::to_its_end(attempt, frame, env, ifindex)
}

#[inline(always)]
fn into<P: Packet, E: Env, const FRAGMENT: bool>(
    frame: &mut P,
    env: &E,
    ifindex: u32,
    note: &Note,
) -> Result<Verdict, Failure> {
    let arrival = of_type(frame, env, ifindex, EtherType::IPV4)?;
    let plan = plan_to_domain::<P, E, FRAGMENT>(frame, env, &arrival, note)?;
    tunnel::encapsulate(frame, &plan)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}

#[inline(always)]
fn out_of<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    let (arrival, outer, inner) = arrived::<P, E, false>(frame, env, ifindex, &Note::EMPTY)?;
    if env.rule_by_ipv4(inner.header.destination()).is_some() {
        across(frame, env, arrival.config, &outer, &inner)
    } else {
        out(frame, env, &arrival, &outer, &inner)
    }
}

/// The ports of a fragment from the Internet, if it is for the domain.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_to_domain<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32, note: &mut Note) -> Result<(), Reason> {
    of_type(frame, env, ifindex, EtherType::IPV4)?;
    is_for_domain(frame, env)?;
    let room = frame.len().saturating_sub(eth::LEN);
    ports::look::<P, E, { eth::LEN }, { fragment::NO_OUTER }>(frame, env, Direction::Outbound, room, note)
}

/// The ports of a fragment from the domain, if its sender may have sent it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_from_domain<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32, note: &mut Note) -> Result<(), Reason> {
    let arrival = of_type(frame, env, ifindex, EtherType::IPV6)?;
    let outer = tunnel::read_outer(frame, arrival.config.tunnel_address)?;
    let room = usize::from(outer.payload_len);
    ports::look::<P, E, INNER, OUTER_SOURCE>(frame, env, Direction::Inbound, room, note)?;
    let header = ipv4::Header::read(frame, INNER).map_err(|_| Reason::BadLength)?;
    path::check_source(env, &outer.source.to_bytes(), header.source(), note.ports().0)
}

/// A fragment into the domain.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fragment_into<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, note: &Note) -> Attempt {
    Attempt::ended(into::<P, E, true>(frame, env, ifindex, note))
}

/// A fragment from one customer edge to another.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fragment_across<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, note: &Note) -> Attempt {
    Attempt::ended(match arrived::<P, E, true>(frame, env, ifindex, note) {
        Ok((arrival, outer, inner)) => across(frame, env, arrival.config, &outer, &inner),
        Err(reason) => Err(reason.into()),
    })
}

/// A fragment to the Internet.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fragment_out<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, note: &Note) -> Attempt {
    Attempt::ended(match arrived::<P, E, true>(frame, env, ifindex, note) {
        Ok((arrival, outer, inner)) => out(frame, env, &arrival, &outer, &inner),
        Err(reason) => Err(reason.into()),
    })
}

#[inline(always)]
fn of_type<'a, P: Packet, E: Env>(
    frame: &P,
    env: &'a E,
    ifindex: u32,
    wanted: EtherType,
) -> Result<Arrival<'a>, Reason> {
    let arrival = admit(frame, env, ifindex)?;
    if arrival.ether_type == wanted {
        Ok(arrival)
    } else {
        Err(Reason::OtherEtherType)
    }
}

#[inline(always)]
fn arrived<'a, P: Packet, E: Env, const FRAGMENT: bool>(
    frame: &P,
    env: &'a E,
    ifindex: u32,
    note: &Note,
) -> Result<(Arrival<'a>, Outer, Inner), Reason> {
    let arrival = of_type(frame, env, ifindex, EtherType::IPV6)?;
    let (outer, inner) = read_from_domain::<P, E, FRAGMENT>(frame, env, arrival.config, note)?;
    Ok((arrival, outer, inner))
}

/// To another customer edge: a new outer header.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn across<P: Packet, E: Env>(
    frame: &mut P,
    env: &E,
    config: &Config,
    outer: &Outer,
    inner: &Inner,
) -> Result<Verdict, Failure> {
    let (far_end, hop) = customer_edge(env, inner.header.destination(), inner.destination_port)?;
    let plan = tunnel::plan_exchange(config, outer, &inner.header, hop, far_end, label(inner), inner.excess)?;
    tunnel::exchange(frame, &plan)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}

/// To the Internet: without an outer header.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn out<P: Packet, E: Env>(
    frame: &mut P,
    env: &E,
    arrival: &Arrival<'_>,
    outer: &Outer,
    inner: &Inner,
) -> Result<Verdict, Failure> {
    let plan = tunnel::plan_decapsulation(outer, &inner.header, Delta::ZERO, inner.excess)?;
    let hop = neighbour(env, arrival, inner)?;
    if let Some(hop) = hop {
        tunnel::decapsulate(
            frame,
            &plan,
            &eth::Header::new(hop.destination, hop.source, EtherType::IPV4),
        )?;
        return Ok(Verdict::Forward { ifindex: hop.ifindex });
    }
    let here = eth::Header::new(link_mac(env, arrival.ifindex), arrival.source, EtherType::IPV4);
    tunnel::decapsulate(frame, &plan, &here)?;
    Ok(Verdict::Deliver)
}

/// Whether an IPv4 frame from the Internet is for an address of the domain.
#[inline(always)]
fn is_for_domain<P: Packet, E: Env>(frame: &P, env: &E) -> Result<(), Reason> {
    let bytes = frame.read(eth::LEN).map_err(|_| Reason::BadLength)?;
    let header = ipv4::Header::from_bytes(bytes);
    env.rule_by_ipv4(header.destination()).map(|_| ()).ok_or(Reason::NoRule)
}

/// Decides what becomes of an IPv4 frame from the Internet.
#[inline(always)]
fn plan_to_domain<P: Packet, E: Env, const FRAGMENT: bool>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
    note: &Note,
) -> Result<Encapsulation, Reason> {
    is_for_domain(frame, env)?;
    let room = frame.len().saturating_sub(eth::LEN);
    let inner = read::<P, { eth::LEN }, FRAGMENT>(frame, room, note)?;
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

/// The packet at `L3`, or a `FRAGMENT` with the ports that are noted.
#[inline(always)]
fn read<P: Packet, const L3: usize, const FRAGMENT: bool>(
    frame: &P,
    room: usize,
    note: &Note,
) -> Result<Inner, Reason> {
    if FRAGMENT {
        ports::with_ports::<P, L3>(frame, room, note)
    } else {
        inner::read::<P, L3>(frame, room)
    }
}

/// The packet of an IPv6 frame from the domain, if its sender may have sent it and it can be forwarded at all.
#[inline(always)]
fn read_from_domain<P: Packet, E: Env, const FRAGMENT: bool>(
    frame: &P,
    env: &E,
    config: &Config,
    note: &Note,
) -> Result<(Outer, Inner), Reason> {
    let outer = tunnel::read_outer(frame, config.tunnel_address)?;
    let inner = read::<P, INNER, FRAGMENT>(frame, usize::from(outer.payload_len), note)?;
    // Of a fragment's ports that has been asked when they were looked up.
    if !FRAGMENT {
        path::check_source(env, &outer.source.to_bytes(), inner.header.source(), inner.source_port)?;
    }
    if ipv4::is_routable(inner.header.destination()) {
        Ok((outer, inner))
    } else {
        Err(Reason::NotUnicast)
    }
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
///
/// # Errors
/// [`Reason::NoRule`], [`Reason::ForeignPort`], [`Reason::NextHopUnknown`], [`Reason::LinkUnproven`].
#[inline(always)]
pub fn customer_edge<E: Env>(env: &E, address: [u8; 4], port: Port) -> Result<([u8; 16], Hop), Reason> {
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

/// The flow label of a packet to a customer edge.
#[inline(always)]
pub fn label(inner: &Inner) -> u32 {
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
