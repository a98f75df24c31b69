//! virtio NICs: what the virtual machine's definition must have for XDP, by the features that device and driver have agreed upon.

use std::fs;

use super::{Level, Report, Subject, Trouble, kind, nic::Nic};
use crate::gateway::Mode;

/// Feature bits (virtio 1.2, 5.1.3 and 6).
pub(super) const GUEST_CSUM: u64 = 1 << 1;
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(super) const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const GUEST_UFO: u64 = 1 << 10;
pub(super) const MRG_RXBUF: u64 = 1 << 15;
const ANY_LAYOUT: u64 = 1 << 27;
pub(super) const VERSION_1: u64 = 1 << 32;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
/// Any of these has the host hand over packets larger than a frame.
const LARGE: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO4 | GUEST_USO6;

const ALL_OFF: &str =
    "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_uso4=off,guest_uso6=off";

/// What is known of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Processors that the kernel has room for: the driver counts them so.
    pub(super) processors: u32,
    /// What the firmware calls the machine.
    pub(super) machine: Option<String>,
}

pub(super) fn gather() -> Facts {
    Facts {
        processors: aya::util::nr_cpus().map_or(1, |count| u32::try_from(count).unwrap_or(1)),
        machine: fs::read_to_string("/sys/class/dmi/id/product_name")
            .ok()
            .map(|name| name.trim().to_owned()),
    }
}

pub(super) fn judge(report: &mut Report, subject: &Subject, nics: &[Nic], facts: &Facts) {
    let mut virtio = nics.iter().filter_map(|nic| Some((nic, nic.virtio?))).peekable();
    if virtio.peek().is_some() {
        let old = facts.machine.as_deref().filter(|machine| machine.contains("i440FX"));
        let note = old.map(|machine| {
            Trouble::new(
                format!("the virtual machine is an i440fx ({machine})"),
                "nothing: it was tried and works; in a new one choose q35 (Proxmox: Machine = q35)",
            )
        });
        report.see(kind::VIRTIO_MACHINE, "", note);
    }
    for (nic, features) in virtio {
        let is_native = subject.mode == Mode::Native;
        report.see(
            kind::VIRTIO_OFFLOADS,
            &nic.name,
            is_native.then(|| offloads(&nic.name, features)).flatten(),
        );
        report.see(
            kind::VIRTIO_MERGEABLE,
            &nic.name,
            is_native.then(|| mergeable(&nic.name, features)).flatten(),
        );
        report.see(
            kind::VIRTIO_LAYOUT,
            &nic.name,
            is_native.then(|| layout(&nic.name, features)).flatten(),
        );
        report.see(
            kind::VIRTIO_QUEUES,
            &nic.name,
            is_native.then(|| queues(nic, facts)).flatten(),
        );
    }
}

fn offloads(name: &str, features: u64) -> Option<Trouble> {
    let is_stuck = features & CTRL_GUEST_OFFLOADS == 0 && features & (LARGE | GUEST_CSUM) != 0;
    is_stuck.then(|| {
        Trouble::new(
            format!(
                "the host of {name} merges frames or leaves checksums out, and does not let the guest switch that off"
            ),
            format!(
                "in the virtual machine's definition: ctrl_guest_offloads=on (QEMU's default), or {ALL_OFF}; \
                 or load --generic, which is slower"
            ),
        )
    })
}

fn mergeable(name: &str, features: u64) -> Option<Trouble> {
    let is_bypassed = features & MRG_RXBUF == 0 && features & LARGE != 0;
    is_bypassed.then(|| {
        Trouble::new(
            format!("{name} has no mergeable receive buffers, and its host sends merged frames"),
            format!("in the virtual machine's definition: mrg_rxbuf=on (QEMU's default), or {ALL_OFF}"),
        )
    })
}

fn layout(name: &str, features: u64) -> Option<Trouble> {
    let is_apart = features & MRG_RXBUF != 0 && features & (ANY_LAYOUT | VERSION_1) == 0;
    is_apart.then(|| {
        Trouble::new(
            format!("{name} is a virtio device of before 1.0"),
            "in the virtual machine's definition: disable-modern=off, or a newer machine type; or load --generic",
        )
    })
}

/// The driver wants a queue to send by for each processor, beside the pairs in use; while a program is attached these count as
/// in use where it has got them.
fn queues(nic: &Nic, facts: &Facts) -> Option<Trouble> {
    let channels = nic.channels?;
    let processors = facts.processors;
    let is_attached = nic.up().is_some_and(|found| found.xdp.is_some());
    let is_enough = if is_attached {
        channels.current > processors
    } else {
        channels.current.saturating_add(processors) <= channels.most
    };
    if is_enough {
        return None;
    }
    let wanted = processors.saturating_mul(2);
    let trouble = if channels.most >= wanted {
        Trouble::new(
            format!(
                "all {} queue pairs of {} are in use, none is left for XDP",
                channels.most, nic.name
            ),
            format!("ethtool -L {} combined {processors}, before load", nic.name),
        )
    } else {
        Trouble::new(
            format!(
                "{} has {} queue pair{} for {processors} processor{}",
                nic.name,
                channels.most,
                plural(channels.most),
                plural(processors)
            ),
            format!(
                "in the virtual machine's definition: queues={wanted}, twice the vCPUs (Proxmox: Multiqueue; QEMU: queues={wanted} \
                 of the netdev, and mq=on); it works without, more slowly"
            ),
        )
    };
    // A single processor waits for nobody.
    Some(if processors == 1 {
        trouble.only(Level::Note)
    } else {
        trouble
    })
}

const fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}
