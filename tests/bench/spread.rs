//! Owns what sharing the packets from the tunnel brings where one receive queue has all of them: how many get through in a second, by the
//! clock, when more are sent than that.

use anyhow::{Context, Result, ensure};
use mape_tests::gateway::handed;
use serde_json::Value;

use crate::{
    bed::Way,
    cases::{Bench, By, Load},
    gateway::Gateway,
    processor,
    report::Report,
    stats::Readings,
};

/// Who shares: as the command has it, and the figure of how many times more get through. The source sends on processor 0, where its
/// frames are received.
const SHARED: [(&str, &str); 2] = [("1", "spread_to_other_times"), ("0-1", "spread_to_both_times")];

/// Frames of the usual load, as fast as the source can, by the one processor that receives them and with another's help, in turn.
pub(crate) fn measure(bench: &mut Bench<'_>, gateway: &Gateway<'_>, report: &mut Report) -> Result<()> {
    if processor::count() < 2 {
        report.put("spread_to_other_times", Value::Null);
        return Ok(());
    }
    let mut alone = Readings::default();
    let mut times = SHARED.map(|_| Readings::default());
    for _ in 0..bench.rounds {
        let (before, none) = through(bench, gateway, "none")?;
        ensure!(none == 0.0, "handed on without anybody to take it");
        let mut shared = Vec::new();
        for (who, _) in SHARED {
            let (rate, taken) = through(bench, gateway, who)?;
            ensure!(taken > 0.3, "processor 1 has taken over {taken:.2} of the frames");
            shared.push(rate);
        }
        // Before and after, for the machine's pace changes.
        let (after, _) = through(bench, gateway, "none")?;
        let rate = f64::midpoint(before, after);
        alone.add(rate);
        for (times, shared) in times.iter_mut().zip(shared) {
            times.add(shared / rate);
        }
    }
    report.figure("spread_alone_frames_per_s", &alone);
    for ((_, key), times) in SHARED.iter().zip(&times) {
        report.figure(key, times);
    }
    Ok(())
}

/// Frames that get through in a second, and which part of them processor 1 has taken over.
fn through(bench: &mut Bench<'_>, gateway: &Gateway<'_>, who: &str) -> Result<(f64, f64)> {
    gateway.again_with(&["--spread", who])?;
    let sent = bench.prepare(By::Ours, Load::usual(Way::Down))?;
    let before = taken_over(gateway)?;
    let arrived = bench.tools.send(bench.beds.chain(By::Ours), &sent)?;
    let taken = u32::try_from(taken_over(gateway)? - before)?;
    let frames = f64::from(u32::try_from(arrived.frames)?);
    ensure!(arrived.frames > 0, "nothing gets through");
    Ok((frames / arrived.took.wall.as_secs_f64(), f64::from(taken) / frames))
}

/// Packets that processor 1 has taken over since loading; none where nobody shares.
fn taken_over(gateway: &Gateway<'_>) -> Result<u64> {
    let (stat, _) = gateway.stat()?;
    if stat["spread"].is_null() {
        return Ok(0);
    }
    let [_, taken] = handed(&stat)?
        .get(1)
        .copied()
        .context("processor 1 is none of those that share")?;
    Ok(taken)
}
