//! Owns IP addresses on interfaces.

use std::net::IpAddr;

use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};

use super::{Netlink, NetlinkError};

/// Seconds that mean "for ever".
const FOR_EVER: u32 = u32::MAX;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Kernel interface index.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network.
    pub len: u8,
}

impl Netlink {
    /// All addresses of this network namespace.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn addresses(&self) -> Result<Vec<Assigned>, NetlinkError> {
        let messages = self.list("list the addresses", self.handle.address().get().execute())?;
        Ok(messages.iter().filter_map(assigned).collect())
    }

    /// Gives an interface an address. An IPv6 address is usable at once and is no source of this machine's own connections
    /// (deprecated): it is the tunnel's.
    ///
    /// # Errors
    /// [`NetlinkError`]; [`NetlinkError::is_exists`] where it has it already.
    pub fn add_address(&self, index: u32, address: IpAddr, len: u8) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address, len);
        if address.is_ipv6() {
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_valid = FOR_EVER;
            let attributes = &mut request.message_mut().attributes;
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        self.wait(format!("add the address {address}/{len}"), request.execute())
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// [`NetlinkError`]; [`NetlinkError::is_absent`] where it is not there.
    pub fn remove_address(&self, assigned: Assigned) -> Result<(), NetlinkError> {
        let Assigned { index, address, len } = assigned;
        // A message with these three is all that the kernel wants; the builder of the crate sets no more.
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = len;
        message.header.family = match address {
            IpAddr::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
            IpAddr::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
        };
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        self.wait(
            format!("remove the address {address}/{len}"),
            self.handle.address().del(message).execute(),
        )
    }
}

fn assigned(message: &AddressMessage) -> Option<Assigned> {
    // On point-to-point devices the peer's address is the other attribute: the local one counts.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Local(address) = attribute
                && local
            {
                return Some(*address);
            }
            if let AddressAttribute::Address(address) = attribute
                && !local
            {
                return Some(*address);
            }
            None
        })
    };
    let address = find(true).or_else(|| find(false))?;
    Some(Assigned {
        index: message.header.index,
        address,
        len: message.header.prefix_len,
    })
}
