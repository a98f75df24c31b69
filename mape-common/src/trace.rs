//! What the programs tell whoever follows packets: the gate's word, what is to be told and how much of it, an event's bytes.
//!
//! Nothing is told unless a reader has said so, with a time at which it ends by itself: a reader that is killed leaves nothing
//! switched on for long.

use crate::{
    time::Tick,
    verdict::{Direction, Reason},
    word::Word,
};

/// The word of GATE: `traced until << 32 | flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate(pub u64);

impl Gate {
    /// Packets are forwarded.
    pub const OPEN: u64 = 1;
    /// What becomes of packets is told.
    pub const TRACED: u64 = 2;
    /// Packets are translated at the tunnel device.
    pub const SLOW: u64 = 4;
    /// The bits that say what is done with packets.
    const DONE: u64 = Self::OPEN | Self::SLOW;

    /// Whether packets are translated at the tunnel device.
    #[inline(always)]
    pub const fn is_slow_open(self) -> bool {
        self.0 & Self::SLOW != 0
    }

    /// Whether packets are forwarded.
    #[inline(always)]
    pub const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    /// Whether somebody wants to be told, be it in time or too late.
    #[inline(always)]
    pub const fn is_traced(self) -> bool {
        self.0 & Self::TRACED != 0
    }

    /// Whether the time is over for which somebody wanted to be told.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the high half is a tick")]
    pub const fn is_over(self, now: Tick) -> bool {
        let left = Tick((self.0 >> 32) as u32).0.wrapping_sub(now.0);
        left > u32::MAX / 2
    }

    /// The same gate, traced until then.
    #[inline(always)]
    #[must_use]
    pub const fn traced_until(self, end: Tick) -> Self {
        let [a, b, c, d] = end.0.to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, 0, 0, 0, 0]) | Self::TRACED | (self.0 & Self::DONE))
    }

    /// The same gate, not traced.
    #[inline(always)]
    #[must_use]
    pub const fn untraced(self) -> Self {
        Self(self.0 & Self::DONE)
    }
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A packet that was asked for.
    Packet,
    /// A packet that was refused because something ran out: told beside what was asked for (RFC 6888 REQ-11 c).
    Alert,
}

impl Kind {
    /// The kind of a packet with that outcome, unless it is asked for as a packet.
    #[inline(always)]
    pub const fn of(outcome: u32) -> Self {
        const PORTS: u32 = Reason::PortsExhausted.number();
        const SESSIONS: u32 = Reason::SessionsExhausted.number();
        const HOST: u32 = Reason::HostSessions.number();
        match outcome {
            PORTS | SESSIONS | HOST => Self::Alert,
            _ => Self::Packet,
        }
    }
}

/// What is to be told, and how much of it has been. Words: outcomes wanted outbound and inbound, a bit each; packets a tick;
/// `tick << 32 | told` of packets and of alerts; events that were not told.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Watch([Word; 6]);

impl Watch {
    /// Alerts in a tick (0.27 s).
    const ALERTS: u64 = 4;

    /// The words by which user space asks for outcomes (a bit each, outbound and inbound) and so many packets a tick.
    pub const fn words(wanted: [u64; 2], packets_a_tick: u32) -> [u64; 6] {
        let [outbound, inbound] = wanted;
        let [a, b, c, d] = packets_a_tick.to_be_bytes();
        [outbound, inbound, u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]), 0, 0, 0]
    }

    /// Whether a packet with that outcome is to be told, and as what; it counts as told then.
    #[inline(always)]
    pub fn take(&self, direction: Direction, outcome: u32, now: Tick) -> Option<Kind> {
        let [outbound, inbound, limit, packets, alerts, _] = &self.0;
        let wanted = match direction {
            Direction::Outbound => outbound.load(),
            Direction::Inbound => inbound.load(),
        };
        let kind = Kind::of(outcome);
        let taken = if matches!(kind, Kind::Alert) {
            one_of(alerts, Self::ALERTS, now)
        } else if wanted & (1 << (outcome & 63)) != 0 {
            one_of(packets, limit.load(), now)
        } else {
            return None;
        };
        if taken {
            Some(kind)
        } else {
            self.suppress();
            None
        }
    }

    /// Counts an event that could not be told.
    #[inline(always)]
    pub fn suppress(&self) {
        let [.., suppressed] = &self.0;
        suppressed.add(1);
    }

    /// Events that were not told.
    #[inline(always)]
    pub fn suppressed(&self) -> u64 {
        let [.., suppressed] = &self.0;
        suppressed.load()
    }
}

