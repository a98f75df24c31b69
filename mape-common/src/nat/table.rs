//! How a record comes into the two tables of flows and how it leaves them.
//!
//! Order of coming: port, entry in OUTSIDE, entry in INSIDE, live. Order of leaving: dead (whoever wins this step does the
//! rest), INSIDE, OUTSIDE, port, free list. Entries are made only where there is none and taken away only by who made
//! them, so nobody ever deletes another record's entry.

use super::{
    mapping,
    overlap::{self, Fingerprint},
    port::{self, PortState},
    pressure, quota,
    session::{Facts, Hold, Phase, Session, State},
};
use crate::{
    env::{Env, InsertError, Side},
    layout::{Config, FlowKey, Gauge, SessionRef},
    time::Tick,
    verdict::Reason,
};

/// A record in Building: ours alone until it is published.
///
/// Numbers only, no reference to the record: a BPF program cannot copy a pointer from one place of its stack to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft(SessionRef);

impl Draft {
    /// Takes a record off the free list.
    ///
    /// # Errors
    /// [`Reason::SessionsExhausted`].
    #[inline(always)]
    pub fn take<E: Env>(env: &E, now: Tick) -> Result<Self, Reason> {
        let slot = env.take_slot().ok_or(Reason::SessionsExhausted)?;
        env.raise(Gauge::Records);
        let record = env.session(slot).ok_or(Reason::SessionsExhausted)?;
        let state = record.begin(now).ok_or(Reason::Contended)?;
        Ok(Self(SessionRef {
            slot,
            generation: state.generation,
        }))
    }

    /// The draft that [`Self::reference`] stands for, on the other side of a call that takes numbers.
    #[inline(always)]
    pub const fn resume(reference: SessionRef) -> Self {
        Self(reference)
    }

    /// What the tables hold for it.
    #[inline(always)]
    pub const fn reference(self) -> SessionRef {
        self.0
    }

    /// The record.
    ///
    /// # Errors
    /// [`Reason::Contended`] is impossible (the slot came from the free list); it is not assumed.
    #[inline(always)]
    pub fn record<E: Env>(self, env: &E) -> Result<&Session, Reason> {
        env.session(self.0.slot).ok_or(Reason::Contended)
    }

    /// Puts the record back on the free list. Its entries, if any, must be gone.
    #[inline(always)]
    pub fn give_back<E: Env>(self, env: &E) {
        let Some(record) = env.session(self.0.slot) else { return };
        let state = record.state();
        if record.advance(
            state,
            State {
                phase: Phase::Free,
                ..state
            },
        ) {
            env.lower(Gauge::Records);
            env.give_slot(self.0.slot);
        }
    }

    /// Makes the record usable, in the phase it starts with, its entries being there.
    ///
    /// # Errors
    /// [`Reason::Contended`] is impossible as long as only its owner changes a record in Building; it is not assumed.
    #[inline(always)]
    pub fn publish<E: Env>(self, env: &E) -> Result<(), Reason> {
        let record = self.record(env)?;
        let facts = record.facts();
        let state = record.state();
        if !record.advance(
            state,
            State {
                phase: facts.first,
                ..state
            },
        ) {
            return Err(Reason::Contended);
        }
        env.raise(match facts.hold {
            Hold::Mapping if matches!(facts.first, Phase::Static) => Gauge::Forwards(facts.transport),
            Hold::Mapping => Gauge::Mappings(facts.transport),
            Hold::Member | Hold::Overlap => Gauge::Sessions(facts.transport),
        });
        if !matches!(facts.hold, Hold::Mapping) {
            env.raise(Gauge::Created(facts.transport));
        }
        Ok(())
    }
}

/// Makes a draft's entry; one that an expired record has left there is taken away first.
///
/// # Errors
/// [`InsertError`].
#[inline(always)]
pub fn enter<E: Env>(env: &E, config: &Config, side: Side, draft: Draft) -> Result<(), InsertError> {
    let Some(record) = env.session(draft.0.slot) else {
        return Err(InsertError::Full);
    };
    let now = record.facts().created;
    match env.insert(side, draft.0.slot) {
        Err(InsertError::Exists) if end_if_expired(env, config, side, &record.key(side), now) => {
            env.insert(side, draft.0.slot)
        }
        outcome => outcome,
    }
}

/// Takes a draft's entry in OUTSIDE away again.
#[inline(always)]
pub fn leave_outside<E: Env>(env: &E, draft: Draft) {
    env.remove(Side::Outside, draft.0.slot);
}

/// The live record of a flow, and its state.
#[inline(always)]
pub fn find<E: Env>(env: &E, side: Side, key: &FlowKey) -> Option<(SessionRef, State)> {
    let found = env.find(side, key)?;
    let state = env.session(found.slot)?.state();
    (state.generation == found.generation && state.phase.is_live()).then_some((found, state))
}

/// The same as two values that are always something, the state of a record that is not there being a free one's: an `Option` as
/// large is more than the registers that are left where it is looked for, and the kernel refuses a program that puts aside what it
/// never set.
#[inline(always)]
pub fn sought<E: Env>(env: &E, side: Side, key: &FlowKey) -> (SessionRef, State) {
    let none = State {
        generation: 0,
        phase: Phase::Free,
        used: Tick(0),
    };
    match find(env, side, key) {
        Some(found) => found,
        None => (SessionRef::default(), none),
    }
}

/// The same, and what it says.
#[inline(always)]
pub fn read<E: Env>(env: &E, side: Side, key: &FlowKey) -> Option<(SessionRef, State, Facts)> {
    let found = env.find(side, key)?;
    let (state, facts) = env.session(found.slot)?.read(found.generation)?;
    Some((found, state, facts))
}

