//! Owns looking a machine over: before a gateway is loaded, what stands in its way; after, whether it is well.
//!
//! Each domain has a file: it gathers facts from the kernel, and a plain function judges them, so that every judgement is tried
//! with facts that no machine at hand has. [`kind`] has the table of what can be found, [`fix`] what may be mended.

mod ethtool;
mod firewall;
pub mod fix;
mod kernel;
pub mod kind;
mod loaded;
mod mtu;
mod nic;
mod probe;
mod route;
mod ruleset;
pub mod show;
mod sysctl;
mod tc;
#[cfg(test)]
mod tests;
mod tunnel;
mod virtio;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use aya::programs::ProgramInfo;
use mape_common::{hop::Link, layout::programs as names, step::native::Lease};
use serde::Serialize;

use self::{fix::Fix, kind::Kind};
use crate::{
    datapath::{
        attach,
        maps::{TableError, Tables},
        pin::{self, PinFolder},
    },
    gateway::{Gateway, Ipv6Forward, Mode, Role},
    host::state::State,
    instance::Instance,
    netlink::{Netlink, NetlinkError, resolve::Target},
    view::snapshot::is_border_relay,
};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Looked at, and as it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// The gateway works, but not as well, or not always.
    Warning,
    /// The gateway cannot be loaded, or does not work.
    Error,
}

impl Level {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    level: Option<Level>,
    what: String,
    mend: String,
    fix: Option<Fix>,
}

impl Trouble {
    /// What it is, and the command or setting that mends it.
    fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: None,
            what: what.into(),
            mend: mend.into(),
            fix: None,
        }
    }

    /// The same where a safe step mends it.
    fn mended_by(what: impl Into<String>, fix: Fix) -> Self {
        Self {
            level: None,
            what: what.into(),
            mend: fix.to_string(),
            fix: Some(fix),
        }
    }

    /// Not as bad as its kind can be.
    fn only(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub kind: &'static Kind,
    /// How it is.
    pub level: Level,
    /// The interface, address or program that it is about; may be empty.
    pub object: String,
    /// What was found.
    pub what: String,
    /// The command or setting that mends it.
    pub mend: Option<String>,
    /// The safe step that mends it.
    pub fix: Option<Fix>,
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Notes what was found about an object; nothing is fine.
    fn see(&mut self, kind: &'static Kind, object: &str, trouble: Option<Trouble>) {
        let finding = match trouble {
            None => Finding {
                kind,
                level: Level::Ok,
                object: object.to_owned(),
                what: kind.title.to_owned(),
                mend: None,
                fix: None,
            },
            Some(trouble) => Finding {
                kind,
                level: trouble.level.unwrap_or(kind.level),
                object: object.to_owned(),
                what: trouble.what,
                mend: Some(trouble.mend),
                fix: trouble.fix,
            },
        };
        self.findings.push(finding);
    }

    /// Notes several troubles of one kind, or that there is none.
    fn see_all(&mut self, kind: &'static Kind, object: &str, troubles: Vec<Trouble>) {
        if troubles.is_empty() {
            self.see(kind, object, None);
        }
        for trouble in troubles {
            self.see(kind, object, Some(trouble));
        }
    }

    /// How many findings are of this level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// The worst level.
    pub fn worst(&self) -> Level {
        self.findings
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Ok)
    }
}

/// Why it cannot be looked.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum CheckError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The gateway that is looked at, loaded or to be.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub struct Subject {
    instance: Instance,
    role: Role,
    lan: Vec<String>,
    wan: String,
    mode: Mode,
    /// The customer edge's IPv4 address.
    address: Option<Ipv4Addr>,
    /// Other customers have the same address.
    is_shared: bool,
    ports: u32,
    near: Ipv6Addr,
    /// Far ends that need a next hop.
    targets: Vec<(Ipv6Addr, Target)>,
    device: String,
    mtu: u16,
    clamps_mss: bool,
    /// When native IPv6 is forwarded in XDP.
    ipv6_forward: Ipv6Forward,
    /// `load` makes routes into the device.
    makes_routes: bool,
    /// A process may be started for the device.
    may_start: bool,
    is_loaded: bool,
}

