//! Owns XDP links: attaching, pinning, replacing programs without a gap, and whose program is on an interface.

use std::{error::Error, io, path::PathBuf};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};

use super::pin::PinFolder;
use crate::{gateway::Mode, host::virtio, netlink::link::Interface};

/// Why a program is not on its interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Somebody else's program is there.
    #[error("{interface} already runs another XDP program (id {id}, {name}); {hint}")]
    Occupied {
        /// The interface.
        interface: String,
        /// The kernel's number of the program.
        id: u32,
        /// Its name.
        name: String,
        /// What to do.
        hint: String,
    },
    /// The driver refuses.
    #[error("cannot attach to {interface} in {} mode; {hint}", mode_name(*.mode))]
    Attach {
        /// The interface.
        interface: String,
        /// How.
        mode: Mode,
        /// What to do.
        hint: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The link is tied to this process.
    #[error("the kernel has no BPF link for XDP on {interface}, so the program would not outlive mape-ctl")]
    NotALink {
        /// The interface.
        interface: String,
    },
    /// The mode of a loaded gateway is to change.
    #[error("{interface} runs in {} mode now; to change that, run `mape-ctl unload`, then load again", mode_name(*.mode))]
    OtherMode {
        /// The interface.
        interface: String,
        /// The mode now.
        mode: Mode,
    },
    /// The pin cannot be made or opened.
    #[error("cannot pin the link of {interface} at {path}")]
    Pin {
        /// The interface.
        interface: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: aya::pin::PinError,
    },
    /// The pinned link cannot be opened.
    #[error("cannot open the pinned link {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        source: LinkError,
    },
    /// The program on a pinned link cannot be replaced.
    #[error("cannot replace the program on {interface}")]
    Replace {
        /// The interface.
        interface: String,
        /// Why.
        source: Box<ProgramError>,
    },
}

/// The word for a mode.
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}

const NATIVE_HINT: &str = "if its driver has no XDP, use --generic (much slower); `dmesg | tail` tells more";
const MTU_HINT: &str =
    "drivers take XDP only up to some MTU, 3506 on virtio (ip link set dev NIC mtu 1500); `dmesg | tail` tells more";
const NO_XDP_HINT: &str = "its driver has no XDP: use --generic (much slower)";
const OFFLOADS_HINT: &str = "the host does not let this machine switch its NIC's offloads off: set ctrl_guest_offloads=on for the NIC in the \
                             VM's definition, or use --generic (much slower)";
const GENERIC_HINT: &str = "`dmesg | tail` may tell why";

/// Refuses an interface on which a program runs that is not this instance's.
///
/// # Errors
/// [`AttachError::Occupied`], [`AttachError::OtherMode`].
pub fn check_free(pins: &PinFolder, interface: &Interface, mode: Mode) -> Result<(), AttachError> {
    let Some(attached) = interface.xdp else { return Ok(()) };
    let path = pins.link(&interface.name);
    let own = path.exists()
        && open(&path)?
            .info()
            .is_ok_and(|info| info.program_id() == attached.program);
    if own {
        let now = if attached.native { Mode::Native } else { Mode::Generic };
        return if now == mode {
            Ok(())
        } else {
            Err(AttachError::OtherMode {
                interface: interface.name.clone(),
                mode: now,
            })
        };
    }
    let name = program_name(attached.program).unwrap_or_else(|| "name unknown".to_owned());
    let hint = if name.starts_with("mape_") {
        "it looks like another instance of mape-ctl: unload that one (mape-ctl --instance NAME unload)".to_owned()
    } else {
        format!(
            "detach it first: ip link set dev {} xdp off, or end the program that has attached it",
            interface.name
        )
    };
    Err(AttachError::Occupied {
        interface: interface.name.clone(),
        id: attached.program,
        name,
        hint,
    })
}

/// The program on an interface's pinned link, by the kernel's number.
pub fn pinned_program(pins: &PinFolder, interface: &str) -> Option<u32> {
    Some(open(&pins.link(interface)).ok()?.info().ok()?.program_id())
}

