//! Returning what has expired, and ending what an operator wants ended.
//!
//! Correctness does not need it (an expired record is absent to every packet); memory and gauges do. The kernel runs it
//! from a timer, a slice of the table at a time.

use super::{
    session::{Facts, Session},
    table::{self, Ending},
};
use crate::{
    env::{Env, Search},
    layout::{Config, SweepOrder},
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
        let ending = if state.is_expired(&self.config.timeouts, self.now) {
            Ending::Expired(self.now)
        } else if self.order.is_some_and(|order| is_meant(order, record)) {
            Ending::Flushed
        } else {
            return true;
        };
        if end(self.env, self.config, slot, ending) {
            self.ended = self.ended.wrapping_add(1);
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
        Ending::Expired(now) => state.is_expired(&config.timeouts, now),
        Ending::Flushed => true,
    };
    still && state.phase.is_live() && table::end(env, config, slot, record, state, ending)
}

/// Whether an order to flush means this record. A mapping has no remote: an order that names one leaves it.
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
