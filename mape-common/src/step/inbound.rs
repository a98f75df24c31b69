//! WAN to LAN on a customer edge: validate the sender, find the session, decapsulate, translate the destination.

use crate::{
    env::{Env, Rules, Side},
    hop::{Hop, NextHop},
    layout::{Config, SessionRef, Transport},
    nat::{
        mapping,
        open::{self, Flow, Path},
        session::{Facts, Hold, Phase},
        table::{self, Draft},
        tcp,
    },
    packet::Packet,
    time::Tick,
    verdict::{Broken, Direction, Reason, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv6,
        port::Port,
        tcp::Flags,
    },
};

use super::{
    Need, Stop,
    admit::Arrival,
    inner::{self, Inner},
    mss, outbound, path,
    translate::{self, End, Translation},
    tunnel::{self, Decapsulation, INNER, Outer},
};

/// Everything decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    hop: Hop,
    translation: Translation,
    decapsulation: Decapsulation,
}

/// A packet whose session was used a moment ago.
pub struct Found {
    /// The outer header.
    pub outer: Outer,
    /// The packet.
    pub inner: Inner,
    /// The session.
    pub session: SessionRef,
    /// What it says.
    pub facts: Facts,
    /// The next hop towards the LAN host.
    pub hop: Hop,
}

/// Decides what becomes of an IPv6 frame from the WAN whose session was used a moment ago; looks, and changes nothing.
///
/// # Errors
/// [`Stop::Refused`] with the reason, or [`Stop::Unsettled`] where the session has to be looked after first.
#[inline(always)]
pub fn plan<P: Packet, E: Env, const GLANCE: bool>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<Plan, Stop> {
    plan_part::<P, E, false, GLANCE>(frame, env, arrival)
}

/// Finds the session of a packet, or of one whose `FIRST` fragment this is, if it was used a moment ago; one that a `GLANCE` does not
/// show is [`Stop::Unsettled`], too.
///
/// # Errors
/// As [`plan`].
#[inline(always)]
pub fn find<P: Packet, E: Env, const FIRST: bool, const GLANCE: bool>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<Found, Stop> {
    let (outer, inner, flow) = read::<P, E, true, FIRST>(frame, env, arrival.config)?;
    let found = table::seen::<E, GLANCE>(env, arrival.config, Side::Outside, &flow.key());
    let (session, state, facts) = found.ok_or(Stop::Unsettled)?;
    if next_phase(state.phase, &inner) != state.phase || arrival.now.since(state.used) >= Tick::STALE {
        return Err(Stop::Unsettled);
    }
    if facts.wan_hop == NextHop::HAIRPIN {
        // From a LAN host of ours, it says, but out of the tunnel.
        return Err(Reason::InvalidV4.into());
    }
    let hop = env
        .hop(facts.lan_hop)
        .and_then(|hop| hop.get(facts.inside))
        .ok_or(Reason::NextHopUnknown)?;
    path::confirm(env, facts.wan_hop, arrival.source, arrival.now);
    Ok(Found {
        outer,
        inner,
        session,
        facts,
        hop,
    })
}

