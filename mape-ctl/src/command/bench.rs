//! `mape-ctl bench`: how fast this gateway is with its own traffic: what to start on a LAN host, and what is read while that runs, by the
//! fast path and without it.

use std::{
    fmt::Write as _,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mape_common::{layout::Counter, verdict::Direction};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    cli::BenchArgs,
    datapath::{
        load::watch_signals,
        maps::{Opening, Tables},
    },
    instance::Instance,
    view::{
        self,
        snapshot::Snapshot,
        text::{self, table},
    },
};

/// Less is no load.
const LOAD: f64 = 1e6;
/// How long somebody has to start it.
const WAIT: Duration = Duration::from_mins(5);
/// Between two looks for it.
const LOOK: Duration = Duration::from_secs(1);
/// Between a change of paths and the first look: TCP finds its pace again.
const SETTLING: Duration = Duration::from_secs(2);
/// Between two looks for a signal.
const NAP: Duration = Duration::from_millis(50);
const KERNEL: &str = "/proc/stat";

const GUIDE: &str = "\
Start on a LAN host something that fills the line by IPv4 and lasts for a minute or more, to a server beyond the border relay:
    iperf3 -c SERVER -t 90        from the LAN
    iperf3 -c SERVER -t 90 -R     to the LAN
or a large download. Packets and bytes are what this gateway's programs count; processors are what this machine's kernel tells of
itself. Nothing but that load should be running here.
";

/// What was read of one path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Reading {
    path: &'static str,
    seconds: f64,
    outbound: Flow,
    inbound: Flow,
    /// Processors busy, of all; with that in interrupts' second halves, where packets are worked on.
    busy: f64,
    softirq: f64,
    /// Taken by the hypervisor from processors that had something to do.
    stolen: f64,
    /// Frames that NICs have not taken or sent.
    lost: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Flow {
    bits_per_second: f64,
    packets_per_second: f64,
}

/// Waits for a load, reads, and prints.
///
/// # Errors
/// When nothing is loaded, nobody sends, or the maps cannot be read.
pub fn run(instance: &Instance, args: &BenchArgs) -> Result<()> {
    let (_, tables) = view::open("bench", instance)?;
    let interrupted = watch_signals(&[SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    // Nobody loads or detaches meanwhile.
    let _lock = instance.lock()?;
    ensure!(
        tables.is_gate_open()?,
        "the gateway does not forward: run mape-ctl load first"
    );
    if !args.no_wait {
        eprint!("{GUIDE}\nWaiting for traffic …");
        wait_for_load(instance, &tables, &interrupted)?;
        eprintln!(" there it is.");
    }
    let span = Duration::from_secs(args.seconds.into());
    let mut readings = vec![read("fast path", instance, &tables, span, &interrupted)?];
    if args.compare {
        let _open_again = Aside::new(&tables)?;
        sleep(SETTLING, &interrupted)?;
        readings.push(read("slow path", instance, &tables, span, &interrupted)?);
    }
    if args.json {
        println!("{}", serde_json::to_string(&readings)?);
    } else {
        print!("{}", show(&readings)?);
    }
    Ok(())
}

/// The fast path is shut while this lives: every packet takes the slow path, by the same sessions.
struct Aside<'a>(&'a Tables);

impl<'a> Aside<'a> {
    fn new(tables: &'a Tables) -> Result<Self> {
        let aside = Self(tables);
        tables.set_gate(Opening::SlowPath)?;
        Ok(aside)
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_gate(Opening::Whole) {
            eprintln!("mape-ctl: warning: the fast path is not open again, run mape-ctl load: {error}");
        }
    }
}

/// A moment: what has been counted up to it.
struct Moment {
    at: Instant,
    counters: [Counter; 2],
    lost: u64,
    processors: Processors,
}

/// Ticks of all processors together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Processors {
    all: u64,
    idle: u64,
    softirq: u64,
    stolen: u64,
}

impl Processors {
    fn read() -> Result<Self> {
        let text = fs::read_to_string(KERNEL).with_context(|| format!("cannot read {KERNEL}"))?;
        Self::parse(&text).with_context(|| format!("{KERNEL} does not tell of processors"))
    }

    /// Of `cpu  user nice system idle iowait irq softirq steal …`, proc_stat(5).
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let [user, nice, system, idle, waiting, irq, softirq, stolen] = ticks[..] else {
            return None;
        };
        Some(Self {
            all: user + nice + system + idle + waiting + irq + softirq + stolen,
            idle: idle + waiting,
            softirq,
            stolen,
        })
    }
}

impl Moment {
    fn now(instance: &Instance, tables: &Tables) -> Result<Self> {
        let shot = Snapshot::take(instance, tables)?;
        let sum = |direction| {
            let (fast, slow) = (shot.counters.forwarded(direction), shot.counters.delivered(direction));
            Counter {
                packets: fast.packets + slow.packets,
                bytes: fast.bytes + slow.bytes,
            }
        };
        let lost = |link: &view::snapshot::LinkView| {
            let losses = link.losses;
            losses.rx_dropped + losses.rx_errors + losses.tx_dropped + losses.tx_errors
        };
        Ok(Self {
            counters: Direction::ALL.map(sum),
            lost: shot.links.iter().map(lost).sum(),
            processors: Processors::read()?,
            at: shot.taken,
        })
    }

