//! Owns holding fragments that come before the first of their packet: a thread that takes them from the programs, keeps them as
//! the core says, and sends them in again once the first has been let through.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use mape_common::{
    layout::{Config, Gauge, HOLDER_QUEUES, holder, maps},
    nat::{
        fragment::Fragment,
        hold::{Hold, Packet, Piece, Refusal, Tally},
    },
    step::fragment::late,
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::write,
};

use super::{early::EarlyQueue, warn};
use crate::{
    datapath::{
        fragments::FragmentTable,
        inject::Injector,
        load::Loaded,
        maps::{TableError, Tables},
        pin::PinFolder,
    },
    host::state,
    instance::Instance,
    tunnel::packet::Bytes,
};

/// Packets and fragments that are held, of each direction.
const PACKETS: usize = 128;
const PIECES: usize = 512;
/// How long a fragment waits for the first of its packet. They come a moment apart, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks whether a first one has come, while there is something to wait for.
const LOOK: Duration = Duration::from_millis(1);
/// The same once nothing new has come for some time.
const CALM_LOOK: Duration = Duration::from_millis(10);
/// That time.
const CALM: Duration = Duration::from_millis(50);
/// Between two times that it is counted what was done.
const COUNT: Duration = Duration::from_millis(200);
/// Most fragments sent in again in a second: each costs some microseconds of a processor.
const RATE: u32 = 4_000;

