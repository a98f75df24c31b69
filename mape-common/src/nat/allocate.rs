//! Choosing a port of the set: the host's own number if it can be had, else one that is hard to guess.
//!
//! Every search is bounded and begins at a random place. Sets of up to [`MAX_LOOKS`] ports (all shared addresses in use: 240,
//! 1008) are searched whole, so nothing is refused while a usable port exists; of a larger set 32 runs of 8 ports are
//! searched, and where a fraction `f` of it is unusable that fails with a probability of about `f^32`. Ports of which only
//! the table of flows can tell are looked at where no other will do, and looked up [`LOOKUPS`] times at most; it takes two
//! destinations that fill the set and fall into one row of [`overlap`] for that to matter.

use super::{
    overlap::{self, Cell, Fingerprint},
    part::Part,
    port::{self, PortState, Share},
    pressure,
    session::Session,
    table::{self, Draft},
};
use crate::{
    env::{Env, Search, Side, Tally},
    layout::{Config, FlowKey, Gauge, Transport},
    time::Tick,
    verdict::Reason,
    wire::port::Port,
    word::Word,
};

/// Ports of a set that is searched whole.
pub const MAX_LOOKS: u32 = 1_024;
/// Ports looked at in a larger set: runs of neighbours (one line of the cache) with leaps between them, since ports that hosts
/// chose themselves lie side by side.
const LEAPING_LOOKS: u32 = 256;
/// Neighbours before a leap; a power of two.
const RUN: u32 = 8;
/// A leap: a prime, far less than such a set has.
const LEAP: u32 = 997;
/// Free ports passed over in the hope of one that is shared already.
const PASSED_OVER: u32 = 64;
/// Cells looked at in one step of a search.
const CELLS: u32 = 4;
/// Ports looked up in one search because their cells cannot tell; see [`overlap`].
const LOOKUPS: u32 = 32;
/// Ports whose session with a destination may be over in all but name, looked at before refusing: a look-up each. In a set of no
/// more than [`FEW_PORTS`] so many that one in six is missed once in 10^9 searches; in a larger one, the search before this one
/// has taken the time of two in three.
const RECLAIM_LOOKS: u32 = 96;
const FEW_PORTS: u32 = 256;
/// Looks after which one that is over is enough; before that, the one that was used longest ago is looked for.
const ENOUGH: u32 = 12;
/// A port found by the search may be taken by another processor before we have it; so often in a row it is not chance.
const ATTEMPTS: u32 = 3;
const NONE: u32 = u32::MAX;
/// No port, but some of which only the table of flows can tell.
const UNCLEAR: u32 = NONE - 1;

/// A walk around the set from a random place.
struct Walk {
    next: u32,
    end: u32,
    size: u32,
    /// From the last of a run of neighbours to the first of the next one.
    leap: u32,
}

impl Walk {
    #[inline(always)]
    fn new<E: Env>(env: &E, config: &Config) -> Self {
        let size = config.ports.saturating_sub(config.first_dynamic);
        let start = env.random().checked_rem(size).unwrap_or(0);
        Self {
            next: config.first_dynamic.wrapping_add(start),
            end: config.ports,
            size,
            leap: if size > MAX_LOOKS { LEAP } else { 1 },
        }
    }

    /// Candidates of the whole set, or as many as a search may look at.
    #[inline(always)]
    fn looks(&self) -> u32 {
        if self.size <= MAX_LOOKS {
            self.size
        } else {
            LEAPING_LOOKS
        }
    }

    #[inline(always)]
    fn next(&mut self) -> u32 {
        let ordinal = self.next;
        let is_last = ordinal & (RUN - 1) == RUN - 1;
        let after = ordinal.wrapping_add(if is_last { self.leap } else { 1 });
        self.next = if after >= self.end {
            after.wrapping_sub(self.size)
        } else {
            after
        };
        ordinal
    }
}

/// Looks for a port that has no session with the destination.
struct SharedSearch<'a, E> {
    env: &'a E,
    transport: Transport,
    now: Tick,
    destination: Fingerprint,
    row: u32,
    walk: Walk,
    /// Free ports are left to endpoints that need one alone, as long as a shared one will do.
    spare_free: bool,
    looked: Tally,
    passed_over: Tally,
    unclear: Tally,
    free: u32,
    found: u32,
}

impl<E: Env> Search for SharedSearch<'_, E> {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        // The cells first: where a destination is on nearly every port, they alone decide.
        let mut ordinal = NONE;
        for _ in 0..CELLS {
            if !self.looked.is_within(self.now.0, self.walk.looks()) {
                return false;
            }
            let next = self.walk.next();
            let cell = self
                .env
                .overlap(self.row.wrapping_add(next))
                .map_or(Cell::Taken, |cell| overlap::read(cell, self.destination));
            if cell == Cell::Usable {
                ordinal = next;
                break;
            }
            if cell == Cell::Unclear {
                self.unclear.count(1);
            }
        }
        if ordinal == NONE {
            return true;
        }
        let Some(word) = self.env.port(self.transport, ordinal) else {
            return true;
        };
        let state = PortState::at(word.load(), self.now);
        if !state.is_sharable() {
            return true;
        }
        if self.spare_free && state == PortState::Free {
            if self.free == NONE {
                self.free = ordinal;
            }
            return self.passed_over.is_within(self.now.0, PASSED_OVER);
        }
        self.found = ordinal;
        false
    }
}

