//! What a record is at the moment, and since when: its state word.

use crate::{layout::Timeouts, time::Tick};

/// What a record is at the moment; live phases also choose the idle time. The number is the index into the timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// On the free list.
    Free = 0,
    /// Taken off the free list and being written.
    Building = 1,
    /// Ended; whoever ended it is deleting its table entries.
    Dead = 2,
    /// A static forward: a mapping that an operator made and only an operator ends. The first of the live phases.
    Static = 3,
    /// An ICMP echo session.
    Icmp = 4,
    /// A UDP session.
    Udp = 5,
    /// A UDP session with a query port (53, 123): shorter-lived.
    UdpQuery = 6,
    /// A UDP session that a remote host has opened and the LAN host has not answered: shorter-lived, and no use of its
    /// mapping (RFC 7857 §7).
    UdpUnanswered = 7,
    /// A TCP session that the LAN host has opened and nobody has answered.
    TcpOpening = 8,
    /// A TCP connection both sides of which have spoken.
    TcpEstablished = 9,
    /// The LAN host has sent FIN.
    TcpFinOutbound = 10,
    /// The remote host has sent FIN.
    TcpFinInbound = 11,
    /// Both have.
    TcpClosing = 12,
    /// A TCP session that a remote host has opened and the LAN host has not answered.
    TcpUnanswered = 13,
    /// One side has reset the connection, or somebody who claims to be it (RFC 7857 §2.2).
    TcpReset = 14,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 15] = [
        Self::Free,
        Self::Building,
        Self::Dead,
        Self::Static,
        Self::Icmp,
        Self::Udp,
        Self::UdpQuery,
        Self::UdpUnanswered,
        Self::TcpOpening,
        Self::TcpEstablished,
        Self::TcpFinOutbound,
        Self::TcpFinInbound,
        Self::TcpClosing,
        Self::TcpUnanswered,
        Self::TcpReset,
    ];

    /// The phase with this number; an unknown number is nothing that could be used.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::Building,
            3 => Self::Static,
            4 => Self::Icmp,
            5 => Self::Udp,
            6 => Self::UdpQuery,
            7 => Self::UdpUnanswered,
            8 => Self::TcpOpening,
            9 => Self::TcpEstablished,
            10 => Self::TcpFinOutbound,
            11 => Self::TcpFinInbound,
            12 => Self::TcpClosing,
            13 => Self::TcpUnanswered,
            14 => Self::TcpReset,
            _ => Self::Dead,
        }
    }

    /// The number, as it stands in the state word.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the discriminant of a repr(u8) enum")]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether packets may use the record.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self.number() >= Self::Static.number()
    }

    /// The idle time after which a record in this phase is over.
    #[inline(always)]
    pub const fn idle_time(self, timeouts: &Timeouts) -> Tick {
        match self {
            Self::Free | Self::Building | Self::Dead => Tick(0),
            // More than `since` ever gives.
            Self::Static => Tick(u32::MAX),
            Self::Icmp => timeouts.icmp,
            Self::Udp => timeouts.udp,
            Self::UdpQuery | Self::UdpUnanswered => timeouts.udp_query,
            Self::TcpOpening | Self::TcpUnanswered => timeouts.tcp_opening,
            Self::TcpClosing | Self::TcpReset => timeouts.tcp_closing,
            Self::TcpEstablished | Self::TcpFinOutbound | Self::TcpFinInbound => timeouts.tcp_established,
        }
    }

    /// Whether the LAN host has spoken: then an inbound packet, too, is a use of the session's mapping.
    #[inline(always)]
    pub const fn is_answered(self) -> bool {
        !matches!(self, Self::UdpUnanswered | Self::TcpUnanswered)
    }

    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Building => "building",
            Self::Dead => "dead",
            Self::Static => "static",
            Self::Icmp | Self::Udp => "open",
            Self::UdpQuery => "query",
            Self::TcpOpening => "opening",
            Self::TcpEstablished => "established",
            Self::TcpFinOutbound => "fin-sent",
            Self::TcpFinInbound => "fin-received",
            Self::TcpClosing => "closing",
            Self::UdpUnanswered | Self::TcpUnanswered => "unanswered",
            Self::TcpReset => "reset",
        }
    }
}

/// The state word, taken apart: `generation << 40 | phase << 32 | last used`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Counts the lives of the slot; 24 bits.
    pub generation: u32,
    /// What the record is.
    pub phase: Phase,
    /// When a packet last used it.
    pub used: Tick,
}

impl State {
    pub(super) const GENERATION_MASK: u32 = 0xff_ffff;

    /// Takes a word apart.
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "each part fits what is left after its shift"
    )]
    pub const fn from_word(word: u64) -> Self {
        Self {
            generation: (word >> 40) as u32,
            phase: Phase::from_number((word >> 32) as u8),
            used: Tick(word as u32),
        }
    }

    /// Whether packets may use a record with that word: its phase by number, since that by name takes a BPF program more than ten
    /// instructions.
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "as above")]
    pub(super) const fn is_live(word: u64) -> bool {
        let first = Phase::Static.number();
        ((word >> 32) as u8).wrapping_sub(first) <= Phase::TcpReset.number().wrapping_sub(first)
    }

    /// Puts the word together.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let [_, a, b, c] = self.generation.to_be_bytes();
        let [d, e, f, g] = self.used.0.to_be_bytes();
        u64::from_be_bytes([a, b, c, self.phase.number(), d, e, f, g])
    }

    /// Whether its idle time is over; a record that is not live has none.
    #[inline(always)]
    pub const fn is_expired(self, timeouts: &Timeouts, now: Tick) -> bool {
        // A stamp younger than stale is not written anew, so the last packet may have been that much later.
        let limit = self
            .phase
            .idle_time(timeouts)
            .0
            .saturating_add(Tick::STALE.0.saturating_sub(1));
        now.since(self.used).0 > limit
    }
}
