//! Owns the proof that programs really run: frames are provoked, and each program notes in LINKS that it has seen one.

use std::{
    net::Ipv6Addr,
    thread,
    time::{Duration, Instant},
};

use super::maps::{TableError, Tables};
use crate::{
    netlink::{Netlink, NetlinkError, link::Interface},
    provoke,
};

const WINDOW: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);
const KNOCK_EVERY: Duration = Duration::from_millis(500);
/// Frames that must have come without the program running before that counts as a contradiction: drivers publish their
/// counters with delay, so one or two may be from before.
const CONTRADICTION: u64 = 3;

/// Why the gate stays closed.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// Frames come, the program does not see them.
    #[error(
        "{interface} received {frames} frames, but its XDP program ran for none of them, so nothing may be redirected to it; \
         on virtio this is known with mrg_rxbuf=off (switch it on in the VM's definition), elsewhere try --generic"
    )]
    Contradiction {
        /// The interface.
        interface: String,
        /// Frames that the driver counted.
        frames: u64,
    },
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What is known of an interface after the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The program has run.
    Proven,
    /// No frame has come yet; the programs forward to it from the first one on.
    Silent,
}

/// Provokes frames on interfaces and waits for their programs to say that they ran.
///
/// # Errors
/// [`ProveError`].
pub fn prove(
    netlink: &Netlink,
    tables: &Tables,
    interfaces: &[Interface],
    neighbours: &[(u32, Ipv6Addr)],
) -> Result<Vec<(String, Proof)>, ProveError> {
    let before = netlink.interfaces()?;
    let end = Instant::now() + WINDOW;
    let mut knock = Instant::now();
    loop {
        let proven = interfaces
            .iter()
            .map(|interface| tables.link(interface.index).map(|link| link.proven));
        let proven = proven.collect::<Result<Vec<_>, _>>()?;
        if proven.iter().all(|proven| *proven) || Instant::now() >= end {
            return judge(&before, &netlink.interfaces()?, interfaces, &proven);
        }
        if knock <= Instant::now() {
            for (interface, _) in interfaces.iter().zip(&proven).filter(|(_, proven)| !**proven) {
                provoke_on(netlink, interface, neighbours)?;
            }
            knock = Instant::now() + KNOCK_EVERY;
        }
        thread::sleep(PAUSE);
    }
}

fn provoke_on(netlink: &Netlink, interface: &Interface, neighbours: &[(u32, Ipv6Addr)]) -> Result<(), NetlinkError> {
    for (_, neighbour) in neighbours.iter().filter(|(index, _)| *index == interface.index) {
        provoke::knock(*neighbour, interface.index);
    }
    provoke::ping_all(interface.index);
    for neighbour in netlink.ipv4_neighbours(interface.index)? {
        provoke::knock_ipv4(neighbour);
    }
    Ok(())
}

fn judge(
    before: &[Interface],
    after: &[Interface],
    interfaces: &[Interface],
    proven: &[bool],
) -> Result<Vec<(String, Proof)>, ProveError> {
    let received = |list: &[Interface], index| {
        list.iter()
            .find(|found| found.index == index)
            .map_or(0, |found| found.stats.rx_packets)
    };
    let mut proofs = Vec::new();
    for (interface, proven) in interfaces.iter().zip(proven) {
        let frames = received(after, interface.index).saturating_sub(received(before, interface.index));
        if !proven && frames >= CONTRADICTION {
            return Err(ProveError::Contradiction {
                interface: interface.name.clone(),
                frames,
            });
        }
        proofs.push((
            interface.name.clone(),
            if *proven { Proof::Proven } else { Proof::Silent },
        ));
    }
    Ok(proofs)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{State, Stats64};

    use super::*;

    fn interface(index: u32, received: u64) -> Interface {
        let mut stats = Stats64::default();
        stats.rx_packets = received;
        Interface {
            index,
            name: format!("if{index}"),
            mac: None,
            mtu: 1500,
            kind: None,
            tunnel: None,
            alias: None,
            up: true,
            state: State::Up,
            controller: None,
            lower: None,
            loopback: false,
            xdp: None,
            stats,
        }
    }

    #[test]
    fn frames_that_no_program_saw_are_a_contradiction() {
        let (before, after) = ([interface(1, 10)], [interface(1, 13)]);
        let error = judge(&before, &after, &before, &[false]).unwrap_err().to_string();
        assert!(
            error.contains("if1 received 3 frames") && error.contains("mrg_rxbuf"),
            "{error}"
        );
    }

    #[test]
    fn silence_is_no_contradiction_and_a_program_that_ran_is_proven() {
        let before = [interface(1, 10), interface(2, 10)];
        let after = [interface(1, 11), interface(2, 500)];
        let proofs = judge(&before, &after, &before, &[false, true]).unwrap();
        assert_eq!(
            proofs,
            [("if1".to_owned(), Proof::Silent), ("if2".to_owned(), Proof::Proven)]
        );
    }
}
