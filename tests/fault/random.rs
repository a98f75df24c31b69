//! Owns numbers nobody has chosen: printed, and the same again with `MAPE_SEED`.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// xorshift64.
pub(crate) struct Random(u64);

impl Random {
    /// From `MAPE_SEED`, else from the clock.
    pub(crate) fn new() -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH);
        let clock = clock.map_or(1, |now| u64::from(now.subsec_nanos()));
        let given = env::var("MAPE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or(clock).max(1);
        println!("MAPE_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A moment before that, in steps of a microsecond.
    pub(crate) fn before(&mut self, end: Duration) -> Duration {
        let micros = u64::try_from(end.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.next() % micros)
    }
}
