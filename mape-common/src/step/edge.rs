//! A customer edge from end to end, stage by stage: forward by a session in use; everything else is another stage's.
//!
//! A BPF program has 512 bytes of stack for a chain of calls. So within a stage, too, the parts (looking after a session,
//! opening one, forwarding) are called one after the other from a function that keeps next to nothing, and each reads the
//! frame anew. Functions that stay functions in BPF give a number or a `Result<(), Reason>` back and write what is larger
//! through a reference: the kernel refuses a function that leaves a pointer to its caller's stack in r0.

#[cfg(any(test, feature = "host"))]
use crate::verdict::Verdict;
use crate::{
    env::Env,
    layout::Config,
    nat::{
        open::{self, Path},
        sweep,
        table::Draft,
    },
    packet::Packet,
    verdict::{Action, Failure, Reason},
    wire::eth::EtherType,
};

use super::{
    Need, Stop,
    admit::{Arrival, admit},
    answer, error,
    fragment::customer as fragment,
    hairpin, hairpin_error, inbound, native, outbound, path, relay, relay_icmp,
    stage::{Attempt, Stage},
    tunnel_error,
};

/// LAN to WAN: forwards by a session that is in use.
#[inline(always)]
pub fn outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    forward_outbound::<P, E, true>(frame, env, ifindex)
}

#[inline(always)]
fn forward_outbound<P: Packet, E: Env, const GLANCE: bool>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match admitted(frame, env, ifindex, EtherType::IPV4) {
        Ok(arrival) => match outbound::plan::<P, E, GLANCE>(frame, env, &arrival) {
            Ok(plan) => Attempt::ended(outbound::apply(frame, &plan).map_err(Failure::from)),
            Err(Stop::Unsettled) => Attempt::go_on(Stage::OutboundOpen, Reason::NoSession),
            Err(Stop::Refused(reason)) => outbound_else(reason),
        },
        // IPv6 or ARP: neither is on the way of those that are forwarded here.
        Err(reason @ Reason::OtherEtherType) => Attempt::go_on(Stage::NativeOutbound, reason),
        Err(reason) => Attempt::refused(reason),
    }
}

/// What becomes of a LAN host's packet that is not forwarded for that reason: another stage may know better.
#[inline(always)]
fn outbound_else(reason: Reason) -> Attempt {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other reason is an end")]
    match reason {
        // Whose packet it is depends on the routing table, which only the slower stage asks.
        Reason::UnsupportedProtocol | Reason::BadLength => Attempt::go_on(Stage::OutboundOpen, reason),
        Reason::IcmpError => Attempt::go_on(Stage::OutboundError, reason),
        Reason::TooBig | Reason::PortsExhausted | Reason::SessionsExhausted | Reason::HostSessions => {
            Attempt::go_on(Stage::Answer, reason)
        }
        Reason::Hairpin => Attempt::go_on(Stage::Hairpin, reason),
        Reason::Fragment => Attempt::go_on(Stage::OutboundFragment, reason),
        reason => Attempt::refused(reason),
    }
}

/// LAN to WAN: looks after the packet's session or opens one, then forwards.
#[inline(always)]
pub fn outbound_open<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    sweep::make_room(env);
    let mut draft = None;
    if let Err(reason) = settle_outbound::<P, E, false>(frame, env, ifindex, &mut draft) {
        return opened_else(reason);
    }
    if let (Some(draft), Some(config)) = (draft, env.config())
        && let Err(reason) = open::outbound(env, config, draft)
        && reason != Reason::Contended
    {
        return opened_else(reason);
    }
    // Whoever was faster in opening the same session has probably done so by now.
    try_outbound(frame, env, ifindex)
}

/// A session that has just been looked after is in use; one that has not is a matter of another packet's being faster. More than a
/// glance, for that may be why the packet came here.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn try_outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    settled(forward_outbound::<P, E, false>(frame, env, ifindex))
}

#[inline(always)]
fn settled(attempt: Attempt) -> Attempt {
    match attempt.outcome() {
        Err(next) if matches!(next.stage, Stage::OutboundOpen | Stage::InboundOpen) => {
            Attempt::refused(Reason::Contended)
        }
        Ok(_) | Err(_) => attempt,
    }
}

