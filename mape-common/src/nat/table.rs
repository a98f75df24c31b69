//! How a record comes into the two tables of flows and how it leaves them.
//!
//! Order of coming: port, entry in OUTSIDE, entry in INSIDE, live. Order of leaving: dead (whoever wins this step does the
//! rest), INSIDE, OUTSIDE, port, free list. Entries are made only where there is none and taken away only by who made
//! them, so nobody ever deletes another record's entry.

use super::{
    mapping,
    overlap::{self, Fingerprint},
    port,
    session::{Hold, Phase, Session, State},
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
        let record = env.session(slot).ok_or(Reason::SessionsExhausted)?;
        let state = record.begin(now).ok_or(Reason::Contended)?;
        Ok(Self(SessionRef {
            slot,
            generation: state.generation,
        }))
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
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn enter<E: Env>(env: &E, config: &Config, side: Side, draft: Draft) -> Result<(), InsertError> {
    let Some(record) = env.session(draft.0.slot) else {
        return Err(InsertError::Full);
    };
    let facts = record.facts();
    let now = facts.created;
    let key = match side {
        Side::Inside => facts.inside_key(),
        Side::Outside => facts.outside_key(),
    };
    match env.insert(side, &key, draft.reference()) {
        Err(InsertError::Exists) if end_if_expired(env, config, side, &key, now) => {
            env.insert(side, &key, draft.reference())
        }
        outcome => outcome,
    }
}

/// Takes a draft's entry in OUTSIDE away again.
#[inline(always)]
pub fn leave_outside<E: Env>(env: &E, draft: Draft) {
    if let Some(record) = env.session(draft.0.slot) {
        env.remove(Side::Outside, &record.facts().outside_key());
    }
}

/// Ends the record that a key leads to if its time is over; true where that was done here.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn end_if_expired<E: Env>(env: &E, config: &Config, side: Side, key: &FlowKey, now: Tick) -> bool {
    let Some(found) = env.find(side, key) else { return false };
    let Some(record) = env.session(found.slot) else {
        return false;
    };
    let state = record.state();
    state.generation == found.generation
        && state.phase.is_live()
        && state.is_expired(&config.timeouts, now)
        && end(env, config, found.slot, record, state, Ending::Expired(now))
}

/// Why a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its idle time is over.
    Expired(Tick),
    /// Somebody asked for it.
    Flushed,
}

/// Ends a live record: false where somebody else has used or ended it since `state` was read.
///
/// The caller passes a state in which the record is live.
#[inline(always)]
pub fn end<E: Env>(env: &E, config: &Config, slot: u32, record: &Session, state: State, ending: Ending) -> bool {
    let dead = State {
        phase: Phase::Dead,
        ..state
    };
    if !record.advance(state, dead) {
        return false;
    }
    let facts = record.facts();
    if matches!(facts.hold, Hold::Member) {
        mapping::end_permission(env, config, record, ending);
    }
    env.remove(Side::Inside, &facts.inside_key());
    env.remove(Side::Outside, &facts.outside_key());
    release_port(env, config, record);
    env.lower(match facts.hold {
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
        env.give_slot(slot);
    }
    true
}

/// Gives back what a record holds of its port.
#[inline(always)]
pub fn release_port<E: Env>(env: &E, config: &Config, record: &Session) {
    let facts = record.facts();
    let ordinal = u32::from(facts.ordinal);
    let Some(word) = env.port(facts.transport, ordinal) else {
        return;
    };
    match facts.hold {
        Hold::Member => {}
        Hold::Mapping => {
            port::give_exclusive(word);
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
