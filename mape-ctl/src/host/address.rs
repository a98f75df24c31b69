//! Owns the tunnel's own IPv6 address on the WAN, without which no neighbour answers for it.

use std::{
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
};

use super::state::MadeAddress;
use crate::{
    netlink::{Netlink, NetlinkError, address::Assigned, link::Interface},
    undo::Undo,
};

const LEN: u8 = 128;

/// What [`ensure`] would add, so that it can be recorded before it is there.
///
/// # Errors
/// [`NetlinkError`].
pub fn missing(
    netlink: &Netlink,
    interface: &Interface,
    address: Ipv6Addr,
) -> Result<Option<MadeAddress>, NetlinkError> {
    let is_there = netlink
        .addresses()?
        .iter()
        .any(|assigned| assigned.index == interface.index && assigned.address == IpAddr::V6(address));
    Ok((!is_there).then(|| made(interface, address)))
}

fn made(interface: &Interface, address: Ipv6Addr) -> MadeAddress {
    MadeAddress {
        interface: interface.name.clone(),
        address,
        len: LEN,
    }
}

/// Sees to it that an interface has an address. Gives what was added, and what an operator should know.
///
/// # Errors
/// [`NetlinkError`].
pub fn ensure(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    interface: &Interface,
    address: Ipv6Addr,
) -> Result<(Option<MadeAddress>, Option<String>), NetlinkError> {
    let all = netlink.addresses()?;
    let mut holders = all
        .iter()
        .filter(|assigned| assigned.address == IpAddr::V6(address))
        .peekable();
    let elsewhere = holders.peek().is_some();
    if holders.any(|assigned| assigned.index == interface.index) {
        return Ok((None, None));
    }
    let assigned = Assigned {
        index: interface.index,
        address: address.into(),
        len: LEN,
    };
    netlink.add_address(assigned.index, assigned.address, assigned.len)?;
    let again = Rc::clone(netlink);
    undo.push(format!("remove {address} from {}", interface.name), move || {
        again
            .remove_address(assigned)
            .or_else(|error| if error.is_absent() { Ok(()) } else { Err(error.into()) })
    });
    let note = elsewhere.then(|| {
        format!("{address} is on another interface, too: remove it there, or neighbours may be answered from there")
    });
    Ok((Some(made(interface, address)), note))
}

/// Takes away an address that `load` added; true where it was still there.
///
/// # Errors
/// [`NetlinkError`].
pub fn remove(netlink: &Netlink, made: &MadeAddress) -> Result<bool, NetlinkError> {
    let Some(interface) = netlink.interface(&made.interface)? else {
        return Ok(false);
    };
    match netlink.remove_address(Assigned {
        index: interface.index,
        address: made.address.into(),
        len: made.len,
    }) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}
