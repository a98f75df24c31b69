//! Owns the lab's addresses and links: the one place that says who is connected to whom and what it is called.

pub mod edges;

use std::net::{Ipv4Addr, Ipv6Addr};

/// How the nodes are connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// Two hosts on two LAN interfaces of the CE, and a WAN interface.
    #[default]
    TwoLans,
    /// The same with a switch on the second LAN, and a router there with one more network and host behind it.
    LanRouter,
    /// The CE has one interface; both hosts, the CE and the provider's router are on one switch.
    OneArm,
    /// Three customer edges with a host each ([`edges::ALL`]), two of which share one IPv4 address.
    ThreeEdges,
    /// As the first, and the node on the Internet is a router with one more server behind it.
    FarServer,
    /// As the first with one LAN, and the CE is a virtual machine: the nodes beside it have a TAP device for its NICs.
    VirtualEdge,
    /// The same with the border relay as the virtual machine.
    VirtualRelay,
}

impl Shape {
    /// The nodes, in the order packets pass from the LAN to the Internet.
    pub fn nodes(self) -> &'static [&'static str] {
        match self {
            Self::TwoLans => &["host1", "host2", "ce", "transit", "br", "internet"],
            Self::LanRouter => &[
                "host1",
                "host2",
                "ce",
                "transit",
                "br",
                "internet",
                "switch",
                "lanrouter",
                "host3",
            ],
            Self::OneArm => &["host1", "host2", "switch", "ce", "transit", "br", "internet"],
            Self::ThreeEdges => &edges::NODES,
            Self::FarServer => &["host1", "host2", "ce", "transit", "br", "internet", "farserver"],
            Self::VirtualEdge => &["host1", "transit", "br", "internet"],
            Self::VirtualRelay => &["host1", "ce", "transit", "internet"],
        }
    }

    /// The links between nodes: node, device, node, device.
    pub fn links(self) -> &'static [[&'static str; 4]] {
        match self {
            Self::TwoLans => &[
                ["host1", "eth0", "ce", "lan0"],
                ["host2", "eth0", "ce", "lan1"],
                ["ce", "wan0", "transit", "ce0"],
                ["transit", "br0", "br", "wan0"],
                ["br", "inet0", "internet", "eth0"],
            ],
            Self::LanRouter => &[
                ["host1", "eth0", "ce", "lan0"],
                ["switch", "port0", "ce", "lan1"],
                ["host2", "eth0", "switch", "port1"],
                ["lanrouter", "up0", "switch", "port2"],
                ["host3", "eth0", "lanrouter", "down0"],
                ["ce", "wan0", "transit", "ce0"],
                ["transit", "br0", "br", "wan0"],
                ["br", "inet0", "internet", "eth0"],
            ],
            Self::OneArm => &[
                ["host1", "eth0", "switch", "port0"],
                ["host2", "eth0", "switch", "port1"],
                ["ce", "wan0", "switch", "port2"],
                ["switch", "port3", "transit", "ce0"],
                ["transit", "br0", "br", "wan0"],
                ["br", "inet0", "internet", "eth0"],
            ],
            Self::FarServer => &[
                ["host1", "eth0", "ce", "lan0"],
                ["host2", "eth0", "ce", "lan1"],
                ["ce", "wan0", "transit", "ce0"],
                ["transit", "br0", "br", "wan0"],
                ["br", "inet0", "internet", "eth0"],
                ["internet", "far0", "farserver", "eth0"],
            ],
            Self::ThreeEdges => &edges::LINKS,
            Self::VirtualEdge => &[["transit", "br0", "br", "wan0"], ["br", "inet0", "internet", "eth0"]],
            Self::VirtualRelay => &[["host1", "eth0", "ce", "lan0"], ["ce", "wan0", "transit", "ce0"]],
        }
    }

    /// The other ends of a virtual machine's links: node, device, and what the machine calls its own end.
    pub fn taps(self) -> &'static [[&'static str; 3]] {
        match self {
            Self::VirtualEdge => &[["host1", "eth0", "lan0"], ["transit", "ce0", "wan0"]],
            Self::VirtualRelay => &[["internet", "eth0", "inet0"], ["transit", "br0", "wan0"]],
            Self::TwoLans | Self::LanRouter | Self::OneArm | Self::ThreeEdges | Self::FarServer => &[],
        }
    }

    /// The nodes with a gateway, in the order in which they are loaded.
    pub fn gateways(self) -> &'static [&'static str] {
        match self {
            Self::TwoLans | Self::LanRouter | Self::OneArm | Self::FarServer => &["br", "ce"],
            Self::ThreeEdges => &["br", "ce", "ce2", "ce3"],
            Self::VirtualEdge => &["br"],
            Self::VirtualRelay => &["ce"],
        }
    }

    /// What `ip` is told inside the nodes once the links are there, without the leading `ip`.
    pub fn addresses(self) -> Vec<(&'static str, &'static [&'static str])> {
        let mut lists = self.all_addresses();
        lists.retain(|(node, _)| self.nodes().contains(node));
        lists
    }

    /// What `ip` is told inside the virtual machine.
    pub fn virtual_addresses(self) -> Vec<&'static str> {
        let lists = self.all_addresses().into_iter();
        let machine = lists.filter(|(node, _)| !self.nodes().contains(node));
        machine.flat_map(|(_, lines)| lines).copied().collect()
    }

    /// Those of all machines, virtual ones too.
    fn all_addresses(self) -> Vec<(&'static str, &'static [&'static str])> {
        let mut lists = SHARED.to_vec();
        lists.extend(match self {
            Self::TwoLans => TWO_LANS.to_vec(),
            Self::LanRouter => [&TWO_LANS[..], &LAN_ROUTER[..]].concat(),
            Self::OneArm => ONE_ARM.to_vec(),
            Self::ThreeEdges => edges::ADDRESSES.to_vec(),
            Self::FarServer => [&TWO_LANS[..], &FAR_SERVER_LINK[..]].concat(),
            Self::VirtualEdge | Self::VirtualRelay => ONE_LAN.to_vec(),
        });
        lists
    }

    /// A CE's LAN interfaces.
    pub fn lan_devices(self) -> &'static [&'static str] {
        match self {
            Self::TwoLans | Self::LanRouter | Self::FarServer => &["lan0", "lan1"],
            Self::OneArm => &["wan0"],
            Self::ThreeEdges | Self::VirtualEdge | Self::VirtualRelay => &["lan0"],
        }
    }

    /// The nodes that forward: node, setting below /proc/sys/net.
    pub fn forwarding(self) -> Vec<(&'static str, &'static str)> {
        let mut settings = vec![
            ("ce", "ipv4/conf/all/forwarding"),
            ("transit", "ipv4/conf/all/forwarding"),
            ("transit", "ipv6/conf/all/forwarding"),
            ("br", "ipv4/conf/all/forwarding"),
        ];
        if self == Self::LanRouter {
            settings.push(("lanrouter", "ipv4/conf/all/forwarding"));
        }
        if self == Self::ThreeEdges {
            settings.extend(["ce2", "ce3"].map(|edge| (edge, "ipv4/conf/all/forwarding")));
        }
        if self == Self::FarServer {
            settings.push(("internet", "ipv4/conf/all/forwarding"));
        }
        settings.retain(|(node, _)| self.nodes().contains(node));
        settings
    }

    /// The devices on the far side of NICs that send frames back where they came from (XDP_TX): node, device.
    pub fn echoed_to(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::TwoLans | Self::LanRouter => &[],
            Self::OneArm => &[("switch", "port2")],
            // The border relay sends from one customer edge to another.
            Self::ThreeEdges => &[("transit", "br0")],
            // Gateways answer whom they cannot help.
            Self::FarServer => &[
                ("host1", "eth0"),
                ("host2", "eth0"),
                ("transit", "br0"),
                ("internet", "eth0"),
            ],
            Self::VirtualEdge => &[("transit", "br0"), ("internet", "eth0")],
            Self::VirtualRelay => &[("host1", "eth0"), ("transit", "ce0")],
        }
    }
}

