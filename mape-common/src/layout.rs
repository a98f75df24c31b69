//! Every key and value of a map, as bytes: what the programs and user space must agree on.
//!
//! Addresses and MACs are bytes in network order, everything else is a number in the machine's order. Reserved bytes are
//! zero (hash keys compare every byte). A change of any type here, or of [`crate::nat::session::Session`],
//! [`crate::hop::NextHop`] or [`crate::map::rule::Rule`], raises [`LAYOUT_VERSION`]: pins of another version are refused.
#![cfg_attr(
    feature = "user",
    expect(unsafe_code, reason = "aya::Pod is a promise about bytes; each is asserted below")
)]

mod config;
pub mod maps;
mod order;
pub mod programs;

pub use self::{
    config::{Config, Filtering, OVERLAP_PORTS, Timeouts},
    order::{PortOrder, SweepOrder},
};
use crate::{map::rule::Rule, step::native, wire::port::Port, word::Word};

/// Raised with every change of a map's key or value; part of the pin path.
pub const LAYOUT_VERSION: u32 = 5;

/// The mark (`skb->mark`) of packets out of the tunnel that belong to a session, from the tunnel device on: a stateful firewall that
/// has seen nothing of their flow, because the fast path had it, can know them by that.
pub const MARK: u32 = 0x6d61_7065;

/// Sessions that the table holds unless configured otherwise.
pub const DEFAULT_SESSIONS: u32 = 65_536;
/// Next hops: the first [`STATIC_HOPS`] are written by user space (towards the tunnel's far ends), the others by the programs.
pub const NEXT_HOPS: u32 = 4_096;
/// Next hops towards the WAN, by index; 0 is the border relay's.
pub const STATIC_HOPS: u32 = 64;
/// Places at which what LAN hosts have is counted, a power of two; see `nat::quota`.
pub const LAN_HOSTS: u32 = 65_536;
/// Packets in fragments that can be on their way at once, a power of two.
pub const FRAGMENTS: u32 = 4_096;
/// Receive queues of a NIC of which fragments can be held, a power of two; see [`holder`].
pub const HOLDER_QUEUES: u32 = 16;
/// Remembered refusals, a power of two.
pub const REFUSALS: u32 = 4_096;
/// Words of NATIVE: one that says how long native IPv6 is forwarded, and the neighbours'; see `step::native`.
pub const NATIVE_WORDS: u32 = 1 + native::PLACES;
/// In HANDED: packets that a processor has handed on to another.
pub const HANDED_ON: u32 = 0;
/// In HANDED: packets that a processor has taken over from another. Fewer than were handed on: the others waited in a queue that was full.
pub const TAKEN_OVER: u32 = 1;
/// Bytes of the ring buffer of events: a power of two, and of pages.
pub const EVENT_BYTES: u32 = 262_144;
/// 64-bit cells of the overlap table, a power of two; a row has one cell per port.
pub const OVERLAP_CELLS: u32 = 262_144;

/// The protocols whose ports are shared out. The discriminant is the row in PORTS and in the gauges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// User datagrams.
    Udp = 0,
    /// Transmission control.
    Tcp = 1,
    /// ICMP echo, whose identifier is the port (RFC 7597 §8.2).
    Icmp = 2,
}

impl Transport {
    /// All of them, in the order of their rows.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Icmp];

    /// Row number.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Udp => 0,
            Self::Tcp => 1,
            Self::Icmp => 2,
        }
    }

    /// The IP protocol number, as wide as it stands in a [`FlowKey`].
    #[inline(always)]
    const fn wide_protocol(self) -> u32 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
            Self::Icmp => 1,
        }
    }

    /// The IP protocol number.
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
            Self::Icmp => 1,
        }
    }

    /// The transport with this IP protocol number.
    #[inline(always)]
    pub const fn from_protocol(protocol: u8) -> Option<Self> {
        match protocol {
            17 => Some(Self::Udp),
            6 => Some(Self::Tcp),
            1 => Some(Self::Icmp),
            _ => None,
        }
    }

    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmp => "icmp",
        }
    }
}

