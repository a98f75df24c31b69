//! The searches for a port: what is looked at, in which order, and when it is enough.
//!
//! Every search is bounded and begins at a random place. Sets of up to [`MAX_LOOKS`] ports (all shared addresses in use: 240,
//! 1008) are searched whole, so nothing is refused while a usable port exists; of a larger set 32 runs of 8 ports are
//! searched, and where a fraction `f` of it is unusable that fails with a probability of about `f^32`. Ports of which only
//! the table of flows can tell are looked at where no other will do, and looked up [`LOOKUPS`] times at most; it takes two
//! destinations that fill the set and fall into one row of [`overlap`] for that to matter.

use crate::{
    env::{Env, Search, Side, Tally},
    layout::{Config, FlowKey, Transport},
    nat::{
        overlap::{self, Cell, Fingerprint},
        port::PortState,
        pressure,
        session::Session,
        table::{self, Draft},
    },
    time::Tick,
    wire::port::Port,
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
/// No port.
pub(super) const NONE: u32 = u32::MAX;
/// No port, but some of which only the table of flows can tell.
pub const UNCLEAR: u32 = NONE - 1;

/// A walk around the set from a random place.
pub(super) struct Walk {
    next: u32,
    end: u32,
    size: u32,
    /// From the last of a run of neighbours to the first of the next one.
    leap: u32,
}

impl Walk {
    #[inline(always)]
    pub(super) fn new<E: Env>(env: &E, config: &Config) -> Self {
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
    pub(super) fn looks(&self) -> u32 {
        if self.size <= MAX_LOOKS {
            self.size
        } else {
            LEAPING_LOOKS
        }
    }

    #[inline(always)]
    pub(super) fn next(&mut self) -> u32 {
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
    /// The last of them.
    unclear_ordinals: Few,
    /// The first that was passed over.
    free: u32,
    found: u32,
}

/// The last four of any number of ordinals below 65,535, sixteen bits each. How many there are is counted elsewhere.
#[derive(Clone, Copy)]
struct Few(u64);

impl Few {
    const MOST: u32 = 4;

    #[inline(always)]
    fn note(&mut self, ordinal: u32) {
        self.0 = self.0 << 16 | u64::from(ordinal & 0xffff);
    }

    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "sixteen bits are left by the mask")]
    const fn take(&mut self) -> u32 {
        let ordinal = (self.0 & 0xffff) as u32;
        self.0 >>= 16;
        ordinal
    }
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
                self.unclear_ordinals.note(next);
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
            if self.passed_over.is_at_most(self.now.0, 0) {
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
        if cell == Cell::Taken || !is_sharable(self.env, self.transport, ordinal, self.now) {
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

/// Whether a port is free or shared, so that one more session can have it.
#[inline(always)]
fn is_sharable<E: Env>(env: &E, transport: Transport, ordinal: u32, now: Tick) -> bool {
    env.port(transport, ordinal)
        .is_some_and(|word| PortState::at(word.load(), now).is_sharable())
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
        if !is_sharable(self.env, self.transport, ordinal, self.now) {
            return true;
        }
        let Some(port) = self.config.port_set.port(ordinal) else {
            return true;
        };
        self.key.local_port = port.to_bytes();
        if let Some((_, state)) = table::find(self.env, Side::Outside, &self.key) {
            let idle = self.now.since(state.used);
            if table::is_over_in_all_but_name(self.config, state, self.now)
                && (self.found == NONE || idle > self.oldest)
            {
                self.found = ordinal;
                self.oldest = idle;
            }
        }
        true
    }
}

/// The fingerprint of a record's destination, as a number; a function of its own for the sake of the stack.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn fingerprint(config: &Config, record: &Session) -> u64 {
    let facts = record.facts();
    Fingerprint::new(config, facts.transport, facts.remote, facts.remote_port).0
}

/// A port that the draft's session can share, [`NONE`] or [`UNCLEAR`].
#[inline(always)]
pub fn find_usable<E: Env>(env: &E, config: &Config, draft: Draft) -> u32 {
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
        // Of none so far, and a number that the verifier does not know: it would go through the search with and without one.
        unclear_ordinals: Few(facts.created.0.into()),
        free: facts.created.0,
        found: NONE,
    };
    let looks = search.walk.looks();
    env.search(looks, &mut search);
    if search.found != NONE {
        return search.found;
    }
    if !search.unclear.is_at_most(facts.created.0, Few::MOST) {
        return UNCLEAR;
    }
    // So few need no second way through the set.
    let mut few = search.unclear_ordinals;
    for number in 0..Few::MOST {
        let ordinal = few.take();
        if !search.unclear.is_at_most(facts.created.0, number)
            && is_sharable(env, facts.transport, ordinal, facts.created)
            && !is_taken(env, config, draft, ordinal)
        {
            return ordinal;
        }
    }
    if search.passed_over.is_at_most(facts.created.0, 0) {
        NONE
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
