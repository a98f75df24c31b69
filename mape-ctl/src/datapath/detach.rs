//! Owns taking NICs out of the fast path while the gateway stays loaded: their traffic takes the slow path, by the same sessions.
//!
//! In an order in which no frame is lost: first nobody uses the NIC any longer, then the program goes. `load` puts it back.

use std::{thread, time::Duration};

use super::{
    load::Done,
    maps::{TableError, Tables},
    pin::{PinError, PinFolder, refuse_other_layouts},
};
use crate::{
    instance::{Instance, LockError},
    kernel::{self, KernelError},
    netlink::{Netlink, NetlinkError},
};

/// In which frames that are on their way to the NIC have arrived.
const SETTLING: Duration = Duration::from_millis(20);

/// Why NICs stay as they are.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum DetachError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is nothing to detach from.
    #[error("nothing is loaded as instance {0}; run mape-ctl load")]
    NotLoaded(Instance),
    /// No program of ours is there.
    #[error("{name} has no program of instance {instance}; it has them on: {}", list(attached))]
    NotAttached {
        instance: Instance,
        name: String,
        attached: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "no interface".to_owned()
    } else {
        names.join(", ")
    }
}

/// Takes the programs off these NICs, or off all.
///
/// # Errors
/// [`DetachError`].
pub fn detach(instance: &Instance, names: &[String]) -> Result<Done, DetachError> {
    kernel::check_root("detach")?;
    let _lock = instance.lock()?;
    refuse_other_layouts(instance)?;
    let pins = PinFolder::new(instance);
    if !pins.exists() {
        return Err(DetachError::NotLoaded(instance.clone()));
    }
    let attached = pins.linked_interfaces();
    if let Some(name) = names.iter().find(|name| !attached.contains(name)) {
        return Err(DetachError::NotAttached {
            instance: instance.clone(),
            name: name.clone(),
            attached,
        });
    }
    let wanted = if names.is_empty() { &attached } else { names };
    let netlink = Netlink::open()?;
    let tables = Tables::new(&pins);
    let mut done = Done::default();
    for name in wanted {
        // One that is gone has taken its program along; only the pin is left.
        if let Some(interface) = netlink.interface(name)? {
            tables.detach_link(interface.index)?;
            thread::sleep(SETTLING);
            // Again, for what a program that had begun before has noted.
            tables.detach_link(interface.index)?;
        }
        pins.remove_link(name)?;
        done.messages
            .push(format!("detached from {name}: its traffic takes the slow path"));
    }
    if wanted.is_empty() {
        done.messages.push("no program is attached anywhere".to_owned());
    } else {
        done.messages
            .push("sessions are kept; `mape-ctl load` attaches again".to_owned());
    }
    Ok(done)
}