impl Subject {
    /// A gateway as it is configured.
    pub fn planned(gateway: &Gateway, instance: &Instance, is_loaded: bool) -> Self {
        let domain = gateway.domain.as_ref();
        let targets = match gateway.role {
            Role::CustomerEdge => vec![(gateway.relay, Target::Host)],
            Role::BorderRelay => gateway
                .rules
                .iter()
                .map(|rule| (crate::datapath::hops::target(rule), Target::Prefix))
                .collect(),
        };
        Self {
            instance: instance.clone(),
            role: gateway.role,
            lan: gateway.lan.clone(),
            wan: gateway.wan.clone(),
            mode: gateway.mode,
            address: domain.map(|domain| gateway.nat.external_address.unwrap_or(domain.ipv4_address())),
            is_shared: domain.is_some_and(|domain| domain.port_set().psid_len() > 0),
            ports: domain.map_or(0, |domain| domain.port_set().len()),
            near: domain.map_or(gateway.relay, mape_common::map::domain::Domain::ce_address),
            targets,
            device: gateway.tunnel.device.clone(),
            mtu: gateway.tunnel.mtu,
            clamps_mss: gateway.tunnel.mss.is_some(),
            ipv6_forward: gateway.ipv6_forward,
            makes_routes: !gateway.tunnel.routes.is_empty(),
            may_start: gateway.tunnel.process,
            is_loaded,
        }
    }

    /// A gateway as it stands in the kernel.
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn loaded(instance: &Instance, netlink: &Netlink) -> Result<Self, CheckError> {
        let pins = PinFolder::new(instance);
        let tables = Tables::new(&pins);
        let config = tables.config()?;
        let record = State::read(instance);
        let is_relay = is_border_relay(&config);
        let (lan_side, wan_side, both) = if is_relay {
            (names::RELAY_V4, names::RELAY_V6, names::RELAY_ONE_ARM)
        } else {
            (names::LAN, names::WAN, names::ONE_ARM)
        };
        let id_of = |name: &str| ProgramInfo::from_pin(pins.program(name)).ok().map(|info| info.id());
        let (lan_id, wan_id, both_id) = (id_of(lan_side), id_of(wan_side), id_of(both));
        let spread_id = id_of(names::SPREAD);
        let interfaces = netlink.interfaces()?;
        let (mut lan, mut wan, mut is_generic) = (Vec::new(), String::new(), false);
        for name in pins.linked_interfaces() {
            let program = attach::pinned_program(&pins, &name);
            let is = |id: Option<u32>| program.is_some() && program == id;
            if is(lan_id) || is(both_id) {
                lan.push(name.clone());
            }
            if is(wan_id) || is(spread_id) || is(both_id) {
                wan.clone_from(&name);
            }
            let there = interfaces.iter().find(|interface| interface.name == name);
            is_generic |= there.is_some_and(|found| found.xdp.is_some_and(|attached| !attached.native));
        }
        let relay = Ipv6Addr::from(config.relay_address);
        // Some of them may have been detached: their links are gone, and the data path's entries say so.
        let detached = interfaces.iter().filter(|found| {
            let words = tables.link_words(found.index).unwrap_or_default();
            Link::from_words(words).flags() & Link::DETACHED != 0
        });
        let detached: Vec<_> = detached.collect();
        if wan.is_empty() && !is_relay {
            let index = netlink.way_to(relay)?.map(|way| way.index);
            let uplink = detached.iter().find(|found| Some(found.index) == index);
            wan = uplink.map_or_else(String::new, |found| found.name.clone());
        }
        lan.extend(
            detached
                .iter()
                .map(|found| found.name.clone())
                .filter(|name| *name != wan),
        );
        let targets = if is_relay {
            let rules = tables.rules()?.rules;
            rules
                .iter()
                .map(|rule| (crate::datapath::hops::target(rule), Target::Prefix))
                .collect()
        } else {
            vec![(relay, Target::Host)]
        };
        Ok(Self {
            instance: instance.clone(),
            role: if is_relay {
                Role::BorderRelay
            } else {
                Role::CustomerEdge
            },
            lan,
            wan,
            mode: if is_generic { Mode::Generic } else { Mode::Native },
            address: (!is_relay).then(|| Ipv4Addr::from(config.external_address)),
            is_shared: !is_relay && config.port_set.psid_len() > 0,
            ports: config.ports,
            near: config.tunnel_address.into(),
            targets,
            device: record
                .and_then(|record| record.tunnel)
                .map_or_else(|| "mape0".to_owned(), |tunnel| tunnel.device),
            mtu: config.tunnel_mtu,
            clamps_mss: config.mss != 0,
            ipv6_forward: if tables.native_lease()? == Lease::FOR_EVER {
                Ipv6Forward::Always
            } else if pins.program(names::NATIVE_OUTBOUND).exists() {
                Ipv6Forward::Auto
            } else {
                Ipv6Forward::Never
            },
            makes_routes: false,
            may_start: true,
            is_loaded: true,
        })
    }

