//! The kernel's settings for the gateway's interfaces.

use std::{fs, path::PathBuf};

use super::{CheckError, Level, Report, Subject, Trouble, fix::Fix, kind};
use crate::netlink::Netlink;

/// What is set for an interface. Nothing = this kernel has no such setting, or no such interface.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) forwards_ipv4: Option<bool>,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// LAN NICs and the tunnel device.
    pub(super) forwarding: Vec<Interface>,
    /// The device's reverse path filter as it takes effect: 0 off, 1 strict, 2 loose.
    pub(super) rp_filter: Option<u32>,
    /// The default route leads into the device, so that any sender is routed there.
    pub(super) is_default: bool,
    /// Routes into the device are passed over without a carrier, by its own setting, and by the one for all.
    pub(super) ignores_linkdown: (bool, bool),
    pub(super) wan_forwards_ipv6: Option<bool>,
    pub(super) wan_accept_ra: Option<u32>,
    pub(super) wan_disables_ipv6: Option<bool>,
}

fn read(family: &str, interface: &str, setting: &str) -> Option<u32> {
    let path: PathBuf = ["/proc/sys/net", family, "conf", interface, setting].iter().collect();
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_on(family: &str, interface: &str, setting: &str) -> Option<bool> {
    read(family, interface, setting).map(|value| value != 0)
}

pub(super) fn gather(subject: &Subject, netlink: &Netlink) -> Result<Facts, CheckError> {
    let device = subject.device.as_str();
    let mut forwarding: Vec<&str> = subject.lan.iter().map(String::as_str).collect();
    if subject.is_edge() {
        forwarding.push(device);
    }
    let index = netlink.interface(device)?.map(|found| found.index);
    let routes = netlink.ipv4_routes()?;
    let by_device = read("ipv4", device, "rp_filter");
    Ok(Facts {
        forwarding: forwarding
            .into_iter()
            .map(|name| Interface {
                name: name.to_owned(),
                forwards_ipv4: is_on("ipv4", name, "forwarding"),
            })
            .collect(),
        // The larger of both counts.
        rp_filter: by_device.map(|own| own.max(read("ipv4", "all", "rp_filter").unwrap_or(0))),
        is_default: routes
            .iter()
            .any(|route| route.len == 0 && route.index.is_some() && route.index == index),
        ignores_linkdown: (
            is_on("ipv4", device, "ignore_routes_with_linkdown").unwrap_or(false),
            is_on("ipv4", "all", "ignore_routes_with_linkdown").unwrap_or(false),
        ),
        wan_forwards_ipv6: is_on("ipv6", &subject.wan, "forwarding"),
        wan_accept_ra: read("ipv6", &subject.wan, "accept_ra"),
        wan_disables_ipv6: is_on("ipv6", &subject.wan, "disable_ipv6"),
    })
}

pub(super) fn judge(report: &mut Report, subject: &Subject, facts: &Facts) {
    if subject.is_edge() {
        for interface in &facts.forwarding {
            report.see(kind::SYSCTL_FORWARDING, &interface.name, forwarding(subject, interface));
        }
        let device = &subject.device;
        report.see(kind::SYSCTL_RP_FILTER, device, rp_filter(device, facts));
        report.see(kind::SYSCTL_LINKDOWN, device, linkdown(device, facts));
    }
    let wan = &subject.wan;
    let is_deaf = facts.wan_forwards_ipv6 == Some(true) && facts.wan_accept_ra == Some(1);
    report.see(
        kind::SYSCTL_ACCEPT_RA,
        wan,
        is_deaf.then(|| {
            Trouble::mended_by(
                format!("IPv6 forwarding is on for {wan}, so that it takes no router advertisements with accept_ra=1"),
                setting("ipv6", wan, "accept_ra", "2"),
            )
        }),
    );
    let is_off = facts.wan_disables_ipv6 == Some(true);
    report.see(
        kind::SYSCTL_IPV6,
        wan,
        is_off.then(|| {
            Trouble::new(
                format!("IPv6 is switched off for {wan}"),
                setting("ipv6", wan, "disable_ipv6", "0").to_string(),
            )
        }),
    );
}

fn setting(family: &str, interface: &str, name: &str, value: &'static str) -> Fix {
    Fix::Sysctl {
        setting: format!("net/{family}/conf/{interface}/{name}"),
        value,
    }
}

fn forwarding(subject: &Subject, interface: &Interface) -> Option<Trouble> {
    let name = &interface.name;
    if interface.forwards_ipv4 != Some(false) {
        return None;
    }
    Some(if subject.is_loaded {
        Trouble::mended_by(
            format!("IPv4 forwarding is off for {name}"),
            setting("ipv4", name, "forwarding", "1"),
        )
    } else {
        Trouble::new(
            format!("IPv4 forwarding is off for {name}"),
            "nothing: load switches it on",
        )
        .only(Level::Note)
    })
}

fn rp_filter(device: &str, facts: &Facts) -> Option<Trouble> {
    (facts.rp_filter == Some(1) && !facts.is_default).then(|| {
        Trouble::mended_by(
            format!("the reverse path filter of {device} is strict, and the default route does not lead into it"),
            setting("ipv4", device, "rp_filter", "2"),
        )
    })
}

fn linkdown(device: &str, facts: &Facts) -> Option<Trouble> {
    let what = format!("routes into {device} are passed over while it has no carrier");
    match facts.ignores_linkdown {
        (false, false) => None,
        (true, false) => Some(Trouble::mended_by(
            what,
            setting("ipv4", device, "ignore_routes_with_linkdown", "0"),
        )),
        // The setting for all has been somebody's wish for other interfaces.
        (_, true) => Some(Trouble::new(
            what,
            "sysctl -w net/ipv4/conf/all/ignore_routes_with_linkdown=0, and set it for single interfaces instead",
        )),
    }
}
