//! Owns the programs at the tunnel device, and those beside XDP on the WAN NIC: tc programs that outlive mape-ctl and are replaced without a gap.
//!
//! On TCX links, pinned as the NICs' are, where the kernel has them (6.6). Else as filters of a clsact qdisc, which belong to nobody
//! once they are there: they are found again by their place (priority and handle), which is always the same.

use std::path::{Path, PathBuf};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError, TcHandle,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
};
use mape_common::{layout::programs as names, step::stage::Stage};

use super::{
    pin::{PinError, PinFolder},
    programs::LoadError,
};
use crate::kernel;

/// Where our filters are among others on a device, first ones first.
const PRIORITY: u16 = 77;
/// Which of that priority.
const HANDLE: TcHandle = TcHandle::new(0, 0x4d45);

/// Why a program is not at the tunnel device.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The program is not in the kernel.
    #[error(transparent)]
    Program(#[from] LoadError),
    /// The kernel refuses to attach it.
    #[error("cannot attach to {device}; programs of others there: bpftool net show dev {device}")]
    Attach {
        /// The device.
        device: String,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The link is tied to this process.
    #[error("the kernel has no BPF link for {device}, so the program would not outlive mape-ctl")]
    NotALink {
        /// The device.
        device: String,
        /// Why.
        source: LinkError,
    },
    /// There is no place for filters on the device.
    #[error(
        "cannot make a clsact qdisc on {device}; an ingress qdisc is in its way: tc qdisc delete dev {device} ingress"
    )]
    Qdisc {
        /// The device.
        device: String,
        /// Why.
        source: TcError,
    },
    /// A filter stays.
    #[error("cannot take the program {program} off {device}; by hand: tc qdisc delete dev {device} clsact")]
    Detach {
        /// The device.
        device: String,
        /// The program.
        program: &'static str,
        /// Why.
        source: TcError,
    },
    /// A pin stays.
    #[error(transparent)]
    Unpin(#[from] PinError),
    /// The pin cannot be made.
    #[error("cannot pin the link of {device} at {path}")]
    Pin {
        /// The device.
        device: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: aya::pin::PinError,
    },
}

/// A program at the device itself, its side, and the name of its link's pin.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// The program.
    pub program: &'static str,
    attach_type: TcAttachType,
    /// The name of the pin.
    pub pin: &'static str,
}

/// Both sides. Egress first: nothing leaves untranslated.
pub const SIDES: [Side; 2] = [
    Side {
        program: names::TUNNEL_OUT,
        attach_type: TcAttachType::Egress,
        pin: "egress",
    },
    Side {
        program: names::TUNNEL_IN,
        attach_type: TcAttachType::Ingress,
        pin: "ingress",
    },
];

/// Both sides of the WAN NIC, where the stack's neighbour discovery is watched.
pub const WAN_SIDES: [Side; 2] = [
    Side {
        program: names::NEIGHBOUR_OUT,
        attach_type: TcAttachType::Egress,
        pin: "wan-egress",
    },
    Side {
        program: names::NEIGHBOUR_IN,
        attach_type: TcAttachType::Ingress,
        pin: "wan-ingress",
    },
];

/// The programs that those hand packets on to.
pub const STAGES: [(Stage, &str); 4] = [
    (Stage::OutboundError, names::TUNNEL_OUT_ERROR),
    (Stage::InboundError, names::TUNNEL_IN_ERROR),
    (Stage::OutboundFragment, names::TUNNEL_OUT_FRAGMENT),
    (Stage::InboundFragment, names::TUNNEL_IN_FRAGMENT),
];

/// The names of all of them.
pub fn all() -> impl Iterator<Item = &'static str> {
    SIDES
        .iter()
        .chain(&WAN_SIDES)
        .map(|side| side.program)
        .chain(STAGES.iter().map(|(_, name)| *name))
}

/// A program of this kind.
///
/// # Errors
/// [`LoadError::NoProgram`].
pub fn get<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(LoadError::NoProgram(name))
}

/// What was done about a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The program is on a link that was not there before.
    Attached,
    /// The program has taken another's place on its link.
    Replaced,
}

/// Puts a program on its side of the device: on the pinned link, if that is still the device's, or on a new one.
///
/// # Errors
/// [`ClassifyError`]; what was there before is there then.
pub fn put(pins: &PinFolder, program: &mut SchedClassifier, side: &Side, device: &str) -> Result<Put, ClassifyError> {
    if kernel::has_tcx() {
        put_link(pins, program, side, device)
    } else {
        put_filter(program, side, device)
    }
}

