//! Endpoint-independent mappings (RFC 4787 §4.1) and who may send to them (address-dependent filtering, §5).
//!
//! A mapping is a record of its own with the remote left open; it holds a port for one LAN endpoint. Each flow through it
//! is a member session. Whoever uses a member uses the mapping too, so a mapping outlives its members.

use super::{
    allocate, forward,
    open::{self, Flow},
    part::Part,
    port, quota,
    session::{Facts, Hold, Phase, Session, State},
    table::{self, Draft, Ending},
};
use crate::{
    env::{Env, Noted, Side},
    layout::{Config, Filtering, FlowKey, Gauge, PermissionKey, SessionRef, Transport},
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
    let key = FlowKey::endpoint(flow.transport, flow.local, flow.local_port);
    let (reference, state) = table::find(env, side, &key)?;
    (!state.is_expired(&config.timeouts, now)).then_some(reference)
}

/// Whether a record is the mapping of that generation and its idle time is not over.
#[inline(always)]
fn is_alive(config: &Config, state: State, generation: u32, now: Tick) -> bool {
    state.generation == generation && state.phase.is_live() && !state.is_expired(&config.timeouts, now)
}

/// Notes that a mapping is used, where `use_it` says so; false where it is no longer there.
#[inline(always)]
pub fn touch<E: Env>(env: &E, config: &Config, reference: SessionRef, now: Tick, use_it: bool) -> bool {
    let Some(record) = env.session(reference.slot) else {
        return false;
    };
    let state = record.state();
    if !is_alive(config, state, reference.generation, now) {
        return false;
    }
    // To the tick, though its members note their use less often: it must not be over before one of them is. Another member's
    // use at this moment is as good as ours.
    !use_it
        || now.since(state.used) == Tick(0)
        || record.advance(state, State { used: now, ..state })
        || is_alive(config, record.state(), reference.generation, now)
}

/// Whether a record is a member whose mapping is gone: what no LAN host has answered can be left over, on a port that may be
/// another endpoint's by now.
#[inline(always)]
pub fn is_orphan<E: Env>(env: &E, config: &Config, record: &Session, now: Tick) -> bool {
    let facts = record.facts();
    matches!(facts.hold, Hold::Member) && !touch(env, config, facts.mapping, now, false)
}

/// Makes a member whose mapping is gone older than any idle time. It is not ended here: that takes more stack than there is;
/// the next packet finds it expired.
#[inline(always)]
pub fn age_member(record: &Session, state: State, now: Tick) {
    let _ = record.advance(
        state,
        State {
            used: now.long_before(),
            ..state
        },
    );
}

/// Makes a mapping for the LAN endpoint of a draft, and the draft a member of it.
///
/// # Errors
/// [`Reason::PortsExhausted`] where no port is free or the host holds as many as it may, [`Reason::SessionsExhausted`],
/// [`Reason::Contended`].
#[inline(always)]
pub fn create<E: Env>(env: &E, config: &Config, member: Draft) -> Result<(), Reason> {
    let facts = member.record(env)?.facts();
    if !quota::take_port(env, config, facts.transport, facts.inside) {
        return Err(Reason::PortsExhausted);
    }
    let mut made = None;
    if let Err(reason) = create_within_quota(env, config, member, &mut made) {
        quota::give_port(env, facts.transport, facts.inside);
        return Err(reason);
    }
    open::join(env, member, made.ok_or(Reason::Contended)?)
}

#[inline(always)]
fn create_within_quota<E: Env>(
    env: &E,
    config: &Config,
    member: Draft,
    made: &mut Option<SessionRef>,
) -> Result<(), Reason> {
    let facts = member.record(env)?.facts();
    let ordinal = allocate::take_exclusive(env, config, member)?;
    match enter(env, config, member, ordinal) {
        Ok(mapping) => {
            env.raise(Gauge::Exclusive(facts.transport));
            *made = Some(mapping);
            Ok(())
        }
        Err(reason) => {
            if let Some(word) = env.port(facts.transport, ordinal) {
                port::give_exclusive(word, None);
            }
            Err(reason)
        }
    }
}

/// When the port of a mapping that ends may be used again: later, where anybody could send to it (RFC 6888 REQ-8).
#[inline(always)]
pub fn unused_until(config: &Config, transport: Transport, now: Tick) -> Option<Tick> {
    if matches!(config.filtering(transport), Filtering::EndpointIndependent) {
        after_open(config, now)
    } else {
        None
    }
}

/// When a port that anybody could send to may be used again.
#[inline(always)]
pub fn after_open(config: &Config, now: Tick) -> Option<Tick> {
    (config.quarantine != Tick(0)).then(|| Tick(now.0.wrapping_add(config.quarantine.0)))
}

