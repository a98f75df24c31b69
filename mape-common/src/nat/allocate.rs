//! Choosing a port of the set: the host's own number if it can be had, else one that is hard to guess; and taking it.

mod search;

pub use self::search::{MAX_LOOKS, UNCLEAR, find_over, find_unclear, find_usable};
use self::search::{NONE, Walk};
use super::{
    overlap::{self, Fingerprint},
    part::Part,
    port::{self, PortState, Share},
    pressure,
    table::{self, Draft},
};
use crate::{
    env::{Env, Search},
    layout::{Config, Gauge, Transport},
    time::Tick,
    verdict::Reason,
};

/// A port found by the search may be taken by another processor before we have it; so often in a row it is not chance.
const ATTEMPTS: u32 = 3;

/// Takes a port for a session that shares it, and makes the session's entry in OUTSIDE.
///
/// The draft's record says whose session it is and, as its time of creation, what time it is; it gets the port.
///
/// # Errors
/// [`Reason::PortsExhausted`], [`Reason::SessionsExhausted`]; nothing is held then.
#[inline(always)]
pub fn take_shared<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let mut claims = Claims {
        env,
        config,
        draft,
        source: Source::Own,
        ended: Reason::PortsExhausted.number(),
    };
    // One for the host's own number, and so many for each of the others.
    env.search(1 + 2 * ATTEMPTS, &mut claims);
    match claims.ended {
        0 => Ok(()),
        number => Err(Reason::from_number(number)),
    }
}

/// Where the next port to be claimed comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Source {
    /// The LAN host's own number.
    Own,
    /// Ports that have no session with the destination.
    Usable,
    /// Ports whose session with the destination is over in all but name.
    Over,
}

/// One claim after the other until one succeeds. As a search, so that the kernel's verifier goes through a claim once.
struct Claims<'a, E> {
    env: &'a E,
    config: &'a Config,
    draft: Draft,
    source: Source,
    /// Zero once a port is held, else the number of the reason why none is.
    ended: u32,
}

impl<E: Env> Search for Claims<'_, E> {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let (env, config, draft) = (self.env, self.config, self.draft);
        let ordinal = match self.source {
            Source::Own => own(env, config, draft),
            Source::Usable => match env.part(Part::FindUsable, draft).0 {
                UNCLEAR => env.part(Part::FindUnclear, draft).0,
                ordinal => ordinal,
            },
            Source::Over => env.part(Part::FindOver, draft).0,
        };
        if ordinal == NONE || self.source == Source::Own {
            match self.source {
                Source::Own => self.source = Source::Usable,
                Source::Usable => self.source = Source::Over,
                Source::Over => return false,
            }
        }
        if ordinal == NONE || !note(env, config, draft, ordinal) {
            return true;
        }
        if self.source == Source::Over && env.part(Part::EndOver, draft).result().is_err() {
            return true;
        }
        match env.part(Part::Claim, draft).result() {
            Ok(()) => {
                self.ended = 0;
                false
            }
            Err(Reason::Contended) => true,
            Err(reason) => {
                self.ended = reason.number();
                false
            }
        }
    }
}

/// Writes into the draft's record which port is claimed next; false where there is none of that ordinal.
#[inline(always)]
fn note<E: Env>(env: &E, config: &Config, draft: Draft, ordinal: u32) -> bool {
    let (Ok(record), Some(port), Ok(short)) =
        (draft.record(env), config.port_set.port(ordinal), u16::try_from(ordinal))
    else {
        return false;
    };
    record.set_port(port, short);
    true
}

/// The port of the LAN host's own number, if it is in the set and nobody has it.
#[inline(always)]
fn own<E: Env>(env: &E, config: &Config, draft: Draft) -> u32 {
    let Ok(record) = draft.record(env) else { return NONE };
    let facts = record.facts();
    match config.port_set.ordinal(facts.inside_port) {
        Some(ordinal)
            if env
                .port(facts.transport, ordinal)
                .is_some_and(|word| PortState::at(word.load(), facts.created) == PortState::Free) =>
        {
            ordinal
        }
        _ => NONE,
    }
}

/// Ends the session that the draft's destination has on the port that the draft's record says.
///
/// # Errors
/// [`Reason::Contended`]: it has been used or ended since.
#[inline(always)]
pub fn end_over<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let facts = draft.record(env)?.facts();
    if table::end_finished(env, config, &facts.outside_key(), facts.created) {
        Ok(())
    } else {
        Err(Reason::Contended)
    }
}

/// Takes a share of the port that the draft's record says, and makes its entry in OUTSIDE.
///
/// # Errors
/// [`Reason::Contended`]: that port cannot be had. [`Reason::SessionsExhausted`].
#[inline(always)]
pub fn claim<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let facts = draft.record(env)?.facts();
    let destination = Fingerprint::new(config, facts.transport, facts.remote, facts.remote_port);
    let ordinal = u32::from(facts.ordinal);
    let (Some(word), Some(cell)) = (
        env.port(facts.transport, ordinal),
        env.overlap(destination.row(config).wrapping_add(ordinal)),
    ) else {
        return Err(Reason::Contended);
    };
    let share = port::take_share(word, facts.created);
    if share == Share::Refused {
        return Err(Reason::Contended);
    }
    // Whoever is the first or the last says so, whether its session comes to be or not: the others count on it.
    if share == Share::First {
        env.raise(Gauge::Shared(facts.transport));
    }
    // Before the entry: who finds the cell usable finds no entry.
    overlap::add(cell, destination);
    let entered = env.part(Part::EnterOutside, draft).result();
    if entered.is_err() {
        overlap::remove(cell, destination);
        if port::give_share(word) {
            env.lower(Gauge::Shared(facts.transport));
        }
    }
    entered
}

/// Looks for a free port and takes it.
struct FreeSearch<'a, E> {
    env: &'a E,
    transport: Transport,
    now: Tick,
    walk: Walk,
    taken: u32,
}

impl<E: Env> Search for FreeSearch<'_, E> {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let ordinal = self.walk.next();
        let Some(word) = self.env.port(self.transport, ordinal) else {
            return true;
        };
        if port::take_exclusive(word, self.now) {
            self.taken = ordinal;
            return false;
        }
        true
    }
}

/// Takes a port for a draft's LAN endpoint alone, that of its own number if it can be had; gives its ordinal.
///
/// # Errors
/// [`Reason::PortsExhausted`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn take_exclusive<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<u32, Reason> {
    let facts = draft.record(env)?.facts();
    let (transport, now) = (facts.transport, facts.created);
    if let Some(ordinal) = config.port_set.ordinal(facts.inside_port)
        && env
            .port(transport, ordinal)
            .is_some_and(|word| port::take_exclusive(word, now))
    {
        return Ok(ordinal);
    }
    let mut search = FreeSearch {
        env,
        transport,
        now,
        walk: Walk::new(env, config),
        taken: NONE,
    };
    let looks = search.walk.looks();
    env.search(looks, &mut search);
    if search.taken == NONE {
        pressure::note(env, transport, now);
        return Err(Reason::PortsExhausted);
    }
    Ok(search.taken)
}
