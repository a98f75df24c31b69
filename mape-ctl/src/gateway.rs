//! What a gateway shall be: configuration that has been checked and is ready to be put into effect.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::map::{domain::Domain, prefix::Ipv4Prefix, rule::Rule};

/// Which end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The customer's: translates and encapsulates (RFC 7597 §5).
    CustomerEdge,
    /// The provider's: stateless, any number of rules (RFC 7597 §5.4).
    BorderRelay,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the NIC's driver.
    Native,
    /// In the generic layer, for NICs whose driver has no XDP; much slower.
    Generic,
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Name of the instance: several gateways can live on one kernel.
    pub instance: String,
    /// Which end.
    pub role: Role,
    /// Interfaces of the IPv4 side, at least one.
    pub lan: Vec<String>,
    /// Interface of the IPv6 side; may be the only one of `lan` (one arm).
    pub wan: String,
    /// How programs are attached.
    pub mode: Mode,
    /// Customer edge: what the line has. None for a border relay.
    pub domain: Option<Domain>,
    /// The border relay's address; a border relay's own.
    pub relay: Ipv6Addr,
    /// Rules to forward by: a customer edge's FMRs, all of a border relay's.
    pub rules: Vec<Rule>,
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Translation.
    pub nat: Nat,
}

/// The tunnel device and what goes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of the device that the routing table points at.
    pub device: String,
    /// Largest inner packet, bytes; 1280 to 65,495.
    pub mtu: u16,
    /// Largest TCP MSS let through; none = as it comes.
    pub mss: Option<u16>,
    /// Copy the inner DSCP to the outer header.
    pub copy_dscp: bool,
    /// IPv4 routes to put into the device where `load` makes it.
    pub routes: Vec<Ipv4Prefix>,
}

/// Translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Most sessions at once.
    pub sessions: u32,
    /// UDP endpoints get an endpoint-independent mapping.
    pub udp_endpoint_independent: bool,
    /// TCP endpoints get one.
    pub tcp_endpoint_independent: bool,
    /// UDP destination ports whose new endpoints overlap; at most eight.
    pub overlap_ports: Vec<u16>,
    /// Ports kept from translation.
    pub reserved_ports: Vec<u16>,
    /// The external address, where the line has a prefix; none = its first address.
    pub external_address: Option<Ipv4Addr>,
    /// Idle times, seconds.
    pub timeouts: Seconds,
}

/// Idle times, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds {
    /// ICMP echo.
    pub icmp: u32,
    /// UDP.
    pub udp: u32,
    /// UDP to ports 53 and 123.
    pub udp_query: u32,
    /// TCP while opening and after closing.
    pub tcp_transitory: u32,
    /// TCP established.
    pub tcp_established: u32,
}

impl Default for Seconds {
    /// What the RFCs ask for (5508 REQ-2, 4787 REQ-5, 5382 REQ-5).
    fn default() -> Self {
        Self {
            icmp: 60,
            udp: 300,
            udp_query: 60,
            tcp_transitory: 240,
            tcp_established: 7_440,
        }
    }
}