#[inline(always)]
fn enter<E: Env>(env: &E, config: &Config, member: Draft, ordinal: u32) -> Result<SessionRef, Reason> {
    let mut drafted = None;
    draft(env, config, member, ordinal, &mut drafted)?;
    let draft = drafted.ok_or(Reason::Contended)?;
    if let Err(reason) = env.part(Part::EnterOutside, draft).result() {
        draft.give_back(env);
        return Err(reason);
    }
    if let Err(reason) = env.part(Part::EnterInside, draft).result() {
        table::leave_outside(env, draft);
        draft.give_back(env);
        return Err(reason);
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
        mapping: Session::no_permissions(draft.reference().generation),
        ..facts
    });
    *made = Some(draft);
    Ok(())
}

const fn key(mapping: SessionRef, remote: [u8; 4]) -> PermissionKey {
    PermissionKey {
        mapping,
        remote,
        reserved: [0; 4],
    }
}

/// Whether a remote host may open a session with a mapping (RFC 4787 §5): for address-dependent filtering, where it was sent to
/// within the mapping's idle time. Where the port counts, too, who may send has a session already.
#[inline(always)]
pub fn admits<E: Env>(
    env: &E,
    config: &Config,
    transport: Transport,
    mapping: SessionRef,
    remote: [u8; 4],
    now: Tick,
) -> bool {
    // Anybody may send to a forward.
    if forward::is_static(env, mapping) {
        return true;
    }
    match config.filtering(transport) {
        Filtering::EndpointIndependent => true,
        Filtering::AddressAndPort => false,
        Filtering::Address => env
            .permission(&key(mapping, remote))
            .is_some_and(|then| !is_over(config, transport, then, now)),
    }
}

/// Notes that a mapping sent to a remote host, by this member of it, where that decides who may send to it.
///
/// A mapping has a bounded number of permissions; who finds no room gets none, but answers to its own session come through.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn permit<E: Env>(env: &E, config: &Config, member: &Session, now: Tick) {
    // Should the record be another flow's by now, then that one, too, has just sent to its remote host.
    let generation = member.state().generation;
    let Some((_, facts)) = member.read(generation) else {
        return;
    };
    if !matches!(facts.hold, Hold::Member) || !matches!(config.filtering(facts.transport), Filtering::Address) {
        return;
    }
    // Anybody may send to a forward.
    if forward::is_static(env, facts.mapping) {
        return;
    }
    let Some(mapping) = env.session(facts.mapping.slot) else {
        return;
    };
    let (key, counts) = (key(facts.mapping, facts.remote), facts.mapping.generation);
    // One that is there is renewed; there was room for it already. A mapping that has ended meanwhile counts nothing.
    let is_counted = env.permission(&key).is_none();
    if is_counted && !mapping.count_permission(counts, 1, config.mapping_permissions) {
        env.raise(Gauge::PermissionsLost);
        return;
    }
    let noted = env.permit(&key, now);
    if is_counted && !matches!(noted, Noted::Anew) {
        // Another processor was faster, or there is no room in the table.
        let _ = mapping.count_permission(counts, u64::MAX, 0);
    }
    match noted {
        Noted::Anew => {
            env.raise(Gauge::Permissions);
            if !is_counted {
                // It was taken away between the two looks.
                let _ = mapping.count_permission(counts, 1, u32::MAX);
            }
        }
        Noted::Again => {}
        Noted::NoRoom => env.raise(Gauge::PermissionsLost),
    }
    // Who ended the member meanwhile has taken its permission away before it was there.
    if !member.is_alive(generation) {
        forbid(env, &key);
    }
}

/// Renews the permission of a member's remote host, if it has one that is not over; makes none.
///
/// A packet of the remote host is about to be noted as the session's use. The LAN host's packets of the next second then find the
/// session in use, and go by without a look at the permission. So a session in which the LAN host takes part keeps its
/// remote host's permission as it keeps its mapping; what the LAN host has never answered keeps neither (RFC 7857 §7).
#[inline(always)]
pub fn renew<E: Env>(env: &E, config: &Config, member: &Session, now: Tick) {
    let facts = member.facts();
    if env
        .permission(&key(facts.mapping, facts.remote))
        .is_some_and(|then| !is_over(config, facts.transport, then, now))
    {
        permit(env, config, member, now);
    }
}

/// Takes a permission away, if it is there.
#[inline(always)]
fn forbid<E: Env>(env: &E, key: &PermissionKey) {
    if env.forbid(key) {
        env.lower(Gauge::Permissions);
        if let Some(mapping) = env.session(key.mapping.slot) {
            // A mapping that has ended counts nothing any longer.
            let _ = mapping.count_permission(key.mapping.generation, u64::MAX, 0);
        }
    }
}

/// Takes a permission away when the member ends that was the last to renew it, or that somebody wants ended.
///
/// A permission is renewed by its members' outbound packets alone; a member that was made old, its mapping being gone, says
/// nothing of when it was used. Other members that are still there renew the permission with their next packet.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn end_permission<E: Env>(env: &E, record: &Session, ending: Ending) {
    let (facts, used) = (record.facts(), record.state().used);
    let key = key(facts.mapping, facts.remote);
    let is_last =
        |then: Tick| matches!(ending, Ending::Flushed(_)) || then.since(used) < Tick::STALE || then.is_long_after(used);
    if env.permission(&key).is_some_and(is_last) {
        forbid(env, &key);
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
