//! Owns reading the states of the ports: a memory mapping of PORTS.
#![expect(unsafe_code, reason = "the table is memory shared with the kernel")]

use mape_common::{
    layout::{Transport, maps},
    nat::port::PortState,
    time::Tick,
    word::Word,
};

use super::{
    mapped::{Mapped, MappedError},
    maps::Tables,
};

/// The states of the ports, mapped read-only.
#[derive(Debug)]
pub struct PortTable {
    words: Mapped<Word>,
    ports: usize,
}

impl PortTable {
    /// Maps the table.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn open(tables: &Tables) -> Result<Self, MappedError> {
        let ports = usize::try_from(tables.config()?.ports).unwrap_or(0);
        // SAFETY: PORTS holds words.
        let words = unsafe { Mapped::open(tables, maps::PORTS) }?;
        Ok(Self { words, ports })
    }

    /// The states of a protocol's ports, in the order of the set.
    ///
    /// A quarantine that is over by `now` is none.
    pub fn states(&self, transport: Transport, now: Tick) -> impl Iterator<Item = PortState> {
        let row = usize::try_from(transport.index()).unwrap_or(0) * self.ports;
        self.words
            .values()
            .iter()
            .skip(row)
            .take(self.ports)
            .map(move |word| PortState::at(word.load(), now))
    }
}
