//! Owns the conversation with a service manager (sd_notify); without one, nothing is said.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Who has started this process, and whether a sign of life is wanted.
pub(super) struct Service {
    every: Option<Duration>,
    told_at: Instant,
}

impl Service {
    pub(super) fn new() -> Self {
        Self {
            // Half of the time after which this process counts as hung.
            every: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            told_at: Instant::now(),
        }
    }

    /// The gateway forwards.
    pub(super) fn ready(status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is being read again.
    pub(super) fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// This process ends.
    pub(super) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    /// When a sign of life is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.every.map(|every| self.told_at + every)
    }

    /// Gives a sign of life if one is due.
    pub(super) fn alive(&mut self) {
        if self.due().is_some_and(|due| due <= Instant::now()) {
            self.told_at = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // A manager that cannot be told knows less; the gateway does not suffer.
    let _ = sd_notify::notify(states);
}
