//! Which destinations a shared port already has, told without a look-up each.
//!
//! A shared port may serve many sessions, but only one per remote address and port (RFC 7857 §3). The table of flows
//! would tell for each candidate port, at 40 ns and more; a set of 240 ports nearly full towards one destination would cost
//! 10 µs a packet. So there is one row of cells per hash of the destination, one cell per port: how many sessions of that
//! row are on that port (high 16 bits) and the XOR of their destinations' tags (low 48). One session with my tag: taken.
//! None, or one with another tag: usable. Several: the table of flows decides. A cell is only a hint: what counts is that
//! the entry in the table of flows can be made. Cells need no allocation, no lock and no sweeping.

use crate::{
    layout::{Config, Transport},
    wire::port::Port,
    word::Word,
};

/// A destination, hashed with the gateway's secret: the same for the same remote address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub u64);

const TAG: u64 = (1 << 48) - 1;
const ONE: u64 = 1 << 48;

impl Fingerprint {
    /// Of a destination.
    #[inline(always)]
    pub const fn new(config: &Config, transport: Transport, remote: [u8; 4], remote_port: Port) -> Self {
        let [a, b, c, d] = remote;
        let [e, f] = remote_port.to_bytes();
        let destination = u64::from_be_bytes([a, b, c, d, e, f, 0, transport.protocol()]);
        Self(mix(destination ^ config.hash_key[0], config.hash_key[1]))
    }

    /// With something else mixed in.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, config: &Config, more: u64) -> Self {
        Self(mix(self.0 ^ more, config.hash_key[0]))
    }

    /// The first cell of the destination's row.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "16 bits are left after the shift")]
    pub const fn row(self, config: &Config) -> u32 {
        ((self.0 >> 48) as u32 & config.overlap_row_mask).wrapping_mul(config.ports)
    }
}

/// A multiply–xorshift round either side of the key: every input bit reaches every output bit.
#[inline(always)]
const fn mix(value: u64, key: u64) -> u64 {
    let x = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 32) ^ key).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 29)
}

/// What a cell says about a destination on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// The destination is not on this port.
    Usable,
    /// It is.
    Taken,
    /// Only the table of flows can tell.
    Unclear,
}

/// Reads a cell.
#[inline(always)]
pub fn read(cell: &Word, destination: Fingerprint) -> Cell {
    let word = cell.load();
    match word >> 48 {
        1 if word & TAG == destination.0 & TAG => Cell::Taken,
        0 | 1 => Cell::Usable,
        _ => Cell::Unclear,
    }
}

/// Notes a destination in a cell.
#[inline(always)]
pub fn add(cell: &Word, destination: Fingerprint) {
    cell.xor(destination.0 & TAG);
    cell.add(ONE);
}

/// Takes a destination out of a cell.
#[inline(always)]
pub fn remove(cell: &Word, destination: Fingerprint) {
    cell.add(ONE.wrapping_neg());
    cell.xor(destination.0 & TAG);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_knows_one_destination_and_admits_that_it_does_not_know_two() {
        let (a, b) = (Fingerprint(0x1234), Fingerprint(0x5678));
        let cell = Word::new(0);
        assert_eq!(read(&cell, a), Cell::Usable);
        add(&cell, a);
        assert_eq!((read(&cell, a), read(&cell, b)), (Cell::Taken, Cell::Usable));
        add(&cell, b);
        assert_eq!((read(&cell, a), read(&cell, b)), (Cell::Unclear, Cell::Unclear));
        remove(&cell, a);
        assert_eq!((read(&cell, a), read(&cell, b)), (Cell::Usable, Cell::Taken));
        remove(&cell, b);
        assert_eq!(cell.load(), 0);
    }
}
