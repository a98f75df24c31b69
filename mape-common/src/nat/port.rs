//! The state of one port of the set for one protocol: a word that changes only by compare-and-swap.
//!
//! The high byte says what holds the port, the low half how many sessions share it. A port that nobody shares is free:
//! so giving a share back is one subtraction that cannot fail.

use crate::{time::Tick, word::Word};

/// What holds a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Nobody.
    Free,
    /// That many sessions, each with a destination of its own.
    Shared(u32),
    /// One LAN endpoint alone (its endpoint-independent mapping).
    Exclusive,
    /// Kept from translation: port 0, the box's own services.
    Reserved,
    /// One LAN endpoint, by an operator's word (a static forward).
    Static,
    /// Nobody's until then: a mapping was there that anybody could send to (RFC 6888 REQ-8).
    Quarantined(Tick),
}

const EXCLUSIVE: u64 = 1 << 56;
const RESERVED: u64 = 2 << 56;
const STATIC: u64 = 3 << 56;
const QUARANTINED: u64 = 4 << 56;

impl PortState {
    /// The state as it stands in PORTS.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Shared(count) => {
                let [a, b, c, d] = count.to_be_bytes();
                u64::from_be_bytes([0, 0, 0, 0, a, b, c, d])
            }
            Self::Exclusive => EXCLUSIVE,
            Self::Reserved => RESERVED,
            Self::Static => STATIC,
            Self::Quarantined(until) => {
                let [a, b, c, d] = until.0.to_be_bytes();
                QUARANTINED | u64::from_be_bytes([0, 0, 0, 0, a, b, c, d])
            }
        }
    }

    /// The state that a word of PORTS means.
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the low half is the count"
    )]
    pub const fn from_word(word: u64) -> Self {
        match word >> 56 {
            0 if word as u32 == 0 => Self::Free,
            0 => Self::Shared(word as u32),
            1 => Self::Exclusive,
            3 => Self::Static,
            4 => Self::Quarantined(Tick(word as u32)),
            _ => Self::Reserved,
        }
    }

    /// The state that a word of PORTS means at a time: a quarantine that is over is none.
    #[inline(always)]
    pub const fn at(word: u64, now: Tick) -> Self {
        let state = Self::from_word(word);
        if let Self::Quarantined(until) = state
            && until.since(now).0 == 0
        {
            return Self::Free;
        }
        state
    }

    /// Whether a session that shares its port may be put there.
    #[inline(always)]
    pub const fn is_sharable(self) -> bool {
        matches!(self, Self::Free | Self::Shared(_))
    }
}

/// Takes a free port for one endpoint; false where it is not free.
#[inline(always)]
#[must_use]
pub fn take_exclusive(port: &Word, now: Tick) -> bool {
    let word = port.load();
    matches!(PortState::at(word, now), PortState::Free) && port.compare_exchange(word, EXCLUSIVE)
}

/// Gives an exclusive port back; it stays unused until a time, or is free at once.
#[inline(always)]
pub fn give_exclusive(port: &Word, unused: Option<Tick>) {
    port.store(after(unused));
}

#[inline(always)]
const fn after(unused: Option<Tick>) -> u64 {
    match unused {
        Some(until) => PortState::Quarantined(until).to_word(),
        None => PortState::Free.to_word(),
    }
}

/// Puts a port that nobody uses into a state that an operator decides ([`PortState::Static`], [`PortState::Reserved`]), also
/// one in quarantine; false where somebody does.
#[inline(always)]
#[must_use]
pub fn take_for(port: &Word, state: PortState) -> bool {
    let word = port.load();
    let unused = matches!(PortState::from_word(word), PortState::Free | PortState::Quarantined(_));
    unused && port.compare_exchange(word, state.to_word())
}

/// Gives a port that is in such a state back, unused until a time or free at once; false where it is in another state.
#[inline(always)]
#[must_use]
pub fn give_from(port: &Word, state: PortState, unused: Option<Tick>) -> bool {
    port.compare_exchange(state.to_word(), after(unused))
}

