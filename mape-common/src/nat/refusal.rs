//! What was refused a moment ago: a host that asks again for the same destination is refused without a search.

use super::overlap::Fingerprint;
use crate::{
    env::Env,
    layout::{Config, REFUSALS},
    time::Tick,
    word::Word,
};

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
            tag: (hash >> 32) as u32,
        }
    }

    /// Whether it was less than a second ago.
    #[inline(always)]
    pub fn is_recent<E: Env>(self, env: &E, now: Tick) -> bool {
        env.refusal(self.index).is_some_and(|word| {
            let (tag, then) = split(word);
            tag == self.tag && now.since(then) < Tick::STALE && then != Tick(0)
        })
    }

    /// Remembers it.
    #[inline(always)]
    pub fn note<E: Env>(self, env: &E, now: Tick) {
        if let Some(word) = env.refusal(self.index) {
            let [a, b, c, d] = self.tag.to_be_bytes();
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