/// One end of the box and one remote end: what a record is found by in INSIDE (local = LAN host) and in OUTSIDE (local = external
/// address).
///
/// A remote of all zeros stands for "any": the key of an endpoint-independent mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey {
    /// LAN host's address, or the external one.
    pub local: [u8; 4],
    /// The remote host's address.
    pub remote: [u8; 4],
    /// LAN host's port or query identifier, or the external one; network order.
    pub local_port: [u8; 2],
    /// The remote port; zero for ICMP; network order.
    pub remote_port: [u8; 2],
    /// IP protocol number. Four bytes wide, so that a BPF program writes it, zeros and all, by one instruction.
    pub protocol: u32,
}

impl FlowKey {
    /// A flow's key.
    #[inline(always)]
    pub const fn new(
        transport: Transport,
        local: [u8; 4],
        local_port: Port,
        remote: [u8; 4],
        remote_port: Port,
    ) -> Self {
        Self {
            local,
            remote,
            local_port: local_port.to_bytes(),
            remote_port: remote_port.to_bytes(),
            protocol: transport.wide_protocol(),
        }
    }

    /// The key of the endpoint's mapping: any remote.
    #[inline(always)]
    pub const fn endpoint(transport: Transport, local: [u8; 4], local_port: Port) -> Self {
        Self::new(transport, local, local_port, [0; 4], Port(0))
    }
}

/// One life of a record: a slot of SESSIONS and the generation it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct SessionRef {
    /// Index into SESSIONS.
    pub slot: u32,
    /// Generation of the record meant; another one in the slot means "absent".
    pub generation: u32,
}

/// Who may send to an endpoint-independent mapping although it has no session there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PermissionKey {
    /// The mapping's slot and generation.
    pub mapping: SessionRef,
    /// The remote host, whatever its port (RFC 4787 §5, address-dependent).
    pub remote: [u8; 4],
    /// Zero.
    pub reserved: [u8; 4],
}

/// The place in HOLDERS of who holds what came by a NIC's queue; none for queues beyond [`HOLDER_QUEUES`].
#[inline(always)]
pub const fn holder(ifindex: u32, queue: u32) -> Option<u32> {
    if queue < HOLDER_QUEUES {
        Some(ifindex.wrapping_mul(HOLDER_QUEUES) | queue)
    } else {
        None
    }
}

/// What the LPM tries hold: a rule and the next hop towards its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RuleRef {
    /// Index into RULES.
    pub rule: u32,
    /// Index into HOPS.
    pub hop: u32,
}

/// What one LAN host has (RFC 6888 REQ-4). Words: sessions; ports held alone, 20 bits a protocol by [`Transport::index`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct HostUse(pub [Word; 2]);

impl HostUse {
    /// Sessions.
    #[inline(always)]
    pub const fn sessions(&self) -> &Word {
        &self.0[0]
    }

    /// Ports held alone.
    #[inline(always)]
    pub const fn ports(&self) -> &Word {
        &self.0[1]
    }

    /// One port of a protocol, as it is added to and taken from [`Self::ports`].
    #[inline(always)]
    pub const fn one_port(transport: Transport) -> u64 {
        1 << (transport.index().wrapping_mul(20) & 63)
    }

    /// Ports of a protocol in the word that [`Self::ports`] holds.
    #[inline(always)]
    pub const fn ports_of(word: u64, transport: Transport) -> u64 {
        (word >> (transport.index().wrapping_mul(20) & 63)) & 0xf_ffff
    }
}

/// Packets and bytes of one outcome, on one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counter {
    /// Frames.
    pub packets: u64,
    /// Bytes of the frames as they came, Ethernet header included.
    pub bytes: u64,
}

