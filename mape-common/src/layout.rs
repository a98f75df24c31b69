//! Every key and value of a map, as bytes: what the programs and user space must agree on.
//!
//! Addresses and MACs are bytes in network order, everything else is a number in the machine's order. Reserved bytes are
//! zero (hash keys compare every byte). A change of any type here, or of [`crate::nat::session::Session`],
//! [`crate::hop::NextHop`] or [`crate::map::rule::Rule`], raises [`LAYOUT_VERSION`]: pins of another version are refused.
#![cfg_attr(
    feature = "user",
    expect(unsafe_code, reason = "aya::Pod is a promise about bytes; each is asserted below")
)]

use crate::{
    map::{psid::PortSet, rule::Rule},
    time::Tick,
    wire::port::Port,
    word::Word,
};

/// Raised with every change of a map's key or value; part of the pin path.
pub const LAYOUT_VERSION: u32 = 2;

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
/// Remembered refusals, a power of two.
pub const REFUSALS: u32 = 4_096;
/// Bytes of the ring buffer of events: a power of two, and of pages.
pub const EVENT_BYTES: u32 = 262_144;
/// 64-bit cells of the overlap table, a power of two; a row has one cell per port.
pub const OVERLAP_CELLS: u32 = 262_144;

/// Names of the maps in the object, as user space opens and pins them (the kernel keeps 15 characters).
pub mod maps {
    /// `Array<Config>`, one entry.
    pub const CONFIG: &str = "CONFIG";
    /// `Array<u64>`, one entry, memory-mappable: see `trace::Gate`.
    pub const GATE: &str = "GATE";
    /// `Array<Link>`, by interface index.
    pub const LINKS: &str = "LINKS";
    /// `Array<NextHop>`.
    pub const HOPS: &str = "HOPS";
    /// `Array<Rule>`.
    pub const RULES: &str = "RULES";
    /// `LpmTrie<[u8; 4], RuleRef>`: rules by IPv4 prefix.
    pub const RULES_V4: &str = "RULES_V4";
    /// `LpmTrie<[u8; 16], RuleRef>`: rules by IPv6 prefix.
    pub const RULES_V6: &str = "RULES_V6";
    /// `HashMap<FlowKey, SessionRef>`: from the LAN's point of view.
    pub const INSIDE: &str = "INSIDE";
    /// `HashMap<FlowKey, SessionRef>`: from the WAN's point of view.
    pub const OUTSIDE: &str = "OUTSIDE";
    /// `Array<Session>`, memory-mappable.
    pub const SESSIONS: &str = "SESSIONS";
    /// `Stack<u32>`: slots of SESSIONS that are free.
    pub const FREE_SLOTS: &str = "FREE_SLOTS";
    /// `Array<u64>`, memory-mappable: `Transport::index() * ports + ordinal`, see `nat::port`.
    pub const PORTS: &str = "PORTS";
    /// `Array<u64>`: which destinations use which shared port, see `nat::overlap`.
    pub const OVERLAP: &str = "OVERLAP";
    /// `Array<u64>`: refusals of the last second, see `nat::refusal`.
    pub const REFUSED: &str = "REFUSED";
    /// `Array<nat::fragment::Record>`: packets in fragments that are on their way.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `HashMap<PermissionKey, u64>`: who may send to an endpoint-independent mapping.
    pub const PERMISSIONS: &str = "PERMISSIONS";
    /// `Array<HostUse>`, memory-mappable: what LAN hosts have, see `nat::quota`.
    pub const HOSTS: &str = "HOSTS";
    /// `PerCpuArray<Counter>`: `direction * OUTCOMES + outcome`.
    pub const COUNTERS: &str = "COUNTERS";
    /// `Array<u64>` of [`super::Gauge`].
    pub const GAUGES: &str = "GAUGES";
    /// `Array<SweepTimer>`, one entry.
    pub const SWEEP: &str = "SWEEP";
    /// `Array<SweepOrder>`, one entry: what the sweeper's next direct call shall end.
    pub const SWEEP_ORDER: &str = "SWEEP_ORDER";
    /// `Array<PortOrder>`, one entry: what the next direct call of [`super::programs::PORT`] shall do.
    pub const PORT_ORDER: &str = "PORT_ORDER";
    /// `ProgramArray`: the stages that others hand packets on to, see `step::stage`.
    pub const STAGES: &str = "STAGES";
    /// `Array<Watch>`, one entry: what those who follow packets are told.
    pub const WATCH: &str = "WATCH";
    /// `RingBuf` of `trace::Event`.
    pub const EVENTS: &str = "EVENTS";
    /// All maps that are pinned, in the order above.
    pub const ALL: [&str; 25] = [
        CONFIG,
        GATE,
        LINKS,
        HOPS,
        RULES,
        RULES_V4,
        RULES_V6,
        INSIDE,
        OUTSIDE,
        SESSIONS,
        FREE_SLOTS,
        PORTS,
        OVERLAP,
        REFUSED,
        FRAGMENTS,
        PERMISSIONS,
        HOSTS,
        COUNTERS,
        GAUGES,
        SWEEP,
        SWEEP_ORDER,
        PORT_ORDER,
        STAGES,
        WATCH,
        EVENTS,
    ];
}

