//! Owns reading which packets in fragments are on their way: a memory mapping of FRAGMENTS.
#![expect(unsafe_code, reason = "the table is memory shared with the kernel")]

use mape_common::{
    layout::{Config, maps},
    nat::fragment::{self, Fragment, Record},
    time::Tick,
};

use super::{
    mapped::{Mapped, MappedError},
    maps::Tables,
};

/// The packets, mapped read-only.
#[derive(Debug)]
pub struct FragmentTable(Mapped<Record>);

impl FragmentTable {
    /// Maps the table.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn open(tables: &Tables) -> Result<Self, MappedError> {
        // SAFETY: FRAGMENTS holds `Record`, which is made of words.
        Ok(Self(unsafe { Mapped::open(tables, maps::FRAGMENTS) }?))
    }

    /// Whether the first fragment of a packet has been let through.
    pub fn is_noted(&self, config: &Config, fragment: &Fragment, now: Tick) -> bool {
        let records = self.0.values();
        let record = |index| records.get(usize::try_from(index).ok()?);
        fragment::is_noted(record, config, fragment, now)
    }
}
