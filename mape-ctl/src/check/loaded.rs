//! A loaded gateway: its gate, its programs on their NICs, and whether what it was told of them still holds.

use std::{
    net::Ipv6Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use mape_common::{
    hop::{Link, Mac},
    layout::STATIC_HOPS,
    verdict::Direction,
};

use super::{CheckError, Level, Report, Subject, Trouble, kind, tunnel::again};
use crate::{
    datapath::{
        attach,
        maps::{TableError, Tables},
        pin::{self, PinError, PinFolder},
    },
    host::state::State,
    instance::Instance,
    kernel,
    netlink::{Netlink, NetlinkError, link::Interface},
    provoke,
    view::{snapshot::now, text},
};

/// How long frames may take that were provoked.
const WINDOW: Duration = Duration::from_millis(1_200);
const PAUSE: Duration = Duration::from_millis(20);
const PROVOKE_EVERY: Duration = Duration::from_millis(400);
/// Frames that must have come without any being counted: drivers publish their counters with delay.
const CONTRADICTION: u64 = 3;

/// Pins of another layout: its name and folder.
pub(super) fn other_layout(instance: &Instance) -> Option<(String, PathBuf)> {
    match pin::refuse_other_layouts(instance) {
        Err(PinError::OtherLayout { found, folder, .. }) => Some((found, folder)),
        _ => None,
    }
}

pub(super) fn judge_layout(report: &mut Report, found: Option<&(String, PathBuf)>) {
    let other = found.map(|(layout, folder)| {
        Trouble::new(
            format!("a gateway of map layout {layout} is loaded by this name"),
            format!(
                "unload it with the mape-ctl that has loaded it, or: rm -r {}; its sessions end",
                folder.display()
            ),
        )
    });
    report.see(kind::LOADED_LAYOUT, "", other);
}

/// A NIC as it was loaded.
#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) name: String,
    pub(super) interface: Option<Interface>,
    /// The program that belongs there.
    pub(super) program: Option<u32>,
    /// MTU and MAC address that the data path was given; nothing where it has no entry.
    pub(super) told: Option<(u16, u64)>,
    /// `mape-ctl detach` has taken its program off.
    pub(super) is_detached: bool,
}

/// Frames of one side during a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) interfaces: String,
    /// By the drivers' counters.
    pub(super) received: u64,
    /// By the programs' counters.
    pub(super) counted: u64,
}

/// A next hop towards a far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) router: Ipv6Addr,
    pub(super) told: Mac,
    /// As the kernel knows it; nothing where it does not.
    pub(super) known: Option<Mac>,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) again: String,
    pub(super) is_elsewhere: bool,
    pub(super) is_open: bool,
    pub(super) nics: Vec<Nic>,
    pub(super) seen: Vec<Seen>,
    pub(super) hops: Vec<Hop>,
}

pub(super) fn gather(subject: &Subject, netlink: &Netlink, is_passive: bool) -> Result<Facts, CheckError> {
    let pins = PinFolder::new(&subject.instance);
    let tables = Tables::new(&pins);
    let record = State::read(&subject.instance);
    let is_elsewhere = record
        .as_ref()
        .is_some_and(|record| kernel::network_namespace().is_some_and(|here| here != record.network_namespace));
    let interfaces = netlink.interfaces()?;
    let nics = nics(&pins, &tables, &interfaces);
    let mut hops = Vec::new();
    for entry in tables.hops(now())?.iter().filter(|entry| entry.index < STATIC_HOPS) {
        let far = record
            .iter()
            .flat_map(|record| &record.far_hops)
            .find(|far| far.index == entry.index);
        if let Some(far) = far {
            hops.push(Hop {
                router: far.neighbour,
                told: entry.hop.destination,
                known: netlink.neighbour_mac(entry.hop.ifindex, far.neighbour)?,
            });
        }
    }
    let routers: Vec<Ipv6Addr> = hops.iter().map(|hop| hop.router).collect();
    Ok(Facts {
        again: again(subject),
        is_elsewhere,
        is_open: tables.is_gate_open()?,
        seen: if is_passive || is_elsewhere {
            Vec::new()
        } else {
            // Where our program is not, it cannot count; that it is not there is a finding of its own.
            let without = nics.iter().filter(|nic| attached(nic, "").is_some());
            let without: Vec<&str> = without.map(|nic| nic.name.as_str()).collect();
            watch(subject, netlink, &tables, &routers, &without)?
        },
        nics,
        hops,
    })
}