/// Names of the programs in the object.
pub mod programs {
    /// XDP, customer edge, a NIC that is only LAN.
    pub const LAN: &str = "mape_lan_xdp";
    /// XDP, customer edge, a NIC that is only WAN.
    pub const WAN: &str = "mape_wan_xdp";
    /// XDP, customer edge, one NIC for both.
    pub const ONE_ARM: &str = "mape_one_arm_xdp";
    /// XDP, customer edge, a stage: looks after a LAN host's session or opens one.
    pub const OUTBOUND_OPEN: &str = "mape_lan_open";
    /// XDP, customer edge, a stage: the same for packets from the tunnel.
    pub const INBOUND_OPEN: &str = "mape_wan_open";
    /// XDP, customer edge, a stage: ICMP errors from the LAN.
    pub const OUTBOUND_ERROR: &str = "mape_lan_error";
    /// XDP, customer edge, a stage: ICMP errors in the tunnel.
    pub const INBOUND_ERROR: &str = "mape_wan_error";
    /// XDP, customer edge, a stage: ICMPv6 errors about the tunnel.
    pub const TUNNEL_ERROR: &str = "mape_wan_tunerr";
    /// XDP, customer edge, a stage: answers to LAN hosts.
    pub const ANSWER: &str = "mape_answer";
    /// XDP, customer edge, a stage: from one LAN host to another by the shared address.
    pub const HAIRPIN: &str = "mape_hairpin";
    /// XDP, customer edge, a stage: a LAN host's packets that come in fragments.
    pub const OUTBOUND_FRAGMENT: &str = "mape_lan_frag";
    /// XDP, customer edge, a stage: the same for packets from the tunnel.
    pub const INBOUND_FRAGMENT: &str = "mape_wan_frag";
    /// XDP, border relay, a NIC towards the IPv4 Internet.
    pub const RELAY_V4: &str = "mape_relay4_xdp";
    /// XDP, border relay, a NIC towards the domain.
    pub const RELAY_V6: &str = "mape_relay6_xdp";
    /// XDP, border relay, one NIC for both.
    pub const RELAY_ONE_ARM: &str = "mape_relay_xdp";
    /// XDP, border relay, a stage: packets from the Internet that come in fragments.
    pub const RELAY_OUTBOUND_FRAGMENT: &str = "mape_relay4_frg";
    /// XDP, border relay, a stage: the same for packets from the domain.
    pub const RELAY_INBOUND_FRAGMENT: &str = "mape_relay6_frg";
    /// XDP, border relay, a stage: ICMP errors from the Internet, and packets that are too big.
    pub const RELAY_OUTBOUND_ICMP: &str = "mape_relay4_icm";
    /// XDP, border relay, a stage: ICMP errors from the domain, and packets that end here.
    pub const RELAY_INBOUND_ICMP: &str = "mape_relay6_icm";
    /// XDP that passes everything: for the far end of a veth.
    pub const PASS: &str = "mape_pass_xdp";
    /// XDP for measurements: redirects everything to REDIRECT_TO.
    pub const BARE: &str = "mape_bare_xdp";
    /// XDP for measurements: makes frames.
    pub const SOURCE: &str = "mape_source_xdp";
    /// XDP for measurements: counts and drops frames.
    pub const SINK: &str = "mape_sink_xdp";
    /// XDP, the last stage of every program while somebody follows packets: tells what became of one.
    pub const TRACE: &str = "mape_trace_xdp";
    /// XDP, never attached: run by user space, asks the routing table as the data path does.
    pub const ROUTE: &str = "mape_route_xdp";
    /// XDP, never attached: run once by user space, sweeps the session table as SWEEP_ORDER says and arms the timer.
    pub const SWEEP: &str = "mape_sweep_xdp";
    /// XDP, never attached: run by user space, carries out PORT_ORDER.
    pub const PORT: &str = "mape_port_xdp";
}

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

