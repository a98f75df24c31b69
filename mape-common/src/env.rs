//! What the steps need from outside a frame: configuration, state, clock, routes. BPF maps in the kernel, memory on the host.

use crate::{
    hop::{Hop, Link, NextHop},
    layout::{Config, FlowKey, Gauge, HostUse, PermissionKey, RuleRef, SessionRef, Transport},
    map::rule::Rule,
    nat::{
        fragment,
        index::{self, Bucket},
        part::{Done, Part},
        session::{Facts, Session, State},
        table::{self, Draft, Ending},
    },
    time::Tick,
    word::Word,
};

/// Which of the two tables of flows; see [`index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Keyed by the LAN host's end.
    Inside,
    /// Keyed by the external end.
    Outside,
}

impl Side {
    /// Zero or one.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        match self {
            Self::Inside => 0,
            Self::Outside => 1,
        }
    }

    /// The side with that number; any but zero is outside.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        if number == 0 { Self::Inside } else { Self::Outside }
    }
}

/// Why an entry was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The key is there.
    Exists,
    /// No room.
    Full,
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It was not there.
    Anew,
    /// It was there and has been renewed.
    Again,
    /// No room.
    NoRoom,
}

/// What the kernel's routing table says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of this NIC to this neighbour.
    Resolved(Hop),
    /// Out of this NIC; the neighbour's MAC is not known, or the device has none (a tunnel).
    Unresolved {
        /// Kernel interface index.
        ifindex: u32,
    },
    /// To this machine, to nowhere, or by something that only the stack can do.
    Other,
}

impl Route {
    /// The device to leave by, whether the neighbour is known or not.
    #[inline(always)]
    pub const fn ifindex(&self) -> Option<u32> {
        match self {
            Self::Resolved(hop) => Some(hop.ifindex),
            Self::Unresolved { ifindex } => Some(*ifindex),
            Self::Other => None,
        }
    }
}

/// A search over numbered candidates, one call a candidate; see [`Env::search`].
pub trait Search {
    /// Looks at candidate `index`; true to go on, false when found.
    fn step(&mut self, index: u32) -> bool;
}

/// A count inside a [`Search`] that begins at a number which nobody knows: from zero, the kernel's verifier would go through the
/// search once for every value that the count can have.
#[derive(Clone, Copy, Debug)]
pub struct Tally(u32);

impl Tally {
    /// Nothing counted yet; the number to begin at is the caller's, such as the time.
    #[inline(always)]
    pub const fn from(begin: u32) -> Self {
        Self(begin)
    }

    /// Counts one; true while that is at most the limit-th since `begin`.
    #[inline(always)]
    pub const fn is_within(&mut self, begin: u32, limit: u32) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.is_at_most(begin, limit)
    }

    /// Counts so many.
    #[inline(always)]
    pub const fn count(&mut self, number: u32) {
        self.0 = self.0.wrapping_add(number);
    }

    /// Whether that is at most the limit-th since `begin`.
    #[inline(always)]
    pub const fn is_at_most(self, begin: u32, limit: u32) -> bool {
        self.0.wrapping_sub(begin) <= limit
    }
}

/// The mapping rules. Apart from the rest, because who tunnels and does not translate needs no more than these.
pub trait Rules {
    /// The forwarding rule whose IPv4 prefix holds an address, longest first, and the next hop towards its addresses.
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef>;
    /// The rule whose IPv6 prefix holds an address, longest first.
    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef>;
    /// A rule by index.
    fn rule(&self, index: u32) -> Option<&Rule>;
}

/// State and clock. Methods take `&self`: everything shared changes by single atomic operations.
pub trait Env: Rules {
    /// The configuration; none before it has been written.
    fn config(&self) -> Option<&Config>;
    /// Whether forwarding is switched on.
    fn is_gate_open(&self) -> bool;
    /// Whether the tunnel device translates: also while the fast path is switched off for a moment to be changed.
    #[inline(always)]
    fn is_slow_gate_open(&self) -> bool {
        self.is_gate_open()
    }
    /// The time.
    fn now(&self) -> Tick;
    /// A random number, hard to guess.
    fn random(&self) -> u32;

    /// A NIC by interface index.
    fn link(&self, ifindex: u32) -> Option<&Link>;
    /// A next hop by index.
    fn hop(&self, index: u16) -> Option<&NextHop>;
    /// What the routing table does with a packet that came in by `ifindex`.
    fn route(&self, ifindex: u32, source: [u8; 4], destination: [u8; 4]) -> Route;

