//! Telling a tunnel device that has no far end of its own where each packet goes.
//!
//! One that nobody has told does not send: what is not translated stays here, also while the program is not there.

use crate::{
    env::{Env, Side},
    layout::{Config, SessionRef},
    nat::session::Facts,
    packet::Packet,
    verdict::Reason,
};

use super::{
    super::{error, outbound, tunnel},
    Leaving, arrived,
};

/// Tells it of a session's packet.
#[inline(always)]
fn lead<E: Env>(env: &E, config: &Config, tos: u8, facts: &Facts) -> Result<(), Reason> {
    if env.lead(
        &facts.far_end,
        tunnel::traffic_class_of(config, tos),
        outbound::label(facts),
    ) {
        Ok(())
    } else {
        Err(Reason::NextHopUnknown)
    }
}

/// Whether the tunnel device wants to be told where each packet goes.
#[inline(always)]
pub(super) fn is_external<E: Env>(env: &E) -> bool {
    env.config().is_some_and(|config| config.has(Config::EXTERNAL_TUNNEL))
}

/// A whole packet or a first fragment; apart from the translation, since both in one are more than a program's stack.
#[inline(always)]
pub(super) fn packet<P: Packet, E: Env>(packet: &Leaving<'_, P>, env: &E) -> Result<(), Reason> {
    let (mut found, mut tos) = (SessionRef::default(), 0);
    look_packet(packet, env, &mut found, &mut tos)?;
    session(env, found, tos)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_packet<P: Packet, E: Env>(
    packet: &Leaving<'_, P>,
    env: &E,
    session: &mut SessionRef,
    tos: &mut u8,
) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let (inner, flow) = outbound::read_part::<_, true>(packet)?;
    (*session, _) = super::session(env, arrival.config, Side::Inside, &flow, arrival.now)?;
    *tos = inner.header.tos();
    Ok(())
}

/// The session of an ICMP error, and its type of service.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn look_error<P: Packet, E: Env>(
    packet: &Leaving<'_, P>,
    env: &E,
    session: &mut SessionRef,
    tos: &mut u8,
) -> Result<(), Reason> {
    let (header, found) = error::find_outbound(packet, env)?;
    *session = found;
    *tos = header.tos();
    Ok(())
}

/// Reads the record by itself, since with a packet's it is more than a program's stack.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub(super) fn session<E: Env>(env: &E, session: SessionRef, tos: u8) -> Result<(), Reason> {
    let config = env.config().ok_or(Reason::NotConfigured)?;
    let record = env.session(session.slot).ok_or(Reason::NoSession)?;
    let (_, facts) = record.read(session.generation).ok_or(Reason::NoSession)?;
    lead(env, config, tos, &facts)
}