/// One end of the box and one remote end: the key of INSIDE (local = LAN host) and of OUTSIDE (local = external address).
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

/// What INSIDE and OUTSIDE hold: a slot of SESSIONS and the generation it must have.
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
}

impl Gauge {
    /// Number of gauges.
    pub const COUNT: u32 = 64;

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
        }
    }
}

/// Idle times after which a session is over. Each from [`Tick::at_least_seconds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Timeouts {
    /// ICMP echo (RFC 5508 REQ-2: at least 60 s).
    pub icmp: Tick,
    /// UDP (RFC 4787 REQ-5: at least 120 s, better 300 s).
    pub udp: Tick,
    /// UDP towards query ports (RFC 4787 REQ-5a).
    pub udp_query: Tick,
    /// TCP before it is established (RFC 5382 REQ-5: at least 240 s).
    pub tcp_opening: Tick,
    /// TCP after it is closed or reset (as above; RFC 7857 §2 wants the two apart).
    pub tcp_closing: Tick,
    /// Established TCP (RFC 5382 REQ-5: at least 7440 s).
    pub tcp_established: Tick,
}

impl Timeouts {
    /// As the RFCs recommend.
    pub const DEFAULT: Self = Self {
        icmp: Tick::at_least_seconds(60),
        udp: Tick::at_least_seconds(300),
        udp_query: Tick::at_least_seconds(60),
        tcp_opening: Tick::at_least_seconds(240),
        tcp_closing: Tick::at_least_seconds(240),
        tcp_established: Tick::at_least_seconds(7_440),
    };
    /// While ports or records are short, unless configured otherwise.
    pub const PRESSED: Self = Self {
        udp_query: Tick::at_least_seconds(10),
        tcp_opening: Tick::at_least_seconds(30),
        tcp_closing: Tick::at_least_seconds(2),
        ..Self::DEFAULT
    };
}

/// Which remote endpoints may send to an endpoint-independent mapping (RFC 4787 §5). A session on a shared port is open to
/// its own remote endpoint alone, whatever this says: that endpoint is what tells it from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Any.
    EndpointIndependent,
    /// Those at an address that the mapping has sent to.
    Address,
    /// Those that the mapping has sent to.
    AddressAndPort,
}

/// How many client-server ports the overlap list holds.
pub const OVERLAP_PORTS: usize = 8;

/// What one gateway is, computed by user space. Written only while the gate is closed.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Config {
    /// Customer edge: its MAP IPv6 address (RFC 7597 §6). Border relay: its own address.
    pub tunnel_address: [u8; 16],
    /// Customer edge: the border relay's address. Border relay: the same as `tunnel_address`.
    pub relay_address: [u8; 16],
    /// Secret of the overlap, refusal and fragment tables.
    pub hash_key: [u64; 2],
    /// Idle times.
    pub timeouts: Timeouts,
    /// Idle times while ports or records are short; none is longer than that above.
    pub pressed: Timeouts,
    /// The external IPv4 address that sessions are translated to.
    pub external_address: [u8; 4],
    /// Mask of the IPv4 prefix that is this customer edge's own, host order (all ones for an address).
    pub external_mask: u32,
    /// Interface index of the tunnel device: what the routing table points at for tunnelled destinations.
    pub tunnel_ifindex: u32,
    /// Ports of the set: the length of a row of PORTS and of OVERLAP.
    pub ports: u32,
    /// First ordinal handed out to endpoints that do not ask for a port by their own number (system ports are kept back).
    pub first_dynamic: u32,
    /// Rows of OVERLAP less one.
    pub overlap_row_mask: u32,
    /// Destination ports of UDP whose new endpoints overlap like TCP; zero = unused place.
    pub overlap_ports: [Port; OVERLAP_PORTS],
    /// The port set (RFC 7597 §5.1).
    pub port_set: PortSet,
    /// Largest inner packet, bytes.
    pub tunnel_mtu: u16,
    /// Largest TCP MSS let through in either direction; zero = no clamp.
    pub mss: u16,
    /// [`Self::mapping`], [`Self::filter`] and [`Self::COPY_DSCP`].
    pub flags: u32,
    /// Slots of SESSIONS.
    pub sessions: u32,
    /// Records in use from which on the shorter idle times hold.
    pub sessions_high: u32,
    /// Ports in use of a protocol with mappings, from which on the shorter idle times hold.
    pub ports_high: u32,
    /// Most sessions of one LAN host (RFC 6888 REQ-4); zero = any number.
    pub host_sessions: u32,
    /// Most ports that one LAN host holds alone, per protocol; zero = any number.
    pub host_ports: u32,
    /// Most remote hosts with a permission to send to one mapping.
    pub mapping_permissions: u32,
    /// How long a port stays unused after a mapping that anybody could send to (RFC 6888 REQ-8).
    pub quarantine: Tick,
    /// How long a packet's later fragments may come after its first.
    pub fragment_timeout: Tick,
}

