//! Owns reading the session table: a memory mapping of SESSIONS, each record checked to be whole.
#![expect(unsafe_code, reason = "the table is memory shared with the kernel")]

use std::{io, os::fd::AsFd as _, os::fd::AsRawFd as _, ptr, slice};

use mape_common::{
    layout::maps,
    nat::session::{Facts, Session, State},
};

use super::maps::{TableError, Tables};

/// Why the table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Its shape.
    #[error("cannot look at the session table")]
    Info(#[source] aya::maps::MapError),
    /// The mapping.
    #[error("cannot map the session table into memory")]
    Mapping(#[source] io::Error),
}

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
pub struct SessionTable {
    memory: ptr::NonNull<Session>,
    records: usize,
}

impl SessionTable {
    /// Maps the table.
    ///
    /// # Errors
    /// [`SessionsError`].
    pub fn open(tables: &Tables) -> Result<Self, SessionsError> {
        let map = tables.data(maps::SESSIONS)?;
        let info = map.info().map_err(SessionsError::Info)?;
        let records = usize::try_from(info.max_entries()).unwrap_or(0);
        let (bytes, descriptor) = (records * Session::SIZE, map.fd().as_fd().as_raw_fd());
        // SAFETY: a new mapping, at an address of the kernel's choice, of a descriptor that is open during the call.
        let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, descriptor, 0) };
        match ptr::NonNull::new(memory.cast::<Session>()) {
            Some(found) if memory != libc::MAP_FAILED => Ok(Self { memory: found, records }),
            _ => Err(SessionsError::Mapping(io::Error::last_os_error())),
        }
    }

    fn records(&self) -> &[Session] {
        // SAFETY: the mapping holds that many records of 64 bytes, page-aligned, until `self` is dropped. They are all
        // `Word`s, read by single atomic loads, so the kernel may change them meanwhile.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.records) }
    }

    /// Records that are alive; one that changes hands while it is read is left out.
    pub fn live(&self) -> impl Iterator<Item = Entry> {
        (0..)
            .zip(self.records())
            .filter_map(|(slot, record)| read(slot, record))
    }
}

impl Drop for SessionTable {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, whose records nobody can borrow any longer.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.records * Session::SIZE) };
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
