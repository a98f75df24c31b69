//! Owns which processor a thread runs on.

use anyhow::{Context, Result};

/// Keeps the calling thread on a processor.
pub(crate) fn pin(processor: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {processor} alone"))
}

/// How many there are.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
