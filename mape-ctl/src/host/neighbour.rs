//! Owns keeping the hosts that forwards lead to known: a server that only waits has sent nothing that could be learned from.
//!
//! The kernel's neighbour table can hold an entry that it resolves by itself, again and again (a managed entry, Linux 5.16).
//! The data path asks that table when somebody opens a session from outside.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use super::state::MadeNeighbour;
use crate::{
    netlink::{Netlink, NetlinkError, link::Interface, neighbour::Knowledge},
    undo::Undo,
};

/// How long all hosts together may take to answer before it is said that one has not.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// What was done for the hosts.
#[derive(Debug, Default)]
pub struct Kept {
    /// Entries that are managed now.
    pub made: Vec<MadeNeighbour>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// The neighbour that packets to a host go to, and its interface; nothing where the LAN does not have the host.
///
/// # Errors
/// [`NetlinkError`].
pub fn towards<'a>(
    netlink: &Netlink,
    interfaces: &'a [Interface],
    lan: &BTreeSet<u32>,
    host: Ipv4Addr,
) -> Result<Option<(&'a Interface, Ipv4Addr)>, NetlinkError> {
    let way = netlink
        .ipv4_way_to(host)?
        .filter(|way| !way.local && lan.contains(&way.index));
    Ok(way.and_then(|way| {
        let interface = interfaces.iter().find(|interface| interface.index == way.index)?;
        Some((interface, way.gateway.unwrap_or(host)))
    }))
}

/// Sees to it that the kernel keeps each host's neighbour resolved. `lan`: interfaces that the data path forwards to; `record` is
/// told what is going to be made.
///
/// # Errors
/// [`NetlinkError`], and what `record` fails with.
pub fn keep<E: From<NetlinkError>>(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    lan: &BTreeSet<u32>,
    hosts: impl IntoIterator<Item = Ipv4Addr>,
    before: &[MadeNeighbour],
    record: impl FnOnce(&[MadeNeighbour]) -> Result<(), E>,
) -> Result<Kept, E> {
    let mut kept = Kept::default();
    let hosts: BTreeSet<Ipv4Addr> = hosts.into_iter().collect();
    if hosts.is_empty() {
        return Ok(kept);
    }
    let interfaces = netlink.interfaces()?;
    let mut waiting = Vec::new();
    for host in hosts {
        let Some((interface, neighbour)) = towards(netlink, &interfaces, lan, host)? else {
            kept.warnings.push(format!(
                "{host} is not on the LAN: no route leads to it by one of the LAN interfaces (ip route get {host}); \
                 what is forwarded to it is dropped until there is one"
            ));
            continue;
        };
        let made = MadeNeighbour {
            interface: interface.name.clone(),
            address: neighbour,
        };
        if kept.made.contains(&made) {
            continue;
        }
        if netlink.ipv4_neighbour(interface.index, neighbour)? == Knowledge::Permanent {
            continue;
        }
        kept.made.push(made);
        waiting.push((interface, neighbour));
    }
    record(&kept.made)?;
    for (made, (interface, neighbour)) in kept.made.iter().zip(&waiting) {
        let (index, neighbour) = (interface.index, *neighbour);
        netlink.keep_neighbour(index, neighbour)?;
        if !before.contains(made) {
            let again = Rc::clone(netlink);
            undo.push(format!("forget the neighbour {neighbour}"), move || {
                again
                    .forget_neighbour(index, neighbour)
                    .or_else(|error| if error.is_absent() { Ok(()) } else { Err(error.into()) })
            });
        }
    }
    let end = Instant::now() + PATIENCE;
    for (interface, neighbour) in waiting {
        while netlink.ipv4_neighbour(interface.index, neighbour)? == Knowledge::Silent {
            if Instant::now() >= end {
                kept.warnings.push(format!(
                    "{neighbour} does not answer on {} yet; what is forwarded comes through as soon as it does",
                    interface.name
                ));
                break;
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(kept)
}

/// Lets the kernel forget entries that nobody needs any longer.
///
/// # Errors
/// [`NetlinkError`].
pub fn forget(netlink: &Netlink, made: &[MadeNeighbour]) -> Result<(), NetlinkError> {
    for one in made {
        let Some(interface) = netlink.interface(&one.interface)? else {
            continue;
        };
        match netlink.forget_neighbour(interface.index, one.address) {
            Err(error) if !error.is_absent() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
