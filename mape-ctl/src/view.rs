//! Owns what is shown of a loaded gateway: [`snapshot`] reads it, [`text`] and [`json`] write it, [`entry`] is one session,
//! [`ports`] the picture of the port set, [`hosts`] what LAN hosts use, [`pressure`] whether anything is short.

pub mod entry;
pub mod event;
pub mod hosts;
pub mod interface;
pub mod json;
pub mod packet;
pub mod ports;
pub mod pressure;
pub mod snapshot;
pub mod text;

use crate::{
    datapath::{
        maps::Tables,
        pin::{self, PinError, PinFolder},
    },
    instance::Instance,
    kernel::{self, KernelError},
};

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum NotLoaded {
    /// Nobody has loaded it.
    #[error("nothing is loaded as instance {instance}; run mape-ctl load{}", others(loaded))]
    Nothing {
        /// The name asked for.
        instance: Instance,
        /// The names that are there.
        loaded: Vec<String>,
    },
    /// Another release has.
    #[error(transparent)]
    OtherLayout(#[from] PinError),
    /// Only root may look.
    #[error(transparent)]
    NotRoot(#[from] KernelError),
}

fn others(loaded: &[String]) -> String {
    if loaded.is_empty() {
        String::new()
    } else {
        format!(" (loaded are: {}; see --instance)", loaded.join(", "))
    }
}

/// The pins and maps of an instance that is loaded; `command` names who asks.
///
/// # Errors
/// [`NotLoaded`].
pub fn open(command: &'static str, instance: &Instance) -> Result<(PinFolder, Tables), NotLoaded> {
    kernel::check_root(command)?;
    pin::refuse_other_layouts(instance)?;
    let pins = PinFolder::new(instance);
    if !pins.exists() {
        return Err(NotLoaded::Nothing {
            instance: instance.clone(),
            loaded: pin::instances(),
        });
    }
    let tables = Tables::new(&pins);
    Ok((pins, tables))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_the_wrong_instance_is_told_the_right_ones() {
        let nothing = |loaded: &[&str]| {
            let loaded = loaded.iter().map(|&name| name.to_owned()).collect();
            NotLoaded::Nothing {
                instance: Instance::default(),
                loaded,
            }
            .to_string()
        };
        assert_eq!(nothing(&[]), "nothing is loaded as instance default; run mape-ctl load");
        assert!(nothing(&["home", "lab"]).ends_with("run mape-ctl load (loaded are: home, lab; see --instance)"));
    }
}
