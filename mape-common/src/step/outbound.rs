//! LAN to WAN on a customer edge: find or open the session, translate the source, encapsulate.

use crate::{
    checksum::Delta,
    env::{Env, Side},
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
        eth,
        ipv4::{self, Protocol},
        port::Port,
        tcp::Flags,
    },
};

use super::{
    Need, Stop,
    admit::Arrival,
    inner::{self, Inner},
    mss, path,
    translate::{self, End, Translation},
    tunnel::{self, Encapsulation},
};

/// Everything decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    translation: Translation,
    encapsulation: Encapsulation,
}

/// A packet whose session was used a moment ago.
pub struct Found {
    /// The packet.
    pub inner: Inner,
    /// The session.
    pub session: SessionRef,
    /// What it says.
    pub facts: Facts,
    /// The next hop towards the far end of the tunnel.
    pub hop: Hop,
}

/// Decides what becomes of an IPv4 frame from the LAN whose session was used a moment ago; looks, and changes nothing.
///
/// # Errors
/// [`Stop::Refused`] with the reason, or [`Stop::Unsettled`] where the session has to be looked after first.
#[inline(always)]
pub fn plan<P: Packet, E: Env, const GLANCE: bool>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<Plan, Stop> {
    let found = find::<P, E, false, GLANCE>(frame, env, arrival)?;
    Ok(plan_found(frame, arrival.config, &found, Delta::ZERO)?)
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
    let (inner, flow) = read_part::<P, FIRST>(frame)?;
    lives_on(&inner)?;
    let found = table::seen::<E, GLANCE>(env, arrival.config, Side::Inside, &flow.key());
    let (session, state, facts) = found.ok_or(Stop::Unsettled)?;
    // No idle time is as short as this, so a record that was just used has not expired.
    if next_phase(state.phase, &inner) != state.phase || arrival.now.since(state.used) >= Tick::STALE {
        return Err(Stop::Unsettled);
    }
    let hop = way(env, facts.wan_hop, arrival.now)?;
    Ok(Found {
        inner,
        session,
        facts,
        hop,
    })
}

/// Decides what becomes of a packet whose session is found; `change` is what else changes in its header's checksum.
///
/// # Errors
/// The reason why it is not forwarded.
#[inline(always)]
pub fn plan_found<P: Packet>(frame: &P, config: &Config, found: &Found, change: Delta) -> Result<Plan, Reason> {
    let Found { inner, facts, .. } = found;
    let translation =
        translate::plan::<P, { eth::LEN }>(frame, inner, End::Source, facts.external, facts.external_port, || {
            Ok(mss::limit(config, &found.hop))
        })?;
    let encapsulation = tunnel::plan_encapsulation(
        config,
        &inner.header,
        translation.header.and(change),
        found.hop,
        facts.far_end,
        label_with(facts, inner.header.protocol()),
        inner.excess,
    )?;
    Ok(Plan {
        translation,
        encapsulation,
    })
}

/// The flow label of a session's packets, whole or in fragments.
#[inline(always)]
pub const fn label(facts: &Facts) -> u32 {
    label_with(facts, Protocol(facts.transport.protocol()))
}

/// The same where the packet has said the protocol, which saves its being told by its name.
#[inline(always)]
const fn label_with(facts: &Facts, protocol: Protocol) -> u32 {
    tunnel::flow_label(facts.external_port, facts.remote, facts.remote_port, protocol.0)
}