/// The same among ports of which only the table of flows can tell; a free port where there is none.
struct UnclearSearch<'a, E> {
    env: &'a E,
    config: &'a Config,
    transport: Transport,
    now: Tick,
    destination: Fingerprint,
    row: u32,
    draft: Draft,
    walk: Walk,
    looked_up: Tally,
    free: u32,
    found: u32,
}

impl<E: Env> Search for UnclearSearch<'_, E> {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let ordinal = self.walk.next();
        let Some(cell) = self.env.overlap(self.row.wrapping_add(ordinal)) else {
            return true;
        };
        let cell = overlap::read(cell, self.destination);
        if cell == Cell::Taken {
            return true;
        }
        let Some(word) = self.env.port(self.transport, ordinal) else {
            return true;
        };
        let state = PortState::at(word.load(), self.now);
        if !state.is_sharable() {
            return true;
        }
        if cell == Cell::Usable {
            self.free = ordinal;
            return true;
        }
        // A look-up costs as much as twenty cells; a free port may still come.
        if !self.looked_up.is_within(self.now.0, LOOKUPS) {
            return true;
        }
        if is_taken(self.env, self.config, self.draft, ordinal) {
            return true;
        }
        self.found = ordinal;
        false
    }
}

/// Whether the draft's destination is on a port, as the table of flows tells.
#[inline(always)]
fn is_taken<E: Env>(env: &E, config: &Config, draft: Draft, ordinal: u32) -> bool {
    let Some(port) = config.port_set.port(ordinal) else {
        return true;
    };
    let Ok(record) = draft.record(env) else { return true };
    let facts = record.facts();
    let key = FlowKey::new(facts.transport, facts.external, port, facts.remote, facts.remote_port);
    env.find(Side::Outside, &key).is_some()
}

/// From one look to the next, one of eight by chance: primes that divide the size of no port set (a power of two by a power of two
/// less one), far from one, because connections that close together lie side by side. Were it the same each time, then what is
/// left over after many searches would lie just where the next ones do not look.
#[inline(always)]
const fn stride(chance: u32) -> u32 {
    match chance & 7 {
        0 => 97,
        1 => 101,
        2 => 103,
        3 => 107,
        4 => 109,
        5 => 113,
        6 => 131,
        _ => 137,
    }
}

/// Looks for a port whose session with the draft's destination is over in all but name, the one that was used longest ago.
struct Reclaim<'a, E> {
    env: &'a E,
    config: &'a Config,
    transport: Transport,
    now: Tick,
    /// The destination's key in OUTSIDE, the port of each look filled in.
    key: FlowKey,
    next: u32,
    stride: u32,
    looked: Tally,
    oldest: Tick,
    found: u32,
}

impl<E: Env> Search for Reclaim<'_, E> {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let ordinal = self.next;
        self.next = ordinal
            .wrapping_add(self.stride)
            .checked_rem(self.config.ports)
            .unwrap_or(0);
        let is_enough = !self.looked.is_within(self.now.0, ENOUGH);
        if is_enough && self.found != NONE {
            return false;
        }
        // On a mapping's port the session would end for nothing: the port stays the mapping's.
        let state = self.env.port(self.transport, ordinal).map(Word::load);
        if !state.is_some_and(|word| PortState::at(word, self.now).is_sharable()) {
            return true;
        }
        let Some(port) = self.config.port_set.port(ordinal) else {
            return true;
        };
        self.key.local_port = port.to_bytes();
        if let Some(found) = self.env.find(Side::Outside, &self.key)
            && let Some(record) = self.env.session(found.slot)
        {
            let state = record.state();
            let idle = self.now.since(state.used);
            if state.generation == found.generation
                && table::is_over_in_all_but_name(self.config, state, self.now)
                && (self.found == NONE || idle > self.oldest)
            {
                self.found = ordinal;
                self.oldest = idle;
            }
        }
        true
    }
}

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
            Source::Usable => env.part(Part::FindUsable, draft).0,
            Source::Over => env.part(Part::FindOver, draft).0,
        };
        if ordinal == NONE || self.source == Source::Own {
            match self.source {
                Source::Own => self.source = Source::Usable,
                Source::Usable => self.source = Source::Over,
                Source::Over => return false,
            }
        }
        if ordinal == NONE || (self.source == Source::Over && !end_over(env, config, draft, ordinal)) {
            return true;
        }
        match claim(env, config, draft, ordinal) {
            Ok(true) => {
                self.ended = 0;
                false
            }
            Ok(false) => true,
            Err(reason) => {
                self.ended = reason.number();
                false
            }
        }
    }
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

/// The fingerprint of a record's destination, as a number; a function of its own for the sake of the stack.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fingerprint(config: &Config, record: &Session) -> u64 {
    let facts = record.facts();
    Fingerprint::new(config, facts.transport, facts.remote, facts.remote_port).0
}