/// The thread; dropped, it ends, and such fragments are dropped and counted again.
pub(super) struct Holder {
    wake: OwnedFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl Holder {
    /// Begins to hold what comes too early by the NICs of a loaded gateway; none where the machine cannot, which is said.
    pub(super) fn start(instance: &Instance, loaded: &Loaded) -> Option<Self> {
        let nics = loaded
            .nics
            .iter()
            .map(|(nic, program)| (nic.name.clone(), nic.index, *program));
        let (instance, nics) = (instance.clone(), nics.collect::<Vec<_>>());
        let begin = || -> io::Result<Self> {
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let woken = wake.try_clone()?;
            let (tell, told) = mpsc::channel();
            let thread = thread::Builder::new().name("holder".to_owned()).spawn(move || {
                match Work::begin(&instance, &nics) {
                    Ok((mut work, warnings)) => {
                        let _ = tell.send(Ok(warnings));
                        work.go_on(&woken);
                    }
                    Err(why) => {
                        let _ = tell.send(Err(why));
                    }
                }
            })?;
            match told.recv() {
                Ok(Ok(warnings)) => warn(&warnings),
                Ok(Err(why)) => {
                    let _ = thread.join();
                    return Err(io::Error::other(why));
                }
                Err(_) => return Err(io::Error::other("the thread has ended at once")),
            }
            Ok(Self {
                wake,
                thread: Some(thread),
            })
        };
        match begin() {
            Ok(holder) => Some(holder),
            Err(error) => {
                warn(&[format!(
                    "fragments that come before the first of their packet are dropped: {error}"
                )]);
                None
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A NIC's program, and a frame that came by that NIC.
struct Frame {
    nic: usize,
    bytes: Vec<u8>,
}

/// What is held of one direction.
struct Side {
    hold: Hold<Vec<Packet>, Vec<Piece>>,
    frames: Vec<Frame>,
}

impl Side {
    fn new() -> Self {
        let (packets, pieces) = (vec![Packet::default(); PACKETS], vec![Piece::default(); PIECES]);
        let frame = || Frame {
            nic: 0,
            bytes: Vec::new(),
        };
        Self {
            hold: Hold::new(packets, pieces, millis(PATIENCE)),
            frames: std::iter::repeat_with(frame).take(PIECES).collect(),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Everything that the thread has.
struct Work {
    tables: Tables,
    table: FragmentTable,
    config: Config,
    injectors: Vec<Injector>,
    queues: Vec<(usize, EarlyQueue)>,
    sides: [Side; 2],
    begun: Instant,
    last_came: Instant,
    tally: Tally,
    held: u64,
    refused: u64,
    /// A second, and how many may still be sent in while it lasts.
    budget: (u64, u32),
}

impl Work {
    /// Opens everything; what cannot be had of a single NIC is said.
    fn begin(instance: &Instance, nics: &[(String, u32, &'static str)]) -> Result<(Self, Vec<String>), String> {
        let pins = PinFolder::new(instance);
        let tables = Tables::new(&pins);
        let text = |error: TableError| error.to_string();
        let table = FragmentTable::open(&tables).map_err(|error| error.to_string())?;
        let mut holders: aya::maps::XskMap<aya::maps::MapData> = tables.typed(maps::HOLDERS).map_err(text)?;
        let (mut injectors, mut queues, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for (nic, (name, ifindex, program)) in nics.iter().enumerate() {
            let injector = Injector::open(&pins, program, *ifindex).map_err(|error| error.to_string())?;
            injectors.push(injector);
            for queue in 0..HOLDER_QUEUES {
                let opened = match EarlyQueue::open(*ifindex, queue) {
                    Ok(opened) => opened,
                    Err(why) => {
                        // Otherwise it has no more queues.
                        if queue == 0 {
                            warnings.push(format!(
                                "fragments that come before the first of their packet are dropped on {name}: {why}"
                            ));
                        }
                        break;
                    }
                };
                if let Some(place) = holder(*ifindex, queue) {
                    holders
                        .set(place, opened.fd(), 0)
                        .map_err(|error| format!("{name}: {error}"))?;
                    queues.push((nic, opened));
                }
            }
        }
        let now = Instant::now();
        let work = Self {
            config: tables.config().map_err(text)?,
            tables,
            table,
            injectors,
            queues,
            sides: [Side::new(), Side::new()],
            begun: now,
            last_came: now,
            tally: Tally::default(),
            held: 0,
            refused: 0,
            budget: (0, RATE),
        };
        Ok((work, warnings))
    }

    /// Works until it is woken.
    fn go_on(&mut self, woken: &OwnedFd) {
        let mut counted = Instant::now();
        loop {
            match self.wait(woken) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    warn(&[format!(
                        "fragments that come too early are dropped from here on: {error}"
                    )]);
                    break;
                }
            }
            let is_flooded = self.take();
            self.sweep();
            if counted.elapsed() >= COUNT {
                counted = Instant::now();
                self.count();
            }
            if is_flooded {
                // Of a flood only a part is looked at: the rest is lost where it has to wait, and costs nothing.
                thread::sleep(LOOK);
            }
        }
        self.count();
    }

    /// Waits for frames, or for the next look at what is held; true where it is enough.
    fn wait(&mut self, woken: &OwnedFd) -> io::Result<bool> {
        let is_waiting = self.sides.iter().any(|side| !side.hold.is_empty());
        let patience = match (is_waiting, self.last_came.elapsed() < CALM) {
            (true, true) => Some(LOOK),
            (true, false) => Some(CALM_LOOK),
            (false, _) if self.has_news() => Some(COUNT),
            (false, _) => None,
        };
        let patience = patience.map(|patience| Timespec {
            tv_sec: 0,
            tv_nsec: patience.subsec_nanos().into(),
        });
        let mut waiting: Vec<PollFd<'_>> = self.queues.iter().map(|(_, queue)| queue.poll()).collect();
        waiting.push(PollFd::from_borrowed_fd(woken.as_fd(), PollFlags::IN));
        match poll(&mut waiting, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen: Vec<PollFlags> = waiting.iter().map(PollFd::revents).collect();
        let mut seen = seen.into_iter();
        // A queue whose NIC is gone would wake this for ever.
        self.queues.retain(|_| {
            let seen = seen.next().unwrap_or(PollFlags::empty());
            !seen.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
        });
        Ok(seen.next().is_some_and(|seen| !seen.is_empty()))
    }

    /// Takes what has come; true where there may be more.
    fn take(&mut self) -> bool {
        let now = millis(self.begun.elapsed());
        let Self {
            queues,
            sides,
            tally,
            held,
            refused,
            ..
        } = self;
        let (mut is_flooded, mut has_come) = (false, false);
        for (nic, queue) in queues {
            let count = queue.take(|bytes| {
                let Some((side, fragment)) = read(bytes) else {
                    *refused += 1;
                    return;
                };
                let Some(side) = sides.get_mut(side) else { return };
                match side.hold.offer(&fragment, now, tally) {
                    Ok(place) => {
                        if let Some(frame) = side.frames.get_mut(place) {
                            frame.nic = *nic;
                            frame.bytes.clear();
                            frame.bytes.extend_from_slice(bytes);
                        }
                        *held += 1;
                    }
                    Err(Refusal::Twice | Refusal::TooMany) => *refused += 1,
                }
            });
            has_come |= count > 0;
            is_flooded |= count >= 32;
        }
        if has_come {
            self.last_came = Instant::now();
        }
        is_flooded
    }

    /// Sends in again what need not wait any longer, and gives up what has waited too long.
    fn sweep(&mut self) {
        let now = millis(self.begun.elapsed());
        if self.budget.0 != now / 1_000 {
            self.budget = (now / 1_000, RATE);
        }
        let tick = state::now();
        let (table, config, injectors) = (&self.table, &self.config, &self.injectors);
        let (budget, tally, refused) = (&mut self.budget.1, &mut self.tally, &mut self.refused);
        for Side { hold, frames } in &mut self.sides {
            let mut over = 0;
            hold.sweep(
                now,
                |of| table.is_noted(config, of, tick),
                |place| {
                    let Some(frame) = frames.get(place) else { return };
                    let injector = injectors.get(frame.nic).filter(|_| *budget > 0);
                    *budget = budget.saturating_sub(1);
                    if injector.is_none_or(|injector| injector.inject(&frame.bytes).is_err()) {
                        over += 1;
                    }
                },
                tally,
            );
            tally.released = tally.released.saturating_sub(over);
            *refused += u64::from(over);
        }
    }

    fn has_news(&self) -> bool {
        self.held != 0 || self.refused != 0 || self.tally != Tally::default()
    }

    /// Adds what was done to the gauges.
    fn count(&mut self) {
        let lost: u64 = self.queues.iter_mut().map(|(_, queue)| queue.newly_lost()).sum();
        let done = [
            (Gauge::Held, self.held),
            (Gauge::HeldReleased, self.tally.released.into()),
            (Gauge::HeldExpired, self.tally.expired.into()),
            (Gauge::HeldDisplaced, u64::from(self.tally.displaced) + self.refused),
            (Gauge::HeldLost, lost),
        ];
        // The gateway may be gone: then nobody asks.
        let _ = self.tables.add_to_gauges(&done);
        (self.held, self.refused, self.tally) = (0, 0, Tally::default());
    }
}

/// Which side a frame belongs to, and which fragment it is.
fn read(bytes: &[u8]) -> Option<(usize, Fragment)> {
    // Only read; a copy of the bytes' owner is what the core wants.
    let mut bytes = bytes.to_vec();
    let is_ipv4 = bytes.get(12..14) == Some(&[8, 0]);
    let fragment = late(&Bytes(&mut bytes)).ok()?;
    Some((usize::from(!is_ipv4), fragment))
}
