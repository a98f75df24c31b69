//! Returning what has expired, and ending what an operator wants ended.
//!
//! Correctness does not need it (an expired record is absent to every packet); memory and gauges do. The kernel runs it
//! from a timer, a slice of the table at a time.

use super::{
    pressure,
    session::{Facts, Phase, Session},
    table::{self, Ending},
};
use crate::{
    env::{Env, Search},
    layout::{Config, Gauge, SweepOrder, Transport},
    time::Tick,
    wire::port::Port,
};

/// A pass over a slice of the session table.
pub struct Sweep<'a, E> {
    /// State.
    pub env: &'a E,
    /// Configuration.
    pub config: &'a Config,
    /// What to end beside what has expired; none from the timer.
    pub order: Option<&'a SweepOrder>,
    /// First slot of the slice.
    pub first: u32,
    /// The time.
    pub now: Tick,
    /// Records ended so far.
    pub ended: u32,
}

impl<E: Env> Search for Sweep<'_, E> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        let slot = self.first.wrapping_add(index);
        let Some(record) = self.env.session(slot) else {
            return false;
        };
        let state = record.state();
        if !state.phase.is_live() {
            return true;
        }
        let ending = if table::is_over(self.env, self.config, record, state, self.now) {
            Ending::Expired(self.now)
        } else if !matches!(state.phase, Phase::Static) && self.order.is_some_and(|order| is_meant(order, record)) {
            Ending::Flushed(self.now)
        } else {
            return true;
        };
        if end(self.env, self.config, slot, ending) {
            self.ended = self.ended.wrapping_add(1);
        }
        true
    }
}

/// Records looked at before a new session is refused for want of one.
const LOOKS: u32 = 24;

/// Where hardly a record is free, ends one that is over in all but name, if a few looks find it.
///
/// Every protocol counts as short of records from then on, so that the sweeper ends the others within a second.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn make_room<E: Env>(env: &E) -> bool {
    let Some(config) = env.config().filter(|config| pressure::is_full(env, config)) else {
        return false;
    };
    let now = env.now();
    for transport in Transport::ALL {
        pressure::note(env, transport, now);
    }
    let mut room = Room {
        env,
        config,
        now,
        slot: env.random().checked_rem(config.sessions).unwrap_or(0),
        found: false,
    };
    env.search(LOOKS, &mut room);
    room.found
}

struct Room<'a, E> {
    env: &'a E,
    config: &'a Config,
    now: Tick,
    slot: u32,
    found: bool,
}

impl<E: Env> Search for Room<'_, E> {
    #[inline(always)]
    fn step(&mut self, _: u32) -> bool {
        let slot = self.slot;
        let after = slot.wrapping_add(1);
        self.slot = if after >= self.config.sessions { 0 } else { after };
        let over = self.env.session(slot).is_some_and(|record| {
            let state = record.state();
            state.phase.is_live() && state.is_expired(&self.config.pressed, self.now)
        });
        if over && end(self.env, self.config, slot, Ending::Expired(self.now)) {
            self.env.raise(Gauge::Reclaimed);
            self.found = true;
            return false;
        }
        true
    }
}

/// Ends the record in a slot, if it is still alive and, where it shall have expired, still expired.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn end<E: Env>(env: &E, config: &Config, slot: u32, ending: Ending) -> bool {
    let Some(record) = env.session(slot) else { return false };
    let state = record.state();
    let still = match ending {
        Ending::Expired(now) => table::is_over(env, config, record, state, now),
        Ending::Flushed(_) => true,
    };
    still && state.phase.is_live() && env.end(slot, state, ending)
}

/// Whether an order to flush means this record. A static forward is never meant: what an operator made, he ends by its name.
/// A mapping has no remote: an order that names one leaves it.
#[inline(always)]
fn is_meant(order: &SweepOrder, record: &Session) -> bool {
    order.flush != 0 && matches(order, &record.facts())
}

/// Whether the facts match the order's filter.
#[inline(always)]
pub fn matches(order: &SweepOrder, facts: &Facts) -> bool {
    let address = |wanted: [u8; 4], have: [u8; 4]| wanted == [0; 4] || wanted == have;
    let port = |wanted: [u8; 2], have: Port| wanted == [0; 2] || wanted == have.to_bytes();
    (order.protocol == 0 || order.protocol == facts.transport.protocol())
        && address(order.inside, facts.inside)
        && address(order.remote, facts.remote)
        && port(order.inside_port, facts.inside_port)
        && port(order.external_port, facts.external_port)
        && port(order.remote_port, facts.remote_port)
}