/// The server most checks talk to; all of 198.51.100.0/24 answers.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The server behind a router on the Internet, where there is one.
pub const FAR_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 194);
/// The two addresses that a STUN server needs to tell kinds of NAT apart (RFC 5780).
pub const STUN: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 3), Ipv4Addr::new(198, 51, 100, 4)];
/// The name server.
pub const DNS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// A name that it knows, and its address.
pub const NAME: (&str, Ipv4Addr) = ("www.lab.example", Ipv4Addr::new(198, 51, 100, 80));

/// The CE's End-user IPv6 prefix: EA bits 0x1234, that is 192.0.2.18 and PSID 0x34.
pub const CE_PREFIX: &str = "2001:db8:12:3400::/56";
/// The CE's IPv4 address, shared with 255 others.
pub const CE_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 18);
/// The CE's MAP address: its interface identifier holds the IPv4 address and the PSID.
pub const CE_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0x3400, 0, 0xc000, 0x0212, 0x0034);
/// The CE's PSID.
pub const PSID: u16 = 0x34;
/// PSID offset 4 and 8 bits of PSID: 15 blocks of 16 ports, 240 in all, as on v6plus.
pub const PSID_OFFSET: u32 = 4;
/// Bits of the PSID.
pub const PSID_LEN: u32 = 8;
/// How many ports the CE has.
pub const PORTS: usize = 240;
/// The border relay's address.
pub const BR_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// Whether a port belongs to the CE.
pub fn is_own_port(port: u16) -> bool {
    is_port_of(PSID, port)
}

