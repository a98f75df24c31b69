//! Owns reading what LAN hosts are counted to have: a memory mapping of HOSTS.
#![expect(unsafe_code, reason = "the table is memory shared with the kernel")]

use mape_common::layout::{HostUse, maps};

use super::{
    mapped::{Mapped, MappedError},
    maps::Tables,
};

/// The counts, mapped read-only.
#[derive(Debug)]
pub struct HostTable(Mapped<HostUse>);

impl HostTable {
    /// Maps the table.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn open(tables: &Tables) -> Result<Self, MappedError> {
        // SAFETY: HOSTS holds `HostUse`, which is made of words.
        Ok(Self(unsafe { Mapped::open(tables, maps::HOSTS) }?))
    }

    /// What is counted at a place, see `nat::quota`.
    pub fn at(&self, place: u32) -> Option<&HostUse> {
        self.0.values().get(usize::try_from(place).ok()?)
    }
}
