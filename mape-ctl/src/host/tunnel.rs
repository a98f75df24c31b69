//! Owns the tunnel device: made and marked as ours, or adopted, and the routes into it.

mod adopt;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use mape_common::map::prefix::Ipv4Prefix;

use self::adopt::Unfit;
use super::state::{MadeRoute, State, TunnelRecord};
use crate::{
    gateway::{Tunnel, TunnelKind},
    instance::Instance,
    kernel,
    netlink::{
        Netlink, NetlinkError,
        ip6_tunnel::{self, Ip6Tunnel},
        link::Interface,
        route::Ipv4Route,
    },
    tun::{self, NewTun, TunError},
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
    /// It was there and cannot be used.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Of ours, but not what is wanted now.
    #[error("{device} was made as {found}, and {wanted} is wanted now; `mape-ctl unload` removes it, then load again")]
    OtherKind {
        /// The device.
        device: String,
        /// What it is.
        found: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
    /// The kernel has no such tunnels.
    #[error("this kernel makes no tunnel (ip6_tunnel is missing): tunnel.kind = \"auto\" or \"user\" does without")]
    NoKernelTunnel(#[source] NetlinkError),
    /// A network namespace has one tunnel without ends.
    #[error(
        "{other} is an external ip6tnl, of which a network namespace can have one, and the rules lead to other customers, \
         which a tunnel with a fixed far end does not reach; tunnel.kind = \"user\" does without, or: ip link delete {other}"
    )]
    Occupied {
        /// The other one.
        other: String,
    },
    /// Another tunnel has the same ends.
    #[error(
        "{other} is a tunnel between the same ends; to use it: tunnel.device = {other:?}, or: ip link delete {other}"
    )]
    SameEnds {
        /// The other one.
        other: String,
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

/// What the device is for.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// As configured.
    pub tunnel: &'a Tunnel,
    /// This customer edge's address.
    pub near: Ipv6Addr,
    /// The border relay's.
    pub relay: Ipv6Addr,
    /// The shared address, or the line's own prefix.
    pub shared: Ipv4Prefix,
    /// How many rules lead to other customers.
    pub rules: usize,
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
        self.record.made && is_tun(&self.interface)
    }
}

fn is_tun(interface: &Interface) -> bool {
    interface.kind.as_deref() == Some("tun")
}

fn alias(instance: &Instance) -> String {
    format!("{MARK} {instance}")
}

/// Who made a device, if one of us did.
pub fn owner(interface: &Interface) -> Option<&str> {
    interface.alias.as_deref()?.strip_prefix(MARK)?.strip_prefix(' ')
}

/// Sees to it that the device is there. Routes into it come later ([`route`]).
///
/// # Errors
/// [`TunnelError`].
pub fn ensure(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    instance: &Instance,
    line: &Line<'_>,
) -> Result<Ready, TunnelError> {
    let name = &line.tunnel.device;
    let mut messages = Vec::new();
    let mut warnings = Vec::new();
    let found = netlink.interface(name)?;
    let made = found.as_ref().is_none_or(|found| owner(found).is_some());
    let interface = match found {
        Some(found) if owner(&found) == Some(instance.as_ref()) => {
            check_own(&found, line)?;
            refresh(netlink, undo, instance, &found, line)?;
            found
        }
        Some(found) => {
            if let Some(owner) = owner(&found) {
                return Err(TunnelError::Foreign {
                    device: name.clone(),
                    owner: owner.to_owned(),
                });
            }
            let adopted = adopt::look(&found, line, &netlink.addresses()?, &netlink.ipv4_routes()?)?;
            messages.push(adopted.message);
            warnings.extend(adopted.warnings);
            found
        }
        None => {
            let (found, message) = make(netlink, undo, instance, line)?;
            messages.push(message);
            found
        }
    };
    Ok(Ready {
        interface,
        record: TunnelRecord {
            device: name.clone(),
            made,
            routes: Vec::new(),
        },
        messages,
        warnings,
    })
}

/// Gives a device of ours the address and the routes that are wanted, and notes them in its record. Gives warnings.
///
/// # Errors
/// [`NetlinkError`].
pub fn route(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    device: &Interface,
    wanted: &Tunnel,
    record: &mut TunnelRecord,
    before: Option<&TunnelRecord>,
) -> Result<Vec<String>, NetlinkError> {
    if !record.made {
        return Ok(Vec::new());
    }
    match netlink.add_address(device.index, OWN_ADDRESS.into(), 32) {
        Err(error) if !error.is_exists() => return Err(error),
        _ => {}
    }
    let kept = before
        .filter(|before| before.device == record.device)
        .map_or(&[][..], |before| &before.routes);
    let (routes, warnings) = routes(netlink, undo, device, wanted, kept)?;
    record.routes = routes;
    Ok(warnings)
}