/// Whether a port belongs to the customer edge that has the PSID.
pub fn is_port_of(psid: u16, port: u16) -> bool {
    let block = port >> (16 - PSID_OFFSET);
    let owner = (port >> (16 - PSID_OFFSET - PSID_LEN)) & ((1 << PSID_LEN) - 1);
    block > 0 && owner == psid
}

/// The same in every shape.
const SHARED: [(&str, &[&str]); 5] = [
    (
        "host1",
        &[
            "address add 192.168.10.2/24 dev eth0",
            "route add default via 192.168.10.1",
        ],
    ),
    (
        "ce",
        &[
            "address add 2001:db8:12:3400::2/64 dev wan0 nodad",
            // On the WAN link's own prefix, as an ISP delivers it: the router asks for this address by neighbour discovery.
            "address add 2001:db8:12:3400:0:c000:212:34/128 dev wan0 nodad",
            "route add default via 2001:db8:12:3400::1",
        ],
    ),
    (
        "transit",
        &[
            "address add 2001:db8:12:3400::1/64 dev ce0 nodad",
            "address add 2001:db8:ffff::fffe/64 dev br0 nodad",
        ],
    ),
    (
        "br",
        &[
            "address add 2001:db8:ffff::1/64 dev wan0 nodad",
            "route add default via 2001:db8:ffff::fffe",
            "address add 203.0.113.1/24 dev inet0",
            "route add default via 203.0.113.2",
        ],
    ),
    (
        "internet",
        &[
            "address add 203.0.113.2/24 dev eth0",
            "route add local 198.51.100.0/24 dev lo",
            // Programs choose one of these as their own; a local route alone would not let them be listened on by name.
            "address add 198.51.100.1/32 dev lo",
            "address add 198.51.100.3/32 dev lo",
            "address add 198.51.100.4/32 dev lo",
            "address add 198.51.100.53/32 dev lo",
            "address add 198.51.100.80/32 dev lo",
            "route add 192.0.2.0/24 via 203.0.113.1",
        ],
    ),
];

const ONE_LAN: [(&str, &[&str]); 1] = [("ce", &["address add 192.168.10.1/24 dev lan0"])];