/// Takes off what [`put`] has put there. Nothing there is fine.
///
/// # Errors
/// [`ClassifyError`].
pub fn take_off(pins: &PinFolder, side: &Side, device: &str) -> Result<(), ClassifyError> {
    if kernel::has_tcx() {
        Ok(pins.remove_tunnel_link(side.pin)?)
    } else {
        remove_filter(side, device)
    }
}

/// Takes our filters off a device, on kernels where links do not go with their pins. Nothing there is fine.
///
/// # Errors
/// [`ClassifyError::Detach`].
pub fn remove_filters(device: &str) -> Result<(), ClassifyError> {
    if kernel::has_tcx() {
        return Ok(());
    }
    // The last that may be missing is egress: nothing leaves untranslated.
    let sides = WAN_SIDES.iter().chain(SIDES.iter().rev());
    sides.into_iter().try_for_each(|side| remove_filter(side, device))
}

/// By the program's name: the place might be another's.
fn remove_filter(side: &Side, device: &str) -> Result<(), ClassifyError> {
    match tc::qdisc_detach_program(device, side.attach_type, side.program) {
        Err(TcError::IoError(error)) if is_absent(&error) => Ok(()),
        Err(source) => Err(ClassifyError::Detach {
            device: device.to_owned(),
            program: side.program,
            source,
        }),
        Ok(()) => Ok(()),
    }
}

/// No such program, or no such device.
fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
}

fn put_filter(program: &mut SchedClassifier, side: &Side, device: &str) -> Result<Put, ClassifyError> {
    match tc::qdisc_add_clsact(device) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(source) => {
            return Err(ClassifyError::Qdisc {
                device: device.to_owned(),
                source,
            });
        }
        Ok(()) => {}
    }
    let failed = |source| ClassifyError::Attach {
        device: device.to_owned(),
        source: Box::new(source),
    };
    let there = SchedClassifierLink::attached(device, side.attach_type, PRIORITY, HANDLE, None)
        .map_err(|error| failed(TcError::IoError(error).into()))?;
    // Replaced at once where it is there; that it is not there is the only thing that making one anew can mend.
    let (id, put) = if let Ok(id) = program.attach_to_link(there) {
        (id, Put::Replaced)
    } else {
        let place = NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            classid: None,
        };
        let id = program.attach_with_options(device, side.attach_type, TcAttachOptions::Netlink(place));
        (id.map_err(failed)?, Put::Attached)
    };
    // It would take the filter away when it is dropped.
    std::mem::forget(program.take_link(id).map_err(failed)?);
    Ok(put)
}

fn put_link(pins: &PinFolder, program: &mut SchedClassifier, side: &Side, device: &str) -> Result<Put, ClassifyError> {
    let path = pins.tunnel_link(side.pin);
    if let Some(link) = pinned(&path)
        && program.attach_to_link(link).is_ok()
        && is_at(program, side, device)
    {
        return Ok(Put::Replaced);
    }
    // What is pinned is of a device that is gone, or not the tunnel any longer.
    let _ = std::fs::remove_file(&path);
    let failed = |source| ClassifyError::Attach {
        device: device.to_owned(),
        source: Box::new(source),
    };
    let id = program
        .attach_with_options(
            device,
            side.attach_type,
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .map_err(failed)?;
    let link = FdLink::try_from(program.take_link(id).map_err(failed)?).map_err(|source| ClassifyError::NotALink {
        device: device.to_owned(),
        source,
    })?;
    match link.pin(&path) {
        Ok(_) => Ok(Put::Attached),
        Err(source) => Err(ClassifyError::Pin {
            device: device.to_owned(),
            path,
            source,
        }),
    }
}

fn is_at(program: &SchedClassifier, side: &Side, device: &str) -> bool {
    let Ok(own) = program.info() else { return false };
    SchedClassifier::query_tcx(device, side.attach_type)
        .is_ok_and(|(_, there)| there.iter().any(|program| program.id() == own.id()))
}

fn pinned(path: &Path) -> Option<SchedClassifierLink> {
    let link = FdLink::from(PinnedLink::from_pin(path).ok()?);
    SchedClassifierLink::try_from(link).ok()
}
