//! The tunnel device: there and ours, its addresses, its programs, the process behind it, and whether all that is alive.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use aya::programs::ProgramInfo;
use mape_common::verdict::{Direction, TRANSLATED};

use super::{CheckError, Report, Subject, Trouble, fix::Fix, kind, probe, tc};
use crate::{
    datapath::{
        classify::SIDES,
        maps::{TableError, Tables},
        pin::PinFolder,
    },
    host::{state::State, tunnel},
    netlink::{Netlink, filter::Side, link::Interface},
    tunnel::process,
};

/// How long a packet may take from a socket to the program.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// The process behind the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    /// The kernel carries the packets, or whoever has made the device.
    NotNeeded,
    Running,
    Missing,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) device: Option<Interface>,
    /// The instance whose device it is, where one of us has made it.
    pub(super) owner: Option<String>,
    /// Interfaces that have the shared address, and its length there.
    pub(super) shared: Vec<(String, u8)>,
    pub(super) classifiers: Vec<tc::Classifier>,
    /// The programs that belong there, by side; nothing where none is pinned.
    pub(super) own: [(Side, Option<u32>); 2],
    pub(super) process: Process,
    /// A packet sent into it was translated; nothing where none was sent.
    pub(super) canary: Option<bool>,
}

pub(super) fn gather(subject: &Subject, netlink: &Netlink, is_passive: bool) -> Result<Facts, CheckError> {
    let interfaces = netlink.interfaces()?;
    let device = interfaces.iter().find(|found| found.name == subject.device).cloned();
    let pins = PinFolder::new(&subject.instance);
    // By the programs' pins, not the links': older kernels keep programs there without links.
    let [egress, ingress] = SIDES.map(|side| ProgramInfo::from_pin(pins.program(side.program)).ok());
    let id = |program: Option<ProgramInfo>| program.map(|program| program.id());
    let owner = device
        .as_ref()
        .and_then(|device| tunnel::owner(device))
        .map(str::to_owned);
    let is_made = State::read(&subject.instance)
        .and_then(|state| state.tunnel)
        .is_some_and(|record| record.made);
    let is_carried = is_made
        && device
            .as_ref()
            .is_some_and(|device| device.kind.as_deref() == Some("tun"));
    let canary = match &device {
        Some(device) if subject.is_loaded && device.up && !is_passive => {
            Some(is_translated(&Tables::new(&pins), &device.name)?)
        }
        _ => None,
    };
    Ok(Facts {
        shared: shared(subject.address.filter(|_| subject.is_shared), netlink, &interfaces)?,
        classifiers: device
            .as_ref()
            .map_or_else(Vec::new, |device| tc::gather(netlink, device.index, &device.name)),
        own: [(Side::Egress, id(egress)), (Side::Ingress, id(ingress))],
        process: match (is_carried, process::running(&subject.instance)) {
            (false, _) => Process::NotNeeded,
            (true, Some(_)) => Process::Running,
            (true, None) => Process::Missing,
        },
        canary,
        device,
        owner,
    })
}

fn shared(
    address: Option<Ipv4Addr>,
    netlink: &Netlink,
    interfaces: &[Interface],
) -> Result<Vec<(String, u8)>, CheckError> {
    let Some(address) = address else { return Ok(Vec::new()) };
    let assigned = netlink.addresses()?;
    let holders = assigned
        .iter()
        .filter(|assigned| assigned.address == IpAddr::V4(address));
    Ok(holders
        .filter_map(|holder| {
            let interface = interfaces.iter().find(|found| found.index == holder.index)?;
            Some((interface.name.clone(), holder.len))
        })
        .collect())
}

fn translated(tables: &Tables) -> Result<u64, TableError> {
    let counters = tables.counters()?;
    let own = counters
        .iter()
        .filter(|count| count.direction == Direction::Outbound && count.outcome == TRANSLATED);
    Ok(own.map(|count| count.sum.packets).sum())
}