/// The same, or only where a `GLANCE` shows it.
#[inline(always)]
pub fn seen<E: Env, const GLANCE: bool>(
    env: &E,
    config: &Config,
    side: Side,
    key: &FlowKey,
) -> Option<(SessionRef, State, Facts)> {
    if GLANCE {
        env.glance(config, side, key)
    } else {
        read(env, side, key)
    }
}

/// The session that a key leads to and what it says, if its idle time is not over.
#[inline(always)]
pub fn live<E: Env>(env: &E, config: &Config, side: Side, key: &FlowKey, now: Tick) -> Option<(SessionRef, Facts)> {
    let (found, state, facts) = read(env, side, key)?;
    let record = env.session(found.slot)?;
    (!is_over(env, config, record, state, now)).then_some((found, facts))
}

/// Ends the record that a key leads to if its time, or its mapping's, is over; true where that was done here.
#[inline(always)]
pub fn end_if_expired<E: Env>(env: &E, config: &Config, side: Side, key: &FlowKey, now: Tick) -> bool {
    let Some((found, state)) = find(env, side, key) else {
        return false;
    };
    let Some(record) = env.session(found.slot) else {
        return false;
    };
    (is_over(env, config, record, state, now) || mapping::is_orphan(env, config, record, now))
        && env.end(found.slot, state, Ending::Expired(now))
}

/// Whether a session may end because its port is needed. Where both sides have said that they will send no more, the other
/// one, too, lets a new connection in (RFC 9293 §3.6.1); everything else has to have been idle for a while.
#[inline(always)]
pub fn is_over_in_all_but_name(config: &Config, state: State, now: Tick) -> bool {
    state.phase.is_live() && (matches!(state.phase, Phase::TcpClosing) || state.is_expired(&config.pressed, now))
}

/// Ends the session on a port with a destination (its key in OUTSIDE) because the port is needed; false where it has been used
/// or ended since it was found to be over in all but name.
#[inline(always)]
pub fn end_finished<E: Env>(env: &E, config: &Config, key: &FlowKey, now: Tick) -> bool {
    let Some((found, state)) = find(env, Side::Outside, key) else {
        return false;
    };
    let ended = is_over_in_all_but_name(config, state, now) && env.end(found.slot, state, Ending::Expired(now));
    if ended {
        env.raise(Gauge::Reclaimed);
    }
    ended
}

/// Whether a live record's idle time is over, as things stand.
#[inline(always)]
pub fn is_over<E: Env>(env: &E, config: &Config, record: &Session, state: State, now: Tick) -> bool {
    state.is_expired(pressure::timeouts(env, config, record.transport(), now), now)
}

/// Why a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its idle time is over.
    Expired(Tick),
    /// Somebody asked for it.
    Flushed(Tick),
}

impl Ending {
    /// When.
    #[inline(always)]
    pub const fn at(self) -> Tick {
        match self {
            Self::Expired(now) | Self::Flushed(now) => now,
        }
    }
}

/// Ends a live record: false where somebody else has used or ended it since `state` was read.
///
/// The caller passes a state in which the record is live.
///
/// Called through [`Env::end`], which in the kernel is a function of its own as the parts of opening are (see [`super::part`]).
#[inline(always)]
pub fn end<E: Env>(env: &E, slot: u32, state: State, ending: Ending) -> bool {
    let Some(config) = env.config() else { return false };
    let Some(record) = env.session(slot) else {
        return false;
    };
    let dead = State {
        phase: Phase::Dead,
        ..state
    };
    if !record.advance(state, dead) {
        return false;
    }
    let facts = record.facts();
    if matches!(facts.hold, Hold::Member) {
        mapping::end_permission(env, record, ending);
    }
    env.remove(Side::Inside, slot);
    env.remove(Side::Outside, slot);
    release_port(env, config, record, ending.at());
    match facts.hold {
        Hold::Mapping if matches!(facts.first, Phase::Static) => {}
        Hold::Mapping => quota::give_port(env, facts.transport, facts.inside),
        Hold::Member | Hold::Overlap => quota::give_session(env, facts.inside),
    }
    env.lower(match facts.hold {
        Hold::Mapping if matches!(facts.first, Phase::Static) => Gauge::Forwards(facts.transport),
        Hold::Mapping => Gauge::Mappings(facts.transport),
        Hold::Member | Hold::Overlap => Gauge::Sessions(facts.transport),
    });
    env.raise(Gauge::Ended);
    if record.advance(
        dead,
        State {
            phase: Phase::Free,
            ..dead
        },
    ) {
        env.lower(Gauge::Records);
        env.give_slot(slot);
    }
    true
}

/// Gives back what a record holds of its port.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn release_port<E: Env>(env: &E, config: &Config, record: &Session, now: Tick) {
    let facts = record.facts();
    let ordinal = u32::from(facts.ordinal);
    let Some(word) = env.port(facts.transport, ordinal) else {
        return;
    };
    match facts.hold {
        Hold::Member => {}
        // The only one that ends a forward; nobody else changes the port meanwhile.
        Hold::Mapping if matches!(facts.first, Phase::Static) => {
            let _ = port::give_from(word, PortState::Static, mapping::after_open(config, now));
        }
        Hold::Mapping => {
            port::give_exclusive(word, mapping::unused_until(config, facts.transport, now));
            env.lower(Gauge::Exclusive(facts.transport));
        }
        Hold::Overlap => {
            let destination = Fingerprint::new(config, facts.transport, facts.remote, facts.remote_port);
            if let Some(cell) = env.overlap(destination.row(config).wrapping_add(ordinal)) {
                overlap::remove(cell, destination);
            }
            if port::give_share(word) {
                env.lower(Gauge::Shared(facts.transport));
            }
        }
    }
}
