//! Whether ports or records are short at the moment: then sessions that are over in all but name end sooner.
//!
//! Short is: something was refused, or more is in use than the configured share, within the last seconds. Only closed, reset,
//! opening and query sessions have a shorter idle time then ([`Config::pressed`]); nothing that is in use is ever ended to
//! make room (RFC 6888 REQ-11).

use crate::{
    env::Env,
    layout::{Config, Gauge, Timeouts, Transport},
    time::Tick,
    word::Word,
};

/// How long a shortage is remembered.
const MEMORY: Tick = Tick::at_least_seconds(8);

/// The idle times that hold for a protocol at the moment.
#[inline(always)]
pub fn timeouts<'a, E: Env>(env: &E, config: &'a Config, transport: Transport, now: Tick) -> &'a Timeouts {
    if is_on(env, transport, now) {
        &config.pressed
    } else {
        &config.timeouts
    }
}

/// Whether the protocol has been short of something.
#[inline(always)]
pub fn is_on<E: Env>(env: &E, transport: Transport, now: Tick) -> bool {
    age(env.gauge(Gauge::Pressed(transport)).map_or(0, Word::load), now).is_some()
}

/// How long ago the shortage was that a gauge tells of, where it is remembered.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "`note` writes a tick, which has 32 bits"
)]
pub const fn age(noted: u64, now: Tick) -> Option<Tick> {
    let then = noted as u32;
    let age = now.since(Tick(then));
    if then != 0 && age.0 <= MEMORY.0 {
        Some(age)
    } else {
        None
    }
}

/// Notes that the protocol is short of something.
#[inline(always)]
pub fn note<E: Env>(env: &E, transport: Transport, now: Tick) {
    if let Some(word) = env.gauge(Gauge::Pressed(transport)) {
        let [a, b, c, d] = now.0.to_be_bytes();
        word.store(u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]));
    }
}

/// Looks whether more is in use than the configured share, after a session was made.
#[inline(always)]
pub fn measure<E: Env>(env: &E, config: &Config, transport: Transport, now: Tick) {
    let read = |gauge| env.gauge(gauge).map_or(0, Word::load);
    let records = read(Gauge::Records);
    // Where ports are shared by destination, one in use is not one less.
    let ports = read(Gauge::Exclusive(transport)).wrapping_add(read(Gauge::Shared(transport)));
    let ports_short = config.endpoint_independent(transport) && ports >= u64::from(config.ports_high);
    if ports_short || records >= u64::from(config.sessions_high) {
        note(env, transport, now);
    }
}

/// Whether there is hardly a free record left: a flow without a session may need two.
#[inline(always)]
pub fn is_full<E: Env>(env: &E, config: &Config) -> bool {
    let records = env.gauge(Gauge::Records).map_or(0, Word::load);
    records.saturating_add(2) > u64::from(config.sessions)
}