    /// The same for IPv6.
    #[inline(always)]
    fn route6(&self, _ifindex: u32, _source: &[u8; 16], _destination: &[u8; 16]) -> Route {
        Route::Other
    }
    /// A word of NATIVE; see [`crate::step::native`].
    #[inline(always)]
    fn native(&self, _index: u32) -> Option<&Word> {
        None
    }

    /// A bucket of one of the tables of flows; see [`index`].
    fn bucket(&self, side: Side, index: u32) -> Option<&Bucket>;
    /// The live record of a flow; see [`index::find`].
    #[inline(always)]
    fn find(&self, side: Side, key: &FlowKey) -> Option<SessionRef>
    where
        Self: Sized,
    {
        index::find(self, side, key)
    }
    /// The live record of a flow and what it says, where that is seen at a glance; see [`index::glance`].
    #[inline(always)]
    fn glance(&self, config: &Config, side: Side, key: &FlowKey) -> Option<(SessionRef, State, Facts)>
    where
        Self: Sized,
    {
        index::glance(self, config, side, key)
    }
    /// Makes the entry of a record whose flow has none; see [`index::insert`].
    ///
    /// # Errors
    /// [`InsertError`]; nothing was changed.
    #[inline(always)]
    fn insert(&self, side: Side, slot: u32) -> Result<(), InsertError>
    where
        Self: Sized,
    {
        index::insert(self, side, slot)
    }
    /// Takes away the entry of a record; see [`index::remove`].
    #[inline(always)]
    fn remove(&self, side: Side, slot: u32)
    where
        Self: Sized,
    {
        index::remove(self, side, slot);
    }
    /// A record of the session table.
    fn session(&self, slot: u32) -> Option<&Session>;
    /// Takes a slot off the free list.
    fn take_slot(&self) -> Option<u32>;
    /// Puts a slot back.
    fn give_slot(&self, slot: u32);

    /// State of a port, by position in the set; see [`crate::nat::port`].
    fn port(&self, transport: Transport, ordinal: u32) -> Option<&Word>;
    /// A cell of the overlap table; see [`crate::nat::overlap`].
    fn overlap(&self, cell: u32) -> Option<&Word>;
    /// A remembered refusal; see [`crate::nat::refusal`].
    fn refusal(&self, index: u32) -> Option<&Word>;
    /// A record of a packet that comes in fragments, and the sender's count of them; see [`crate::nat::fragment`].
    fn fragment(&self, index: u32) -> Option<&fragment::Record>;
    /// When a remote host was last sent to from a mapping.
    fn permission(&self, key: &PermissionKey) -> Option<Tick>;
    /// Notes that a remote host may send to a mapping. Of several that note the same anew at once, one is told so.
    fn permit(&self, key: &PermissionKey, now: Tick) -> Noted;
    /// Takes a permission away; true where there was one.
    fn forbid(&self, key: &PermissionKey) -> bool;
    /// What the LAN hosts have that are counted at a place; see [`crate::nat::quota`].
    fn host_use(&self, place: u32) -> Option<&HostUse>;
    /// Does a part of opening a session; see [`Part`].
    #[inline(always)]
    fn part(&self, part: Part, draft: Draft) -> Done
    where
        Self: Sized,
    {
        part.run(self, draft)
    }
    /// Ends a live record; see [`table::end`].
    #[inline(always)]
    fn end(&self, slot: u32, state: State, ending: Ending) -> bool
    where
        Self: Sized,
    {
        table::end(self, slot, state, ending)
    }
    /// Tells the tunnel device where the packet at hand goes: far end, outer traffic class, flow label; true where it has
    /// listened. Only asked of devices that want to be told ([`Config::EXTERNAL_TUNNEL`]).
    #[inline(always)]
    fn lead(&self, _far_end: &[u8; 16], _traffic_class: u8, _label: u32) -> bool {
        true
    }
    /// A gauge.
    fn gauge(&self, gauge: Gauge) -> Option<&Word>;

    /// Calls `search` for 0, 1, … until it has found, at most `steps` times.
    fn search<S: Search>(&self, steps: u32, search: &mut S);

    /// Raises a gauge by one.
    #[inline(always)]
    fn raise(&self, gauge: Gauge) {
        if let Some(word) = self.gauge(gauge) {
            word.add(1);
        }
    }

    /// Lowers a gauge by one.
    #[inline(always)]
    fn lower(&self, gauge: Gauge) {
        if let Some(word) = self.gauge(gauge) {
            word.add(u64::MAX);
        }
    }
}
