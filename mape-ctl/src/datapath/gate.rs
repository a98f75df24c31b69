//! Owns changing the gate's word while the programs and other mape-ctl may do so too: by compare-and-swap, in mapped memory.
//!
//! An update of the map writes the whole word: who wants to be told of packets could open a gate that `unload` has just closed.
#![expect(unsafe_code, reason = "the word is memory shared with the kernel")]

use std::{io, os::fd::AsFd as _, os::fd::AsRawFd as _, ptr};

use mape_common::{layout::maps, time::Tick, trace::Gate, word::Word};

use super::maps::{TableError, Tables};

/// Why the word cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The mapping.
    #[error("cannot map the gate's word into memory")]
    Mapping(#[source] io::Error),
}

/// The gate's word, mapped; dropped, nobody is told of packets any longer.
#[derive(Debug)]
pub struct TraceGate {
    word: ptr::NonNull<Word>,
}

impl TraceGate {
    /// Maps the word.
    ///
    /// # Errors
    /// [`GateError`].
    pub fn open(tables: &Tables) -> Result<Self, GateError> {
        let map = tables.data(maps::GATE)?;
        let (bytes, access) = (size_of::<Word>(), libc::PROT_READ | libc::PROT_WRITE);
        let descriptor = map.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping, at an address of the kernel's choice, of a descriptor that is open during the call.
        let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_SHARED, descriptor, 0) };
        match ptr::NonNull::new(memory.cast::<Word>()) {
            Some(word) if memory != libc::MAP_FAILED => Ok(Self { word }),
            _ => Err(GateError::Mapping(io::Error::last_os_error())),
        }
    }

    fn word(&self) -> &Word {
        // SAFETY: the mapping holds one word, page-aligned, until `self` is dropped; all of its accesses are atomic.
        unsafe { self.word.as_ref() }
    }

    fn change(&self, change: impl Fn(Gate) -> Gate) {
        loop {
            let old = Gate(self.word().load());
            if self.word().compare_exchange(old.0, change(old).0) {
                return;
            }
        }
    }

    /// Asks to be told of packets until then, whether the gate is open or not.
    pub fn trace_until(&self, end: Tick) {
        self.change(|gate| gate.traced_until(end));
    }
}

impl Drop for TraceGate {
    fn drop(&mut self) {
        self.change(Gate::untraced);
        // SAFETY: the mapping made in `open`, which nobody can borrow any longer.
        unsafe { libc::munmap(self.word.as_ptr().cast(), size_of::<Word>()) };
    }
}
