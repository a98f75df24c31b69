//! Owns the slow path's figures: tc programs and, where the kernel has no tunnel of its own, the tunnel in user space.
//!
//! More is sent than it carries, for a while; what comes out tells what it carries. The tunnel's process may run on another processor.

use anyhow::{Result, ensure};

use crate::{
    bed::{Chain, Way},
    cases::{Bench, By, Load},
    gateway::{self, Gateway},
    report::Report,
    stats::Readings,
    tools::Pace,
};

/// Frames of a run, one each so many nanoseconds: half a second.
const FRAMES: u32 = 100_000;
const INTERVAL: u64 = 5_000;

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
        ensure!(
            through.frames < u64::from(FRAMES),
            "the slow path carries all that is offered: more must be"
        );
        #[expect(clippy::cast_precision_loss, reason = "some hundred thousand frames")]
        readings.add(through.took.wall.as_secs_f64() * 1e9 / through.frames as f64);
    }
    report.figure("slow_up_ns", &readings);
    Ok(())
}
