//! Owns how often something is tried that may fail, or be undone, again and again.

use std::time::{Duration, Instant};

/// The first wait; each next one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_mins(1);

/// The times of a thing that is tried: at once, and then after waits that become longer while it has to be tried often.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    wait: Duration,
}

impl Pace {
    /// Nothing was tried yet.
    pub(super) const NEVER: Self = Self {
        last: None,
        wait: Duration::ZERO,
    };

    /// When it may be tried next; none where that was so long ago that it may at any time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.last.map(|last| last + self.wait)
    }

    /// Whether it may be tried now; if so, that is noted.
    pub(super) fn may_begin(&mut self, now: Instant) -> bool {
        if self.next().is_some_and(|next| now < next) {
            return false;
        }
        let is_calm = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= 2 * self.wait + FIRST * 10);
        self.wait = if is_calm { FIRST } else { (self.wait * 2).min(LONGEST) };
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_less_and_less() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let tried: Vec<u64> = (0..400)
            .filter(|second| pace.may_begin(begin + Duration::from_secs(*second)))
            .collect();
        assert_eq!(tried, [0, 1, 2, 4, 8, 16, 32, 64, 124, 184, 244, 304, 364]);
    }

    #[test]
    fn after_a_calm_time_it_is_tried_at_once() {
        let begin = Instant::now();
        let at = |second| begin + Duration::from_secs(second);
        let mut pace = Pace::default();
        for second in [0, 1, 3] {
            assert!(pace.may_begin(at(second)));
        }
        assert!(!pace.may_begin(at(4)));
        assert!(pace.may_begin(at(60)));
        assert!(pace.may_begin(at(61)));
    }
}
