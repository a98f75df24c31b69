//! What a gateway is told to be: addresses, ports, idle times and policy, as the programs read them.

use super::{OVERLAP_CELLS, Transport};
use crate::{map::psid::PortSet, nat::index, time::Tick, wire::port::Port};

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
    /// Secret of the tables of flows; see `nat::index`.
    pub flow_keys: [u64; 3],
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
    /// [`Self::mapping`], [`Self::filter`], [`Self::COPY_DSCP`] and [`Self::EXTERNAL_TUNNEL`].
    pub flags: u32,
    /// Slots of SESSIONS.
    pub sessions: u32,
    /// By how much a hash is shifted to be the number of a bucket of INSIDE or OUTSIDE: [`index::shift`] of [`index::buckets`].
    pub flow_shift: u32,
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
    /// The tunnel device asks each packet for its far end (the kernel's `ip6tnl external`); else it knows the one that it has.
    pub const EXTERNAL_TUNNEL: u32 = 1 << 30;

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

    /// What [`Self::flow_shift`] is for that many slots.
    pub const fn flow_shift(sessions: u32) -> u32 {
        index::shift(index::buckets(sessions))
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
