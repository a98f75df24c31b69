//! Owns the kernel's tunnels in IPv6 (`ip6tnl`): what one is set to, and making them.

use std::net::{IpAddr, Ipv6Addr};

use rtnetlink::{
    LinkMessageBuilder, LinkUnspec,
    packet_route::{
        IpProtocol,
        link::{InfoData, InfoIpTunnel, InfoKind, Ip6TunnelFlags, LinkInfo, LinkMessage},
    },
};

use super::{Netlink, NetlinkError};

/// The kernel's word for such a device.
pub const KIND: &str = "ip6tnl";

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// IPv4 and IPv6.
    Any,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Something else.
    Other(u8),
}

/// What a tunnel is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip6Tunnel {
    /// What it carries.
    pub carries: Carries,
    /// The near end; zeros = any.
    pub local: Ipv6Addr,
    /// The far end; zeros = any.
    pub remote: Ipv6Addr,
    /// The encapsulation limit that packets are sent with, in an option header of eight bytes; none = no such header.
    pub encapsulation_limit: Option<u8>,
    /// It has no ends of its own: each packet says where it goes.
    pub external: bool,
}

/// What the kernel tells of a device, if it is such a tunnel.
pub(super) fn read(info: &[LinkInfo]) -> Option<Ip6Tunnel> {
    let is_one = info.contains(&LinkInfo::Kind(InfoKind::Ip6Tnl));
    let facts = info.iter().find_map(|info| {
        if let LinkInfo::Data(InfoData::IpTunnel(facts)) = info {
            Some(facts)
        } else {
            None
        }
    })?;
    is_one.then(|| settings(facts))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate knows more kinds of settings than this tunnel has"
)]
fn settings(facts: &[InfoIpTunnel]) -> Ip6Tunnel {
    let mut tunnel = Ip6Tunnel {
        carries: Carries::Ipv6,
        local: Ipv6Addr::UNSPECIFIED,
        remote: Ipv6Addr::UNSPECIFIED,
        encapsulation_limit: None,
        external: false,
    };
    let mut limit = 0;
    let mut has_limit = true;
    for fact in facts {
        match fact {
            InfoIpTunnel::Protocol(protocol) => {
                tunnel.carries = match u8::from(*protocol) {
                    0 => Carries::Any,
                    4 => Carries::Ipv4,
                    41 => Carries::Ipv6,
                    other => Carries::Other(other),
                };
            }
            InfoIpTunnel::Local(IpAddr::V6(local)) => tunnel.local = *local,
            InfoIpTunnel::Remote(IpAddr::V6(remote)) => tunnel.remote = *remote,
            InfoIpTunnel::EncapLimit(number) => limit = *number,
            InfoIpTunnel::Ipv6Flags(flags) => has_limit = !flags.contains(Ip6TunnelFlags::IgnEncapLimit),
            InfoIpTunnel::CollectMetadata => tunnel.external = true,
            _ => {}
        }
    }
    // Where each packet says where it goes, the kernel adds no such header.
    tunnel.encapsulation_limit = (has_limit && !tunnel.external).then_some(limit);
    tunnel
}

/// The message that makes a tunnel for IPv4: between two ends, or without.
fn message(name: &str, ends: Option<(Ipv6Addr, Ipv6Addr)>) -> LinkMessage {
    let mut facts = vec![
        InfoIpTunnel::Protocol(IpProtocol::Ipip),
        InfoIpTunnel::EncapLimit(0),
        InfoIpTunnel::Ttl(64),
        InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::IgnEncapLimit),
    ];
    match ends {
        Some((local, remote)) => {
            facts.push(InfoIpTunnel::Local(local.into()));
            facts.push(InfoIpTunnel::Remote(remote.into()));
        }
        None => facts.push(InfoIpTunnel::CollectMetadata),
    }
    LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ip6Tnl)
        .name(name.to_owned())
        .set_info_data(InfoData::IpTunnel(facts))
        .build()
}

impl Netlink {
    /// Makes a tunnel for IPv4, switched off: between two ends, or without ends, so that each packet says where it goes.
    ///
    /// # Errors
    /// [`NetlinkError`]; [`NetlinkError::is_exists`] where there is a device of that name or a tunnel between those ends, or,
    /// without ends, another such tunnel in this network namespace; [`NetlinkError::is_unsupported`] without `ip6_tunnel`.
    pub fn add_ip6_tunnel(&self, name: &str, ends: Option<(Ipv6Addr, Ipv6Addr)>) -> Result<(), NetlinkError> {
        self.wait(
            format!("make the tunnel {name} (ip6tnl)"),
            self.handle.link().add(message(name, ends)).execute(),
        )
    }

    /// Gives a tunnel of ours other ends.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_ip6_tunnel_ends(&self, name: &str, local: Ipv6Addr, remote: Ipv6Addr) -> Result<(), NetlinkError> {
        self.wait(
            format!("set the ends of the tunnel {name}"),
            self.handle
                .link()
                .add(message(name, Some((local, remote))))
                .replace()
                .execute(),
        )
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkAttribute;

    use super::*;

    fn made(ends: Option<(Ipv6Addr, Ipv6Addr)>) -> Option<Ip6Tunnel> {
        message("mape0", ends).attributes.iter().find_map(|attribute| {
            if let LinkAttribute::LinkInfo(info) = attribute {
                read(info)
            } else {
                None
            }
        })
    }

    #[test]
    fn what_is_made_reads_as_it_was_meant() {
        let (near, far) = ("2001:db8::1".parse().unwrap(), "2001:db8:ffff::1".parse().unwrap());
        let fixed = Ip6Tunnel {
            carries: Carries::Ipv4,
            local: near,
            remote: far,
            encapsulation_limit: None,
            external: false,
        };
        assert_eq!(made(Some((near, far))), Some(fixed));
        let external = Ip6Tunnel {
            local: Ipv6Addr::UNSPECIFIED,
            remote: Ipv6Addr::UNSPECIFIED,
            external: true,
            ..fixed
        };
        assert_eq!(made(None), Some(external));
    }

    #[test]
    fn a_hand_made_tunnel_has_the_kernels_encapsulation_limit() {
        let facts = [
            InfoIpTunnel::Protocol(IpProtocol::Ipip),
            InfoIpTunnel::EncapLimit(4),
            InfoIpTunnel::Ipv6Flags(Ip6TunnelFlags::CapXmit),
        ];
        assert_eq!(settings(&facts).encapsulation_limit, Some(4));
    }

    #[test]
    fn another_kind_of_device_is_no_such_tunnel() {
        let info = [
            LinkInfo::Kind(InfoKind::SitTun),
            LinkInfo::Data(InfoData::IpTunnel(Vec::new())),
        ];
        assert_eq!(read(&info), None);
        assert_eq!(read(&[LinkInfo::Kind(InfoKind::Ip6Tnl)]), None);
    }
}