/// As [`outbound_else`], from the opening stage: it is not entered a second time.
#[inline(always)]
fn opened_else(reason: Reason) -> Attempt {
    if matches!(reason, Reason::UnsupportedProtocol | Reason::BadLength) {
        Attempt::refused(reason)
    } else {
        outbound_else(reason)
    }
}

/// Looks after the packet's session, or drafts the record of a new one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settle_outbound<P: Packet, E: Env, const HAIRPIN: bool>(
    frame: &P,
    env: &E,
    ifindex: u32,
    draft: &mut Option<Draft>,
) -> Result<(), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let mut need = None;
    match outbound::look::<P, E, HAIRPIN>(frame, env, &arrival, &mut need) {
        Err(reason) if matches!(reason.action(), Action::Drop) => {
            return Err(outbound::ours_or_not(frame, env, &arrival, reason));
        }
        looked => looked?,
    }
    let need = need.ok_or(Reason::Contended)?;
    if need.is_in_use {
        return Ok(());
    }
    let path = if HAIRPIN {
        path::hairpin(env, &arrival, &need.flow)?
    } else {
        let path = path::outbound(env, &arrival, &need.flow)?;
        path::ask(frame, env, path.wan_hop)?;
        path
    };
    match need.session {
        Some(_) => outbound::refresh(env, &arrival, &need, &path),
        None if open::was_refused(env, arrival.config, &need.flow, arrival.now) => Err(Reason::RecentlyRefused),
        None => outbound::draft(env, &arrival, &need, &path, draft),
    }
}

/// WAN to LAN: forwards by a session that is in use.
#[inline(always)]
pub fn inbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    forward_inbound::<P, E, true>(frame, env, ifindex)
}

#[inline(always)]
fn forward_inbound<P: Packet, E: Env, const GLANCE: bool>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match admitted(frame, env, ifindex, EtherType::IPV6) {
        Ok(arrival) => match inbound::plan::<P, E, GLANCE>(frame, env, &arrival) {
            Ok(plan) => Attempt::ended(inbound::apply(frame, &plan).map_err(Failure::from)),
            Err(Stop::Unsettled) => Attempt::go_on(Stage::InboundOpen, Reason::NoSession),
            Err(Stop::Refused(reason)) => inbound_else(reason),
        },
        Err(reason) => Attempt::refused(reason),
    }
}

/// What becomes of a packet from the tunnel that is not forwarded for that reason: another stage may know better.
#[inline(always)]
fn inbound_else(reason: Reason) -> Attempt {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other reason is an end")]
    match reason {
        Reason::IcmpError => Attempt::go_on(Stage::InboundError, reason),
        Reason::Icmpv6 => Attempt::go_on(Stage::TunnelError, reason),
        Reason::Fragment => Attempt::go_on(Stage::InboundFragment, reason),
        Reason::OtherIpv6 => Attempt::go_on(Stage::NativeInbound, reason),
        reason => Attempt::refused(reason),
    }
}

/// Native IPv6: forwards it, where that is switched on; else it is what it was for the stage before.
#[inline(always)]
pub fn native<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, reason: Reason) -> Attempt {
    let planned =
        admitted(frame, env, ifindex, EtherType::IPV6).and_then(|arrival| native::plan(frame, env, &arrival, reason));
    match planned {
        Ok(plan) => Attempt::ended(native::apply(frame, &plan).map_err(Failure::from)),
        Err(reason) => Attempt::refused(reason),
    }
}

/// Opens a drafted session of a mapping, its LAN host being found.
///
/// # Errors
/// As [`path::find_host`] and [`open::inbound`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn open_inbound<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    path::find_host(env, config, draft)?;
    open::inbound(env, config, draft)
}

/// LAN to LAN by the shared address: looks after the sender's session and the receiver's, or opens them, then forwards.
#[inline(always)]
pub fn hairpin<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    if hairpin::is_ping(frame) {
        return Attempt::go_on(Stage::Answer, Reason::Hairpin);
    }
    sweep::make_room(env);
    let mut draft = None;
    if let Err(reason) = settle_outbound::<P, E, true>(frame, env, ifindex, &mut draft) {
        // As where the packet goes into the tunnel: its sender is told.
        return if matches!(reason, Reason::SessionsExhausted) {
            Attempt::go_on(Stage::Answer, reason)
        } else {
            Attempt::refused(reason)
        };
    }
    if let (Some(draft), Some(config)) = (draft, env.config())
        && let Err(reason) = open::outbound(env, config, draft)
    {
        return opened_else(reason);
    }
    // The same place again: a second one would be more than the stack that the receiver's session leaves.
    draft = None;
    let settled = match hairpin::settle_receiver(frame, env, ifindex) {
        Err(Reason::NoSession) => hairpin::open_receiver(frame, env, ifindex, &mut draft),
        settled => settled,
    };
    if let Err(reason) = settled {
        return Attempt::refused(reason);
    }
    if let (Some(draft), Some(config)) = (draft, env.config())
        && let Err(reason) = open_inbound(env, config, draft)
    {
        return Attempt::refused(reason);
    }
    hairpin::forward(frame, env, ifindex)
}

