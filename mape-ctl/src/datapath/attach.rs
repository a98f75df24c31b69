//! Owns XDP links: attaching, pinning, replacing programs without a gap, and whose program is on an interface.

use std::path::PathBuf;

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};

use super::pin::PinFolder;
use crate::{gateway::Mode, netlink::link::Interface};

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

const NATIVE_HINT: &str = "if its driver has no XDP, use --generic (much slower); on virtio, check that the MTU is at most 1500 or \
                           the host lets guests switch offloads off, and that queues are at least vCPUs; `dmesg | tail` tells more";
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
    let (flag, hint) = match mode {
        Mode::Native => (XdpMode::Driver, NATIVE_HINT),
        Mode::Generic => (XdpMode::Skb, GENERIC_HINT),
    };
    let failed = |source| AttachError::Attach {
        interface: name.clone(),
        mode,
        hint,
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
    use super::*;

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
