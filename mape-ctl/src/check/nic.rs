//! The NICs: whether XDP can run on them, and what else does.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    Level, Report, Subject, Trouble,
    ethtool::{Channels, Ethtool},
    kind, tc,
};
use crate::{
    datapath::{
        attach::{self, AttachError},
        pin::PinFolder,
    },
    gateway::Mode,
    host::nic::{self, NicError},
    netlink::{Netlink, link::Interface},
};

/// The largest MTU that drivers take with programs that see a frame in one piece: a page, less XDP's room and the kernel's.
pub(super) const LARGEST_MTU: u32 = 3_506;

/// What is known of a NIC.
#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) name: String,
    /// The interface, or why it will not do and what would.
    pub(super) interface: Result<Interface, (String, String)>,
    /// The bridge or bond that it is a port of.
    pub(super) above: Option<String>,
    /// Another's XDP program, and how to be rid of it.
    pub(super) foreign: Option<(String, String)>,
    pub(super) classifiers: Vec<tc::Classifier>,
    pub(super) driver: Option<String>,
    /// Offloads that are on, by their names in `ethtool -k`.
    pub(super) features: BTreeSet<String>,
    pub(super) channels: Option<Channels>,
    /// Features that a virtio device and its driver have agreed upon, a bit each.
    pub(super) virtio: Option<u64>,
}

impl Nic {
    /// Of a NIC that is there.
    pub(super) fn up(&self) -> Option<&Interface> {
        self.interface.as_ref().ok()
    }
}

pub(super) fn gather(subject: &Subject, netlink: &Netlink, interfaces: &[Interface]) -> Vec<Nic> {
    let pins = PinFolder::new(&subject.instance);
    let ethtool = Ethtool::open();
    let one = |name: &str| {
        let interface = nic::find(interfaces, name);
        // What is down is looked at all the same.
        let there = interfaces.iter().find(|interface| interface.name == name);
        let device = there.and_then(device_folder);
        let driver = device.as_ref().and_then(|folder| driver(folder));
        let is_virtio = driver.as_deref() == Some("virtio_net");
        Nic {
            name: name.to_owned(),
            above: there.and_then(|found| {
                let above = interfaces.iter().find(|other| Some(other.index) == found.controller)?;
                Some(above.name.clone())
            }),
            foreign: there.and_then(|found| foreign(&pins, found, subject.mode)),
            classifiers: there.map_or_else(Vec::new, |found| tc::gather(netlink, found.index, name)),
            virtio: device
                .filter(|_| is_virtio)
                .and_then(|folder| fs::read_to_string(folder.join("features")).ok())
                .map(|text| bits(&text)),
            driver: driver.or_else(|| there?.kind.clone()),
            features: ethtool
                .as_ref()
                .filter(|_| there.is_some())
                .and_then(|ethtool| ethtool.features(name))
                .unwrap_or_default(),
            channels: ethtool
                .as_ref()
                .filter(|_| there.is_some())
                .and_then(|ethtool| ethtool.channels(name)),
            interface: interface.map_err(|error| why_not(&error)),
        }
    };
    subject.nics().map(one).collect()
}

/// The device's folder under `/sys`, which shows the interfaces of the network namespace that it was mounted in: another's of
/// the same name is not taken for this one.
fn device_folder(interface: &Interface) -> Option<std::path::PathBuf> {
    let folder = Path::new("/sys/class/net").join(&interface.name);
    let index = fs::read_to_string(folder.join("ifindex")).ok()?;
    let address = fs::read_to_string(folder.join("address")).ok()?;
    let own = interface
        .mac
        .map(|mac| mac.0.map(|byte| format!("{byte:02x}")).join(":"));
    let is_it = index.trim().parse() == Ok(interface.index) && Some(address.trim()) == own.as_deref();
    is_it.then(|| folder.join("device"))
}

