//! `mape-ctl trace`: packets as they pass, and what becomes of each.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use clap::{CommandFactory as _, error::ErrorKind};
use mape_common::{
    layout::maps,
    time::Tick,
    trace::{Event, Facts, Watch},
    verdict::Direction,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    cli::{Cli, TraceArgs},
    datapath::{events, gate::TraceGate, maps::Tables},
    instance::{Instance, RUN_FOLDER},
    netlink::Netlink,
    suggest,
    view::{
        self,
        event::{self, Filter, Sides},
        packet::Seen,
        snapshot::now,
    },
};

/// How long the kernel goes on when nobody asks again.
const PATIENCE: Tick = Tick::at_least_seconds(3);
const AGAIN: Duration = Duration::from_secs(1);

/// Follows packets until it has seen enough or is interrupted.
///
/// # Errors
/// Wrong usage, nothing loaded, or another trace of the same gateway.
pub fn run(instance: &Instance, args: &TraceArgs) -> Result<()> {
    let outcomes = outcomes(args)?;
    let (_, tables) = view::open("trace", instance)?;
    let _lock = alone(instance)?;
    // Before the runtime: netlink waits by one of its own.
    let printer = Printer::open(args, &outcomes, &tables)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(args, &outcomes, &tables, printer))
}

/// The numbers of the outcomes that were named.
fn outcomes(args: &TraceArgs) -> Result<Vec<u32>, clap::Error> {
    args.outcome
        .iter()
        .map(|name| {
            event::outcome_number(name).ok_or_else(|| {
                let names = event::outcome_names();
                let near = suggest::nearest(name, names.iter().copied())
                    .map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
                let message = format!("no packet is counted as {name:?}{near}; mape-ctl stat --all lists them");
                Cli::command().error(ErrorKind::InvalidValue, message)
            })
        })
        .collect()
}

/// Who reads events takes them away from everybody else.
fn alone(instance: &Instance) -> Result<File> {
    fs::create_dir_all(RUN_FOLDER).with_context(|| format!("cannot make {RUN_FOLDER}"))?;
    let path = Path::new(RUN_FOLDER).join(format!("{instance}.trace.lock"));
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("another mape-ctl follows the packets of instance {instance}; one at a time can");
    }
    Ok(file)
}

async fn follow(args: &TraceArgs, outcomes: &[u32], tables: &Tables, mut printer: Printer) -> Result<()> {
    let mut watch = tables.array::<[u64; 6]>(maps::WATCH)?;
    let mut events = events::open(tables)?;
    let a_tick = u32::try_from((u64::from(args.rate) << Tick::SHIFT).div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
    watch.set(0, Watch::words(event::wanted(args, outcomes), a_tick), 0)?;
    let gate = TraceGate::open(tables)?;
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let end = Instant::now() + Duration::from_secs(args.seconds.unwrap_or(u32::MAX.into()));
    loop {
        tokio::select! {
            _ = again.tick() => {
                gate.trace_until(Tick(now().0.wrapping_add(PATIENCE.0)));
                let [.., suppressed] = watch.get(&0, 0)?;
                printer.note_suppressed(suppressed)?;
            }
            ready = events.readable_mut() => {
                let mut ready = ready?;
                // At most as many as the buffer holds, so that a flood does not keep the other branches waiting.
                for _ in 0..2_048 {
                    let Some(item) = ready.get_inner_mut().next() else {
                        ready.clear_ready();
                        break;
                    };
                    if let Some((facts, frame)) = Event::read(&item) {
                        printer.show(&facts, frame)?;
                    }
                    if printer.is_done() {
                        break;
                    }
                }
                printer.out.flush()?;
            }
            () = sleep_until(end) => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
        if printer.is_done() {
            break;
        }
    }
    drop(gate);
    let [.., suppressed] = watch.get(&0, 0)?;
    printer.note_suppressed(suppressed)?;
    Ok(printer.out.flush()?)
}

/// Shows what is wanted.
struct Printer {
    json: bool,
    count: Option<u64>,
    shown: u64,
    suppressed: u64,
    filter: Filter,
    masks: [u64; 2],
    sides: Sides,
    names: BTreeMap<u32, String>,
    began: Duration,
    /// What the monotonic clock lacks to the time of day.
    ahead: Duration,
    out: io::BufWriter<io::Stdout>,
}

fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

impl Printer {
    fn open(args: &TraceArgs, outcomes: &[u32], tables: &Tables) -> Result<Self> {
        let names = Netlink::open()?.interfaces()?;
        let began = monotonic();
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            json: args.json,
            count: args.count,
            shown: 0,
            suppressed: 0,
            filter: Filter::new(args),
            masks: event::wanted(args, outcomes),
            sides: Sides::open(tables)?,
            names: names.into_iter().map(|one| (one.index, one.name)).collect(),
            began,
            ahead: day.saturating_sub(began),
            out: io::BufWriter::new(io::stdout()),
        })
    }

    fn is_done(&self) -> bool {
        self.count.is_some_and(|count| self.shown >= count)
    }

    fn show(&mut self, facts: &Facts, frame: &[u8]) -> io::Result<()> {
        // Alerts are told whatever was asked for.
        let [outbound, inbound] = self.masks;
        let mask = match facts.direction {
            Direction::Outbound => outbound,
            Direction::Inbound => inbound,
        };
        let seen = Seen::frame(frame);
        let other = self.sides.other(&seen);
        if mask & 1 << (facts.outcome & 63) == 0 || !self.filter.matches(&seen, other) {
            return Ok(());
        }
        self.shown += 1;
        let interface = self
            .names
            .get(&facts.ifindex)
            .cloned()
            .unwrap_or_else(|| format!("interface {}", facts.ifindex));
        let at = Duration::from_nanos(facts.nanos);
        if self.json {
            let time = (at + self.ahead).as_secs_f64();
            writeln!(self.out, "{}", event::json(facts, &seen, other, &interface, time))
        } else {
            let since = at.saturating_sub(self.began).as_secs_f64();
            writeln!(
                self.out,
                "{since:10.6} {}",
                event::line(facts, &seen, other, &interface)
            )
        }
    }

    /// Says how much has not been shown since it was last said.
    fn note_suppressed(&mut self, suppressed: u64) -> io::Result<()> {
        let more = suppressed.saturating_sub(self.suppressed);
        if more == 0 {
            return Ok(());
        }
        self.suppressed = suppressed;
        if self.json {
            writeln!(self.out, "{}", json!({ "suppressed": more }))?;
        } else {
            writeln!(
                self.out,
                "           ({more} packets not shown: more than --rate; choose by --outcome, --refused or --direction)"
            )?;
        }
        self.out.flush()
    }
}
