//! Owns reading the session table: a memory mapping of SESSIONS, each record checked to be whole.
#![expect(unsafe_code, reason = "the table is memory shared with the kernel")]

use mape_common::{
    layout::maps,
    nat::session::{Facts, Phase, Session, State},
};

use super::{
    mapped::{Mapped, MappedError},
    maps::Tables,
};

/// A record read while it was alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index in the table.
    pub slot: u32,
    /// Phase, generation and last use.
    pub state: State,
    /// What it says.
    pub facts: Facts,
}

/// The session table, mapped read-only.
#[derive(Debug)]
pub struct SessionTable(Mapped<Session>);

impl SessionTable {
    /// Maps the table.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn open(tables: &Tables) -> Result<Self, MappedError> {
        const { assert!(size_of::<Session>() == Session::SIZE) };
        // SAFETY: a record is made of `Word`s alone, and SESSIONS holds records.
        Ok(Self(unsafe { Mapped::open(tables, maps::SESSIONS) }?))
    }

    /// Slots that nobody uses.
    pub fn free(&self) -> impl Iterator<Item = u32> {
        (0..)
            .zip(self.0.values())
            .filter_map(|(slot, record)| (record.state().phase == Phase::Free).then_some(slot))
    }

    /// Records that are alive; one that changes hands while it is read is left out.
    pub fn live(&self) -> impl Iterator<Item = Entry> {
        (0..)
            .zip(self.0.values())
            .filter_map(|(slot, record)| read(slot, record))
    }
}

/// A live record, whole: of the same generation before and after its facts were read.
pub fn read(slot: u32, record: &Session) -> Option<Entry> {
    let generation = record.state().generation;
    let (state, facts) = record.read(generation)?;
    Some(Entry { slot, state, facts })
}

#[cfg(test)]
mod tests {
    use mape_common::{
        layout::{SessionRef, Transport},
        nat::session::{Hold, Phase},
        time::Tick,
        wire::port::Port,
    };

    use super::*;

    #[test]
    fn only_live_records_are_entries() {
        let record = Session::default();
        assert_eq!(read(0, &record), None);
        let building = record.begin(Tick(1)).unwrap();
        assert_eq!(read(0, &record), None);
        let facts = Facts {
            transport: Transport::Udp,
            hold: Hold::Overlap,
            inside: [192, 168, 1, 2],
            inside_port: Port(5_000),
            external: [192, 0, 2, 18],
            external_port: Port(1_232),
            ordinal: 0,
            first: Phase::Udp,
            remote: [198, 51, 100, 1],
            remote_port: Port(53),
            far_end: [0; 16],
            wan_hop: 0,
            lan_hop: 64,
            created: Tick(1),
            mapping: SessionRef::default(),
        };
        record.write(&facts);
        assert!(record.advance(
            building,
            State {
                phase: Phase::Udp,
                ..building
            }
        ));
        let entry = read(9, &record).unwrap();
        assert_eq!((entry.slot, entry.facts, entry.state.phase), (9, facts, Phase::Udp));
    }
}