/// Live quantities that the data path keeps, so that showing them costs nothing. Index into GAUGES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Sessions.
    Sessions(Transport),
    /// Endpoint-independent mappings.
    Mappings(Transport),
    /// Ports held by one endpoint alone.
    Exclusive(Transport),
    /// Ports in use by any number of sessions that differ in their destination.
    Shared(Transport),
    /// Sessions made since loading.
    Created(Transport),
    /// New endpoints that got a shared port because no port was left for them alone.
    Degraded(Transport),
    /// Entries of PERMISSIONS.
    Permissions,
    /// Permissions that could not be noted because the map was full.
    PermissionsLost,
    /// Records that have come to their end.
    Ended,
    /// ICMP errors sent.
    Answers,
    /// ICMP errors not sent because there were too many.
    AnswersSuppressed,
    /// How many of them in this tick: `tick << 32 | count`; see `step::answer`.
    AnswersThisTick,
    /// Packets noted since loading because they come in fragments.
    Fragmented,
    /// Such packets forgotten before all of their fragments had come, for want of room.
    FragmentsDisplaced,
    /// When the protocol was last short of ports, or any of records: a [`Tick`], zero for never; see `nat::pressure`.
    Pressed(Transport),
    /// Sessions ended before their idle time was over because what they held was needed.
    Reclaimed,
    /// Slots of SESSIONS that are not free.
    Records,
    /// Static forwards, each of one port.
    Forwards(Transport),
    /// Fragments held, since loading, until the first of their packet should come. This and those below are counted by who holds them.
    Held,
    /// Of these, sent on after it.
    HeldReleased,
    /// Given up because it has not come in time.
    HeldExpired,
    /// Given up for others, or not taken, because there were too many.
    HeldDisplaced,
    /// Lost before they could be taken: too many at once.
    HeldLost,
}

impl Gauge {
    /// Number of gauges.
    pub const COUNT: u32 = 80;

    /// Index into GAUGES.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Sessions(t) => t.index(),
            Self::Mappings(t) => 0x04 | t.index(),
            Self::Exclusive(t) => 0x08 | t.index(),
            Self::Shared(t) => 0x0c | t.index(),
            Self::Created(t) => 0x10 | t.index(),
            Self::Degraded(t) => 0x14 | t.index(),
            Self::Permissions => 24,
            Self::PermissionsLost => 25,
            Self::Ended => 26,
            Self::Answers => 32,
            Self::AnswersSuppressed => 33,
            Self::AnswersThisTick => 34,
            Self::Fragmented => 40,
            Self::FragmentsDisplaced => 41,
            Self::Pressed(t) => 52_u32.wrapping_add(t.index()),
            Self::Reclaimed => 56,
            Self::Records => 57,
            Self::Forwards(t) => 0x30 | t.index(),
            Self::Held => 64,
            Self::HeldReleased => 65,
            Self::HeldExpired => 66,
            Self::HeldDisplaced => 67,
            Self::HeldLost => 68,
        }
    }
}

const _: () = assert!(size_of::<FlowKey>() == 16);
const _: () = assert!(size_of::<SessionRef>() == 8);
const _: () = assert!(size_of::<PermissionKey>() == 16);
const _: () = assert!(size_of::<RuleRef>() == 8);
const _: () = assert!(size_of::<Counter>() == 16);
const _: () = assert!(size_of::<HostUse>() == 16);
const _: () = assert!(size_of::<SweepOrder>() == 24);
const _: () = assert!(size_of::<PortOrder>() == 16);

#[cfg(feature = "user")]
macro_rules! pod {
    ($($type:ty),*) => {$(
        // SAFETY: `repr(C)`, made of integers and byte arrays without padding (sizes asserted above), so any bytes are valid.
        unsafe impl aya::Pod for $type {}
    )*};
}
#[cfg(feature = "user")]
pod!(
    FlowKey,
    SessionRef,
    PermissionKey,
    RuleRef,
    Counter,
    SweepOrder,
    PortOrder,
    Config
);

const _: () = assert!(size_of::<Rule>().is_multiple_of(4));
