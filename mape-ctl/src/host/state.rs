//! Owns the record of what `load` made on the machine, so that `unload` removes that and nothing else.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use mape_common::map::prefix::Ipv4Prefix;
use serde::{Deserialize, Serialize};

use crate::{
    forward::Forward,
    instance::{Instance, RUN_FOLDER},
};

/// Why the record cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {file}")]
pub struct StateError {
    file: PathBuf,
    source: io::Error,
}

/// An IPv6 address that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeAddress {
    /// On this interface.
    pub interface: String,
    /// The address.
    pub address: Ipv6Addr,
    /// Its length.
    pub len: u8,
}

/// A route that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeRoute {
    /// Network.
    pub destination: Ipv4Addr,
    /// Its length.
    pub len: u8,
}

impl From<&Ipv4Prefix> for MadeRoute {
    fn from(prefix: &Ipv4Prefix) -> Self {
        Self {
            destination: prefix.address(),
            len: prefix.len(),
        }
    }
}

/// The tunnel device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRecord {
    /// Its name.
    pub device: String,
    /// Whether `load` made it.
    pub made: bool,
    /// Routes that `load` put into it.
    pub routes: Vec<MadeRoute>,
}

/// A next hop towards far ends, as it was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarHop {
    /// Index into HOPS.
    pub index: u32,
    /// The neighbour's address.
    pub neighbour: Ipv6Addr,
}

/// An entry of the neighbour table that the kernel was asked to keep resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeNeighbour {
    /// On this interface.
    pub interface: String,
    /// The address.
    pub address: Ipv4Addr,
}

/// Who asked for a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardedBy {
    /// The configuration: the next `load` without it takes it away.
    Configuration,
    /// `mape-ctl forward add`: it stays until `forward del` or `unload`.
    Command,
}

/// A static forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRecord {
    /// What it is.
    #[serde(flatten)]
    pub forward: Forward,
    /// Who asked for it.
    pub by: ForwardedBy,
}

/// What was made, by whom and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// A load or an unload is under way, or was killed: what is listed may not be there, or not any longer.
    #[serde(default)]
    pub unfinished: bool,
    /// `ce` or `br`.
    pub role: String,
    /// The network namespace, by the number of its file.
    pub network_namespace: u64,
    /// When it was loaded, seconds of the monotonic clock since boot.
    pub loaded_at: u64,
    /// The tunnel device, where there is one.
    pub tunnel: Option<TunnelRecord>,
    /// Addresses that were added.
    pub addresses: Vec<MadeAddress>,
    /// Next hops towards far ends.
    pub far_hops: Vec<FarHop>,
    /// Static forwards.
    #[serde(default)]
    pub forwards: Vec<ForwardRecord>,
    /// Entries of the neighbour table for the hosts that they lead to.
    #[serde(default)]
    pub neighbours: Vec<MadeNeighbour>,
}

fn path(instance: &Instance) -> PathBuf {
    Path::new(RUN_FOLDER).join(format!("{instance}.json"))
}

/// A record while it is being written.
fn unwritten(file: &Path) -> PathBuf {
    file.with_extension("new")
}

impl State {
    /// The record of an instance; none where there is none, or where it cannot be read: then everything is found by looking.
    pub fn read(instance: &Instance) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path(instance)).ok()?).ok()
    }

    /// Keeps the record.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn write(&self, instance: &Instance) -> Result<(), StateError> {
        let file = path(instance);
        let failed = |source| StateError {
            file: file.clone(),
            source,
        };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        // A record half written would be worse than an old one.
        let new = unwritten(&file);
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &file));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.map_err(failed)
    }

    /// Forgets the record. None there is fine.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn remove(instance: &Instance) -> Result<(), StateError> {
        let file = path(instance);
        // Of a process that was killed while it wrote; without it there is nothing to remove.
        let _ = fs::remove_file(unwritten(&file));
        match fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError { file, source }),
            _ => Ok(()),
        }
    }
}

/// Seconds of the monotonic clock since boot: the data path's clock.
pub fn uptime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// The data path's clock.
pub fn now() -> mape_common::time::Tick {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
    mape_common::time::Tick::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Protocols;

    #[test]
    fn the_record_comes_back_as_it_was_written() {
        let state = State {
            unfinished: true,
            role: "ce".to_owned(),
            network_namespace: 7,
            loaded_at: 9,
            tunnel: Some(TunnelRecord {
                device: "mape0".to_owned(),
                made: true,
                routes: vec![MadeRoute {
                    destination: Ipv4Addr::UNSPECIFIED,
                    len: 0,
                }],
            }),
            addresses: vec![MadeAddress {
                interface: "wan0".to_owned(),
                address: Ipv6Addr::LOCALHOST,
                len: 128,
            }],
            far_hops: vec![FarHop {
                index: 0,
                neighbour: Ipv6Addr::LOCALHOST,
            }],
            forwards: vec![ForwardRecord {
                forward: Forward::new(
                    Protocols::Both,
                    "1232-1235".parse().unwrap(),
                    "192.168.10.5:80".parse().unwrap(),
                ),
                by: ForwardedBy::Command,
            }],
            neighbours: vec![MadeNeighbour {
                interface: "lan0".to_owned(),
                address: Ipv4Addr::LOCALHOST,
            }],
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
