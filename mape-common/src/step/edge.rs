//! A customer edge's program from end to end: try; if the session needs attention, see to it and try again.
//!
//! A BPF program has 512 bytes of stack for a chain of calls. So the three parts (forwarding by a session that is in use,
//! looking after a session, opening one) are called one after the other from a function that keeps next to nothing, and
//! each reads the frame anew. Functions that stay functions in BPF give a number or a `Result<(), Reason>` back and write
//! what is larger through a reference: the kernel refuses a function that leaves a pointer to its caller's stack in r0.

use crate::{
    env::Env,
    nat::{
        open::{self, Path},
        table::Draft,
    },
    packet::Packet,
    verdict::{Failure, Reason, Verdict},
    wire::eth::EtherType,
};

use super::{
    Need, Stop,
    admit::{Arrival, admit},
    inbound, outbound, path,
};

/// What forwarding came to; none where the session has to be looked after first.
type Attempt = Option<Result<Verdict, Failure>>;

#[inline(always)]
fn stopped(stop: Stop) -> Attempt {
    match stop {
        Stop::Refused(reason) => Some(Err(reason.into())),
        Stop::Unsettled => None,
    }
}

/// LAN to WAN: takes a frame from a LAN interface.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    let mut attempt = None;
    if try_outbound(frame, env, ifindex, &mut attempt)
        && let Some(outcome) = attempt
    {
        return outcome;
    }
    let mut draft = None;
    settle_outbound(frame, env, ifindex, &mut draft)?;
    if let (Some(draft), Some(config)) = (draft, env.config()) {
        open::outbound(env, config, draft)?;
    }
    try_outbound(frame, env, ifindex, &mut attempt);
    attempt.unwrap_or(Err(Failure::Refused(Reason::Contended)))
}

/// Forwards by a session that is in use; false where there is none.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn try_outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, attempt: &mut Attempt) -> bool {
    *attempt = match admitted(frame, env, ifindex, EtherType::IPV4) {
        Ok(arrival) => match outbound::plan(frame, env, &arrival) {
            Ok(plan) => Some(outbound::apply(frame, &plan).map_err(Failure::from)),
            // Whose packet it is depends on the routing table, which only the slower part asks.
            Err(Stop::Refused(Reason::UnsupportedProtocol)) => None,
            Err(stop) => stopped(stop),
        },
        Err(reason) => Some(Err(reason.into())),
    };
    attempt.is_some()
}

/// Looks after the packet's session, or drafts the record of a new one.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn settle_outbound<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    ifindex: u32,
    draft: &mut Option<Draft>,
) -> Result<(), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let mut need = None;
    match outbound::look(frame, env, &arrival, &mut need) {
        Err(Reason::UnsupportedProtocol) => return Err(outbound::unsupported(frame, env, &arrival)),
        looked => looked?,
    }
    let need = need.ok_or(Reason::Contended)?;
    let path = path::outbound(env, &arrival, &need.flow)?;
    match need.session {
        Some(session) => outbound::refresh(env, &arrival, session, need.phase, &path),
        None if open::was_refused(env, arrival.config, &need.flow, arrival.now) => Err(Reason::RecentlyRefused),
        None => outbound::draft(env, &arrival, &need, &path, draft),
    }
}

/// WAN to LAN: takes a frame from the WAN interface.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn inbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    let mut attempt = None;
    if try_inbound(frame, env, ifindex, &mut attempt)
        && let Some(outcome) = attempt
    {
        return outcome;
    }
    let mut draft = None;
    settle_inbound(frame, env, ifindex, &mut draft)?;
    if let (Some(draft), Some(config)) = (draft, env.config()) {
        open::inbound(env, config, draft)?;
    }
    try_inbound(frame, env, ifindex, &mut attempt);
    attempt.unwrap_or(Err(Failure::Refused(Reason::Contended)))
}

/// Forwards by a session that is in use; false where there is none.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn try_inbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, attempt: &mut Attempt) -> bool {
    *attempt = match admitted(frame, env, ifindex, EtherType::IPV6) {
        Ok(arrival) => match inbound::plan(frame, env, &arrival) {
            Ok(plan) => Some(inbound::apply(frame, &plan).map_err(Failure::from)),
            Err(stop) => stopped(stop),
        },
        Err(reason) => Some(Err(reason.into())),
    };
    attempt.is_some()
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
    if let Some(session) = need.session {
        inbound::refresh(env, &arrival, session, need.phase)
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

#[inline(always)]
fn admitted<'a, P: Packet, E: Env>(
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
