//! What was refused a moment ago: a host that asks again for the same destination is refused without a search.

use super::overlap::Fingerprint;
use crate::{
    env::Env,
    layout::{Config, REFUSALS},
    time::Tick,
    word::Word,
};

/// Lowest bit of the tag: it is not the first time within [`MEMORY`].
const AGAIN: u32 = 1;
/// How long after a refusal another one of the same host and destination counts as the second: retransmissions of a SYN come
/// after 1, 3 and 7 seconds.
const MEMORY: Tick = Tick::at_least_seconds(8);

/// A host and the destination it was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    index: u32,
    tag: u32,
}

impl Refusal {
    /// Of a LAN host towards a destination.
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "index and tag are the two halves of the hash"
    )]
    pub const fn new(config: &Config, inside: [u8; 4], destination: Fingerprint) -> Self {
        let [a, b, c, d] = inside;
        let hash = destination.with(config, u64::from_be_bytes([a, b, c, d, 0, 0, 0, 0])).0;
        Self {
            index: hash as u32 & (REFUSALS.wrapping_sub(1)),
            tag: (hash >> 32) as u32 & !AGAIN,
        }
    }

    /// Whether it was less than a second ago.
    #[inline(always)]
    pub fn is_recent<E: Env>(self, env: &E, now: Tick) -> bool {
        env.refusal(self.index).is_some_and(|word| {
            let (tag, then) = split(word);
            tag & !AGAIN == self.tag && now.since(then) < Tick::STALE && then != Tick(0)
        })
    }

    /// Whether the last one came some seconds after another: the host has tried again, and there is still nothing for it.
    #[inline(always)]
    pub fn is_repeated<E: Env>(self, env: &E) -> bool {
        env.refusal(self.index)
            .is_some_and(|word| split(word).0 == self.tag | AGAIN)
    }

    /// Remembers it.
    #[inline(always)]
    pub fn note<E: Env>(self, env: &E, now: Tick) {
        if let Some(word) = env.refusal(self.index) {
            let (tag, then) = split(word);
            let again = tag & !AGAIN == self.tag && then != Tick(0) && now.since(then) <= MEMORY;
            let tag = if again { self.tag | AGAIN } else { self.tag };
            let [a, b, c, d] = tag.to_be_bytes();
            let [e, f, g, h] = now.0.to_be_bytes();
            word.store(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        }
    }
}

#[inline(always)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the two halves")]
fn split(word: &Word) -> (u32, Tick) {
    let word = word.load();
    ((word >> 32) as u32, Tick(word as u32))
}