/// What a device of ours is, in words.
fn kind_of(device: &Interface) -> &'static str {
    match device.tunnel {
        Some(Ip6Tunnel { external: true, .. }) => "a tunnel of the kernel's",
        Some(_) => "a tunnel of the kernel's to the border relay alone",
        None => "a TUN device",
    }
}

/// Refuses a device of ours that cannot become what is wanted.
fn check_own(device: &Interface, line: &Line<'_>) -> Result<(), TunnelError> {
    let wanted = match (line.tunnel.kind, device.tunnel) {
        (TunnelKind::Kernel, None) => "a tunnel of the kernel's",
        (TunnelKind::User, Some(_)) => "a TUN device",
        (_, Some(settings)) if !settings.external && line.rules > 0 => "one that reaches other customers",
        _ => return Ok(()),
    };
    Err(TunnelError::OtherKind {
        device: device.name.clone(),
        found: kind_of(device),
        wanted,
    })
}

/// Makes a device, switches it on and says what it is.
fn make(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    instance: &Instance,
    line: &Line<'_>,
) -> Result<(Interface, String), TunnelError> {
    let name = &line.tunnel.device;
    let as_tun = |why: &str| -> Result<(String, Option<NewTun>), TunnelError> {
        let made = tun::create(name)?;
        Ok((format!("made the tunnel device {name}, a TUN device{why}"), Some(made)))
    };
    let (message, tun) = match line.tunnel.kind {
        TunnelKind::User => as_tun("")?,
        TunnelKind::Kernel => (make_kernels(netlink, line)?, None),
        TunnelKind::Auto if !kernel::has_ip6_tunnel() => as_tun(": this kernel has no ip6_tunnel")?,
        TunnelKind::Auto => match make_kernels(netlink, line) {
            Ok(message) => (message, None),
            Err(
                refused
                @ (TunnelError::NoKernelTunnel(_) | TunnelError::Occupied { .. } | TunnelError::SameEnds { .. }),
            ) => as_tun(&format!(": {refused}"))?,
            Err(other) => return Err(other),
        },
    };
    let found = netlink
        .interface(name)?
        .ok_or_else(|| TunnelError::Vanished(name.clone()))?;
    let (again, index) = (Rc::clone(netlink), found.index);
    undo.push(format!("remove {name}"), move || {
        again
            .delete_interface(index)
            .or_else(|error| if error.is_absent() { Ok(()) } else { Err(error.into()) })
    });
    if let Some(tun) = tun {
        // Until it is marked as ours it goes with this process, however that ends.
        netlink.set_alias(found.index, &alias(instance))?;
        tun.keep()?;
    }
    netlink.set_up(found.index, u32::from(line.tunnel.mtu), &alias(instance))?;
    Ok((found, message))
}

