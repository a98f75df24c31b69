//! What a gateway shall be: configuration that has been checked and is ready to be put into effect.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{
    layout::{Filtering, Transport},
    map::{domain::Domain, prefix::Ipv4Prefix, rule::Rule},
};

use crate::{forward::Forward, host::processor::Processors};

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
    /// Static forwards.
    pub forwards: Vec<Forward>,
    /// When native IPv6 is forwarded in XDP; a customer edge's.
    pub ipv6_forward: Ipv6Forward,
    /// Which processors share the packets from the tunnel; a customer edge's.
    pub spread: Spread,
}

/// Which processors share the packets from the tunnel, which all have the same outer addresses: a NIC has one of them receive all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// The one that receives them does everything.
    #[default]
    None,
    /// All that are online.
    All,
    /// These.
    These(Processors),
}

/// When native IPv6 is forwarded in XDP, where no firewall rule sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6Forward {
    /// While `mape-ctl run` finds nothing that it would bypass.
    #[default]
    Auto,
    /// Whatever it bypasses.
    Always,
    /// Never: the kernel forwards it.
    Never,
}

/// Who carries what is in the tunnel, where `load` makes its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelKind {
    /// The kernel where it can, else the process.
    #[default]
    Auto,
    /// The kernel's own tunnel (`ip6tnl`).
    Kernel,
    /// The process `mape-ctl tunnel`, by a TUN device.
    User,
}

/// The tunnel device and what goes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of the device that the routing table points at.
    pub device: String,
    /// Which kind of device `load` makes where there is none.
    pub kind: TunnelKind,
    /// Largest inner packet, bytes; 1280 to 65,495.
    pub mtu: u16,
    /// Largest TCP MSS let through; none = as it comes.
    pub mss: Option<u16>,
    /// Copy the inner DSCP to the outer header.
    pub copy_dscp: bool,
    /// Start the process that carries the device's packets, where the kernel does not.
    pub process: bool,
    /// IPv4 routes to put into the device where `load` makes it.
    pub routes: Vec<Ipv4Prefix>,
}

/// Translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Most sessions at once.
    pub sessions: u32,
    /// How endpoints get ports and who may send to them, by [`Transport::index`].
    pub policies: [Policy; 3],
    /// Most sessions of one LAN host; zero = any number.
    pub host_sessions: u32,
    /// Most ports that one LAN host holds alone, per protocol; zero = any number.
    pub host_ports: u32,
    /// Most remote hosts with a permission to send to one mapping.
    pub mapping_permissions: u32,
    /// How long a port stays unused after a mapping that anybody could send to, seconds.
    pub quarantine: u32,
    /// Share of records or ports in use from which on `pressed` holds, percent.
    pub watermark: u32,
    /// UDP destination ports whose new endpoints overlap; at most eight.
    pub overlap_ports: Vec<u16>,
    /// Ports kept from translation.
    pub reserved_ports: Vec<u16>,
    /// The external address, where the line has a prefix; none = its first address.
    pub external_address: Option<Ipv4Addr>,
    /// Idle times, seconds.
    pub timeouts: Seconds,
    /// Idle times while ports or records are short, seconds.
    pub pressed: Pressed,
}

impl Nat {
    /// How endpoints of a protocol get ports, and who may send to them.
    pub fn policy(&self, transport: Transport) -> Policy {
        let [udp, tcp, icmp] = self.policies;
        match transport {
            Transport::Udp => udp,
            Transport::Tcp => tcp,
            Transport::Icmp => icmp,
        }
    }
}

/// A protocol's behaviour as RFC 4787 §4 and §5 call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Endpoints get an endpoint-independent mapping; else their ports are shared by destination.
    pub endpoint_independent: bool,
    /// Who may send to such a mapping.
    pub filtering: Filtering,
}

/// Idle times while ports or records are short, seconds; each holds where it is below the ordinary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressed {
    /// UDP to ports 53 and 123.
    pub udp_query: u32,
    /// TCP while opening.
    pub tcp_opening: u32,
    /// TCP after closing.
    pub tcp_closing: u32,
}

impl Default for Pressed {
    fn default() -> Self {
        Self {
            udp_query: 10,
            tcp_opening: 30,
            tcp_closing: 2,
        }
    }
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
    /// TCP while opening.
    pub tcp_opening: u32,
    /// TCP after closing.
    pub tcp_closing: u32,
    /// TCP established.
    pub tcp_established: u32,
    /// A packet's later fragments, after its first.
    pub fragment: u32,
}

impl Default for Seconds {
    /// What the RFCs ask for (5508 REQ-2, 4787 REQ-5, 5382 REQ-5); for fragments, what Linux waits.
    fn default() -> Self {
        Self {
            icmp: 60,
            udp: 300,
            udp_query: 60,
            tcp_opening: 240,
            tcp_closing: 240,
            tcp_established: 7_440,
            fragment: 30,
        }
    }
}
