//! The slow path, at the tunnel device: the kernel routes, lowers the TTL, cuts into fragments and puts the outer header on or
//! takes it off; what is left to do is the translation, by the same sessions as the fast path's.
//!
//! Packets come without a frame (see [`Bare`]). What is not translated does not pass outwards: everything that leaves by the
//! tunnel has the shared address and a port of the set.

mod lead;
mod pieces;

use crate::{
    checksum::Delta,
    env::{Env, Side},
    hop::{Mac, NextHop},
    layout::{Config, SessionRef},
    nat::{
        open::{self, Flow, Path},
        session::Facts,
        sweep,
        table::{self, Draft},
    },
    packet::{Bare, Packet},
    time::Tick,
    verdict::{Direction, Failure, Reason, Truncated, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv4, ipv6,
    },
};

use super::{
    Need,
    admit::Arrival,
    edge, error, inbound, mss, outbound, path,
    stage::{Attempt, Stage},
    translate::{self, End, Translation},
    tunnel::{INNER, Outer},
};

/// A packet that is about to enter the tunnel.
pub type Leaving<'a, P> = Bare<'a, P, { eth::LEN }>;
/// A packet that has come out of the tunnel.
pub type Arriving<'a, P> = Bare<'a, P, INNER>;

/// The arrival of a packet at the tunnel device: nobody's frame, no NIC that has to show that it is there.
///
/// # Errors
/// Why it is none.
#[inline(always)]
fn arrived<E: Env>(env: &E) -> Result<Arrival<'_>, Reason> {
    let config = env.config().ok_or(Reason::NotConfigured)?;
    if !env.is_slow_gate_open() {
        return Err(Reason::GateClosed);
    }
    Ok(Arrival {
        config,
        ifindex: config.tunnel_ifindex,
        source: Mac([0; 6]),
        ether_type: EtherType::IPV4,
        now: env.now(),
    })
}

/// Into the tunnel: looks after the packet's session or opens one, then translates. `came_by` is the interface that it came in by, 0 for
/// what this machine sends: what has come out of the tunnel and finds no other way than back is no LAN host's.
#[inline(always)]
pub fn outbound<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E, came_by: u32) -> Attempt {
    if env.config().is_some_and(|config| config.tunnel_ifindex == came_by) {
        return Attempt::refused(Reason::SourceNotLan);
    }
    sweep::make_room(env);
    let mut draft = None;
    if let Err(reason) = settle_outbound(packet, env, &mut draft) {
        return otherwise(reason, Direction::Outbound);
    }
    if let (Some(draft), Some(config)) = (draft, env.config())
        && let Err(reason) = open::outbound(env, config, draft)
        && reason != Reason::Contended
    {
        return Attempt::refused(reason);
    }
    // The parts of a first fragment's that follow find it done.
    if lead::is_external(env)
        && let Err(reason) = lead::packet(packet, env)
    {
        return otherwise(reason, Direction::Outbound);
    }
    translate_outbound(packet, env)
}

/// Another stage's packets.
#[inline(always)]
fn otherwise(reason: Reason, direction: Direction) -> Attempt {
    let (error, fragment) = match direction {
        Direction::Outbound => (Stage::OutboundError, Stage::OutboundFragment),
        Direction::Inbound => (Stage::InboundError, Stage::InboundFragment),
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other reason is an end")]
    match reason {
        Reason::IcmpError => Attempt::go_on(error, reason),
        Reason::Fragment => Attempt::go_on(fragment, reason),
        reason => Attempt::refused(reason),
    }
}

/// Looks after the packet's session, or drafts the record of a new one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settle_outbound<P: Packet, E: Env>(
    packet: &Leaving<'_, P>,
    env: &E,
    draft: &mut Option<Draft>,
) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let config = arrival.config;
    let (inner, flow) = outbound::read_part::<_, true>(packet)?;
    // Two LAN hosts that know each other's outside only: turned round in the fast path, or not at all.
    if config.owns(flow.remote) && config.port_set.contains(inner.destination_port) {
        return Err(Reason::Hairpin);
    }
    let mut need = None;
    outbound::need_of(env, &arrival, &inner, flow, &mut need)?;
    let need = need.ok_or(Reason::Contended)?;
    match need.session {
        Some(session) => keep(env, &arrival, &need, session),
        None if open::was_refused(env, config, &need.flow, arrival.now) => Err(Reason::RecentlyRefused),
        None => {
            let mut way = Path {
                far_end: [0; 16],
                wan_hop: 0,
                lan_hop: path::lan_host(env, config, &need.flow, arrival.now),
            };
            path::towards(env, config, &need.flow, &mut way);
            outbound::draft(env, &arrival, &need, &way, draft)
        }
    }
}

