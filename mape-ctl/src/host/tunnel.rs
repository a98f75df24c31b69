//! Owns the tunnel device: made and marked as ours, or adopted, and the routes into it.

use std::{net::Ipv4Addr, rc::Rc};

use super::state::{MadeRoute, TunnelRecord};
use crate::{
    gateway::Tunnel,
    instance::Instance,
    netlink::{Netlink, NetlinkError, link::Interface, route::Ipv4Route},
    tun::{self, TunError},
    undo::Undo,
};

/// First word of the alias of devices that mape-ctl has made; the instance's name is the second.
const MARK: &str = "mape-ctl";
/// The box's own address in the tunnel (RFC 7335).
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);

/// Why there is no tunnel device.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Another instance has made it.
    #[error("{device} belongs to instance {owner}; give this one another device (tunnel.device)")]
    Foreign {
        /// The device.
        device: String,
        /// Who made it.
        owner: String,
    },
    /// It was made and is not there.
    #[error("{0} was made and is gone again; does something remove devices it does not know?")]
    Vanished(String),
    /// It cannot be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The kernel refuses.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// The device, ready for packets, and what an operator should know of it.
#[derive(Debug)]
pub struct Ready {
    /// The device.
    pub interface: Interface,
    /// What is to be remembered.
    pub record: TunnelRecord,
    /// What was done.
    pub messages: Vec<String>,
    /// What may be wrong.
    pub warnings: Vec<String>,
}

impl Ready {
    /// Whether a process has to carry its packets: it is a TUN device of ours.
    pub fn is_carried(&self) -> bool {
        self.record.made && self.interface.kind.as_deref() == Some("tun")
    }
}

fn alias(instance: &Instance) -> String {
    format!("{MARK} {instance}")
}

/// Who made a device, if one of us did.
pub fn owner(interface: &Interface) -> Option<&str> {
    interface.alias.as_deref()?.strip_prefix(MARK)?.strip_prefix(' ')
}

/// Sees to it that the device is there, and puts the routes into it where it is ours.
///
/// # Errors
/// [`TunnelError`].
pub fn ensure(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    instance: &Instance,
    wanted: &Tunnel,
    before: Option<&TunnelRecord>,
) -> Result<Ready, TunnelError> {
    let name = &wanted.device;
    let mut messages = Vec::new();
    let interface = match netlink.interface(name)? {
        Some(found) if owner(&found) == Some(instance.as_ref()) => {
            refresh(netlink, undo, instance, &found, wanted)?;
            found
        }
        Some(found) => {
            if let Some(owner) = owner(&found) {
                return Err(TunnelError::Foreign {
                    device: name.clone(),
                    owner: owner.to_owned(),
                });
            }
            let record = TunnelRecord {
                device: name.clone(),
                made: false,
                routes: Vec::new(),
            };
            let messages = vec![format!(
                "{name} was there before: used as it is, its routes are yours to make"
            )];
            return Ok(Ready {
                interface: found,
                record,
                messages,
                warnings: Vec::new(),
            });
        }
        None => {
            messages.push(format!("made the tunnel device {name}"));
            make(netlink, undo, instance, wanted)?
        }
    };
    match netlink.add_address(interface.index, OWN_ADDRESS.into(), 32) {
        Err(error) if !error.is_exists() => return Err(error.into()),
        _ => {}
    }
    let kept = before
        .filter(|record| record.device == *name)
        .map_or(&[][..], |record| &record.routes);
    let (routes, warnings) = routes(netlink, undo, &interface, wanted, kept)?;
    Ok(Ready {
        interface,
        record: TunnelRecord {
            device: name.clone(),
            made: true,
            routes,
        },
        messages,
        warnings,
    })
}

fn make(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    instance: &Instance,
    wanted: &Tunnel,
) -> Result<Interface, TunnelError> {
    tun::create(&wanted.device)?;
    let found = netlink
        .interface(&wanted.device)?
        .ok_or_else(|| TunnelError::Vanished(wanted.device.clone()))?;
    let (again, index) = (Rc::clone(netlink), found.index);
    undo.push(format!("remove {}", wanted.device), move || {
        again
            .delete_interface(index)
            .or_else(|error| if error.is_absent() { Ok(()) } else { Err(error.into()) })
    });
    netlink.set_up(found.index, u32::from(wanted.mtu), &alias(instance))?;
    Ok(found)
}