/// The kernel's tunnel: without ends of its own, so that it reaches every customer; or, where there is such a one already and all goes
/// to the border relay, to that.
fn make_kernels(netlink: &Netlink, line: &Line<'_>) -> Result<String, TunnelError> {
    let name = &line.tunnel.device;
    match netlink.add_ip6_tunnel(name, None) {
        Ok(()) => return Ok(format!("made the tunnel device {name} (ip6tnl external)")),
        Err(error) if error.is_unsupported() => return Err(TunnelError::NoKernelTunnel(error)),
        Err(error) if !error.is_exists() => return Err(error.into()),
        Err(_) => {}
    }
    let there = netlink.interfaces()?;
    let find = |is_it: &dyn Fn(&Ip6Tunnel) -> bool| {
        let other = there.iter().find(|found| found.tunnel.as_ref().is_some_and(is_it));
        other.map_or_else(|| "another device".to_owned(), |found| found.name.clone())
    };
    let other = find(&|settings| settings.external);
    if line.rules > 0 {
        return Err(TunnelError::Occupied { other });
    }
    match netlink.add_ip6_tunnel(name, Some((line.near, line.relay))) {
        Ok(()) => Ok(format!(
            "made the tunnel device {name} ({} to the border relay): {other} is the external one, \
             of which a network namespace can have one",
            ip6_tunnel::KIND
        )),
        Err(error) if error.is_exists() => Err(TunnelError::SameEnds {
            other: find(&|settings| settings.local == line.near && settings.remote == line.relay),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Gives our own device from an earlier load the MTU and the ends that are wanted now, and switches it on.
fn refresh(
    netlink: &Rc<Netlink>,
    undo: &mut Undo,
    instance: &Instance,
    found: &Interface,
    line: &Line<'_>,
) -> Result<(), TunnelError> {
    netlink.set_up(found.index, u32::from(line.tunnel.mtu), &alias(instance))?;
    let (again, index, mtu) = (Rc::clone(netlink), found.index, found.mtu);
    undo.push(format!("set the MTU of {} back", found.name), move || {
        again.set_mtu(index, mtu).map_err(Into::into)
    });
    let Some(old) = found.tunnel.filter(|settings| !settings.external) else {
        return Ok(());
    };
    if (old.local, old.remote) != (line.near, line.relay) {
        netlink.set_ip6_tunnel_ends(&found.name, line.near, line.relay)?;
        let (again, name) = (Rc::clone(netlink), found.name.clone());
        undo.push(format!("set the ends of {name} back"), move || {
            again
                .set_ip6_tunnel_ends(&name, old.local, old.remote)
                .map_err(Into::into)
        });
    }
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

/// Removes a device that a load made which was killed before it could mark it; true where there was one.
///
/// # Errors
/// [`NetlinkError`].
pub fn remove_unmarked(netlink: &Netlink, record: Option<&State>) -> Result<bool, NetlinkError> {
    let Some(record) = record.filter(|record| record.unfinished) else {
        return Ok(false);
    };
    let interfaces = netlink.interfaces()?;
    match interfaces.iter().find(|found| is_unmarked(found, record)) {
        Some(found) => netlink.delete_interface(found.index).map(|()| true),
        None => Ok(false),
    }
}

/// Whether a device is what a load that was killed has made and not marked: it was about to make one of that name, and this one is a
/// tunnel of the kernel's that nobody has done anything with.
fn is_unmarked(found: &Interface, record: &State) -> bool {
    let is_recorded = record
        .tunnel
        .as_ref()
        .is_some_and(|tunnel| tunnel.made && tunnel.device == found.name);
    is_recorded && found.tunnel.is_some() && found.alias.is_none() && !found.up
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

/// Gives the routes into a tunnel device that MTU, those that are still there and have another one.
///
/// # Errors
/// [`NetlinkError`].
pub fn set_route_mtu(netlink: &Netlink, routes: &[MadeRoute], index: u32, mtu: u16) -> Result<(), NetlinkError> {
    let known = netlink.ipv4_routes()?;
    for route in routes {
        let is_ours = |there: &&Ipv4Route| {
            there.index == Some(index) && (there.destination, there.len) == (route.destination, route.len)
        };
        // Where somebody has put another one in its place, that one stays.
        if let Some(there) = known.iter().find(is_ours)
            && there.mtu != Some(mtu.into())
        {
            netlink.add_ipv4_route(route.destination, route.len, index, Some(mtu.into()), true)?;
        }
    }
    Ok(())
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

    #[test]
    fn a_device_without_a_mark_is_ours_only_if_it_was_being_made() {
        let half = Interface {
            tunnel: Some(adopt::tests::EXTERNAL),
            up: false,
            ..nic(1, "mape0")
        };
        let record = |unfinished, made, device: &str| State {
            unfinished,
            tunnel: Some(TunnelRecord {
                device: device.to_owned(),
                made,
                routes: Vec::new(),
            }),
            ..State::default()
        };
        let making = record(true, true, "mape0");
        assert!(is_unmarked(&half, &making));
        for other in [
            record(true, false, "mape0"),
            record(true, true, "mape1"),
            State::default(),
        ] {
            assert!(!is_unmarked(&half, &other), "{other:?}");
        }
        let marked = Interface {
            alias: Some("mape-ctl home".to_owned()),
            ..half.clone()
        };
        let in_use = Interface {
            up: true,
            ..half.clone()
        };
        let of_another_kind = Interface { tunnel: None, ..half };
        for other in [marked, in_use, of_another_kind] {
            assert!(!is_unmarked(&other, &making), "{other:?}");
        }
    }

    #[test]
    fn a_device_of_ours_stays_what_it_is_until_unload() {
        let external = Interface {
            tunnel: Some(adopt::tests::EXTERNAL),
            ..nic(1, "mape0")
        };
        let fixed = Interface {
            tunnel: Some(adopt::tests::FIXED),
            ..nic(1, "mape0")
        };
        let tun = nic(1, "mape0");
        let rows = [
            (&external, TunnelKind::Auto, 3, true),
            (&external, TunnelKind::Kernel, 3, true),
            (&external, TunnelKind::User, 0, false),
            (&fixed, TunnelKind::Auto, 0, true),
            (&fixed, TunnelKind::Auto, 1, false),
            (&tun, TunnelKind::Auto, 3, true),
            (&tun, TunnelKind::User, 3, true),
            (&tun, TunnelKind::Kernel, 0, false),
        ];
        for (device, kind, rules, fits) in rows {
            let tunnel = adopt::tests::tunnel(kind);
            let line = adopt::tests::line(&tunnel, rules);
            let checked = check_own(device, &line);
            assert_eq!(checked.is_ok(), fits, "{kind:?}, {rules} rules: {checked:?}");
        }
    }
}