/// The name of a program, as far as the kernel keeps it (15 letters).
pub fn program_name(id: u32) -> Option<String> {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)?
        .name_as_str()
        .map(str::to_owned)
}

fn open(path: &std::path::Path) -> Result<FdLink, AttachError> {
    PinnedLink::from_pin(path)
        .map(FdLink::from)
        .map_err(|source| AttachError::Open {
            path: path.to_owned(),
            source,
        })
}

/// Attaches a program to an interface that has none and pins the link.
///
/// # Errors
/// [`AttachError`]; nothing is attached then.
pub fn attach(pins: &PinFolder, program: &mut Xdp, interface: &Interface, mode: Mode) -> Result<(), AttachError> {
    let name = &interface.name;
    let flag = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let failed = |source| AttachError::Attach {
        interface: name.clone(),
        mode,
        hint: match mode {
            Mode::Native => native_hint(errno(&source), virtio::Features::of(name).as_ref()),
            Mode::Generic => GENERIC_HINT,
        },
        source: Box::new(source),
    };
    let id = program.attach_to_if_index(interface.index, flag).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    // aya attaches by netlink where the kernel makes no link; dropping that one here detaches it again.
    let link = FdLink::try_from(link).map_err(|_| AttachError::NotALink {
        interface: name.clone(),
    })?;
    let path = pins.link(name);
    match link.pin(&path) {
        Ok(_) => Ok(()),
        Err(source) => Err(AttachError::Pin {
            interface: name.clone(),
            path,
            source,
        }),
    }
}

/// What the kernel's refusal means, as far as its number tells.
fn native_hint(errno: Option<i32>, virtio: Option<&virtio::Features>) -> &'static str {
    match errno {
        Some(libc::EOPNOTSUPP) if virtio.is_some_and(virtio::Features::refuses_xdp) => OFFLOADS_HINT,
        Some(libc::EOPNOTSUPP) if virtio.is_none() => NO_XDP_HINT,
        Some(libc::EINVAL | libc::EOVERFLOW) => MTU_HINT,
        _ => NATIVE_HINT,
    }
}

/// The number of the kernel's error somewhere below another.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// Puts another program on an interface's pinned link; no frame passes without one or the other.
///
/// # Errors
/// [`AttachError`]; the old program is still there then.
pub fn replace(pins: &PinFolder, program: &mut Xdp, interface: &str) -> Result<(), AttachError> {
    let path = pins.link(interface);
    let link = XdpLink::try_from(open(&path)?).map_err(|source| AttachError::Open { path, source })?;
    let failed = |source| AttachError::Replace {
        interface: interface.to_owned(),
        source: Box::new(source),
    };
    program.attach_to_link(link).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn a_refusal_is_explained_by_its_number() {
        let fixed = virtio::Features::parse("110").unwrap();
        let free = virtio::Features::parse("111").unwrap();
        for (errno, virtio, word) in [
            (libc::EOPNOTSUPP, Some(&fixed), "ctrl_guest_offloads=on"),
            (libc::EOPNOTSUPP, Some(&free), "dmesg"),
            (libc::EOPNOTSUPP, None, "has no XDP"),
            (libc::EINVAL, Some(&free), "MTU"),
            (libc::EBUSY, None, "dmesg"),
        ] {
            let hint = native_hint(Some(errno), virtio);
            assert!(hint.contains(word), "{errno}: {hint}");
        }
        let wrapped = ProgramError::SyscallError(SyscallError {
            call: "bpf_link_create",
            io_error: io::Error::from_raw_os_error(libc::EINVAL),
        });
        assert_eq!(errno(&wrapped), Some(libc::EINVAL));
    }

    #[test]
    fn messages_name_the_interface_and_the_way_out() {
        let error = AttachError::Occupied {
            interface: "eth0".to_owned(),
            id: 7,
            name: "other".to_owned(),
            hint: "detach it first".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "eth0 already runs another XDP program (id 7, other); detach it first"
        );
        let error = AttachError::OtherMode {
            interface: "eth0".to_owned(),
            mode: Mode::Generic,
        };
        assert!(error.to_string().contains("runs in generic mode"));
    }
}