    fn is_edge(&self) -> bool {
        self.role == Role::CustomerEdge
    }

    /// LAN and WAN, each once.
    fn nics(&self) -> impl Iterator<Item = &str> {
        let wan = (!self.lan.contains(&self.wan) && !self.wan.is_empty()).then_some(self.wan.as_str());
        self.lan.iter().map(String::as_str).chain(wan)
    }
}

/// Whether a gateway of this name stands in the kernel, in this release's layout.
pub fn is_loaded(instance: &Instance) -> bool {
    pin::instances().iter().any(|name| name == instance.as_ref())
}

/// Looks at what concerns no gateway: the kernel, and pins of another release. That is all that can be done without root.
pub fn look_at_kernel(instance: &Instance) -> Report {
    let mut report = Report::default();
    kernel::judge(&mut report, &kernel::gather());
    loaded::judge_layout(&mut report, loaded::other_layout(instance).as_ref());
    report
}

/// Everything that is known.
#[derive(Clone, Debug)]
struct Facts {
    kernel: kernel::Facts,
    other_layout: Option<(String, PathBuf)>,
    nics: Vec<nic::Nic>,
    machine: virtio::Facts,
    sysctl: sysctl::Facts,
    mtu: mtu::Facts,
    route: route::Facts,
    /// Of a customer edge.
    firewall: Option<firewall::Facts>,
    /// Of a gateway that is loaded.
    loaded: Option<loaded::Facts>,
    /// Of a customer edge.
    tunnel: Option<tunnel::Facts>,
}

/// Looks at everything. Unless `is_passive`, packets are sent: pings to the border relay and all neighbours, and one through the
/// tunnel device.
///
/// # Errors
/// [`CheckError`].
pub fn look(subject: &Subject, netlink: &Netlink, is_passive: bool) -> Result<Report, CheckError> {
    let interfaces = netlink.interfaces()?;
    // In this order: a packet sent for one may be what another waits for.
    let facts = Facts {
        kernel: kernel::gather(),
        other_layout: loaded::other_layout(&subject.instance),
        nics: nic::gather(subject, netlink, &interfaces),
        machine: virtio::gather(),
        sysctl: sysctl::gather(subject, netlink)?,
        mtu: mtu::gather(subject, &interfaces),
        route: route::gather(subject, netlink, &interfaces, is_passive)?,
        firewall: subject.is_edge().then(|| firewall::gather(subject)),
        loaded: if subject.is_loaded {
            Some(loaded::gather(subject, netlink, is_passive)?)
        } else {
            None
        },
        tunnel: if subject.is_edge() {
            Some(tunnel::gather(subject, netlink, is_passive)?)
        } else {
            None
        },
    };
    Ok(judge(subject, &facts))
}

fn judge(subject: &Subject, facts: &Facts) -> Report {
    let mut report = Report::default();
    kernel::judge(&mut report, &facts.kernel);
    loaded::judge_layout(&mut report, facts.other_layout.as_ref());
    nic::judge(&mut report, subject, &facts.nics);
    virtio::judge(&mut report, subject, &facts.nics, &facts.machine);
    sysctl::judge(&mut report, subject, &facts.sysctl);
    mtu::judge(&mut report, subject, &facts.mtu);
    route::judge(&mut report, subject, &facts.route);
    if let Some(facts) = &facts.firewall {
        firewall::judge(&mut report, subject, facts);
    }
    if let Some(facts) = &facts.loaded {
        loaded::judge(&mut report, facts);
    }
    if let Some(facts) = &facts.tunnel {
        tunnel::judge(&mut report, subject, facts);
    }
    if subject.is_edge() {
        let few = (subject.ports < FEW_PORTS).then(|| {
            Trouble::new(
                format!("the line has {} ports", subject.ports),
                "nothing; `mape-ctl ports` shows how many are in use, nat.host-ports limits what one LAN host takes",
            )
        });
        report.see(kind::LINE_PORTS, "", few);
    }
    report
}

/// Fewer ports than this are worth a word.
const FEW_PORTS: u32 = 1_024;
