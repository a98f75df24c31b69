//! The gateway of the step tables: one customer edge and one border relay, with the same numbers in every world.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{
    hop::{Hop, Mac},
    host::HostEnv,
    layout::{Config, PortOrder, Transport},
    map::psid::PortSet,
};

/// Which program a frame is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Program {
    /// Customer edge, from the LAN.
    Lan,
    /// Customer edge, from the WAN.
    Wan,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves by a NIC.
    Forwarded(Vec<u8>),
    /// It went back to its sender as an answer.
    Answered(Vec<u8>),
    /// The stack gets it: with these bytes.
    Passed(Vec<u8>),
    /// It is gone.
    Dropped,
}

/// A gateway that frames can be given to.
pub trait World {
    /// Gives a frame to a program; says what became of it and the label it was counted by ("forwarded" or a reason's).
    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str);
    /// Has an order about a port carried out; gives its outcome.
    fn order(&mut self, order: PortOrder) -> u32;
    /// Switches the forwarding of native IPv6 on or off; no neighbour has been asked after then.
    fn forward_native(&mut self, on: bool);
}

/// A static forward of one port.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    /// Protocol.
    pub transport: Transport,
    /// Port of the set.
    pub external: u16,
    /// The LAN endpoint.
    pub inside: (Ipv4Addr, u16),
}

impl Forwarded {
    /// The order that makes it, or with [`PortOrder::UNFORWARD`] ends it.
    pub fn order(&self, action: u8) -> PortOrder {
        PortOrder {
            inside: self.inside.0.octets(),
            inside_port: self.inside.1.to_be_bytes(),
            external_port: self.external.to_be_bytes(),
            protocol: self.transport.protocol(),
            action,
            ..PortOrder::default()
        }
    }
}

/// MAC address of the gateway's LAN NIC.
pub const LAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
/// MAC address of the gateway's WAN NIC.
pub const WAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
/// MAC address of the LAN host.
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
/// MAC address of the provider's router.
pub const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);
/// The LAN host.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 10);
/// A second LAN host.
pub const HOST_2: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 11);
/// The gateway's own LAN address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);
/// The shared external address.
pub const SHARED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 18);
/// A host on the Internet.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Another one.
pub const SERVER_2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// A destination that the routing table sends to another LAN, not into the tunnel.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// The customer edge's MAP address.
pub const CE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0x3400, 0, 0xc000, 0x0212, 0x34);
/// The border relay.
pub const RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
/// The LAN host's own IPv6 address.
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10);
/// A neighbour on the LAN that nobody has heard of.
pub const SILENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x99);
/// The gateway's own IPv6 address on the LAN.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
/// A host on the Internet, behind the provider's router.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 7);
/// A host behind a NIC that is not the gateway's.
pub const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 7);
/// A port of the set: a = 6, k = 8, PSID 0x34: 1232-1235, 2256-2259, …
pub const IN_SET: u16 = 1232;
/// A port that is not.
pub const NOT_IN_SET: u16 = 40_000;

/// Rule 2001:db8::/40, 192.0.2.0/24, EA 16, offset 6, PSID 0x34: 252 ports.
///
/// # Panics
/// Never: the numbers are RFC 7597's.
pub fn port_set() -> PortSet {
    PortSet::new(6, 8, 0x34).expect("RFC 7597 appendix A")
}

/// The gateway's configuration. `tunnel` is the interface index of the tunnel device.
pub fn config(tunnel: u32, sessions: u32) -> Config {
    Config {
        tunnel_ifindex: tunnel,
        ..HostEnv::customer_edge(CE.octets(), RELAY.octets(), SHARED.octets(), port_set(), sessions)
    }
}

/// The next hop towards the border relay.
pub fn router(ifindex: u32) -> Hop {
    Hop {
        ifindex,
        mtu: 1500,
        destination: ROUTER_MAC,
        source: WAN_MAC,
    }
}

/// The next hop back to a LAN host.
pub fn host(ifindex: u32) -> Hop {
    Hop {
        ifindex,
        mtu: 1500,
        destination: HOST_MAC,
        source: LAN_MAC,
    }
}