fn is_translated(tables: &Tables, device: &str) -> Result<bool, TableError> {
    let before = translated(tables)?;
    let end = Instant::now() + PATIENCE;
    // What the kernel does not take comes to nothing, as what is not translated.
    let _ = probe::canary(device);
    while Instant::now() < end {
        if translated(tables)? > before {
            return Ok(true);
        }
        thread::sleep(PAUSE);
    }
    Ok(false)
}

pub(super) fn judge(report: &mut Report, subject: &Subject, facts: &Facts) {
    let name = &subject.device;
    report.see(kind::TUNNEL_DEVICE, name, device(subject, facts));
    let shared = facts
        .shared
        .iter()
        .map(|(interface, len)| shared_address(subject, interface, *len));
    report.see_all(
        kind::TUNNEL_SHARED_ADDRESS,
        &subject.address.map_or_else(String::new, |address| address.to_string()),
        shared.collect(),
    );
    if facts.device.is_none() {
        return;
    }
    let own: Vec<u32> = facts.own.iter().filter_map(|(_, id)| *id).collect();
    report.see_all(kind::TUNNEL_TC, name, tc::others(name, &facts.classifiers, &own));
    if !subject.is_loaded {
        return;
    }
    report.see_all(kind::TUNNEL_PROGRAMS, name, programs(subject, facts));
    report.see(kind::TUNNEL_PROCESS, name, carrier(subject, facts));
    if let Some(is_alive) = facts.canary {
        let dead =
            (!is_alive).then(|| Trouble::new(format!("a packet sent into {name} was not translated"), again(subject)));
        report.see(kind::TUNNEL_CANARY, name, dead);
    }
}

/// `load` again mends what has been taken off.
pub(super) fn again(subject: &Subject) -> String {
    format!(
        "mape-ctl --instance {} load, with the same configuration as before",
        subject.instance
    )
}

fn device(subject: &Subject, facts: &Facts) -> Option<Trouble> {
    let name = &subject.device;
    let Some(device) = &facts.device else {
        return subject
            .is_loaded
            .then(|| Trouble::new(format!("there is no device {name}"), again(subject)));
    };
    if let Some(owner) = facts.owner.as_ref().filter(|owner| *owner != subject.instance.as_ref()) {
        return Some(Trouble::new(
            format!("{name} belongs to instance {owner}"),
            "give this gateway another device: tunnel.device (--tunnel-device NAME)",
        ));
    }
    (!device.up).then(|| {
        Trouble::mended_by(
            format!("{name} is down"),
            Fix::Up {
                device: name.clone(),
                mtu: device.mtu,
            },
        )
    })
}

fn shared_address(subject: &Subject, interface: &str, len: u8) -> Trouble {
    let address = subject.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let what = format!("{interface} has the shared address {address}/{len}");
    let fix = Fix::SharedAddress {
        device: interface.to_owned(),
        address,
        len,
    };
    if interface == subject.device {
        Trouble::mended_by(what, fix)
    } else {
        // Another interface's addresses are somebody's wish.
        Trouble::new(what, format!("ip addr del {address}/{len} dev {interface}"))
    }
}

fn programs(subject: &Subject, facts: &Facts) -> Vec<Trouble> {
    let is_there = |side: Side, id: u32| {
        facts
            .classifiers
            .iter()
            .any(|found| found.side == side && found.id == Some(id))
    };
    facts
        .own
        .iter()
        .filter(|(side, id)| id.is_none_or(|id| !is_there(*side, id)))
        .map(|(side, _)| {
            Trouble::new(
                format!("our program is not at {} {}", subject.device, side.name()),
                again(subject),
            )
        })
        .collect()
}

fn carrier(subject: &Subject, facts: &Facts) -> Option<Trouble> {
    if facts.process != Process::Missing {
        return None;
    }
    let what = format!(
        "`mape-ctl tunnel` does not run: what takes the slow path is lost in {}",
        subject.device
    );
    Some(if subject.may_start {
        Trouble::mended_by(what, Fix::Process(subject.instance.clone()))
    } else {
        // Somebody else's supervisor starts it.
        Trouble::new(what, format!("mape-ctl --instance {} tunnel", subject.instance))
    })
}