/// Notes that a session is used; its way stays as the fast path has found it.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn keep<E: Env>(env: &E, arrival: &Arrival<'_>, need: &Need, session: SessionRef) -> Result<(), Reason> {
    if need.is_in_use {
        return Ok(());
    }
    let record = env.session(session.slot).ok_or(Reason::Contended)?;
    let facts = record.facts();
    outbound::refresh(
        env,
        arrival,
        need,
        &Path {
            far_end: facts.far_end,
            wan_hop: facts.wan_hop,
            lan_hop: facts.lan_hop,
        },
    )
}

/// What a packet's session says, it being alive.
#[inline(always)]
fn session<E: Env>(
    env: &E,
    config: &Config,
    side: Side,
    flow: &Flow,
    now: Tick,
) -> Result<(SessionRef, Facts), Reason> {
    table::live(env, config, side, &flow.key(), now).ok_or(Reason::Contended)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_outbound<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E) -> Attempt {
    let planned = arrived(env).and_then(|arrival| {
        let (inner, flow) = outbound::read(packet)?;
        let (_, facts) = session(env, arrival.config, Side::Inside, &flow, arrival.now)?;
        translate::plan::<_, { eth::LEN }>(packet, &inner, End::Source, facts.external, facts.external_port, || {
            Ok(largest_segment(env, &arrival, &facts))
        })
    });
    match planned {
        Ok(plan) => write::<_, { eth::LEN }>(packet, &plan, plan.header),
        Err(reason) => otherwise(reason, Direction::Outbound),
    }
}

/// The largest MSS to let through towards a session's far end.
#[inline(always)]
fn largest_segment<E: Env>(env: &E, arrival: &Arrival<'_>, facts: &Facts) -> u16 {
    match outbound::way(env, facts.wan_hop, arrival.now) {
        Ok(hop) => mss::limit(arrival.config, &hop),
        Err(_) => arrival.config.mss,
    }
}

/// Writes the IPv4 header's checksum after all else is written.
#[inline(always)]
fn finish_header<P: Packet, const L3: usize>(packet: &mut P, change: Delta) -> Result<(), Truncated> {
    let at = L3.wrapping_add(ipv4::CHECKSUM);
    let old = u16::from_be_bytes(packet.read(at)?);
    packet.write(at, &change.apply(old).to_be_bytes())
}

/// Writes a translation; `change` is what the header's checksum changes by, all in all.
#[inline(always)]
fn write<P: Packet, const L3: usize>(packet: &mut P, plan: &Translation, change: Delta) -> Attempt {
    done(translate::apply::<_, L3>(packet, plan).and_then(|()| finish_header::<_, L3>(packet, change)))
}

#[inline(always)]
fn done(written: Result<(), Truncated>) -> Attempt {
    Attempt::ended(match written {
        Ok(()) => Ok(Verdict::Deliver),
        Err(truncated) => Err(Failure::Broken(truncated.into())),
    })
}

/// Out of the tunnel: looks after the packet's session or opens one, then translates. `from` is the outer source: the border
/// relay where the device takes packets from no one else.
#[inline(always)]
pub fn inbound<P: Packet, E: Env>(packet: &mut Arriving<'_, P>, env: &E, from: &[u8; 16]) -> Attempt {
    sweep::make_room(env);
    // One after the other, since all in one are more than a program's stack.
    let (mut need, mut draft) = (None, None);
    let settled = settle_inbound(packet, env, from, &mut need).and_then(|()| match need {
        Some(need) if need.session.is_none() => draft_inbound(env, &need, &mut draft),
        Some(need) => find_host(env, &need),
        None => Ok(()),
    });
    if let Err(reason) = settled {
        return otherwise(reason, Direction::Inbound);
    }
    if let (Some(draft), Some(config)) = (draft, env.config())
        && let Err(reason) = edge::open_inbound(env, config, draft)
        && reason != Reason::Contended
    {
        return Attempt::refused(reason);
    }
    translate_inbound(packet, env)
}

