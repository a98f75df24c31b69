//! Owns memory mappings of maps: tables read without a system call for each element.
#![expect(unsafe_code, reason = "the table is memory shared with the kernel")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr, slice,
};

use super::maps::{TableError, Tables};

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MappedError {
    /// The map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Its shape.
    #[error("cannot look at the map {map}")]
    Info {
        /// Its name.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// The mapping.
    #[error("cannot map {map} into memory")]
    Mapping {
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// An array map's values, mapped read-only.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    memory: ptr::NonNull<T>,
    count: usize,
}

impl<T> Mapped<T> {
    /// Maps a table.
    ///
    /// # Errors
    /// [`MappedError`].
    ///
    /// # Safety
    /// `T` is made of `Word`s alone, and is what the map holds.
    pub(super) unsafe fn open(tables: &Tables, map: &'static str) -> Result<Self, MappedError> {
        let data = tables.data(map)?;
        let info = data.info().map_err(|source| MappedError::Info { map, source })?;
        let count = usize::try_from(info.max_entries()).unwrap_or(0);
        let (bytes, descriptor) = (count * size_of::<T>(), data.fd().as_fd().as_raw_fd());
        // SAFETY: a new mapping, at an address of the kernel's choice, of a descriptor that is open during the call.
        let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_SHARED, descriptor, 0) };
        match ptr::NonNull::new(memory.cast::<T>()) {
            Some(found) if memory != libc::MAP_FAILED => Ok(Self { memory: found, count }),
            _ => Err(MappedError::Mapping {
                map,
                source: io::Error::last_os_error(),
            }),
        }
    }

    /// The values.
    pub(super) fn values(&self) -> &[T] {
        // SAFETY: the mapping holds that many values, page-aligned, until `self` is dropped. They are all `Word`s, read by
        // single atomic loads, so the kernel may change them meanwhile.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.count) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, whose values nobody can borrow any longer.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}
