//! Endpoint-independent mappings (RFC 4787 §4.1) and who may send to them (address-dependent filtering, §5).
//!
//! A mapping is a record of its own with the remote left open; it holds a port for one LAN endpoint. Each flow through it
//! is a member session. Whoever uses a member uses the mapping too, so a mapping outlives its members.

use super::{
    allocate,
    open::Flow,
    port,
    session::{Facts, Hold, Phase, Session, State},
    table::{self, Draft, Ending},
};
use crate::{
    env::{Env, InsertError, Side},
    layout::{Config, FlowKey, Gauge, PermissionKey, SessionRef, Transport},
    time::Tick,
    verdict::Reason,
    wire::port::Port,
};

/// The phase that gives a mapping its idle time.
const fn phase(transport: Transport) -> Phase {
    match transport {
        Transport::Udp => Phase::Udp,
        Transport::Tcp => Phase::TcpEstablished,
        Transport::Icmp => Phase::Icmp,
    }
}

/// The mapping of a LAN endpoint (Inside) or of an external port (Outside), if it is alive.
#[inline(always)]
pub fn find<E: Env>(env: &E, config: &Config, side: Side, flow: &Flow, now: Tick) -> Option<SessionRef> {
    let reference = env.find(side, &FlowKey::endpoint(flow.transport, flow.local, flow.local_port))?;
    let state = env.session(reference.slot)?.state();
    let alive =
        state.generation == reference.generation && state.phase.is_live() && !state.is_expired(&config.timeouts, now);
    alive.then_some(reference)
}

/// Notes that a mapping is used; false where it is no longer there.
#[inline(always)]
pub fn touch<E: Env>(env: &E, reference: SessionRef, now: Tick) -> bool {
    let Some(record) = env.session(reference.slot) else {
        return false;
    };
    let state = record.state();
    if state.generation != reference.generation || !state.phase.is_live() {
        return false;
    }
    // Another member's use at this moment is as good as ours.
    now.since(state.used) < Tick::STALE
        || record.advance(state, State { used: now, ..state })
        || record.state().phase.is_live()
}

/// Makes a mapping for the LAN endpoint of a member's draft.
///
/// # Errors
/// [`Reason::PortsExhausted`] where no port is free, [`Reason::SessionsExhausted`], [`Reason::Contended`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn create<E: Env>(env: &E, config: &Config, member: Draft, made: &mut Option<SessionRef>) -> Result<(), Reason> {
    let facts = member.record(env)?.facts();
    let ordinal = allocate::take_exclusive(env, config, facts.transport, facts.inside_port)?;
    match enter(env, config, member, ordinal) {
        Ok(mapping) => {
            env.raise(Gauge::Exclusive(facts.transport));
            *made = Some(mapping);
            Ok(())
        }
        Err(reason) => {
            if let Some(word) = env.port(facts.transport, ordinal) {
                port::give_exclusive(word);
            }
            Err(reason)
        }
    }
}

#[inline(always)]
fn enter<E: Env>(env: &E, config: &Config, member: Draft, ordinal: u32) -> Result<SessionRef, Reason> {
    let mut drafted = None;
    draft(env, config, member, ordinal, &mut drafted)?;
    let draft = drafted.ok_or(Reason::Contended)?;
    if let Err(error) = table::enter(env, config, Side::Outside, draft) {
        draft.give_back(env);
        return Err(refused(error));
    }
    if let Err(error) = table::enter(env, config, Side::Inside, draft) {
        table::leave_outside(env, draft);
        draft.give_back(env);
        return Err(refused(error));
    }
    draft.publish(env)?;
    Ok(draft.reference())
}

/// Takes a record for a mapping and writes its facts, made from its first member's.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn draft<E: Env>(
    env: &E,
    config: &Config,
    member: Draft,
    ordinal: u32,
    made: &mut Option<Draft>,
) -> Result<(), Reason> {
    let (Some(external_port), Ok(short)) = (config.port_set.port(ordinal), u16::try_from(ordinal)) else {
        return Err(Reason::PortsExhausted);
    };
    let facts = member.record(env)?.facts();
    let draft = Draft::take(env, facts.created)?;
    draft.record(env)?.write(&Facts {
        hold: Hold::Mapping,
        external_port,
        ordinal: short,
        first: phase(facts.transport),
        remote: [0; 4],
        remote_port: Port(0),
        far_end: [0; 16],
        mapping: SessionRef::default(),
        ..facts
    });
    *made = Some(draft);
    Ok(())
}

/// The reason that stands for a failed entry.
#[inline(always)]
pub const fn refused(error: InsertError) -> Reason {
    match error {
        InsertError::Exists => Reason::Contended,
        InsertError::Full => Reason::SessionsExhausted,
    }
}

const fn key(mapping: SessionRef, remote: [u8; 4]) -> PermissionKey {
    PermissionKey {
        mapping,
        remote,
        reserved: [0; 4],
    }
}

/// Whether a remote host may send to a mapping: it was sent to within the mapping's idle time.
#[inline(always)]
pub fn is_permitted<E: Env>(
    env: &E,
    config: &Config,
    transport: Transport,
    mapping: SessionRef,
    remote: [u8; 4],
    now: Tick,
) -> bool {
    env.permission(&key(mapping, remote))
        .is_some_and(|then| !is_over(config, transport, then, now))
}

/// Notes that a mapping sent to a remote host.
#[inline(always)]
pub fn permit<E: Env>(env: &E, mapping: SessionRef, remote: [u8; 4], now: Tick) {
    let key = key(mapping, remote);
    let known = env.permission(&key).is_some();
    if !env.permit(&key, now) {
        env.raise(Gauge::PermissionsLost);
    } else if !known {
        env.raise(Gauge::Permissions);
    }
}

/// Takes a permission away when the last member that could have renewed it ends.
///
/// A permission is renewed only by its members' outbound packets, so the last of them to expire finds it expired.
#[inline(always)]
pub fn end_permission<E: Env>(env: &E, config: &Config, record: &Session, ending: Ending) {
    let facts = record.facts();
    let key = key(facts.mapping, facts.remote);
    let over = match ending {
        Ending::Flushed => true,
        Ending::Expired(now) => env
            .permission(&key)
            .is_some_and(|then| is_over(config, facts.transport, then, now)),
    };
    if over && env.forbid(&key) {
        env.lower(Gauge::Permissions);
    }
}

#[inline(always)]
fn is_over(config: &Config, transport: Transport, then: Tick, now: Tick) -> bool {
    State {
        generation: 0,
        phase: phase(transport),
        used: then,
    }
    .is_expired(&config.timeouts, now)
}