/// The outer header that the kernel has taken off, as far as it is still needed. What it held is all there is.
#[inline(always)]
fn outer<P: Packet>(packet: &Arriving<'_, P>, from: &[u8; 16]) -> Outer {
    Outer {
        source: ipv6::Address::from_bytes(*from),
        traffic_class: 0,
        payload_len: u16::try_from(packet.len().saturating_sub(INNER)).unwrap_or(u16::MAX),
        excess: 0,
    }
}

/// Looks after the packet's session; `opens` is what it needs besides: a new one its record, another one the way to its host.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settle_inbound<P: Packet, E: Env>(
    packet: &Arriving<'_, P>,
    env: &E,
    from: &[u8; 16],
    opens: &mut Option<Need>,
) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let config = arrival.config;
    let outer = outer(packet, from);
    let (inner, flow) = inbound::read_inner::<_, E, true, true>(packet, env, config, &outer)?;
    inbound::need_of(env, &arrival, &inner, flow, opens)?;
    let Some(need) = opens else {
        return Err(Reason::Contended);
    };
    if need.session.is_none() {
        return Ok(());
    }
    if need.is_in_use {
        return Ok(());
    }
    inbound::refresh(env, &arrival, need)
}

/// Finds the way to the LAN host of a session that the fast path has none for: the stack, which delivers its packets meanwhile, knows
/// the host. Also of one that was used a moment ago: a NIC that comes back would get none of its packets until a second has passed.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn find_host<E: Env>(env: &E, need: &Need) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let session = need.session.ok_or(Reason::Contended)?;
    let record = env.session(session.slot).ok_or(Reason::Contended)?;
    let (_, facts) = record.read(session.generation).ok_or(Reason::Contended)?;
    if env.hop(facts.lan_hop).and_then(|hop| hop.get(facts.inside)).is_none() {
        let flow = Flow {
            local: facts.inside,
            ..need.flow
        };
        let lan_hop = path::lan_host(env, arrival.config, &flow, arrival.now);
        if lan_hop != NextHop::UNKNOWN {
            record.set_hops(&facts, facts.wan_hop, lan_hop);
        }
    }
    Ok(())
}

/// Drafts the record of a session that a remote host opens.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn draft_inbound<E: Env>(env: &E, need: &Need, draft: &mut Option<Draft>) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let mapping = inbound::admitting_mapping(env, &arrival, &need.flow)?;
    let mut way = Path {
        far_end: [0; 16],
        wan_hop: 0,
        lan_hop: NextHop::UNKNOWN,
    };
    path::towards(env, arrival.config, &need.flow, &mut way);
    let need = Need {
        session: Some(mapping),
        ..*need
    };
    inbound::draft(env, &arrival, &need, &way, draft)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_inbound<P: Packet, E: Env>(packet: &mut Arriving<'_, P>, env: &E) -> Attempt {
    match plan_inbound::<P, E, false>(packet, env) {
        Ok(plan) => write::<_, INNER>(packet, &plan, plan.header),
        Err(reason) => otherwise(reason, Direction::Inbound),
    }
}

/// Plans the translation of a packet, or of one whose `FIRST` fragment this is; its sender has been checked.
#[inline(always)]
fn plan_inbound<P: Packet, E: Env, const FIRST: bool>(
    packet: &Arriving<'_, P>,
    env: &E,
) -> Result<Translation, Reason> {
    let arrival = arrived(env)?;
    let config = arrival.config;
    let outer = outer(packet, &config.relay_address);
    let (inner, flow) = inbound::read_inner::<_, E, false, FIRST>(packet, env, config, &outer)?;
    let (_, facts) = session(env, config, Side::Outside, &flow, arrival.now)?;
    if facts.wan_hop == NextHop::HAIRPIN {
        return Err(Reason::InvalidV4);
    }
    translate::plan::<_, INNER>(
        packet,
        &inner,
        End::Destination,
        facts.inside,
        facts.inside_port,
        || {
            Ok(if FIRST {
                0
            } else {
                largest_segment(env, &arrival, &facts)
            })
        },
    )
}