fn driver(device: &Path) -> Option<String> {
    let link = fs::read_link(device.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The kernel writes a digit for each feature, the first one first.
fn bits(text: &str) -> u64 {
    let set = text
        .trim()
        .bytes()
        .take(64)
        .enumerate()
        .filter(|(_, digit)| *digit == b'1');
    set.fold(0, |bits, (number, _)| bits | 1 << number)
}

fn foreign(pins: &PinFolder, interface: &Interface, mode: Mode) -> Option<(String, String)> {
    let error = attach::check_free(pins, interface, mode).err()?;
    Some(
        if let AttachError::Occupied {
            interface,
            id,
            name,
            hint,
        } = error
        {
            let what = format!("{interface} runs another XDP program: {name} (id {id})");
            (what, hint.trim_start_matches("detach it first: ").to_owned())
        } else {
            (error.to_string(), "mape-ctl unload, then load again".to_owned())
        },
    )
}

/// What is wrong, and what mends it: the error says both, divided by a semicolon or a colon.
fn why_not(error: &NicError) -> (String, String) {
    let text = error.to_string();
    let mend = match error {
        NicError::Down { name } => format!("ip link set dev {name} up"),
        NicError::Missing { .. } => "name one that is there as `lan` or `wan` (ip -br link)".to_owned(),
        NicError::Upper { .. } | NicError::NotEthernet { .. } => "name the NIC itself as `lan` or `wan`".to_owned(),
    };
    (text, mend)
}

pub(super) fn judge(report: &mut Report, subject: &Subject, nics: &[Nic]) {
    for nic in nics {
        let name = &nic.name;
        let trouble = nic.interface.as_ref().err();
        report.see(
            kind::NIC_USABLE,
            name,
            trouble.map(|(what, mend)| Trouble::new(what, mend)),
        );
        if trouble.is_some() {
            continue;
        }
        let no_carrier = nic.up().is_some_and(|found| !found.has_carrier());
        report.see(
            kind::NIC_CARRIER,
            name,
            no_carrier.then(|| {
                Trouble::new(
                    format!("{name} has no carrier"),
                    "plug the cable in, or switch the other end on",
                )
            }),
        );
        let port = nic.above.as_ref().map(|above| {
            Trouble::new(
                format!("{name} is a port of {above}"),
                format!("ip link set dev {name} nomaster, and give {name} the addresses of {above}"),
            )
        });
        report.see(kind::NIC_PORT, name, port);
        let foreign = nic.foreign.as_ref();
        report.see(
            kind::NIC_XDP,
            name,
            foreign.map(|(what, mend)| Trouble::new(what, mend)),
        );
        // A gateway's own programs may stand there too.
        let own = nic.classifiers.iter().filter(|found| found.name.starts_with("mape_"));
        let own: Vec<u32> = own.filter_map(|found| found.id).collect();
        report.see_all(kind::NIC_TC, name, tc::others(name, &nic.classifiers, &own));
        let generic = (subject.mode == Mode::Generic).then(|| {
            Trouble::new(
                format!("XDP runs in the generic layer on {name}"),
                "load without --generic (generic = false), if the driver takes it",
            )
        });
        report.see(kind::NIC_GENERIC, name, generic);
        report.see_all(kind::NIC_MERGING, name, merging(nic));
        let veth = nic.driver.as_deref() == Some("veth");
        report.see(
            kind::NIC_CHECKSUM,
            name,
            veth.then(|| {
                Trouble::new(
                    format!("{name} is one end of a veth pair"),
                    "at the other end: ethtool -K DEVICE tx off gro on (GRO, so that it takes redirected frames)",
                )
            }),
        );
        report.see(kind::NIC_MTU, name, mtu(subject, nic));
    }
}

/// virtio's driver switches merging off by itself while a program is attached, and goes on saying that it is on.
fn merging(nic: &Nic) -> Vec<Trouble> {
    if nic.virtio.is_some() {
        return Vec::new();
    }
    let on = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];
    on.iter()
        .filter(|(feature, _)| nic.features.contains(*feature))
        .map(|(feature, switch)| {
            Trouble::new(
                format!("{feature} is on at {}", nic.name),
                format!("ethtool -K {} {switch} off", nic.name),
            )
        })
        .collect()
}

fn mtu(subject: &Subject, nic: &Nic) -> Option<Trouble> {
    let found = nic.up()?;
    if found.mtu <= LARGEST_MTU || subject.mode == Mode::Generic {
        return None;
    }
    let attached = if found.xdp.is_some() {
        "frames larger than XDP's room are lost"
    } else {
        "the driver will refuse the program, or lose larger frames"
    };
    let trouble = Trouble::new(
        format!("the MTU of {} is {}: {attached}", nic.name, found.mtu),
        format!("ip link set dev {} mtu 1500 ({LARGEST_MTU} at most)", nic.name),
    );
    // What other drivers take is their own; most of them take about as much.
    Some(if nic.virtio.is_some() {
        trouble
    } else {
        trouble.only(Level::Warning)
    })
}