/// LAN to WAN: translates an ICMP error.
#[inline(always)]
pub fn outbound_error<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let attempt = translate_outbound_error(frame, env, ifindex);
    match attempt.outcome() {
        Ok(Err(Failure::Refused(
            reason @ (Reason::ErrorWithoutSession | Reason::ErrorElsewhere | Reason::ErrorUnusable),
        ))) => match admitted(frame, env, ifindex, EtherType::IPV4) {
            Ok(arrival) => Attempt::refused(outbound::ours_or_not(frame, env, &arrival, reason)),
            Err(reason) => Attempt::refused(reason),
        },
        Ok(Err(Failure::Refused(reason @ Reason::Hairpin))) => Attempt::go_on(Stage::HairpinError, reason),
        Ok(_) | Err(_) => attempt,
    }
}

/// LAN to LAN by the shared address: translates an ICMP error.
#[inline(always)]
pub fn hairpin_error<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let planned =
        admitted(frame, env, ifindex, EtherType::IPV4).and_then(|arrival| hairpin_error::plan(frame, env, &arrival));
    match planned {
        Ok(plan) => Attempt::ended(hairpin_error::apply(frame, &plan).map_err(Failure::from)),
        Err(reason) => Attempt::refused(reason),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn translate_outbound_error<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let planned =
        admitted(frame, env, ifindex, EtherType::IPV4).and_then(|arrival| error::plan_outbound(frame, env, &arrival));
    match planned {
        Ok((rewriting, encapsulation)) => {
            Attempt::ended(error::apply_outbound(frame, &rewriting, &encapsulation).map_err(Failure::from))
        }
        Err(reason) => Attempt::refused(reason),
    }
}

/// WAN to LAN: translates an ICMP error.
#[inline(always)]
pub fn inbound_error<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    // In two steps: as one result the plan's parts are put aside also where there is none, and the kernel refuses to read what was never set.
    let arrival = match admitted(frame, env, ifindex, EtherType::IPV6) {
        Ok(arrival) => arrival,
        Err(reason) => return Attempt::refused(reason),
    };
    match error::plan_inbound(frame, env, &arrival) {
        Ok((rewriting, decapsulation, hop)) => {
            Attempt::ended(error::apply_inbound(frame, &rewriting, &decapsulation, &hop).map_err(Failure::from))
        }
        Err(reason) => Attempt::refused(reason),
    }
}

/// WAN to LAN: tells a LAN host of an ICMPv6 error about the tunnel.
#[inline(always)]
pub fn tunnel_error<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let planned =
        admitted(frame, env, ifindex, EtherType::IPV6).and_then(|arrival| tunnel_error::plan(frame, env, &arrival));
    match planned {
        Ok(plan) => Attempt::ended(tunnel_error::apply(frame, &plan).map_err(Failure::from)),
        Err(reason) => Attempt::refused(reason),
    }
}

/// Back to the LAN: answers a packet that was refused for `reason`.
#[inline(always)]
pub fn answer<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, reason: Reason) -> Attempt {
    let planned =
        admitted(frame, env, ifindex, EtherType::IPV4).and_then(|arrival| answer::plan(frame, env, &arrival, reason));
    match planned {
        Ok(plan) => Attempt::ended(answer::apply(frame, &plan, reason).map_err(Failure::from)),
        Err(reason) => Attempt::refused(reason),
    }
}

