//! Owns finding the next hop towards the tunnel's far end: route, then neighbour, provoking an answer where none is known.

use std::{
    net::Ipv6Addr,
    thread,
    time::{Duration, Instant},
};

use mape_common::hop::{Hop, Mac};

use super::{Netlink, NetlinkError, link::Interface};
use crate::provoke;

/// How long a neighbour may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no next hop. Each says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No route.
    #[error("there is no IPv6 route to {target}; is the WAN configured (ip -6 route get {target})?")]
    NoRoute {
        /// Where to.
        target: Ipv6Addr,
    },
    /// The target is this machine.
    #[error("{target} is an address of this machine itself")]
    Local {
        /// Where to.
        target: Ipv6Addr,
    },
    /// The route leaves by another interface than the WAN.
    #[error(
        "the route to {target} leaves by {leaves_by}, not by the WAN interface {wan}; name that one as `wan`, or mend the route"
    )]
    ElsewhereBound {
        /// Where to.
        target: Ipv6Addr,
        /// The interface it leaves by.
        leaves_by: String,
        /// The interface it should leave by.
        wan: String,
    },
    /// The rule's addresses have no router in common.
    #[error(
        "{target} is directly on {wan}: every address there has a next hop of its own, which this gateway does not follow"
    )]
    OnLink {
        /// Where to.
        target: Ipv6Addr,
        /// The WAN interface.
        wan: String,
    },
    /// The neighbour does not answer.
    #[error(
        "the router {neighbour} does not answer on {wan} within {} s; check the cable, and that it is there: ping -6 {neighbour}%{wan}",
        PATIENCE.as_secs()
    )]
    Silent {
        /// The neighbour.
        neighbour: Ipv6Addr,
        /// The WAN interface.
        wan: String,
    },
    /// The WAN is no Ethernet device.
    #[error("{0} has no MAC address")]
    NoMac(String),
    /// The kernel did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A next hop, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The neighbour's address.
    pub neighbour: Ipv6Addr,
    /// What the data path needs.
    pub hop: Hop,
}

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One address: it may be a neighbour itself.
    Host,
    /// Any address of a prefix: it needs a router.
    Prefix,
}

/// The way to an address, as the routing table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Towards {
    /// The neighbour's address.
    pub neighbour: Ipv6Addr,
    /// Largest IP packet of link and route.
    mtu: u16,
    source: Mac,
    index: u32,
}

impl Towards {
    /// The next hop, now that the neighbour's MAC address is known.
    pub const fn hop(&self, destination: Mac) -> Resolved {
        Resolved {
            neighbour: self.neighbour,
            hop: Hop {
                ifindex: self.index,
                mtu: self.mtu,
                destination,
                source: self.source,
            },
        }
    }
}

/// Asks the routing table for the way to an address.
///
/// # Errors
/// [`ResolveError`], but never [`ResolveError::Silent`].
pub fn towards(netlink: &Netlink, wan: &Interface, target: Ipv6Addr, kind: Target) -> Result<Towards, ResolveError> {
    let way = netlink.way_to(target)?.ok_or(ResolveError::NoRoute { target })?;
    if way.local {
        return Err(ResolveError::Local { target });
    }
    if way.index != wan.index {
        let name = netlink
            .interfaces()?
            .into_iter()
            .find(|interface| interface.index == way.index);
        let leaves_by = name.map_or_else(|| format!("interface {}", way.index), |interface| interface.name);
        return Err(ResolveError::ElsewhereBound {
            target,
            leaves_by,
            wan: wan.name.clone(),
        });
    }
    let neighbour = match (way.gateway, kind) {
        (Some(gateway), _) => gateway,
        (None, Target::Host) => target,
        (None, Target::Prefix) => {
            return Err(ResolveError::OnLink {
                target,
                wan: wan.name.clone(),
            });
        }
    };
    let source = wan.mac.ok_or_else(|| ResolveError::NoMac(wan.name.clone()))?;
    let mtu = way.mtu.map_or(wan.mtu, |mtu| mtu.min(wan.mtu));
    Ok(Towards {
        neighbour,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        source,
        index: wan.index,
    })
}

/// Finds the next hop towards an address, waiting for the neighbour where it is not known.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(netlink: &Netlink, wan: &Interface, target: Ipv6Addr, kind: Target) -> Result<Resolved, ResolveError> {
    let towards = towards(netlink, wan, target, kind)?;
    let neighbour = towards.neighbour;
    let end = Instant::now() + PATIENCE;
    let mut asked = Instant::now();
    loop {
        if let Some(mac) = netlink.neighbour_mac(wan.index, neighbour)? {
            return Ok(towards.hop(mac));
        }
        if Instant::now() >= end {
            return Err(ResolveError::Silent {
                neighbour,
                wan: wan.name.clone(),
            });
        }
        // The kernel gives up after three solicitations; a datagram each second starts it again.
        if asked <= Instant::now() {
            provoke::knock(neighbour, wan.index);
            asked = Instant::now() + Duration::from_secs(1);
        }
        thread::sleep(PAUSE);
    }
}
