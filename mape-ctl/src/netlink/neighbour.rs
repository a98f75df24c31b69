//! Owns neighbours: which MAC address an address on a link has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mape_common::hop::Mac;
use rtnetlink::packet_route::{
    AddressFamily,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState},
};

use super::{Netlink, NetlinkError};

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Its MAC address, for ever: somebody has entered it.
    Permanent,
    /// Its MAC address.
    Answered,
    /// Nothing, or not any longer.
    Silent,
}

impl Netlink {
    /// The MAC address of a neighbour, if the kernel knows it.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn neighbour_mac(&self, index: u32, address: Ipv6Addr) -> Result<Option<Mac>, NetlinkError> {
        let known = self.ipv6_neighbours(index)?;
        Ok(known.into_iter().find(|(of, _)| *of == address).map(|(_, mac)| mac))
    }

    /// The IPv6 neighbours on a link whose MAC address the kernel knows.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ipv6_neighbours(&self, index: u32) -> Result<Vec<(Ipv6Addr, Mac)>, NetlinkError> {
        let known = |message| match resolved(message)? {
            (at, IpAddr::V6(address), Some(mac)) if at == index => Some((address, mac)),
            _ => None,
        };
        Ok(self
            .neighbours(AddressFamily::Inet6)?
            .iter()
            .filter_map(known)
            .collect())
    }

    /// IPv4 hosts that the kernel has heard of on a link.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ipv4_neighbours(&self, index: u32) -> Result<Vec<Ipv4Addr>, NetlinkError> {
        let known = |message| match resolved(message)? {
            (at, IpAddr::V4(address), _) if at == index => Some(address),
            _ => None,
        };
        Ok(self.neighbours(AddressFamily::Inet)?.iter().filter_map(known).collect())
    }

    /// What the kernel knows of an IPv4 neighbour.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn ipv4_neighbour(&self, index: u32, address: Ipv4Addr) -> Result<Knowledge, NetlinkError> {
        let messages = self.neighbours(AddressFamily::Inet)?;
        let found = messages.iter().find_map(|message| {
            let (at, of, mac) = resolved(message)?;
            (at == index && of == IpAddr::V4(address)).then_some((message, mac))
        });
        Ok(match found {
            Some((message, Some(_))) if message.header.state == NeighbourState::Permanent => Knowledge::Permanent,
            Some((_, Some(_))) => Knowledge::Answered,
            Some((_, None)) | None => Knowledge::Silent,
        })
    }

    /// Has the kernel look for an IPv4 neighbour and keep looking (a managed entry), whether anything is sent to it or not.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn keep_neighbour(&self, index: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut request = self.handle.neighbours().add(index, address.into()).replace();
        let message = request.message_mut();
        // Without a state of its own an entry that is there keeps its address.
        message.header.state = NeighbourState::None;
        message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        self.wait(format!("keep looking for the neighbour {address}"), request.execute())
    }

    /// Forgets such a neighbour; the kernel finds it again when something is sent to it.
    ///
    /// # Errors
    /// [`NetlinkError`]; [`NetlinkError::is_absent`] where it is not there.
    pub fn forget_neighbour(&self, index: u32, address: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message
            .attributes
            .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        self.wait(
            format!("forget the neighbour {address}"),
            self.handle.neighbours().del(message).execute(),
        )
    }

    /// Has the kernel ask a neighbour that it knows whether it is still there, by its MAC address and at once. Left alone it asks
    /// only when packets of its own go there, and the data path's do not count.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn probe_neighbour(&self, index: u32, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let messages = self.neighbours(AddressFamily::Inet6)?;
        let known = messages.iter().find(|message| {
            resolved(message).is_some_and(|(at, of, mac)| at == index && of == IpAddr::V6(address) && mac.is_some())
        });
        let Some(known) = known.filter(|known| {
            matches!(
                known.header.state,
                NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay
            )
        }) else {
            return Ok(());
        };
        let mut request = self.handle.neighbours().add(index, address.into()).replace();
        let message = request.message_mut();
        message.header.state = NeighbourState::Probe;
        // Whether it is a router stays as it is.
        message.header.flags = known.header.flags;
        self.wait(format!("ask whether {address} is still there"), request.execute())
    }

    fn neighbours(&self, family: AddressFamily) -> Result<Vec<NeighbourMessage>, NetlinkError> {
        self.list(
            "list the neighbours",
            self.handle.neighbours().get().set_address_family(family).execute(),
        )
    }
}

/// Interface and address of an entry, and its MAC address while that is to be believed.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of an entry's many attributes only these are wanted"
)]
fn resolved(message: &NeighbourMessage) -> Option<(u32, IpAddr, Option<Mac>)> {
    let believed = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(of)) => address = Some(IpAddr::V4(*of)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(of)) => address = Some(IpAddr::V6(*of)),
            NeighbourAttribute::LinkLayerAddress(bytes) if believed => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, mac.filter(|mac| !mac.is_unusable())))
}
