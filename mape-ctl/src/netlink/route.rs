//! Owns routes: where a packet would go, and the IPv4 routes into the tunnel device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType,
    },
};

use super::{Netlink, NetlinkError};

/// Where packets to an IPv6 address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Interface to leave by.
    pub index: u32,
    /// The next router; none = the address is a neighbour itself.
    pub gateway: Option<Ipv6Addr>,
    /// The route's own MTU, if it has one.
    pub mtu: Option<u32>,
    /// The address is this machine's own.
    pub local: bool,
}

/// Where packets to an IPv4 address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Way {
    /// Interface to leave by.
    pub index: u32,
    /// The next router; none = the address is a neighbour itself.
    pub gateway: Option<Ipv4Addr>,
    /// The address is this machine's own.
    pub local: bool,
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Route {
    /// Network.
    pub destination: Ipv4Addr,
    /// Its length.
    pub len: u8,
    /// Interface it leads to.
    pub index: Option<u32>,
    /// Its own MTU, if it has one.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// The route that the kernel would take to an address; none where there is none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn way_to(&self, address: Ipv6Addr) -> Result<Option<Way>, NetlinkError> {
        let message = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .build();
        let found = self.route_to(address.into(), message)?;
        Ok(found.as_ref().and_then(way))
    }

    /// The same for an IPv4 address.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ipv4_way_to(&self, address: Ipv4Addr) -> Result<Option<Ipv4Way>, NetlinkError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .build();
        let found = self.route_to(address.into(), message)?;
        Ok(found.as_ref().and_then(ipv4_way))
    }

    fn route_to(&self, address: IpAddr, message: RouteMessage) -> Result<Option<RouteMessage>, NetlinkError> {
        match self.list(
            format!("look up the route to {address}"),
            self.handle.route().get(message).execute(),
        ) {
            Ok(messages) => Ok(messages.into_iter().next()),
            // The kernel has words of its own for "no route".
            Err(error)
                if matches!(
                    error.source.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The IPv4 routes of the main table.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ipv4_routes(&self) -> Result<Vec<Ipv4Route>, NetlinkError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages = self.list("list the IPv4 routes", self.handle.route().get(message).execute())?;
        Ok(messages.iter().filter_map(ipv4_route).collect())
    }

    /// Adds an IPv4 route straight into an interface, with an MTU of its own or without; or replaces the one there.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn add_ipv4_route(
        &self,
        destination: Ipv4Addr,
        len: u8,
        index: u32,
        mtu: Option<u32>,
        replace: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = ipv4_message(destination, len, index);
        message
            .attributes
            .extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        let mut request = self.handle.route().add(message);
        if replace {
            request = request.replace();
        }
        self.wait(format!("add the route {destination}/{len}"), request.execute())
    }

    /// Takes such a route away.
    ///
    /// # Errors
    /// [`NetlinkError`]; [`NetlinkError::is_absent`] where it is not there.
    pub fn remove_ipv4_route(&self, destination: Ipv4Addr, len: u8, index: u32) -> Result<(), NetlinkError> {
        let message = ipv4_message(destination, len, index);
        self.wait(
            format!("remove the route {destination}/{len}"),
            self.handle.route().del(message).execute(),
        )
    }
}

fn ipv4_message(destination: Ipv4Addr, len: u8, index: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination, len)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of a route's many attributes only these are wanted"
)]
fn way(message: &RouteMessage) -> Option<Way> {
    let mut way = Way {
        index: 0,
        gateway: None,
        mtu: None,
        local: message.header.kind == RouteType::Local,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.index = *index,
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => way.gateway = Some(*gateway),
            RouteAttribute::Metrics(metrics) => way.mtu = mtu(metrics),
            _ => {}
        }
    }
    let usable = matches!(message.header.kind, RouteType::Unicast | RouteType::Local) && way.index != 0;
    usable.then_some(way)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of a route's many attributes only these are wanted"
)]
fn ipv4_way(message: &RouteMessage) -> Option<Ipv4Way> {
    let mut way = Ipv4Way {
        index: 0,
        gateway: None,
        local: message.header.kind == RouteType::Local,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.index = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => way.gateway = Some(*gateway),
            _ => {}
        }
    }
    let usable = matches!(message.header.kind, RouteType::Unicast | RouteType::Local) && way.index != 0;
    usable.then_some(way)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of a route's many attributes only these are wanted"
)]
fn ipv4_route(message: &RouteMessage) -> Option<Ipv4Route> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route = Ipv4Route {
        destination: Ipv4Addr::UNSPECIFIED,
        len: message.header.destination_prefix_length,
        index: None,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.index = Some(*index),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = *address,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            _ => {}
        }
    }
    Some(route)
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| {
        if let RouteMetric::Mtu(mtu) = metric {
            Some(*mtu)
        } else {
            None
        }
    })
}
