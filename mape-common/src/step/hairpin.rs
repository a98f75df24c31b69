//! From one LAN host to another by the shared address (hairpinning, RFC 4787 §6 REQ-9, RFC 5382 REQ-8).
//!
//! The receiver sees the sender's external address and port (REQ-9 a). So the packet belongs to two ordinary sessions: the
//! sender's, which translates its source, and the receiver's, which translates its destination; each is what the other's remote end
//! is. Ports, idle times, TCP phases and filtering are theirs, as if the packet had gone out and come back.

use crate::{
    checksum::Delta,
    env::{Env, Side},
    hop::{Hop, NextHop},
    layout::{SessionRef, Transport},
    nat::{
        open::{Flow, Path},
        session::Facts,
        table::{self, Draft},
    },
    packet::Packet,
    time::Tick,
    verdict::{Broken, Failure, Reason, Truncated, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv4::{self, Protocol},
        port::Port,
        tcp, udp,
    },
};

use super::{Need, edge::admitted, inbound, outbound, stage::Attempt, tunnel};

/// Whether the packet is an ICMP message to the shared address: there is nobody behind it that could be meant.
#[inline(always)]
pub fn is_ping<P: Packet>(frame: &P) -> bool {
    frame
        .read(eth::LEN)
        .is_ok_and(|bytes| ipv4::Header::from_bytes(bytes).protocol() == Protocol::ICMP)
}

/// The live session that a flow has on a side.
#[inline(always)]
fn session<E: Env>(env: &E, side: Side, flow: &Flow) -> Option<(SessionRef, Facts)> {
    let (found, _) = table::find(env, side, &flow.key())?;
    let (_, facts) = env.session(found.slot)?.read(found.generation)?;
    Some((found, facts))
}

/// The packet's flow as the receiver's side sees it: from the sender's external port.
#[inline(always)]
fn arriving<E: Env>(env: &E, flow: &Flow) -> Result<Flow, Reason> {
    let (_, sender) = session(env, Side::Inside, flow).ok_or(Reason::Contended)?;
    Ok(Flow {
        transport: flow.transport,
        local: flow.remote,
        local_port: flow.remote_port,
        remote: sender.external,
        remote_port: sender.external_port,
    })
}

/// Looks after the receiver's session. The sender's is there.
///
/// # Errors
/// [`Reason::NoSession`] where the receiver has none: see [`open_receiver`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn settle_receiver<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Result<(), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let (inner, flow) = outbound::read(frame)?;
    let flow = arriving(env, &flow)?;
    let now = arrival.now;
    let (found, state) = table::find(env, Side::Outside, &flow.key()).ok_or(Reason::NoSession)?;
    let record = env.session(found.slot).ok_or(Reason::NoSession)?;
    if table::is_over(env, arrival.config, record, state, now) {
        return Err(Reason::NoSession);
    }
    let phase = inbound::next_phase(state.phase, &inner);
    let is_in_use = phase == state.phase && now.since(state.used) < Tick::STALE;
    if is_in_use {
        return Ok(());
    }
    let need = Need {
        flow,
        before: state.phase,
        phase,
        session: Some(found),
        is_in_use,
    };
    inbound::refresh(env, &arrival, &need)
}

/// Drafts the receiver's session by the mapping of its port.
///
/// # Errors
/// [`Reason::NoSession`], [`Reason::Filtered`]: nobody has mapped the port, or not for the shared address.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn open_receiver<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    ifindex: u32,
    draft: &mut Option<Draft>,
) -> Result<(), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let (inner, flow) = outbound::read(frame)?;
    let flow = arriving(env, &flow)?;
    let phase = inbound::opening(&inner)?;
    let mapping = inbound::admitting_mapping(env, &arrival, &flow)?;
    let path = Path {
        far_end: [0; 16],
        wan_hop: NextHop::HAIRPIN,
        lan_hop: 0,
    };
    let need = Need {
        flow,
        before: phase,
        phase,
        session: Some(mapping),
        is_in_use: false,
    };
    inbound::draft(env, &arrival, &need, &path, draft)
}

/// Both ends, and where the packet goes.
struct Plan {
    hop: Hop,
    transport: Transport,
    source: [u8; 4],
    source_port: Port,
    destination: [u8; 4],
    destination_port: Port,
    checksum: u16,
    header_checksum: u16,
    ttl: u8,
    excess: u16,
}

/// Forwards by the two sessions.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn forward<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match plan(frame, env, ifindex) {
        Ok(plan) => Attempt::ended(apply(frame, &plan).map_err(Failure::from)),
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn plan<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Result<Plan, Reason> {
    admitted(frame, env, ifindex, EtherType::IPV4)?;
    let (inner, flow) = outbound::read(frame)?;
    let (_, sender) = session(env, Side::Inside, &flow).ok_or(Reason::Contended)?;
    let flow = arriving(env, &flow)?;
    let (_, receiver) = session(env, Side::Outside, &flow).ok_or(Reason::Contended)?;
    let hop = env
        .hop(receiver.lan_hop)
        .and_then(|hop| hop.get(receiver.inside))
        .ok_or(Reason::NextHopUnknown)?;
    tunnel::fits(&inner.header, &hop)?;
    let addresses = Delta::ZERO
        .words(inner.header.source(), sender.external)
        .words(inner.header.destination(), receiver.inside);
    let ports = addresses
        .word(inner.source_port.0, sender.external_port.0)
        .word(inner.destination_port.0, receiver.inside_port.0);
    let (ttl, header_checksum) = tunnel::hop_on(&inner.header, addresses)?;
    Ok(Plan {
        hop,
        transport: inner.transport,
        source: sender.external,
        source_port: sender.external_port,
        destination: receiver.inside,
        destination_port: receiver.inside_port,
        checksum: match inner.transport {
            Transport::Udp => ports.apply_udp(inner.checksum),
            Transport::Tcp => ports.apply(inner.checksum),
            Transport::Icmp => return Err(Reason::Hairpin),
        },
        header_checksum,
        ttl,
        excess: inner.excess,
    })
}

#[inline(always)]
fn apply<P: Packet>(frame: &mut P, plan: &Plan) -> Result<Verdict, Broken> {
    if plan.excess != 0 {
        frame.trim_end(plan.excess)?;
    }
    write(frame, plan)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}

#[inline(always)]
fn write<P: Packet>(frame: &mut P, plan: &Plan) -> Result<(), Truncated> {
    const L4: usize = eth::LEN + ipv4::LEN;
    let checksum_at = match plan.transport {
        Transport::Udp => udp::CHECKSUM,
        Transport::Tcp | Transport::Icmp => tcp::CHECKSUM,
    };
    frame.write(
        0,
        &eth::Header::new(plan.hop.destination, plan.hop.source, EtherType::IPV4).to_bytes(),
    )?;
    frame.write(eth::LEN.wrapping_add(ipv4::TTL), &[plan.ttl])?;
    frame.write(
        eth::LEN.wrapping_add(ipv4::CHECKSUM),
        &plan.header_checksum.to_be_bytes(),
    )?;
    frame.write(eth::LEN.wrapping_add(ipv4::SOURCE), &plan.source)?;
    frame.write(eth::LEN.wrapping_add(ipv4::DESTINATION), &plan.destination)?;
    frame.write(L4, &plan.source_port.to_bytes())?;
    frame.write(L4.wrapping_add(2), &plan.destination_port.to_bytes())?;
    frame.write(L4.wrapping_add(checksum_at), &plan.checksum.to_be_bytes())
}