/// What became of the wish for a share of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// It is the port's first.
    First,
    /// It is one of several.
    Another,
    /// The port is not to be shared, or too many processors want it at this moment.
    Refused,
}

/// Takes a share of a port.
#[inline(always)]
#[must_use]
pub fn take_share(port: &Word, now: Tick) -> Share {
    // Each failure means that another processor got its share in between; four in a row do not happen by chance.
    for _ in 0..4 {
        let word = port.load();
        match PortState::at(word, now) {
            PortState::Free if port.compare_exchange(word, PortState::Shared(1).to_word()) => return Share::First,
            PortState::Shared(count)
                if port.compare_exchange(word, PortState::Shared(count.saturating_add(1)).to_word()) =>
            {
                return Share::Another;
            }
            PortState::Exclusive | PortState::Reserved | PortState::Static | PortState::Quarantined(_) => {
                return Share::Refused;
            }
            PortState::Free | PortState::Shared(_) => {}
        }
    }
    Share::Refused
}

/// Gives a share back; true where it was the last.
#[inline(always)]
pub fn give_share(port: &Word) -> bool {
    port.add(u64::MAX) == PortState::Shared(1).to_word()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(1_000);

    #[test]
    fn a_port_in_quarantine_is_nobodys_until_it_is_over() {
        let port = Word::new(0);
        assert!(take_exclusive(&port, NOW));
        give_exclusive(&port, Some(Tick(1_010)));
        for now in [NOW, Tick(1_009)] {
            assert!(!take_exclusive(&port, now));
            assert_eq!(take_share(&port, now), Share::Refused);
        }
        assert_eq!(take_share(&port, Tick(1_010)), Share::First);
        assert!(give_share(&port));
        give_exclusive(&port, Some(Tick(1_010)));
        assert!(take_exclusive(&port, Tick(1_011)));
    }

    #[test]
    fn a_free_port_is_taken_alone_or_shared_but_never_both() {
        let port = Word::new(0);
        assert!(take_exclusive(&port, NOW));
        assert_eq!(take_share(&port, NOW), Share::Refused);
        assert!(!take_exclusive(&port, NOW));
        give_exclusive(&port, None);
        assert_eq!(take_share(&port, NOW), Share::First);
        assert_eq!(take_share(&port, NOW), Share::Another);
        assert!(!take_exclusive(&port, NOW));
        assert!(!give_share(&port));
        assert!(!take_exclusive(&port, NOW), "one share is still held");
        assert!(give_share(&port));
        assert!(take_exclusive(&port, NOW), "free again without anybody saying so");
    }

    #[test]
    fn what_an_operator_decides_waits_for_no_quarantine_and_takes_nothing_that_is_used() {
        for state in [PortState::Static, PortState::Reserved] {
            let port = Word::new(PortState::Quarantined(Tick(2_000)).to_word());
            assert!(take_for(&port, state));
            assert!(!take_for(&port, state) && !take_exclusive(&port, NOW));
            assert_eq!(take_share(&port, NOW), Share::Refused);
            assert!(!give_from(&port, PortState::Exclusive, None));
            assert!(give_from(&port, state, Some(Tick(1_001))));
            assert!(!take_exclusive(&port, NOW) && take_exclusive(&port, Tick(1_001)));
            assert!(!take_for(&port, state), "one endpoint holds it");
            give_exclusive(&port, None);
            assert_eq!(take_share(&port, NOW), Share::First);
            assert!(!take_for(&port, state), "shared");
        }
    }

    #[test]
    fn a_reserved_port_is_nobodys() {
        let port = Word::new(PortState::Reserved.to_word());
        assert!(!take_exclusive(&port, NOW));
        assert_eq!(take_share(&port, NOW), Share::Refused);
    }

    #[test]
    fn shares_taken_and_given_back_by_four_threads_leave_a_free_port() {
        let port = Word::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if take_share(&port, NOW) != Share::Refused {
                            give_share(&port);
                        }
                    }
                });
            }
        });
        assert_eq!(PortState::from_word(port.load()), PortState::Free);
    }
}