/// NICs that a link is pinned for, or that the data path has an entry of.
fn nics(pins: &PinFolder, tables: &Tables, interfaces: &[Interface]) -> Vec<Nic> {
    let pinned = pins.linked_interfaces();
    let entry = |index| tables.link_words(index).map(Link::from_words).ok();
    let has = |link: &Link, flag| link.flags() & flag != 0;
    let one = |name: &String| {
        let interface = interfaces.iter().find(|found| found.name == *name).cloned();
        let link = interface.as_ref().and_then(|found| entry(found.index));
        Nic {
            name: name.clone(),
            program: attach::pinned_program(pins, name),
            is_detached: link.as_ref().is_some_and(|link| has(link, Link::DETACHED)),
            told: link
                .filter(|link| has(link, Link::ATTACHED))
                .map(|link| (link.mtu(), link.mac())),
            interface,
        }
    };
    let entered = interfaces
        .iter()
        .filter(|found| !pinned.contains(&found.name))
        .filter(|found| entry(found.index).is_some_and(|link| has(&link, Link::ATTACHED | Link::DETACHED)));
    pinned.iter().chain(entered.map(|found| &found.name)).map(one).collect()
}

/// The sides of the gateway: names of the NICs, and the directions that their programs count in.
fn sides<'a>(subject: &'a Subject, without: &[&str]) -> Vec<(Vec<&'a str>, &'static [Direction])> {
    let lan = subject.lan.iter().map(String::as_str);
    let lan: Vec<&str> = lan.filter(|name| !without.contains(name)).collect();
    if lan.contains(&subject.wan.as_str()) {
        // One arm, and perhaps more NICs: which program has counted cannot be told.
        return vec![(lan, &Direction::ALL)];
    }
    let wan = Some(subject.wan.as_str()).filter(|name| !without.contains(name));
    let mut sides: Vec<(Vec<&str>, &'static [Direction])> = vec![
        (lan, &[Direction::Outbound]),
        (wan.into_iter().collect(), &[Direction::Inbound]),
    ];
    sides.retain(|(names, _)| !names.is_empty());
    sides
}

fn counted(tables: &Tables, directions: &[Direction]) -> Result<u64, TableError> {
    let counters = tables.counters()?;
    let of = counters.iter().filter(|count| directions.contains(&count.direction));
    Ok(of.map(|count| count.sum.packets).sum())
}

fn received(interfaces: &[Interface], names: &[&str]) -> u64 {
    let of = interfaces.iter().filter(|found| names.contains(&found.name.as_str()));
    of.map(|found| found.stats.rx_packets).sum()
}

/// Has neighbours send something, and looks whether the programs count it.
fn watch(
    subject: &Subject,
    netlink: &Netlink,
    tables: &Tables,
    routers: &[Ipv6Addr],
    without: &[&str],
) -> Result<Vec<Seen>, CheckError> {
    let sides = sides(subject, without);
    let interfaces = netlink.interfaces()?;
    let mut before = Vec::new();
    for (names, directions) in &sides {
        before.push((received(&interfaces, names), counted(tables, directions)?));
    }
    let end = Instant::now() + WINDOW;
    let mut next = Instant::now();
    loop {
        if next <= Instant::now() {
            provoke_all(subject, netlink, &interfaces, routers)?;
            next += PROVOKE_EVERY;
        }
        thread::sleep(PAUSE);
        let interfaces = netlink.interfaces()?;
        let mut seen = Vec::new();
        for ((names, directions), (frames, packets)) in sides.iter().zip(&before) {
            seen.push(Seen {
                interfaces: names.join(", "),
                received: received(&interfaces, names).saturating_sub(*frames),
                counted: counted(tables, directions)?.saturating_sub(*packets),
            });
        }
        if seen.iter().all(|seen| seen.counted > 0) || Instant::now() >= end {
            return Ok(seen);
        }
    }
}

