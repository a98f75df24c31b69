//! Owns which processor a thread runs on, and what of its time went into what the thread has caused.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// How many there are.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// The time that a processor has given to the calling thread and to the kernel's thread for what interrupts leave over.
///
/// What a thread sends is received within the same call, by the thread itself; where the kernel thinks that this goes on for too long, it
/// leaves the rest to that other thread. Other programs' time is in neither, nor what a hypervisor takes away.
pub(crate) struct Spent {
    thread: Duration,
    softirqd: Duration,
    /// Of the kernel's thread; none where it hides.
    times: Option<String>,
}

impl Spent {
    /// From here on, on the processor that the thread is kept on.
    pub(crate) fn begin(processor: usize) -> Result<Self> {
        let times = softirqd(processor);
        Ok(Self {
            thread: thread_time(),
            softirqd: read(times.as_deref())?,
            times,
        })
    }

    /// Until now.
    pub(crate) fn end(self) -> Result<Duration> {
        let thread = thread_time().saturating_sub(self.thread);
        Ok(thread + read(self.times.as_deref())?.saturating_sub(self.softirqd))
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Nanoseconds that a thread has run are the first number there.
fn read(times: Option<&str>) -> Result<Duration> {
    let Some(file) = times else {
        return Ok(Duration::ZERO);
    };
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
    Ok(Duration::from_nanos(
        nanos.with_context(|| format!("{file} holds no time"))?,
    ))
}

fn softirqd(processor: usize) -> Option<String> {
    let name = format!("ksoftirqd/{processor}");
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut named =
        processes.filter(|folder| fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name));
    Some(named.next()?.join("schedstat").to_string_lossy().into_owned())
}
