//! Owns which forwards and reservations a gateway has: what is in the kernel, what shall be, and how one becomes the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use mape_common::{
    layout::{Config, Transport},
    map::psid::PortSet,
    nat::{port::PortState, session::Phase},
    wire::port::Port,
};

use super::{
    mapped::MappedError,
    maps::Tables,
    order::{OrderError, Ports},
    pin::PinFolder,
    ports::PortTable,
    sessions::SessionTable,
};
use crate::{
    forward::{Forward, ForwardError, Single},
    host::state::{self, ForwardRecord, ForwardedBy, State},
    netlink::{Netlink, NetlinkError},
};

/// Why forwards are not as they were asked for.
#[derive(Debug, thiserror::Error)]
pub enum ForwardsError {
    /// One is impossible.
    #[error("the forward {forward} cannot be")]
    Impossible {
        /// Which.
        forward: Forward,
        /// Why.
        source: ForwardError,
    },
    /// One that was made by command does not go with the configuration.
    #[error(
        "the forward {forward} was added by command and does not go with the configuration; take it away first: mape-ctl forward del {} {}",
        .forward.protocol.word(), .forward.external
    )]
    InTheWay {
        /// Which.
        forward: Forward,
        /// Why.
        source: ForwardError,
    },
    /// It leads to this machine.
    #[error(
        "the forward {forward} leads to this machine itself, which has no place for sessions from outside; name another host of the LAN"
    )]
    OwnAddress {
        /// Which.
        forward: Forward,
    },
    /// The kernel refuses.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The tables cannot be read.
    #[error(transparent)]
    Mapped(#[from] MappedError),
    /// The kernel did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Ports forwarded anew.
    pub added: u32,
    /// Ports not forwarded any longer.
    pub removed: u32,
    /// Ports kept from translation anew, or given back to it.
    pub reservations: u32,
    /// Sessions and mappings that were in the way, or went with their forward.
    pub ended: u32,
}

/// What shall be: every forwarded port, and the ports that are kept from translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Forwarded ports.
    pub singles: BTreeSet<Single>,
    /// Ports kept from translation.
    pub reserved: BTreeSet<u16>,
}

impl Wanted {
    /// Those of some forwards, and of a configuration's list; port 0 of a set is always kept.
    pub fn new<'a>(forwards: impl IntoIterator<Item = &'a Forward>, set: &PortSet, reserved: &[u16]) -> Self {
        Self {
            singles: forwards.into_iter().flat_map(Forward::singles).collect(),
            reserved: reserved
                .iter()
                .chain([&0])
                .copied()
                .filter(|port| set.contains(Port(*port)))
                .collect(),
        }
    }

    /// What is in the kernel.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn in_kernel(tables: &Tables) -> Result<Self, MappedError> {
        let set = tables.config()?.port_set;
        let table = PortTable::open(tables)?;
        let reserved = (0..)
            .zip(table.states(Transport::Udp, state::now()))
            .filter(|(_, state)| *state == PortState::Reserved)
            .filter_map(|(ordinal, _)| Some(set.port(ordinal)?.0))
            .collect();
        Ok(Self {
            singles: singles(tables)?,
            reserved,
        })
    }
}

/// Every forwarded port that is in the kernel.
///
/// # Errors
/// [`MappedError`].
pub fn singles(tables: &Tables) -> Result<BTreeSet<Single>, MappedError> {
    let sessions = SessionTable::open(tables)?;
    let forwards = sessions.live().filter(|entry| entry.state.phase == Phase::Static);
    Ok(forwards
        .map(|entry| Single {
            protocol: entry.facts.transport.protocol(),
            external: entry.facts.external_port.0,
            inside: entry.facts.inside.into(),
            inside_port: entry.facts.inside_port.0,
        })
        .collect())
}