const TWO_LANS: [(&str, &[&str]); 2] = [
    (
        "host2",
        &[
            "address add 192.168.20.2/24 dev eth0",
            "route add default via 192.168.20.1",
        ],
    ),
    (
        "ce",
        &[
            "address add 192.168.10.1/24 dev lan0",
            "address add 192.168.20.1/24 dev lan1",
        ],
    ),
];

const LAN_ROUTER: [(&str, &[&str]); 4] = [
    (
        "switch",
        &[
            "link add lan type bridge forward_delay 0",
            "link set port0 master lan",
            "link set port1 master lan",
            "link set port2 master lan",
            "link set lan up",
        ],
    ),
    (
        "lanrouter",
        &[
            "address add 192.168.20.254/24 dev up0",
            "address add 192.168.30.1/24 dev down0",
            "route add default via 192.168.20.1",
        ],
    ),
    (
        "host3",
        &[
            "address add 192.168.30.2/24 dev eth0",
            "route add default via 192.168.30.1",
        ],
    ),
    ("ce", &["route add 192.168.30.0/24 via 192.168.20.254"]),
];

const ONE_ARM: [(&str, &[&str]); 3] = [
    (
        "host2",
        &[
            "address add 192.168.10.3/24 dev eth0",
            "route add default via 192.168.10.1",
        ],
    ),
    ("ce", &["address add 192.168.10.1/24 dev wan0"]),
    (
        "switch",
        &[
            "link add lan type bridge forward_delay 0",
            "link set port0 master lan",
            "link set port1 master lan",
            "link set port2 master lan",
            "link set port3 master lan",
            "link set lan up",
        ],
    ),
];

const FAR_SERVER_LINK: [(&str, &[&str]); 3] = [
    ("internet", &["address add 203.0.113.193/30 dev far0"]),
    (
        "farserver",
        &[
            "address add 203.0.113.194/30 dev eth0",
            "route add default via 203.0.113.193",
        ],
    ),
    ("br", &["route add 203.0.113.192/30 via 203.0.113.2"]),
];

/// What makes the lab an ordinary routed IPv4 network without any MAP-E: the lab's and its tools' own proof.
pub const PLAIN: [(&str, &[&str]); 4] = [
    (
        "ce",
        &["address add 10.0.0.1/30 dev wan0", "route add default via 10.0.0.2"],
    ),
    (
        "transit",
        &[
            "address add 10.0.0.2/30 dev ce0",
            "address add 10.0.1.1/30 dev br0",
            "route add 192.168.0.0/16 via 10.0.0.1",
            "route add default via 10.0.1.2",
        ],
    ),
    (
        "br",
        &[
            "address add 10.0.1.2/30 dev wan0",
            "route add 192.168.0.0/16 via 10.0.1.1",
        ],
    ),
    ("internet", &["route add 192.168.0.0/16 via 203.0.113.1"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_set_has_as_many_ports_as_it_says() {
        let ports: Vec<u16> = (0..=u16::MAX).filter(|port| is_own_port(*port)).collect();
        assert_eq!(ports.len(), PORTS);
        assert_eq!(ports.first(), Some(&0x1340));
        assert_eq!(ports.last(), Some(&0xf34f));
    }

    #[test]
    fn a_virtual_machine_is_the_one_node_that_is_missing() {
        for (shape, own) in [
            (Shape::VirtualEdge, "192.168.10.1/24"),
            (Shape::VirtualRelay, "203.0.113.1/24"),
        ] {
            let lines = shape.virtual_addresses();
            assert!(lines.iter().any(|line| line.contains(own)), "{lines:?}");
            for [_, _, device] in shape.taps() {
                assert!(
                    lines
                        .iter()
                        .any(|line| line.ends_with(device) || line.contains(&format!("dev {device} ")))
                );
            }
        }
        assert_eq!(Shape::TwoLans.virtual_addresses(), [""; 0]);
    }
}
