//! The way to the far end of the tunnel, and the routes into it.

use std::net::IpAddr;

use super::{CheckError, Level, Report, Subject, Trouble, fix::Fix, kind, probe};
use crate::netlink::{
    Netlink,
    link::Interface,
    resolve::{ResolveError, resolve, towards},
};

/// Far ends that are tried; each that does not answer takes seconds.
const MOST_TARGETS: usize = 4;

/// Why there is no next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    NoRoute,
    Local,
    Elsewhere,
    OnLink,
    Silent,
    Other,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Each far end, and what is in the way to it.
    pub(super) ways: Vec<(String, Option<(Obstacle, String)>)>,
    /// No neighbour was asked.
    pub(super) is_passive: bool,
    /// The border relay answers a ping; nothing where it was not asked.
    pub(super) answers: Option<bool>,
    /// Some IPv4 route leads into the device.
    pub(super) is_routed: bool,
    /// The tunnel's address is on the WAN.
    pub(super) has_address: bool,
}

pub(super) fn gather(
    subject: &Subject,
    netlink: &Netlink,
    interfaces: &[Interface],
    is_passive: bool,
) -> Result<Facts, CheckError> {
    let wan = interfaces.iter().find(|found| found.name == subject.wan);
    let device = interfaces.iter().find(|found| found.name == subject.device);
    let mut ways = Vec::new();
    if let Some(wan) = wan.filter(|wan| wan.up) {
        for (target, kind) in subject.targets.iter().take(MOST_TARGETS) {
            let found = if is_passive {
                towards(netlink, wan, *target, *kind).map(|_| ())
            } else {
                resolve(netlink, wan, *target, *kind).map(|_| ())
            };
            ways.push((
                target.to_string(),
                found.err().map(|error| (obstacle(&error), error.to_string())),
            ));
        }
    }
    let is_open = ways.first().is_some_and(|(_, obstacle)| obstacle.is_none());
    let relay = subject
        .targets
        .first()
        .filter(|_| subject.is_edge() && is_open && !is_passive);
    Ok(Facts {
        answers: relay.map(|(relay, _)| probe::answers(subject.near, *relay)),
        is_routed: netlink
            .ipv4_routes()?
            .iter()
            .any(|route| route.index.is_some() && route.index == device.map(|found| found.index)),
        has_address: netlink.addresses()?.iter().any(|assigned| {
            assigned.address == IpAddr::V6(subject.near) && Some(assigned.index) == wan.map(|found| found.index)
        }),
        ways,
        is_passive,
    })
}

fn obstacle(error: &ResolveError) -> Obstacle {
    match error {
        ResolveError::NoRoute { .. } => Obstacle::NoRoute,
        ResolveError::Local { .. } => Obstacle::Local,
        ResolveError::ElsewhereBound { .. } => Obstacle::Elsewhere,
        ResolveError::OnLink { .. } => Obstacle::OnLink,
        ResolveError::Silent { .. } => Obstacle::Silent,
        ResolveError::NoMac(_) | ResolveError::Netlink(_) => Obstacle::Other,
    }
}

pub(super) fn judge(report: &mut Report, subject: &Subject, facts: &Facts) {
    let wan = &subject.wan;
    for (target, found) in &facts.ways {
        let silent = found.as_ref().filter(|(obstacle, _)| *obstacle == Obstacle::Silent);
        let other = found.as_ref().filter(|(obstacle, _)| *obstacle != Obstacle::Silent);
        report.see(
            kind::ROUTE_RELAY,
            target,
            other.map(|(obstacle, text)| Trouble::new(text, mend(*obstacle, target, wan))),
        );
        if other.is_none() && !facts.is_passive {
            report.see(
                kind::ROUTE_NEIGHBOUR,
                target,
                silent.map(|(_, text)| {
                    Trouble::new(
                        text,
                        format!("ip -6 route get {target}; ip -6 neigh show dev {wan}: the cable, the router, or its address in the route"),
                    )
                }),
            );
        }
    }
    if let Some(answers) = facts.answers {
        let mute = (!answers).then(|| {
            Trouble::new(
                "the border relay does not answer a ping",
                "nothing, if IPv4 works: many do not answer",
            )
        });
        report.see(kind::ROUTE_ECHO, "", mute);
    }
    if subject.is_edge() {
        let device = &subject.device;
        let unrouted = (!facts.is_routed && (subject.is_loaded || !subject.makes_routes)).then(|| {
            let trouble = Trouble::new(
                format!("no IPv4 route leads into {device}"),
                format!(
                    "ip route add default dev {device} mtu {}, or tunnel.routes",
                    subject.mtu
                ),
            );
            if subject.is_loaded {
                trouble
            } else {
                trouble.only(Level::Note)
            }
        });
        report.see(kind::ROUTE_TUNNEL, device, unrouted);
    }
    if subject.is_loaded {
        let near = subject.near;
        let missing = (!facts.has_address).then(|| {
            Trouble::mended_by(
                format!("{near} is not on {wan}"),
                Fix::NearAddress {
                    interface: wan.clone(),
                    address: near,
                },
            )
        });
        report.see(kind::ROUTE_ADDRESS, wan, missing);
    }
}

fn mend(obstacle: Obstacle, target: &str, wan: &str) -> String {
    match obstacle {
        Obstacle::NoRoute => {
            format!("ip -6 route add default via ROUTER dev {wan}, or have {wan} take router advertisements")
        }
        Obstacle::Local => format!("take {target} off this machine, or mend map.br"),
        Obstacle::Elsewhere => format!("name the interface of `ip -6 route get {target}` as `wan`, or mend the route"),
        Obstacle::OnLink => format!("ip -6 route replace {target} via ROUTER dev {wan}"),
        Obstacle::Silent | Obstacle::Other => format!("ip -6 route get {target}"),
    }
}