/// Gives our own device from an earlier load the MTU that is wanted now, and switches it on.
fn refresh(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    instance: &Instance,
    found: &Interface,
    wanted: &Tunnel,
) -> Result<(), TunnelError> {
    netlink.set_up(found.index, u32::from(wanted.mtu), &alias(instance))?;
    let (again, index, mtu) = (Rc::clone(netlink), found.index, found.mtu);
    undo.push(format!("set the MTU of {} back", found.name), move || {
        again.set_mtu(index, mtu).map_err(Into::into)
    });
    Ok(())
}

/// Routes into our device: those wanted, unless another device has an equal one; those of before that are wanted no longer go.
fn routes(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    device: &Interface,
    wanted: &Tunnel,
    before: &[MadeRoute],
) -> Result<(Vec<MadeRoute>, Vec<String>), NetlinkError> {
    let there = netlink.ipv4_routes()?;
    let find = |destination, len, is_own: bool| {
        there.iter().find(|route| {
            route.destination == destination && route.len == len && (route.index == Some(device.index)) == is_own
        })
    };
    let mtu = Some(u32::from(wanted.mtu));
    let mut made = Vec::new();
    let mut warnings = Vec::new();
    for prefix in &wanted.routes {
        let (destination, len) = (prefix.address(), prefix.len());
        let own = find(destination, len, true);
        if own.is_none()
            && let Some(other) = find(destination, len, false)
        {
            warnings.push(occupied(netlink, &device.name, &prefix.to_string(), other));
            continue;
        }
        made.push(MadeRoute { destination, len });
        // An own route is replaced: its MTU may be another one now.
        netlink.add_ipv4_route(destination, len, device.index, mtu, own.is_some())?;
        let (again, index, old) = (Rc::clone(netlink), device.index, own.copied());
        undo.push(format!("take the route {prefix} back"), move || match old {
            Some(old) => again
                .add_ipv4_route(destination, len, index, old.mtu, true)
                .map_err(Into::into),
            None => absent_is_fine(again.remove_ipv4_route(destination, len, index)).map_err(Into::into),
        });
    }
    for old in before.iter().filter(|old| !made.contains(old)) {
        let Some(route) = find(old.destination, old.len, true).copied() else {
            continue;
        };
        absent_is_fine(netlink.remove_ipv4_route(old.destination, old.len, device.index))?;
        let (again, index) = (Rc::clone(netlink), device.index);
        undo.push("add a route again", move || {
            again
                .add_ipv4_route(route.destination, route.len, index, route.mtu, false)
                .map_err(Into::into)
        });
    }
    Ok((made, warnings))
}

/// What to say of an equal route that leads elsewhere.
fn occupied(netlink: &Netlink, device: &str, prefix: &str, other: &Ipv4Route) -> String {
    let interfaces = netlink.interfaces().unwrap_or_default();
    let through = interfaces.iter().find(|found| Some(found.index) == other.index);
    let through = through.map_or_else(|| "elsewhere".to_owned(), |found| format!("to {}", found.name));
    format!(
        "there is a route {prefix} {through} already: none was made into {device}; \
         to tunnel it: ip route replace {prefix} dev {device}"
    )
}

fn absent_is_fine(outcome: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// Removes the device if this instance made it; true where it was there.
///
/// # Errors
/// [`NetlinkError`].
pub fn remove(netlink: &Netlink, instance: &Instance, device: &str) -> Result<bool, NetlinkError> {
    match netlink.interface(device)? {
        Some(found) if owner(&found) == Some(instance.as_ref()) => netlink.delete_interface(found.index).map(|()| true),
        _ => Ok(false),
    }
}

/// Devices that an instance has made, found by their mark.
///
/// # Errors
/// [`NetlinkError`].
pub fn made_by(netlink: &Netlink, instance: &Instance) -> Result<Vec<String>, NetlinkError> {
    let interfaces = netlink.interfaces()?;
    Ok(interfaces
        .into_iter()
        .filter(|found| owner(found) == Some(instance.as_ref()))
        .map(|found| found.name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::nic::tests::nic;

    #[test]
    fn only_the_instances_own_mark_is_ours() {
        let marked = |alias: &str| Interface {
            alias: Some(alias.to_owned()),
            ..nic(1, "mape0")
        };
        let home: Instance = "home".parse().unwrap();
        assert_eq!(owner(&marked(&alias(&home))), Some("home"));
        assert_eq!(owner(&marked("mape-ctl office")), Some("office"));
        assert_eq!(owner(&marked("uplink")), None);
        assert_eq!(owner(&nic(1, "mape0")), None);
    }
}