/// Takes one of those that a tick has.
#[inline(always)]
fn one_of(word: &Word, limit: u64, now: Tick) -> bool {
    let tick = u64::from(now.0) << 32;
    // A failure means that another processor took one; four in a row do not happen by chance.
    for _ in 0..4 {
        let old = word.load();
        let taken = if old >> 32 == tick >> 32 { old & 0xffff_ffff } else { 0 };
        if taken >= limit {
            return false;
        }
        if word.compare_exchange(old, tick | taken.wrapping_add(1)) {
            return true;
        }
    }
    false
}

/// Bytes of a frame that an event holds: Ethernet, IPv6, IPv4, ICMP, and the packet that an error quotes.
pub const SNAP: usize = 128;
const _: () = assert!(SNAP.is_power_of_two());

/// One event, as it stands in EVENTS. Words: nanoseconds since boot; length as it came and as it is, 32 bits each;
/// interface it came by and events not told so far (modulo 2³²); direction, kind, outcome, answered, a byte each, and
/// how many bytes of the frame are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    words: [u64; 4],
    frame: [u8; SNAP],
}

/// What an event says beside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Nanoseconds since boot.
    pub nanos: u64,
    /// Bytes of the frame as it came.
    pub came: u32,
    /// Bytes of the frame as it leaves, or as it was refused.
    pub len: u32,
    /// The interface it came by.
    pub ifindex: u32,
    /// Events not told since the reader began, modulo 2³².
    pub suppressed: u32,
    /// Which way.
    pub direction: Direction,
    /// Why it is told.
    pub kind: Kind,
    /// Its counter.
    pub outcome: u32,
    /// Turned into an answer to its sender.
    pub answered: bool,
    /// How many bytes of the frame the event holds.
    pub captured: u32,
}

const fn high_low(high: u32, low: u32) -> u64 {
    let [a, b, c, d] = high.to_be_bytes();
    let [e, f, g, h] = low.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Facts {
    /// As an event's words.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 4] {
        let direction = match self.direction {
            Direction::Outbound => 0,
            Direction::Inbound => 1,
        };
        let kind = match self.kind {
            Kind::Packet => 0,
            Kind::Alert => 1,
        };
        let answered = if self.answered { 1 } else { 0 };
        let [.., outcome] = self.outcome.to_be_bytes();
        [
            self.nanos,
            high_low(self.came, self.len),
            high_low(self.ifindex, self.suppressed),
            high_low(u32::from_be_bytes([direction, kind, outcome, answered]), self.captured),
        ]
    }

    #[cfg(any(test, feature = "host"))]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the halves of words"
    )]
    const fn from_words(words: [u64; 4]) -> Self {
        let [nanos, lengths, place, rest] = words;
        let [direction, kind, outcome, answered, ..] = rest.to_be_bytes();
        Self {
            nanos,
            came: (lengths >> 32) as u32,
            len: lengths as u32,
            ifindex: (place >> 32) as u32,
            suppressed: place as u32,
            direction: if direction == 0 {
                Direction::Outbound
            } else {
                Direction::Inbound
            },
            kind: if kind == 0 { Kind::Packet } else { Kind::Alert },
            outcome: outcome as u32,
            answered: answered != 0,
            captured: rest as u32,
        }
    }
}

