//! Owns the time of the programs alone, as the kernel counts their runs: the rest of a packet's time is the kernel's own, for the driver and
//! the redirect. Counting takes time, too; the bare redirect's program, which does next to nothing, tells how much.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use mape_common::layout::programs;
use serde_json::{Value, json};

use crate::{
    bed::Way,
    cases::{Bench, By, Load},
    gateway::Gateway,
    report::Report,
    stats::Readings,
};

/// Steps of a packet's way: what they are, and the program that the kernel starts. What that hands a packet on to counts as its own.
const STEPS: [(&str, &str); 4] = [
    ("bare redirect", programs::BARE),
    ("session in use, LAN to WAN", programs::LAN),
    ("session in use, WAN to LAN", programs::WAN),
    ("first packet, LAN to WAN", programs::LAN),
];

/// Measures each; the gateway's sessions have other ports afterwards.
pub(crate) fn measure(bench: &mut Bench<'_>, gateway: &Gateway<'_>, report: &mut Report) -> Result<()> {
    // As long as this is open.
    let _counting = enable_stats(Stats::RunTime).context("the kernel does not count runs of programs")?;
    let mut readings = <[Readings; STEPS.len()]>::default();
    let [bare, up, down, first] = &mut readings;
    for _ in 0..bench.rounds {
        bare.add(in_use(bench, By::Bare, Way::Up, programs::BARE)?);
        up.add(in_use(bench, By::Ours, Way::Up, programs::LAN)?);
        down.add(in_use(bench, By::Ours, Way::Down, programs::WAN)?);
    }
    for _ in 0..bench.rounds {
        gateway.flush()?;
        let begin = Runs::of(programs::LAN)?;
        gateway.open(&mut bench.tools, &bench.flows.all)?;
        first.add(begin.since()?);
    }
    let rows: Vec<Value> = STEPS
        .iter()
        .zip(&readings)
        .map(|((step, program), readings)| {
            let summary = readings.summary();
            eprintln!("{program:<14} {step:<28} {:>7.0} ns", summary.median);
            json!({
                "step": step,
                "program": program,
                "ns": summary.median,
                "ns_spread": [summary.least, summary.most],
            })
        })
        .collect();
    report.put("by_program", Value::Array(rows));
    Ok(())
}

/// Nanoseconds of a run of that program by frames of sessions in use.
fn in_use(bench: &mut Bench<'_>, by: By, way: Way, program: &'static str) -> Result<f64> {
    let sent = bench.prepare(by, Load::usual(way))?;
    let begin = Runs::of(program)?;
    let arrived = bench.tools.send(bench.beds.chain(by), &sent)?;
    ensure!(
        arrived.are_all(&sent),
        "{} of {} frames arrived",
        arrived.frames,
        sent.frames
    );
    begin.since()
}

/// What the kernel has counted of all programs with that name.
struct Runs {
    program: &'static str,
    time: Duration,
    count: u64,
}

impl Runs {
    fn of(program: &'static str) -> Result<Self> {
        let mut runs = Self {
            program,
            time: Duration::ZERO,
            count: 0,
        };
        for info in loaded_programs() {
            let info = info?;
            if info.name_as_str() == Some(program) {
                runs.time += info.run_time();
                runs.count += info.run_count();
            }
        }
        Ok(runs)
    }

    /// Nanoseconds of each run since then.
    fn since(&self) -> Result<f64> {
        let now = Self::of(self.program)?;
        let count = now.count.saturating_sub(self.count);
        ensure!(count > 0, "{} has not run", self.program);
        #[expect(clippy::cast_precision_loss, reason = "some millions")]
        let count = count as f64;
        Ok(now.time.saturating_sub(self.time).as_secs_f64() * 1e9 / count)
    }
}
