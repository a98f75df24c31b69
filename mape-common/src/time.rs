//! The clock of the data path: ticks of 2²⁸ ns (0.268 s) since boot, made from nanoseconds by a shift.

/// Ticks of the monotonic clock since boot, or a span of them. 32 bits last 36 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// log2 of a tick in nanoseconds.
    pub const SHIFT: u32 = 28;
    /// A stamp older than this is written anew: about a second.
    pub const STALE: Self = Self(4);

    /// The tick of a time in nanoseconds since boot.
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "36 years fit")]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> Self::SHIFT) as u32)
    }

    /// The shortest span of whole ticks that is no shorter than `seconds`.
    ///
    /// One tick more than the quotient: a stamp says only in which tick something happened.
    pub const fn at_least_seconds(seconds: u32) -> Self {
        #[expect(clippy::as_conversions, reason = "widening, and From is not const")]
        let nanos = (seconds as u64).saturating_mul(1_000_000_000);
        Self(
            Self::from_nanos(nanos.saturating_add((1 << Self::SHIFT) - 1))
                .0
                .saturating_add(1),
        )
    }

    /// Ticks since `earlier`; zero if `earlier` is later (another processor read the clock a moment after us).
    #[inline(always)]
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        let span = self.0.wrapping_sub(earlier.0);
        // More than half the range back is not a wait of 18 years but a stamp from a moment ahead.
        if span > u32::MAX / 2 { Self(0) } else { Self(span) }
    }

    /// A time so long before this one that every idle time has passed since.
    #[inline(always)]
    #[must_use]
    pub const fn long_before(self) -> Self {
        Self(self.0.wrapping_sub(u32::MAX / 4))
    }

    /// Whether `then` is so long ago that only [`Self::long_before`] can have made it.
    #[inline(always)]
    pub const fn is_long_after(self, then: Self) -> bool {
        self.since(then).0 > u32::MAX / 8
    }

    /// Whole seconds, rounded down; for people.
    pub const fn seconds(self) -> u32 {
        #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "fits")]
        let seconds = (((self.0 as u64) << Self::SHIFT) / 1_000_000_000) as u32;
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::Tick;

    #[test]
    fn a_timeout_is_never_shorter_than_asked_for() {
        for seconds in [0, 1, 60, 240, 300, 7440, 1_000_000] {
            let span = u64::from(Tick::at_least_seconds(seconds).0 - 1) << Tick::SHIFT;
            assert!(span >= u64::from(seconds) * 1_000_000_000, "{seconds} s");
            assert!(
                span < u64::from(seconds) * 1_000_000_000 + (1 << Tick::SHIFT),
                "{seconds} s"
            );
        }
    }

    #[test]
    fn long_before_is_longer_ago_than_any_idle_time() {
        for now in [Tick(0), Tick(1_000), Tick(u32::MAX)] {
            assert!(
                now.since(now.long_before()) > Tick::at_least_seconds(100_000_000),
                "{now:?}"
            );
            assert!(now.is_long_after(now.long_before()), "{now:?}");
        }
    }

    #[test]
    fn a_stamp_from_the_future_is_no_time_ago() {
        assert_eq!(Tick(5).since(Tick(6)), Tick(0));
        assert_eq!(Tick(2).since(Tick(u32::MAX)), Tick(3));
    }
}
