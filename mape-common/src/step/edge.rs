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
    verdict::{Broken, Failure, Reason, Verdict},
    wire::eth::EtherType,
};

use super::{
    Need, Stop,
    admit::{Arrival, admit},
    inbound, outbound, path,
};

/// What forwarding came to, as one number: an `enum` whose variants leave bytes unused is written with whatever is in a
/// register, and the kernel refuses a program that stores what it never set.
#[derive(Clone, Copy)]
struct Attempt(u64);

impl Attempt {
    /// The session has to be looked after first.
    const UNSETTLED: Self = Self(0);
    const FORWARDED: u32 = 1;
    const DELIVERED: u32 = 2;
    const REFUSED: u32 = 3;
    const BROKEN: u32 = 4;

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        let [a, b, c, d] = kind.to_be_bytes();
        let [e, f, g, h] = value.to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    #[inline(always)]
    fn ended(outcome: Result<Verdict, Failure>) -> Self {
        match outcome {
            Ok(Verdict::Forward { ifindex }) => Self::new(Self::FORWARDED, ifindex),
            Ok(Verdict::Deliver) => Self::new(Self::DELIVERED, 0),
            Err(Failure::Refused(reason)) => Self::new(Self::REFUSED, reason.number()),
            Err(Failure::Broken(Broken(reason))) => Self::new(Self::BROKEN, reason.number()),
        }
    }

    #[inline(always)]
    fn stopped(stop: Stop) -> Self {
        match stop {
            Stop::Refused(reason) => Self::ended(Err(reason.into())),
            Stop::Unsettled => Self::UNSETTLED,
        }
    }

    /// The outcome, unless the session has to be looked after first.
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the two halves")]
    fn outcome(self) -> Option<Result<Verdict, Failure>> {
        let value = self.0 as u32;
        let reason = Reason::from_number(value);
        match (self.0 >> 32) as u32 {
            Self::FORWARDED => Some(Ok(Verdict::Forward { ifindex: value })),
            Self::DELIVERED => Some(Ok(Verdict::Deliver)),
            Self::REFUSED => Some(Err(Failure::Refused(reason))),
            Self::BROKEN => Some(Err(Failure::Broken(Broken(reason)))),
            _ => None,
        }
    }
}

/// LAN to WAN: takes a frame from a LAN interface.
///
/// # Errors
/// [`Failure`].
#[inline(always)]
pub fn outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Result<Verdict, Failure> {
    if let Some(outcome) = try_outbound(frame, env, ifindex).outcome() {
        return outcome;
    }
    let mut draft = None;
    settle_outbound(frame, env, ifindex, &mut draft)?;
    if let (Some(draft), Some(config)) = (draft, env.config()) {
        open::outbound(env, config, draft)?;
    }
    try_outbound(frame, env, ifindex)
        .outcome()
        .unwrap_or(Err(Failure::Refused(Reason::Contended)))
}

/// Forwards by a session that is in use.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn try_outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match admitted(frame, env, ifindex, EtherType::IPV4) {
        Ok(arrival) => match outbound::plan(frame, env, &arrival) {
            Ok(plan) => Attempt::ended(outbound::apply(frame, &plan).map_err(Failure::from)),
            // Whose packet it is depends on the routing table, which only the slower part asks.
            Err(Stop::Refused(Reason::UnsupportedProtocol)) => Attempt::UNSETTLED,
            Err(stop) => Attempt::stopped(stop),
        },
        Err(reason) => Attempt::ended(Err(reason.into())),
    }
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
    if let Some(outcome) = try_inbound(frame, env, ifindex).outcome() {
        return outcome;
    }
    let mut draft = None;
    settle_inbound(frame, env, ifindex, &mut draft)?;
    if let (Some(draft), Some(config)) = (draft, env.config()) {
        open::inbound(env, config, draft)?;
    }
    try_inbound(frame, env, ifindex)
        .outcome()
        .unwrap_or(Err(Failure::Refused(Reason::Contended)))
}

/// Forwards by a session that is in use.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn try_inbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match admitted(frame, env, ifindex, EtherType::IPV6) {
        Ok(arrival) => match inbound::plan(frame, env, &arrival) {
            Ok(plan) => Attempt::ended(inbound::apply(frame, &plan).map_err(Failure::from)),
            Err(stop) => Attempt::stopped(stop),
        },
        Err(reason) => Attempt::ended(Err(reason.into())),
    }
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