    fn since(&self, earlier: &Self, path: &'static str) -> Reading {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let flow = |way: usize| Flow {
            bits_per_second: less(self.counters[way].bytes, earlier.counters[way].bytes) * 8.0 / seconds,
            packets_per_second: less(self.counters[way].packets, earlier.counters[way].packets) / seconds,
        };
        let (now, then) = (self.processors, earlier.processors);
        let all = less(now.all, then.all).max(1.0);
        let stolen = less(now.stolen, then.stolen);
        Reading {
            path,
            seconds,
            outbound: flow(0),
            inbound: flow(1),
            busy: (all - less(now.idle, then.idle) - stolen) / all,
            softirq: less(now.softirq, then.softirq) / all,
            stolen: stolen / all,
            lost: self.lost.saturating_sub(earlier.lost),
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "figures for people; 53 bits are enough"
)]
fn less(later: u64, earlier: u64) -> f64 {
    later.saturating_sub(earlier) as f64
}

fn read(
    path: &'static str,
    instance: &Instance,
    tables: &Tables,
    span: Duration,
    interrupted: &AtomicBool,
) -> Result<Reading> {
    eprintln!("{path}, {} s …", span.as_secs());
    let before = Moment::now(instance, tables)?;
    sleep(span, interrupted)?;
    Ok(Moment::now(instance, tables)?.since(&before, path))
}

fn wait_for_load(instance: &Instance, tables: &Tables, interrupted: &AtomicBool) -> Result<()> {
    let end = Instant::now() + WAIT;
    let mut before = Moment::now(instance, tables)?;
    loop {
        sleep(LOOK, interrupted)?;
        let now = Moment::now(instance, tables)?;
        let seen = now.since(&before, "");
        if seen.outbound.bits_per_second + seen.inbound.bits_per_second >= LOAD {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "nobody has sent a megabit a second through the tunnel for {} minutes; --no-wait measures all the same",
            WAIT.as_secs() / 60
        );
        before = now;
    }
}

/// Sleeps, and ends at once where a signal has come: what was set aside is put back then.
fn sleep(span: Duration, interrupted: &AtomicBool) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        thread::sleep(NAP);
    }
    Ok(())
}

fn show(readings: &[Reading]) -> Result<String> {
    let mut table = table(&[
        "PATH",
        ">LAN TO WAN",
        ">PACKETS",
        ">WAN TO LAN",
        ">PACKETS",
        ">PROCESSORS",
        ">SOFTIRQ",
        ">STOLEN",
        ">NICS LOST",
    ]);
    for reading in readings {
        let bits = |flow: Flow| format!("{:.1} Mbit/s", flow.bits_per_second / 1e6);
        let packets = |flow: Flow| format!("{:.1} k/s", flow.packets_per_second / 1e3);
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        table.add_row([
            reading.path.to_owned(),
            bits(reading.outbound),
            packets(reading.outbound),
            bits(reading.inbound),
            packets(reading.inbound),
            percent(reading.busy),
            percent(reading.softirq),
            percent(reading.stolen),
            reading.lost.to_string(),
        ]);
    }
    let mut out = String::new();
    text::lines(&mut out, &table)?;
    if let [fast, slow] = readings {
        let packets = |reading: &Reading| reading.outbound.packets_per_second + reading.inbound.packets_per_second;
        let each = |reading: &Reading| reading.busy / packets(reading).max(1.0);
        writeln!(
            out,
            "\nwith the fast path {:.1} times the packets, each for {:.0} % of the processors' time\n\
             (the programs stay on the NICs; `mape-ctl detach` takes them off, for a third comparison)",
            packets(fast) / packets(slow).max(1.0),
            each(fast) / each(slow).max(f64::MIN_POSITIVE) * 100.0
        )?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_ticks_are_read() {
        let found = Processors::parse("cpu  10 1 20 500 4 3 60 7 0 0\ncpu0 1 2\n").unwrap();
        assert_eq!(
            found,
            Processors {
                all: 605,
                idle: 504,
                softirq: 60,
                stolen: 7
            }
        );
        assert_eq!(Processors::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(Processors::parse("cpu  1 2\n"), None);
    }

    #[test]
    fn what_lies_between_two_moments_is_a_reading() {
        let at = Instant::now();
        let moment = |seconds, packets, idle, lost| Moment {
            at: at + Duration::from_secs(seconds),
            counters: [
                Counter {
                    packets,
                    bytes: packets * 1_000,
                },
                Counter::default(),
            ],
            lost,
            processors: Processors {
                all: 100 * (seconds + 1),
                idle,
                softirq: 40 * seconds,
                stolen: 0,
            },
        };
        let reading = moment(2, 3_000, 50, 4).since(&moment(0, 1_000, 0, 1), "fast path");
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-6;
        assert!(near(reading.outbound.packets_per_second, 1_000.0));
        assert!(near(reading.outbound.bits_per_second, 8e6));
        assert_eq!(reading.inbound, Flow::default());
        assert!(near(reading.busy, 0.75) && near(reading.softirq, 0.4));
        assert_eq!(reading.lost, 3);
        let slow = Reading {
            path: "slow path",
            busy: 0.9,
            outbound: Flow {
                bits_per_second: 8e5,
                packets_per_second: 100.0,
            },
            ..reading
        };
        let text = show(&[reading, slow]).unwrap();
        assert!(text.contains("10.0 times the packets, each for 8 %"), "{text}");
        assert!(!show(&[reading]).unwrap().contains("times"));
    }
}