/// As [`plan`], for a whole packet or, where `FIRST` says so, its first fragment.
///
/// # Errors
/// As [`plan`].
#[inline(always)]
pub fn plan_part<P: Packet, E: Env, const FIRST: bool, const GLANCE: bool>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<Plan, Stop> {
    let Found {
        outer,
        inner,
        facts,
        hop,
        ..
    } = find::<P, E, FIRST, GLANCE>(frame, env, arrival)?;
    tunnel::fits(&inner.header, &hop)?;
    let translation =
        translate::plan::<P, INNER>(frame, &inner, End::Destination, facts.inside, facts.inside_port, || {
            Ok(mss::limit(
                arrival.config,
                &outbound::way(env, facts.wan_hop, arrival.now)?,
            ))
        })?;
    let decapsulation = tunnel::plan_decapsulation(&outer, &inner.header, translation.header, inner.excess)?;
    Ok(Plan {
        hop,
        translation,
        decapsulation,
    })
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`]: the frame is neither old nor new.
#[inline(always)]
pub fn apply<P: Packet>(frame: &mut P, plan: &Plan) -> Result<Verdict, Broken> {
    translate::apply::<P, INNER>(frame, &plan.translation)?;
    let header = eth::Header::new(plan.hop.destination, plan.hop.source, EtherType::IPV4);
    tunnel::decapsulate(frame, &plan.decapsulation, &header)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}

/// The packet and its flow, if it is for this customer edge and, where that is still to be checked, its sender may have
/// sent it (RFC 7597 §8.1).
#[inline(always)]
fn read<P: Packet, E: Env, const CHECK: bool, const FIRST: bool>(
    frame: &P,
    env: &E,
    config: &Config,
) -> Result<(Outer, Inner, Flow), Reason> {
    let outer = tunnel::read_outer(frame, config.tunnel_address)?;
    let (inner, flow) = read_inner::<P, E, CHECK, FIRST>(frame, env, config, &outer)?;
    Ok((outer, inner, flow))
}

/// The same, the outer header being read.
///
/// # Errors
/// Why it can have none.
#[inline(always)]
pub fn read_inner<P: Packet, E: Env, const CHECK: bool, const FIRST: bool>(
    frame: &P,
    env: &E,
    config: &Config,
    outer: &Outer,
) -> Result<(Inner, Flow), Reason> {
    let inner = inner::read_part::<P, INNER, FIRST>(frame, usize::from(outer.payload_len))?;
    let flow = Flow {
        transport: inner.transport,
        local: inner.header.destination(),
        local_port: inner.destination_port,
        remote: inner.header.source(),
        remote_port: if matches!(inner.transport, Transport::Icmp) {
            Port(0)
        } else {
            inner.source_port
        },
    };
    is_ours(config, &flow)?;
    if CHECK {
        may_send(env, config, outer.source, flow.remote, inner.source_port)?;
    }
    Ok((inner, flow))
}

/// Whether a packet out of the tunnel is for this customer edge.
///
/// # Errors
/// [`Reason::NotMyAddress`], [`Reason::ForeignPort`].
#[inline(always)]
pub const fn is_ours(config: &Config, flow: &Flow) -> Result<(), Reason> {
    if !config.owns(flow.local) {
        return Err(Reason::NotMyAddress);
    }
    if !config.port_set.contains(flow.local_port) {
        return Err(Reason::ForeignPort);
    }
    Ok(())
}

/// Whether an outer source may send packets of an address and port: what comes from the relay needs no check; from anywhere
/// else the rules must allow the inner source (RFC 7597 §8.1).
///
/// # Errors
/// As [`path::check_source`].
#[inline(always)]
pub fn may_send<R: Rules>(
    rules: &R,
    config: &Config,
    outer: ipv6::Address,
    inner: [u8; 4],
    port: Port,
) -> Result<(), Reason> {
    if outer.is(config.relay_address) {
        return Ok(());
    }
    path::check_source(rules, &outer.to_bytes(), inner, port)
}

/// The phase of a session after a packet from the tunnel.
#[inline(always)]
pub fn next_phase(phase: Phase, inner: &Inner) -> Phase {
    match inner.transport {
        Transport::Tcp => tcp::next(phase, Direction::Inbound, inner.flags),
        Transport::Udp | Transport::Icmp => phase,
    }
}

/// Says what the session of a packet, or of one whose first fragment this is, needs before the packet can be forwarded. [`plan`] has checked its sender.
///
/// # Errors
/// Why the packet is not forwarded.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn look<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
    need: &mut Option<Need>,
) -> Result<(), Reason> {
    let (_, inner, flow) = read::<P, E, false, true>(frame, env, arrival.config)?;
    need_of(env, arrival, &inner, flow, need)
}

/// What the session of a packet with that flow needs.
///
/// # Errors
/// Why the packet is not forwarded.
#[inline(always)]
pub fn need_of<E: Env>(
    env: &E,
    arrival: &Arrival<'_>,
    inner: &Inner,
    flow: Flow,
    need: &mut Option<Need>,
) -> Result<(), Reason> {
    let (config, now) = (arrival.config, arrival.now);
    // From a LAN host of ours, it says, but out of the tunnel. Before the session of that host is looked after: a forged packet keeps
    // none alive. An echo has no port that could be ours.
    if !matches!(flow.transport, Transport::Icmp)
        && config.owns(flow.remote)
        && config.port_set.contains(flow.remote_port)
    {
        return Err(Reason::InvalidV4);
    }
    let (session, state) = table::sought(env, Side::Outside, &flow.key());
    if state.phase.is_live()
        && let Some(record) = env.session(session.slot)
        && !table::is_over(env, config, record, state, now)
    {
        let phase = next_phase(state.phase, inner);
        *need = Some(Need {
            flow,
            before: state.phase,
            phase,
            session: Some(session),
            is_in_use: phase == state.phase && now.since(state.used) < Tick::STALE,
        });
        return Ok(());
    }
    let phase = opening(inner)?;
    *need = Some(Need {
        flow,
        before: phase,
        phase,
        session: None,
        is_in_use: false,
    });
    Ok(())
}

/// The phase of a session that a remote host's packet opens. A reset or an answer to what nobody asked opens nothing; nor does
/// somebody's ping.
///
/// # Errors
/// [`Reason::NoSession`].
#[inline(always)]
pub const fn opening(inner: &Inner) -> Result<Phase, Reason> {
    match inner.transport {
        Transport::Tcp if inner.flags.is_open() && !inner.flags.has(Flags::RST) => Ok(Phase::TcpUnanswered),
        Transport::Udp => Ok(Phase::UdpUnanswered),
        Transport::Tcp | Transport::Icmp => Err(Reason::NoSession),
    }
}

/// Notes that a session is used: its record and its mapping.
///
/// # Errors
/// [`Reason::NoSession`] where it or its mapping has ended since, [`Reason::Contended`] where another packet has changed its
/// phase just now.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn refresh<E: Env>(env: &E, arrival: &Arrival<'_>, need: &Need) -> Result<(), Reason> {
    let session = need.session.ok_or(Reason::NoSession)?;
    let record = env.session(session.slot).ok_or(Reason::NoSession)?;
    let (state, facts) = record.read(session.generation).ok_or(Reason::NoSession)?;
    // What nobody on the LAN has answered keeps no mapping alive (RFC 7857 §7), and does not outlive it.
    if matches!(facts.hold, Hold::Member)
        && !mapping::touch(
            env,
            arrival.config,
            facts.mapping,
            arrival.now,
            need.phase.is_answered(),
        )
    {
        mapping::age_member(record, state, arrival.now);
        return Err(Reason::NoSession);
    }
    if !record.note_use(state, need.before, need.phase, arrival.now) {
        return Err(Reason::Contended);
    }
    if matches!(facts.hold, Hold::Member) && need.phase.is_answered() {
        mapping::renew(env, arrival.config, record, arrival.now);
    }
    Ok(())
}

/// The mapping that lets a remote host in although it has no session: its port is mapped independently of the remote, and
/// has sent to that host.
///
/// # Errors
/// [`Reason::NoSession`] where the port is not mapped, [`Reason::Filtered`] where it is, but not for this host.
#[inline(always)]
pub fn admitting_mapping<E: Env>(env: &E, arrival: &Arrival<'_>, flow: &Flow) -> Result<SessionRef, Reason> {
    let (config, now) = (arrival.config, arrival.now);
    let mapping = mapping::find(env, config, Side::Outside, flow, now).ok_or(Reason::NoSession)?;
    if mapping::admits(env, config, flow.transport, mapping, flow.remote, now) {
        Ok(mapping)
    } else {
        Err(Reason::Filtered)
    }
}

/// Drafts the record of a session that a remote host opens through the mapping in `need.session`; packets back go by `path`.
///
/// # Errors
/// [`Reason::NoSession`], [`Reason::SessionsExhausted`], [`Reason::Contended`]; [`Reason::Filtered`] where the LAN endpoint
/// has a session with that remote end by a port that it shared before it had the mapping: its answer would leave by that port.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn draft<E: Env>(
    env: &E,
    arrival: &Arrival<'_>,
    need: &Need,
    path: &Path,
    made: &mut Option<Draft>,
) -> Result<(), Reason> {
    let mapping = need.session.ok_or(Reason::NoSession)?;
    let (_, of) = env
        .session(mapping.slot)
        .and_then(|record| record.read(mapping.generation))
        .ok_or(Reason::NoSession)?;
    let inside = Flow {
        local: of.inside,
        local_port: of.inside_port,
        ..need.flow
    };
    if let Some((other, state)) = table::find(env, Side::Inside, &inside.key())
        && let Some(record) = env.session(other.slot)
        && !table::is_over(env, arrival.config, record, state, arrival.now)
    {
        return Err(Reason::Filtered);
    }
    let path = Path {
        lan_hop: of.lan_hop,
        ..*path
    };
    let draft = open::draft(env, arrival.config, &inside, &path, need.phase, arrival.now)?;
    draft.record(env)?.set_member(mapping, of.external_port, of.ordinal);
    *made = Some(draft);
    Ok(())
}

const _: () = assert!(INNER == eth::LEN + ipv6::LEN);