/// WAN to LAN: looks after the packet's session or opens one, then forwards.
#[inline(always)]
pub fn inbound_open<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    sweep::make_room(env);
    let mut draft = None;
    if let Err(reason) = settle_inbound(frame, env, ifindex, &mut draft) {
        return Attempt::refused(reason);
    }
    if let (Some(draft), Some(config)) = (draft, env.config())
        && let Err(reason) = open_inbound(env, config, draft)
        && reason != Reason::Contended
    {
        return Attempt::refused(reason);
    }
    try_inbound(frame, env, ifindex)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn try_inbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    settled(forward_inbound::<P, E, false>(frame, env, ifindex))
}

/// Looks after the packet's session, or drafts the record of a new one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settle_inbound<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    ifindex: u32,
    draft: &mut Option<Draft>,
) -> Result<(), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV6)?;
    let mut need = None;
    inbound::look(frame, env, &arrival, &mut need)?;
    let need = need.ok_or(Reason::Contended)?;
    if need.is_in_use {
        return Ok(());
    }
    if need.session.is_some() {
        inbound::refresh(env, &arrival, &need)
    } else {
        let mapping = inbound::admitting_mapping(env, &arrival, &need.flow)?;
        let mut path = Path {
            far_end: [0; 16],
            wan_hop: 0,
            lan_hop: 0,
        };
        path::far_end(env, arrival.config, &need.flow, &mut path)?;
        inbound::draft(
            env,
            &arrival,
            &Need {
                session: Some(mapping),
                ..need
            },
            &path,
            draft,
        )
    }
}

/// Runs one stage, which was handed the packet for `reason`.
#[inline(always)]
pub fn run<P: Packet, E: Env>(stage: Stage, reason: Reason, frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match stage {
        Stage::OutboundOpen => outbound_open(frame, env, ifindex),
        Stage::InboundOpen => inbound_open(frame, env, ifindex),
        Stage::OutboundError => outbound_error(frame, env, ifindex),
        Stage::InboundError => inbound_error(frame, env, ifindex),
        Stage::TunnelError => tunnel_error(frame, env, ifindex),
        Stage::Answer => answer(frame, env, ifindex, reason),
        Stage::Hairpin => hairpin(frame, env, ifindex),
        Stage::OutboundFragment => fragment::outbound(frame, env, ifindex),
        Stage::InboundFragment => fragment::inbound(frame, env, ifindex),
        Stage::RelayOutboundFragment => relay::to_domain_fragment(frame, env, ifindex),
        Stage::RelayInboundFragment => relay::from_domain_fragment(frame, env, ifindex),
        Stage::RelayOutboundIcmp => relay_icmp::to_domain(frame, env, ifindex, reason),
        Stage::RelayInboundIcmp => relay_icmp::from_domain(frame, env, ifindex, reason),
        Stage::HairpinError => hairpin_error(frame, env, ifindex),
        Stage::NativeOutbound | Stage::NativeInbound => native(frame, env, ifindex, reason),
    }
}

/// A frame's whole way through a customer edge, from stage to stage as the kernel's tail calls lead it.
///
/// # Errors
/// [`Failure`].
#[cfg(any(test, feature = "host"))]
pub fn all<P: Packet, E: Env>(
    frame: &mut P,
    env: &E,
    ifindex: u32,
    direction: crate::verdict::Direction,
) -> Result<Verdict, Failure> {
    let attempt = match direction {
        crate::verdict::Direction::Outbound => outbound(frame, env, ifindex),
        crate::verdict::Direction::Inbound => inbound(frame, env, ifindex),
    };
    to_its_end(attempt, frame, env, ifindex)
}

/// So many times the kernel lets one program hand on to the next.
#[cfg(any(test, feature = "host"))]
const TAIL_CALLS: u32 = 33;

/// From stage to stage until the packet has come to its end.
#[cfg(any(test, feature = "host"))]
pub(super) fn to_its_end<P: Packet, E: Env>(
    mut attempt: Attempt,
    frame: &mut P,
    env: &E,
    ifindex: u32,
) -> Result<Verdict, Failure> {
    for _ in 0..TAIL_CALLS {
        match attempt.outcome() {
            Ok(outcome) => return outcome,
            Err(next) => attempt = run(next.stage, next.reason, frame, env, ifindex),
        }
    }
    attempt.outcome().unwrap_or_else(|next| Err(next.reason.into()))
}

/// The arrival of a frame of one type.
///
/// # Errors
/// Why it is none.
#[inline(always)]
pub fn admitted<'a, P: Packet, E: Env>(
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