impl Config {
    /// Copy the inner DSCP to the outer header (RFC 2983 uniform model); else the outer one is zero.
    pub const COPY_DSCP: u32 = 1 << 31;

    /// The flag by which endpoints of a protocol get an endpoint-independent mapping (RFC 4787 REQ-1, 5382 REQ-1, 5508 REQ-1a).
    #[inline(always)]
    pub const fn mapping(transport: Transport) -> u32 {
        1 << (transport.index() & 3)
    }

    /// The flag, if any, that is a protocol's filtering.
    #[inline(always)]
    pub const fn filter(transport: Transport, filtering: Filtering) -> u32 {
        let shift = transport.index() & 3;
        match filtering {
            Filtering::EndpointIndependent => 0x10 << shift,
            Filtering::Address => 0,
            Filtering::AddressAndPort => 0x100 << shift,
        }
    }

    /// Rows of OVERLAP for a set of that many ports: a power of two, at least one.
    pub const fn overlap_rows(ports: u32) -> u32 {
        match OVERLAP_CELLS.checked_div(ports) {
            None | Some(0) => 1,
            Some(rows) => 1 << (rows.ilog2() & 31),
        }
    }

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether new endpoints of this protocol get a mapping that does not depend on the destination.
    #[inline(always)]
    pub const fn endpoint_independent(&self, transport: Transport) -> bool {
        self.has(Self::mapping(transport))
    }

    /// Who may send to such a mapping.
    #[inline(always)]
    pub const fn filtering(&self, transport: Transport) -> Filtering {
        if self.has(Self::filter(transport, Filtering::EndpointIndependent)) {
            Filtering::EndpointIndependent
        } else if self.has(Self::filter(transport, Filtering::AddressAndPort)) {
            Filtering::AddressAndPort
        } else {
            Filtering::Address
        }
    }

    /// Whether an address is this customer edge's own.
    #[inline(always)]
    pub const fn owns(&self, address: [u8; 4]) -> bool {
        (u32::from_be_bytes(address) ^ u32::from_be_bytes(self.external_address)) & self.external_mask == 0
    }
}

/// What a direct call of the sweeper shall end, beside what has expired. Zero means any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SweepOrder {
    /// LAN host's address.
    pub inside: [u8; 4],
    /// Remote address.
    pub remote: [u8; 4],
    /// LAN host's port, network order.
    pub inside_port: [u8; 2],
    /// External port, network order.
    pub external_port: [u8; 2],
    /// Remote port, network order.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 1: end what matches, expired or not. 0: only what has expired.
    pub flush: u8,
    /// First slot to look at; the call writes back where it stopped.
    pub next_slot: u32,
    /// Written by the call: records ended.
    pub ended: u32,
}

/// What an operator decides about a port of the set; carried out by a direct call of [`programs::PORT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortOrder {
    /// LAN host's address, for a forward.
    pub inside: [u8; 4],
    /// LAN host's port, network order, for a forward.
    pub inside_port: [u8; 2],
    /// The port of the set, network order.
    pub external_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// [`Self::FORWARD`] and the like; zero: nothing.
    pub action: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Written by the call: [`Self::DONE`] and the like; zero before.
    pub outcome: u32,
}

impl PortOrder {
    /// Make a static forward of the port to the LAN endpoint.
    pub const FORWARD: u8 = 1;
    /// End the port's static forward to the LAN endpoint; its sessions are to be ended by the sweeper.
    pub const UNFORWARD: u8 = 2;
    /// Keep the port from translation.
    pub const RESERVE: u8 = 3;
    /// Give a port that was kept from translation back to it.
    pub const RELEASE: u8 = 4;

    /// Done, or it was so before.
    pub const DONE: u32 = 1;
    /// The port or the LAN endpoint is in use by something else: to be ended first.
    pub const BUSY: u32 = 2;
    /// There is no such forward, or the port is not reserved.
    pub const ABSENT: u32 = 3;
    /// No record is free.
    pub const FULL: u32 = 4;
    /// The port is not of the set, or the order makes no sense.
    pub const INVALID: u32 = 5;
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