/// How many sessions go by each forwarded port.
///
/// # Errors
/// [`MappedError`].
pub fn sessions_by_port(tables: &Tables) -> Result<BTreeMap<(u8, u16), u32>, MappedError> {
    let mut counts = BTreeMap::new();
    for entry in SessionTable::open(tables)?.live() {
        if entry.state.phase != Phase::Static {
            let key = (entry.facts.transport.protocol(), entry.facts.external_port.0);
            *counts.entry(key).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

/// Makes the kernel's forwards and reservations what they shall be. What stays is not touched, nor are its sessions.
///
/// # Errors
/// [`ForwardsError`]; some may have been changed then.
pub fn apply(pins: &PinFolder, tables: &Tables, wanted: &Wanted) -> Result<Changed, ForwardsError> {
    let now = Wanted::in_kernel(tables)?;
    let mut changed = Changed::default();
    if now == *wanted {
        return Ok(changed);
    }
    let ports = Ports::open(pins)?;
    for single in now.singles.difference(&wanted.singles) {
        changed.ended += ports.unforward(single)?;
        changed.removed += 1;
    }
    for port in now.reserved.difference(&wanted.reserved) {
        ports.release(*port)?;
        changed.reservations += 1;
    }
    for port in wanted.reserved.difference(&now.reserved) {
        changed.ended += ports.reserve(*port)?;
        changed.reservations += 1;
    }
    for single in wanted.singles.difference(&now.singles) {
        changed.ended += ports.forward(single)?;
        changed.added += 1;
    }
    Ok(changed)
}

/// The forwards of a configuration together with those that commands have added to the gateway before, and what to say.
///
/// # Errors
/// [`ForwardsError::InTheWay`] where one of the latter does not go with the configuration.
pub fn merge(
    configured: &[Forward],
    before: Option<&State>,
    set: &PortSet,
    reserved: &[u16],
) -> Result<(Vec<ForwardRecord>, Vec<String>), ForwardsError> {
    let mut all: Vec<ForwardRecord> = configured
        .iter()
        .map(|forward| ForwardRecord {
            forward: *forward,
            by: ForwardedBy::Configuration,
        })
        .collect();
    let mut warnings = Vec::new();
    let by_command = before.into_iter().flat_map(|before| &before.forwards);
    for record in by_command.filter(|record| record.by == ForwardedBy::Command) {
        let forward = record.forward;
        if configured.contains(&forward) {
            continue;
        }
        match forward.check(set, reserved, false) {
            // The line is another one: nothing that the operator could have seen to beforehand.
            Err(source @ ForwardError::Foreign { .. }) => {
                warnings.push(format!("the forward {forward}, added by command, is gone: {source}"));
                continue;
            }
            Err(source) => return Err(ForwardsError::InTheWay { forward, source }),
            Ok(()) => {}
        }
        for other in configured {
            forward
                .check_beside(other)
                .map_err(|source| ForwardsError::InTheWay { forward, source })?;
        }
        all.push(*record);
    }
    Ok((all, warnings))
}

/// Refuses forwards to this machine itself.
///
/// # Errors
/// [`ForwardsError::OwnAddress`].
pub fn refuse_own_addresses<'a>(
    netlink: &Netlink,
    forwards: impl IntoIterator<Item = &'a Forward>,
) -> Result<(), ForwardsError> {
    let own: BTreeSet<IpAddr> = netlink.addresses()?.iter().map(|assigned| assigned.address).collect();
    for forward in forwards {
        if own.contains(&IpAddr::V4(forward.inside)) {
            return Err(ForwardsError::OwnAddress { forward: *forward });
        }
    }
    Ok(())
}

/// Whether an address is one that the loaded line translates to.
pub const fn is_shared(config: &Config, address: Ipv4Addr) -> bool {
    config.owns(address.octets())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Protocols;

    fn set() -> PortSet {
        PortSet::new(4, 8, 0x34).unwrap()
    }

    fn forward(external: &str, inside: &str) -> Forward {
        Forward::new(Protocols::Tcp, external.parse().unwrap(), inside.parse().unwrap())
    }

    fn by_command(forward: Forward) -> State {
        State {
            forwards: vec![ForwardRecord {
                forward,
                by: ForwardedBy::Command,
            }],
            ..State::default()
        }
    }

    #[test]
    fn what_a_command_added_stays_unless_the_configuration_says_otherwise() {
        let (one, other) = (forward("4928", "192.168.10.5:80"), forward("4929", "192.168.10.6:80"));
        let (all, warnings) = merge(&[one], Some(&by_command(other)), &set(), &[]).unwrap();
        let origins: Vec<_> = all.iter().map(|record| (record.forward, record.by)).collect();
        assert_eq!(
            origins,
            [(one, ForwardedBy::Configuration), (other, ForwardedBy::Command)]
        );
        assert_eq!(warnings, Vec::<String>::new());
        // One that the file has now is the file's.
        let (all, _) = merge(&[one], Some(&by_command(one)), &set(), &[]).unwrap();
        assert_eq!(all.len(), 1);
        // What the file does not have any longer is not remembered.
        let mut old = by_command(one);
        old.forwards[0].by = ForwardedBy::Configuration;
        assert_eq!(merge(&[], Some(&old), &set(), &[]).unwrap().0, []);
    }

    #[test]
    fn a_command_and_the_configuration_that_contradict_each_other_are_told_apart() {
        let (one, other) = (forward("4928", "192.168.10.5:80"), forward("4928", "192.168.10.6:80"));
        let error = merge(&[one], Some(&by_command(other)), &set(), &[]).unwrap_err();
        assert!(error.to_string().ends_with("mape-ctl forward del tcp 4928"), "{error}");
        assert!(matches!(
            merge(&[], Some(&by_command(one)), &set(), &[4928]),
            Err(ForwardsError::InTheWay {
                source: ForwardError::Reserved(4928),
                ..
            })
        ));
        // Another line's ports: nobody could have known.
        let (all, warnings) = merge(&[], Some(&by_command(one)), &PortSet::new(4, 8, 0x35).unwrap(), &[]).unwrap();
        assert_eq!((all.len(), warnings.len()), (0, 1));
    }

    #[test]
    fn port_zero_is_kept_wherever_a_set_has_it() {
        assert_eq!(Wanted::new([], &PortSet::ALL, &[22]).reserved, BTreeSet::from([0, 22]));
        assert_eq!(Wanted::new([], &set(), &[22]).reserved, BTreeSet::new());
    }
}
