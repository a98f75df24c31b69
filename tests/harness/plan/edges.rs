//! Owns the three customer edges of [`super::Shape::ThreeEdges`]: what each is called and has, and how they are connected.
//!
//! Behind each is the same private network with one host at the same address, as in three homes of one provider.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A customer edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The node it runs in.
    pub node: &'static str,
    /// The host behind it.
    pub host: &'static str,
    /// The device of the node `transit` that leads to it.
    pub link: &'static str,
    /// Its End-user IPv6 prefix.
    pub prefix: &'static str,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its MAP address.
    pub ipv6: Ipv6Addr,
    /// Its PSID.
    pub psid: u16,
}

impl Edge {
    /// Whether an endpoint is one that this customer edge may translate to.
    pub fn owns(&self, endpoint: SocketAddr) -> bool {
        endpoint.ip() == self.ipv4 && super::is_port_of(self.psid, endpoint.port())
    }
}

/// The only customer edge of the other shapes.
pub const FIRST: Edge = Edge {
    node: "ce",
    host: "host1",
    link: "ce0",
    prefix: super::CE_PREFIX,
    ipv4: super::CE_IPV4,
    ipv6: super::CE_IPV6,
    psid: super::PSID,
};
/// All three. The first two differ in their PSID alone.
pub const ALL: [Edge; 3] = [
    FIRST,
    Edge {
        node: "ce2",
        host: "host2",
        link: "ce1",
        prefix: "2001:db8:12:3500::/56",
        ipv4: Ipv4Addr::new(192, 0, 2, 18),
        ipv6: Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0x3500, 0, 0xc000, 0x0212, 0x0035),
        psid: 0x35,
    },
    Edge {
        node: "ce3",
        host: "host3",
        link: "ce2",
        prefix: "2001:db8:13:3600::/56",
        ipv4: Ipv4Addr::new(192, 0, 2, 19),
        ipv6: Ipv6Addr::new(0x2001, 0xdb8, 0x13, 0x3600, 0, 0xc000, 0x0213, 0x0036),
        psid: 0x36,
    },
];

pub(super) const NODES: [&str; 9] = [
    "host1", "host2", "host3", "ce", "ce2", "ce3", "transit", "br", "internet",
];

pub(super) const LINKS: [[&str; 4]; 8] = [
    ["host1", "eth0", "ce", "lan0"],
    ["host2", "eth0", "ce2", "lan0"],
    ["host3", "eth0", "ce3", "lan0"],
    ["ce", "wan0", "transit", "ce0"],
    ["ce2", "wan0", "transit", "ce1"],
    ["ce3", "wan0", "transit", "ce2"],
    ["transit", "br0", "br", "wan0"],
    ["br", "inet0", "internet", "eth0"],
];

/// Besides what is the same in every shape.
pub(super) const ADDRESSES: [(&str, &[&str]); 6] = [
    ("ce", &["address add 192.168.10.1/24 dev lan0"]),
    ("host2", &HOST),
    ("host3", &HOST),
    (
        "ce2",
        &[
            "address add 192.168.10.1/24 dev lan0",
            "address add 2001:db8:12:3500::2/64 dev wan0 nodad",
            "address add 2001:db8:12:3500:0:c000:212:35/128 dev wan0 nodad",
            "route add default via 2001:db8:12:3500::1",
        ],
    ),
    (
        "ce3",
        &[
            "address add 192.168.10.1/24 dev lan0",
            "address add 2001:db8:13:3600::2/64 dev wan0 nodad",
            "address add 2001:db8:13:3600:0:c000:213:36/128 dev wan0 nodad",
            "route add default via 2001:db8:13:3600::1",
        ],
    ),
    (
        "transit",
        &[
            "address add 2001:db8:12:3500::1/64 dev ce1 nodad",
            "address add 2001:db8:13:3600::1/64 dev ce2 nodad",
        ],
    ),
];

const HOST: [&str; 2] = [
    "address add 192.168.10.2/24 dev eth0",
    "route add default via 192.168.10.1",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_endpoint_belongs_to_two_of_them() {
        for port in 0..=u16::MAX {
            for address in [ALL[0].ipv4, ALL[2].ipv4] {
                let endpoint = SocketAddr::from((address, port));
                assert!(ALL.iter().filter(|edge| edge.owns(endpoint)).count() <= 1, "{endpoint}");
            }
        }
        assert!(ALL[1].owns(SocketAddr::from((ALL[0].ipv4, 0x1350))));
        assert!(!ALL[0].owns(SocketAddr::from((ALL[0].ipv4, 0x1350))));
    }
}