/// Into the tunnel: an ICMP error about a packet that came out of it.
#[inline(always)]
pub fn outbound_error<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E) -> Attempt {
    let (mut session, mut tos) = (SessionRef::default(), 0);
    let led = if lead::is_external(env) {
        lead::look_error(packet, env, &mut session, &mut tos).and_then(|()| lead::session(env, session, tos))
    } else {
        Ok(())
    };
    match led {
        Ok(()) => translate_error(packet, env),
        Err(reason) => Attempt::refused(reason),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_error<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E) -> Attempt {
    let planned = arrived(env).and_then(|arrival| error::translate_outbound(packet, env, &arrival));
    match planned {
        // As the packet that it is about, it is turned round in the fast path or not at all.
        Ok((_, facts, _)) if facts.wan_hop == NextHop::HAIRPIN => Attempt::refused(Reason::Hairpin),
        Ok((_, _, rewriting)) => done(
            error::write_outbound(packet, &rewriting)
                .and_then(|()| finish_header::<_, { eth::LEN }>(packet, rewriting.header)),
        ),
        Err(reason) => Attempt::refused(reason),
    }
}

/// Out of the tunnel: an ICMP error about a packet that a session has sent.
#[inline(always)]
pub fn inbound_error<P: Packet, E: Env>(packet: &mut Arriving<'_, P>, env: &E, from: &[u8; 16]) -> Attempt {
    let planned = arrived(env).and_then(|arrival| {
        let outer = outer(packet, from);
        error::translate_inbound(packet, env, &arrival, &outer)
    });
    match planned {
        Ok((_, _, rewriting)) => done(
            error::write_inbound(packet, &rewriting).and_then(|()| finish_header::<_, INNER>(packet, rewriting.header)),
        ),
        Err(reason) => Attempt::refused(reason),
    }
}

/// Runs the part that a packet at the tunnel device is handed on to; there is none but for errors and fragments.
#[inline(always)]
pub fn run<P: Packet, E: Env>(stage: Stage, packet: &mut P, env: &E, from: &[u8; 16]) -> Attempt {
    match stage {
        Stage::OutboundError => outbound_error(&mut Bare::new(packet), env),
        Stage::InboundError => inbound_error(&mut Bare::new(packet), env, from),
        Stage::OutboundFragment => pieces::outbound(&mut Bare::new(packet), env),
        Stage::InboundFragment => pieces::inbound(&mut Bare::new(packet), env, from),
        Stage::OutboundOpen
        | Stage::InboundOpen
        | Stage::TunnelError
        | Stage::Answer
        | Stage::Hairpin
        | Stage::HairpinError
        | Stage::RelayOutboundFragment
        | Stage::RelayInboundFragment
        | Stage::RelayOutboundIcmp
        | Stage::RelayInboundIcmp
        | Stage::NativeOutbound
        | Stage::NativeInbound => Attempt::refused(Reason::NotConfigured),
    }
}

/// A packet's whole way at the tunnel device.
///
/// # Errors
/// [`Failure`].
#[cfg(any(test, feature = "host"))]
pub fn all<P: Packet, E: Env>(
    packet: &mut P,
    env: &E,
    direction: Direction,
    from: &[u8; 16],
) -> Result<Verdict, Failure> {
    let attempt = match direction {
        Direction::Outbound => outbound(&mut Bare::new(packet), env, 0),
        Direction::Inbound => inbound(&mut Bare::new(packet), env, from),
    };
    match attempt.outcome() {
        Ok(outcome) => outcome,
        Err(next) => run(next.stage, packet, env, from)
            .outcome()
            .unwrap_or_else(|next| Err(next.reason.into())),
    }
}