/// The next hop towards a far end, its MTU no larger than the path behind it.
///
/// # Errors
/// [`Reason::NextHopUnknown`]; [`Reason::Hairpin`] where the packet goes to a host of the same LAN.
#[inline(always)]
pub fn way<E: Env>(env: &E, index: u16, now: Tick) -> Result<Hop, Reason> {
    let Some(record) = env.hop(index) else {
        return Err(if index == NextHop::HAIRPIN {
            Reason::Hairpin
        } else {
            Reason::NextHopUnknown
        });
    };
    let hop = record.get(NextHop::FAR_END).ok_or(Reason::NextHopUnknown)?;
    Ok(match record.path_mtu(now) {
        Some(mtu) if mtu < hop.mtu => Hop { mtu, ..hop },
        _ => hop,
    })
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`]: the frame is neither old nor new.
#[inline(always)]
pub fn apply<P: Packet>(frame: &mut P, plan: &Plan) -> Result<Verdict, Broken> {
    translate::apply::<P, { eth::LEN }>(frame, &plan.translation)?;
    tunnel::encapsulate(frame, &plan.encapsulation)?;
    Ok(Verdict::Forward {
        ifindex: plan.encapsulation.hop.ifindex,
    })
}

/// The packet and its flow, if it is one that can have a session.
///
/// # Errors
/// Why it can have none.
#[inline(always)]
pub fn read<P: Packet>(frame: &P) -> Result<(Inner, Flow), Reason> {
    read_part::<P, false>(frame)
}

/// The same for a whole packet or, where `FIRST` says so, its first fragment.
///
/// # Errors
/// As [`read`].
#[inline(always)]
pub fn read_part<P: Packet, const FIRST: bool>(frame: &P) -> Result<(Inner, Flow), Reason> {
    // Of a frame that is shorter than that, no header can be read.
    let room = frame.len().wrapping_sub(eth::LEN);
    let inner = inner::read_part::<P, { eth::LEN }, FIRST>(frame, room)?;
    let flow = Flow {
        transport: inner.transport,
        local: inner.header.source(),
        local_port: inner.source_port,
        remote: inner.header.destination(),
        // The identifier is the LAN host's own: the remote has none.
        remote_port: if matches!(inner.transport, Transport::Icmp) {
            Port(0)
        } else {
            inner.destination_port
        },
    };
    if !ipv4::is_routable(flow.remote) || !ipv4::is_routable(flow.local) {
        return Err(Reason::NotUnicast);
    }
    Ok((inner, flow))
}

/// The stack answers and counts what ends here; it must not make a session first.
#[inline(always)]
const fn lives_on(inner: &Inner) -> Result<(), Reason> {
    if inner.header.ttl() <= 1 {
        return Err(Reason::TtlExpired);
    }
    Ok(())
}

#[inline(always)]
fn next_phase(phase: Phase, inner: &Inner) -> Phase {
    match inner.transport {
        Transport::Tcp => tcp::next(phase, Direction::Outbound, inner.flags),
        Transport::Udp if matches!(phase, Phase::UdpUnanswered) => Phase::Udp,
        Transport::Udp | Transport::Icmp => phase,
    }
}

/// The reason that holds for a packet that is to be dropped: not ours, if the routing table sends it elsewhere (an answer to the
/// gateway's own ping, a reset for another of its networks).
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn ours_or_not<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>, reason: Reason) -> Reason {
    let Ok(bytes) = frame.read(eth::LEN) else {
        return reason;
    };
    let header = ipv4::Header::from_bytes(bytes);
    if !header.is_ipv4() {
        return reason;
    }
    if !ipv4::is_routable(header.destination()) {
        return Reason::NotUnicast;
    }
    match path::is_tunnelled(env, arrival, header.source(), header.destination()) {
        Ok(()) => reason,
        Err(elsewhere) => elsewhere,
    }
}

/// Says what the session of a packet, or of one whose first fragment this is, needs before the packet can be forwarded. `HAIRPIN` where a host of the same LAN may be meant.
///
/// # Errors
/// Why the packet is not forwarded.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn look<P: Packet, E: Env, const HAIRPIN: bool>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
    need: &mut Option<Need>,
) -> Result<(), Reason> {
    let config = arrival.config;
    let (inner, flow) = read_part::<P, true>(frame)?;
    lives_on(&inner)?;
    // Fragments are not turned round: the receiver's part has nothing to follow.
    if HAIRPIN && inner.header.is_fragment() {
        return Err(Reason::Hairpin);
    }
    let here = config.owns(flow.remote) && config.port_set.contains(inner.destination_port);
    if here != HAIRPIN {
        return Err(Reason::Hairpin);
    }
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
    let config = arrival.config;
    let (session, state) = table::sought(env, Side::Inside, &flow.key());
    if state.phase.is_live()
        && let Some(record) = env.session(session.slot)
        && !table::is_over(env, config, record, state, arrival.now)
    {
        let phase = next_phase(state.phase, inner);
        *need = Some(Need {
            flow,
            before: state.phase,
            phase,
            session: Some(session),
            is_in_use: phase == state.phase && arrival.now.since(state.used) < Tick::STALE,
        });
        return Ok(());
    }
    let phase = match flow.transport {
        Transport::Tcp if inner.flags.has(Flags::RST) => return Err(Reason::ResetWithoutSession),
        Transport::Tcp => tcp::first(inner.flags),
        Transport::Udp if is_query_port(flow.remote_port) => Phase::UdpQuery,
        Transport::Udp => Phase::Udp,
        // An answer to a query that never came through here has nobody to go to.
        Transport::Icmp if inner.flags != inner::QUERY => return Err(Reason::NoSession),
        Transport::Icmp => Phase::Icmp,
    };
    *need = Some(Need {
        flow,
        before: phase,
        phase,
        session: None,
        is_in_use: false,
    });
    Ok(())
}

/// Drafts the record of a new session whose packets go by `path`.
///
/// # Errors
/// [`Reason::SessionsExhausted`], [`Reason::Contended`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn draft<E: Env>(
    env: &E,
    arrival: &Arrival<'_>,
    need: &Need,
    path: &Path,
    made: &mut Option<Draft>,
) -> Result<(), Reason> {
    *made = Some(open::draft(
        env,
        arrival.config,
        &need.flow,
        path,
        need.phase,
        arrival.now,
    )?);
    Ok(())
}

/// Notes that a session is used, once a second or when its phase changes: its way, which was just looked up again, its
/// mapping and its permission.
///
/// # Errors
/// [`Reason::Contended`] where the session or its mapping is gone, and the next packet opens another; or where another packet
/// has changed the phase just now.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn refresh<E: Env>(env: &E, arrival: &Arrival<'_>, need: &Need, path: &Path) -> Result<(), Reason> {
    let now = arrival.now;
    let session = need.session.ok_or(Reason::Contended)?;
    let record = env.session(session.slot).ok_or(Reason::Contended)?;
    let (state, facts) = record.read(session.generation).ok_or(Reason::Contended)?;
    if path.lan_hop != facts.lan_hop || path.wan_hop != facts.wan_hop {
        record.set_hops(&facts, path.wan_hop, path.lan_hop);
    }
    if matches!(facts.hold, Hold::Member) && !mapping::touch(env, arrival.config, facts.mapping, now, true) {
        mapping::age_member(record, state, now);
        return Err(Reason::Contended);
    }
    if !record.note_use(state, need.before, need.phase, now) {
        return Err(Reason::Contended);
    }
    if matches!(facts.hold, Hold::Member) {
        mapping::permit(env, arrival.config, record, now);
    }
    Ok(())
}

/// DNS and NTP: one question, one answer (RFC 4787 REQ-5a lets their sessions be shorter).
const fn is_query_port(port: Port) -> bool {
    matches!(port.0, 53 | 123)
}