impl Event {
    /// Bytes of an event.
    pub const LEN: usize = 160;

    /// Offset of the frame's first byte.
    pub const FRAME: usize = 32;

    /// The event that stands in the ring buffer, and the first bytes of its frame; none where it is no event.
    #[cfg(any(test, feature = "host"))]
    pub fn read(bytes: &[u8]) -> Option<(Facts, &[u8])> {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.get(..Self::FRAME)?.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().ok()?);
        }
        let facts = Facts::from_words(words);
        let frame = bytes.get(Self::FRAME..Self::LEN)?;
        Some((facts, frame.get(..usize::try_from(facts.captured).ok()?)?))
    }
}

const _: () = assert!(size_of::<Event>() == Event::LEN);
const _: () = assert!(core::mem::offset_of!(Event, frame) == Event::FRAME);
const _: () = assert!(size_of::<Watch>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(words: [u64; 6]) -> Watch {
        Watch(words.map(Word::new))
    }

    #[test]
    fn tracing_ends_by_itself_and_leaves_the_gate_as_it_is() {
        for open in [Gate(0), Gate(Gate::SLOW), Gate(Gate::OPEN | Gate::SLOW)] {
            assert!(!open.is_traced());
            let traced = open.traced_until(Tick(1_000));
            assert!(traced.is_traced());
            assert_eq!(
                (traced.is_open(), traced.is_slow_open()),
                (open.is_open(), open.is_slow_open())
            );
            assert!(!traced.is_over(Tick(999)) && !traced.is_over(Tick(1_000)));
            assert!(traced.is_over(Tick(1_001)));
            assert_eq!(traced.untraced(), open);
        }
        assert!(
            !Gate(0).traced_until(Tick(2)).is_over(Tick(u32::MAX)),
            "across the clock's end"
        );
    }

    #[test]
    fn what_is_not_asked_for_is_not_told() {
        let watch = watch(Watch::words([1 << 0 | 1 << 33, 0], 10));
        assert_eq!(watch.take(Direction::Outbound, 0, Tick(1)), Some(Kind::Packet));
        assert_eq!(watch.take(Direction::Outbound, 33, Tick(1)), Some(Kind::Packet));
        assert_eq!(watch.take(Direction::Outbound, 34, Tick(1)), None);
        assert_eq!(watch.take(Direction::Inbound, 33, Tick(1)), None);
        assert_eq!(watch.suppressed(), 0);
    }

    #[test]
    fn a_flood_is_told_so_far_and_no_further_and_hides_no_alert() {
        let watch = watch(Watch::words([u64::MAX; 2], 10));
        let told = (0..1_000)
            .filter(|_| watch.take(Direction::Outbound, 0, Tick(7)).is_some())
            .count();
        assert_eq!((told, watch.suppressed()), (10, 990));
        assert_eq!(
            watch.take(Direction::Outbound, 0, Tick(8)),
            Some(Kind::Packet),
            "the next tick"
        );
        let exhausted = Reason::PortsExhausted.number();
        let alerts = (0..1_000)
            .filter(|_| watch.take(Direction::Outbound, exhausted, Tick(7)) == Some(Kind::Alert))
            .count();
        assert_eq!(alerts, 4);
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let facts = Facts {
            nanos: 123_456_789_012,
            came: 1_500,
            len: 1_540,
            ifindex: 7,
            suppressed: 99,
            direction: Direction::Inbound,
            kind: Kind::Alert,
            outcome: 39,
            answered: true,
            captured: 3,
        };
        let mut bytes: Vec<u8> = facts.words().into_iter().flat_map(u64::to_ne_bytes).collect();
        bytes.extend([1, 2, 3]);
        bytes.resize(Event::LEN, 0xEE);
        assert_eq!(Event::read(&bytes), Some((facts, &[1, 2, 3][..])));
        assert_eq!(Event::read(&bytes[..Event::LEN - 1]), None);
    }
}
