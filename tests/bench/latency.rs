//! Owns how long frames are under way at half load: the source writes the time into each, the sink reads it.
//!
//! Source, path and sink share a processor here, and a frame is sent as soon as it is made: what is seen is the time from the sending driver to the
//! receiving one, with what the machine does meanwhile.

use anyhow::Result;
use serde_json::json;

use crate::{
    bed::Way,
    cases::{Bench, By, Load},
    report::Report,
    tools::{Ages, Pace},
};

/// Frames of one histogram.
const FRAMES: u32 = 200_000;
/// Bytes of Ethernet, IPv4 and UDP: the time stands behind them, where a frame without a tunnel has its payload.
const PAYLOAD: u64 = 14 + 20 + 8;
const OUTER: u64 = 40;
/// Parts of a whole whose ages are told.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

pub(crate) fn measure(bench: &mut Bench<'_>, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for (by, way) in [
        (By::Bare, Way::Up),
        (By::Ours, Way::Up),
        (By::Bare, Way::Down),
        (By::Ours, Way::Down),
        (By::Kernel, Way::Up),
        (By::KernelNat, Way::Up),
    ] {
        let is_ours = matches!(by, By::Ours);
        let (sent_at, seen_at) = match way {
            Way::Up if is_ours => (PAYLOAD, PAYLOAD + OUTER),
            Way::Down if is_ours => (PAYLOAD + OUTER, PAYLOAD),
            Way::Up => (PAYLOAD, PAYLOAD),
            Way::Down => (PAYLOAD + OUTER, PAYLOAD + OUTER),
        };
        let sent = crate::tools::Sent {
            frames: FRAMES,
            ..bench.prepare(by, Load::usual(way))?
        };
        let chain = bench.beds.chain(by);
        // First as fast as they go one by one, then half as fast.
        let mut pace = Pace {
            interval: 1,
            sent_at,
            seen_at,
        };
        let full = bench.tools.paced(chain, &sent, pace)?;
        pace.interval = full.nanos_each(FRAMES) * 2;
        let half = bench.tools.paced(chain, &sent, pace)?;
        let told = QUANTILES.map(|part| half.quantile(part));
        eprintln!(
            "{:<16} {way:?}: every {} ns, p50 {} ns, p99 {}, p99.9 {}",
            by.name(),
            pace.interval,
            told[0],
            told[1],
            told[2]
        );
        rows.push(json!({
            "by": by.name(),
            "way": format!("{way:?}").to_lowercase(),
            "interval_ns": pace.interval,
            "p50_ns": told[0],
            "p99_ns": told[1],
            "p999_ns": told[2],
            "cdf": half.curve(),
        }));
    }
    report.put("latency", rows.into());
    Ok(())
}

impl Ages {
    /// The age that this part of all frames does not exceed, in nanoseconds.
    fn quantile(&self, part: f64) -> u64 {
        let all: u64 = self.counts.iter().sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of some hundred thousand"
        )]
        let wanted = (all as f64 * part).ceil() as u64;
        let mut sum = 0;
        for (place, count) in (1..).zip(&self.counts) {
            sum += count;
            if sum >= wanted {
                return place * Self::PLACE;
            }
        }
        0
    }

    /// Ages and which part of all frames is no older, where that changes visibly.
    fn curve(&self) -> Vec<(u64, f64)> {
        let all: u64 = self.counts.iter().sum();
        let (mut sum, mut last, mut points) = (0, -1.0, Vec::new());
        for (place, count) in (1..).zip(&self.counts) {
            sum += count;
            #[expect(clippy::cast_precision_loss, reason = "a part of some hundred thousand")]
            let part = sum as f64 / all.max(1) as f64;
            if part - last >= 0.002 || (sum == all && *count > 0) {
                points.push((place * Self::PLACE, part));
                last = part;
            }
        }
        points
    }
}