fn provoke_all(
    subject: &Subject,
    netlink: &Netlink,
    interfaces: &[Interface],
    routers: &[Ipv6Addr],
) -> Result<(), NetlinkError> {
    for name in subject.nics() {
        let Some(found) = interfaces.iter().find(|found| found.name == name) else {
            continue;
        };
        provoke::ping_all(found.index);
        if name == subject.wan {
            for router in routers {
                provoke::knock(*router, found.index);
            }
        }
        for neighbour in netlink.ipv4_neighbours(found.index)? {
            provoke::knock_ipv4(neighbour);
        }
    }
    Ok(())
}

pub(super) fn judge(report: &mut Report, facts: &Facts) {
    let elsewhere = facts.is_elsewhere.then(|| {
        Trouble::new(
            "it is loaded in another network namespace",
            "mape-ctl there: nsenter --net=/run/netns/NAME mape-ctl check",
        )
    });
    report.see(kind::LOADED_PLACE, "", elsewhere);
    if facts.is_elsewhere {
        return;
    }
    let closed =
        (!facts.is_open).then(|| Trouble::new("the gate is closed: the fast path forwards nothing", &facts.again));
    report.see(kind::LOADED_GATE, "", closed);
    for nic in &facts.nics {
        report.see(kind::LOADED_ATTACHED, &nic.name, attached(nic, &facts.again));
        if let (Some(found), Some((mtu, mac))) = (&nic.interface, nic.told) {
            report.see(kind::LOADED_NIC, &nic.name, changed(nic, found, mtu, mac, &facts.again));
        }
    }
    for seen in &facts.seen {
        let is_contradiction = seen.counted == 0 && seen.received >= CONTRADICTION;
        let dead = is_contradiction.then(|| {
            Trouble::new(
                format!(
                    "{} frames came in by {}, and our program has counted none",
                    seen.received, seen.interfaces
                ),
                "on virtio: mrg_rxbuf=on in the virtual machine's definition; elsewhere: load --generic",
            )
        });
        report.see(kind::LOADED_RUNNING, &seen.interfaces, dead);
    }
    for hop in &facts.hops {
        let other = hop.known.filter(|known| *known != hop.told).map(|known| {
            Trouble::new(
                format!(
                    "the router {} has the MAC address {}, and the data path sends to {}",
                    hop.router,
                    text::mac(known),
                    text::mac(hop.told)
                ),
                &facts.again,
            )
        });
        report.see(kind::LOADED_HOP, &hop.router.to_string(), other);
    }
}

fn attached(nic: &Nic, again: &str) -> Option<Trouble> {
    let name = &nic.name;
    if nic.is_detached {
        let what = format!("{name} has been detached: its traffic takes the slow path");
        return Some(Trouble::new(what, again).only(Level::Warning));
    }
    let Some(found) = &nic.interface else {
        return Some(Trouble::new(format!("{name} is gone, and its program with it"), again));
    };
    let is_there = nic.program.is_some() && found.xdp.map(|attached| attached.program) == nic.program;
    // One that has been made anew has another number, and no entry.
    (!is_there || nic.told.is_none()).then(|| Trouble::new(format!("our program is not on {name} any longer"), again))
}

fn changed(nic: &Nic, found: &Interface, mtu: u16, mac: u64, again: &str) -> Option<Trouble> {
    let name = &nic.name;
    if found.mtu_u16() != mtu {
        return Some(Trouble::new(
            format!("the MTU of {name} is {}, and was {mtu} when it was loaded", found.mtu),
            format!("{again}; or ip link set dev {name} mtu {mtu}"),
        ));
    }
    let own = found.mac.filter(|own| *own != Mac::from_bits(mac))?;
    Some(Trouble::new(
        format!(
            "the MAC address of {name} is {}, and was another when it was loaded",
            text::mac(own)
        ),
        again,
    ))
}
