//! Owns the slow path's figures: tc programs and, where the kernel has no tunnel of its own, the tunnel in user space.
//!
//! Frames are offered faster than it carries them, for a while; what comes out in that time tells what it carries: where queues are short,
//! a part, and else all, but later than it was offered. The tunnel's process may run on another processor.

use anyhow::{Result, ensure};

use crate::{
    bed::{Chain, Way},
    cases::{Bench, By, Load},
    gateway::{self, Gateway},
    report::Report,
    stats::Readings,
    tools::Pace,
};

/// Frames of a run, one each so many nanoseconds.
const FRAMES: u32 = 100_000;
const INTERVAL: u64 = 1_000;

pub(crate) fn measure(bench: &mut Bench<'_>, report: &mut Report) -> Result<()> {
    let chain = Chain::new("slow")?;
    bench.tools.sink_at_the_ends(&chain)?;
    let gateway = Gateway::load(&chain, "slow")?;
    let load = Load::usual(Way::Up);
    let flows = &bench.flows.all[..usize::try_from(load.flows)?];
    // By XDP: each flow's first packet would be its neighbour's question else.
    gateway::open(&mut bench.tools, &chain, flows)?;
    gateway.detach()?;
    let mut readings = Readings::default();
    for _ in 0..bench.rounds {
        let sent = crate::tools::Sent {
            frames: FRAMES,
            ..bench.prepare(By::Ours, load)?
        };
        let pace = Pace {
            interval: INTERVAL,
            sent_at: 42,
            seen_at: 82,
        };
        let through = bench.tools.offered(&chain, &sent, pace)?;
        ensure!(through.frames > 0, "nothing came out of the slow path");
        #[expect(clippy::cast_precision_loss, reason = "some hundred thousand frames")]
        let each = through.took.wall.as_secs_f64() * 1e9 / through.frames as f64;
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        let is_slower = each > INTERVAL as f64 * 1.1;
        ensure!(is_slower, "the slow path carries all that is offered: more must be");
        readings.add(each);
    }
    report.figure("slow_up_ns", &readings);
    Ok(())
}
