//! Names, numbers and drop counters of the interfaces of this network namespace.
//!
//! Read from `/proc`, not `/sys`: a process that has entered a network namespace still sees the interfaces of the
//! namespace that `/sys` was mounted in.

use std::{collections::BTreeMap, fs, io};

use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};

const TABLE: &str = "/proc/thread-self/net/dev";

/// What a device has not sent or taken: frames that no program of ours has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// Received and dropped by the device or the stack.
    pub rx_dropped: u64,
    /// Received damaged.
    pub rx_errors: u64,
    /// Dropped instead of sent.
    pub tx_dropped: u64,
    /// Not sent because of an error.
    pub tx_errors: u64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it has lost.
    pub losses: Losses,
}

/// All interfaces, by number.
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn interfaces() -> io::Result<BTreeMap<u32, Interface>> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let found = read(&fs::read_to_string(TABLE)?);
    // One that has vanished since the table was read has no number.
    Ok(found
        .into_iter()
        .filter_map(|one| Some((name_to_index(&any, &one.name).ok()?, one)))
        .collect())
}

fn read(table: &str) -> Vec<Interface> {
    table.lines().skip(2).filter_map(line).collect()
}

/// `name: ` and sixteen numbers, eight for receiving, eight for sending.
fn line(line: &str) -> Option<Interface> {
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let [_, _, rx_errors, rx_dropped, _, _, _, _, _, _, tx_errors, tx_dropped, ..] = numbers.as_slice() else {
        return None;
    };
    Some(Interface {
        name: name.trim().to_owned(),
        losses: Losses {
            rx_dropped: *rx_dropped,
            rx_errors: *rx_errors,
            tx_dropped: *tx_dropped,
            tx_errors: *tx_errors,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_net_dev_is_read() {
        let table = "Inter-| Receive\n face |bytes\n  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n";
        let losses = Losses {
            rx_errors: 3,
            rx_dropped: 4,
            tx_errors: 6,
            tx_dropped: 7,
        };
        assert_eq!(
            read(table),
            [Interface {
                name: "eth0".to_owned(),
                losses
            }]
        );
    }

    #[test]
    fn the_loopback_interface_is_number_one() {
        assert_eq!(interfaces().unwrap().get(&1).map(|one| one.name.as_str()), Some("lo"));
    }
}
