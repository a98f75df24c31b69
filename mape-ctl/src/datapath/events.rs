//! Owns reading the ring buffer of events as they come.
#![expect(
    unsafe_code,
    reason = "tokio wants a promise about the file descriptor that it waits for"
)]

use std::io;

use aya::maps::{MapData, RingBuf};
use mape_common::layout::maps;
use tokio::io::{Interest, unix::AsyncFd};

use super::maps::{TableError, Tables};

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Waiting for it.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// Opens the ring buffer, and throws away what an earlier reader has left there. Within a runtime.
///
/// # Errors
/// [`EventsError`].
pub fn open(tables: &Tables) -> Result<AsyncFd<RingBuf<MapData>>, EventsError> {
    let mut ring: RingBuf<MapData> = tables.typed(maps::EVENTS)?;
    while ring.next().is_some() {}
    // SAFETY: the ring buffer owns the map's descriptor, and neither replaces nor closes it before it is dropped itself.
    let waiting = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    waiting.map_err(|error| EventsError::Wait(error.into()))
}