/// A port that the draft's session can share, or [`NONE`].
#[inline(always)]
pub fn find_usable<E: Env>(env: &E, config: &Config, draft: Draft) -> u32 {
    match find_certain(env, config, draft) {
        UNCLEAR => env.part(Part::FindUnclear, draft).0,
        ordinal => ordinal,
    }
}

/// The same, or [`UNCLEAR`]; a function of its own for the sake of the stack.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn find_certain<E: Env>(env: &E, config: &Config, draft: Draft) -> u32 {
    let Ok(record) = draft.record(env) else { return NONE };
    let facts = record.facts();
    let destination = Fingerprint(fingerprint(config, record));
    let mut search = SharedSearch {
        env,
        transport: facts.transport,
        now: facts.created,
        destination,
        row: destination.row(config),
        walk: Walk::new(env, config),
        spare_free: config.endpoint_independent(facts.transport),
        looked: Tally::from(facts.created.0),
        passed_over: Tally::from(facts.created.0),
        unclear: Tally::from(facts.created.0),
        free: NONE,
        found: NONE,
    };
    let looks = search.walk.looks();
    env.search(looks, &mut search);
    if search.found != NONE {
        search.found
    } else if !search.unclear.is_at_most(facts.created.0, 0) {
        UNCLEAR
    } else {
        search.free
    }
}

/// The same among ports of which only the table of flows can tell.
#[inline(always)]
pub fn find_unclear<E: Env>(env: &E, config: &Config, draft: Draft) -> u32 {
    let Ok(record) = draft.record(env) else { return NONE };
    let facts = record.facts();
    let destination = Fingerprint(fingerprint(config, record));
    let mut search = UnclearSearch {
        env,
        config,
        transport: facts.transport,
        now: facts.created,
        destination,
        row: destination.row(config),
        draft,
        walk: Walk::new(env, config),
        looked_up: Tally::from(facts.created.0),
        free: NONE,
        found: NONE,
    };
    let looks = search.walk.looks();
    env.search(looks, &mut search);
    if search.found == NONE {
        search.free
    } else {
        search.found
    }
}

/// A port whose session with the draft's destination is over in all but name, or [`NONE`].
///
/// The protocol counts as short of ports from here on.
#[inline(always)]
pub fn find_over<E: Env>(env: &E, config: &Config, draft: Draft) -> u32 {
    let Ok(record) = draft.record(env) else { return NONE };
    let facts = record.facts();
    pressure::note(env, facts.transport, facts.created);
    let chance = env.random();
    let mut reclaim = Reclaim {
        env,
        config,
        transport: facts.transport,
        now: facts.created,
        key: FlowKey::new(
            facts.transport,
            facts.external,
            Port(0),
            facts.remote,
            facts.remote_port,
        ),
        next: (chance >> 3).checked_rem(config.ports).unwrap_or(0),
        stride: stride(chance),
        looked: Tally::from(facts.created.0),
        oldest: Tick(0),
        found: NONE,
    };
    let looks = if config.ports <= FEW_PORTS {
        RECLAIM_LOOKS
    } else {
        RECLAIM_LOOKS / 3
    };
    env.search(looks, &mut reclaim);
    reclaim.found
}

/// Ends the session that the draft's destination has on that port; false where it has been used or ended since.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn end_over<E: Env>(env: &E, config: &Config, draft: Draft, ordinal: u32) -> bool {
    let Some(port) = config.port_set.port(ordinal) else {
        return false;
    };
    let Ok(record) = draft.record(env) else { return false };
    let facts = record.facts();
    let key = FlowKey::new(facts.transport, facts.external, port, facts.remote, facts.remote_port);
    table::end_finished(env, config, &key, facts.created)
}

/// Takes a share of one port: `Ok(false)` where it cannot be had.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn claim<E: Env>(env: &E, config: &Config, draft: Draft, ordinal: u32) -> Result<bool, Reason> {
    let record = draft.record(env)?;
    let facts = record.facts();
    let destination = Fingerprint::new(config, facts.transport, facts.remote, facts.remote_port);
    let (Some(word), Some(cell), Some(external_port), Ok(short)) = (
        env.port(facts.transport, ordinal),
        env.overlap(destination.row(config).wrapping_add(ordinal)),
        config.port_set.port(ordinal),
        u16::try_from(ordinal),
    ) else {
        return Ok(false);
    };
    let share = port::take_share(word, facts.created);
    if share == Share::Refused {
        return Ok(false);
    }
    // Whoever is the first or the last says so, whether its session comes to be or not: the others count on it.
    if share == Share::First {
        env.raise(Gauge::Shared(facts.transport));
    }
    record.set_port(external_port, short);
    // Before the entry: who finds the cell usable finds no entry.
    overlap::add(cell, destination);
    match env.part(Part::EnterOutside, draft).result() {
        Ok(()) => Ok(true),
        Err(reason) => {
            overlap::remove(cell, destination);
            if port::give_share(word) {
                env.lower(Gauge::Shared(facts.transport));
            }
            if matches!(reason, Reason::Contended) {
                Ok(false)
            } else {
                Err(reason)
            }
        }
    }
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
