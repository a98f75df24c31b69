//! Owns how time grows: with the size of frames, with the number of sessions, and with new ones; and what a second processor adds.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::{
    bed::Way,
    cases::{Bench, By, Load},
    frames::Order,
    gateway::{self, Gateway},
    kernel, processor,
    report::Report,
    stats::Readings,
    tools::{Sent, Tools},
};

/// Sizes of frames on a wire, and how many of each are in an IMIX.
const SIZES: [(usize, f64); 5] = [(64, 7.0), (128, 0.0), (512, 0.0), (594, 4.0), (1_400, 1.0)];
/// Sessions in use.
const SESSIONS: [u32; 4] = [100, 1_000, 10_000, 60_000];
const MOST: u32 = SESSIONS[3];

/// Each size by each way.
pub(crate) fn sizes(bench: &mut Bench<'_>, report: &mut Report) -> Result<()> {
    let ways = [
        (By::Bare, Way::Up),
        (By::Ours, Way::Up),
        (By::Ours, Way::Down),
        (By::Kernel, Way::Up),
        (By::KernelNat, Way::Up),
    ];
    let case = |(by, way): (By, Way), size| {
        (
            by,
            Load {
                size,
                ..Load::usual(way)
            },
        )
    };
    let cases: Vec<(By, Load)> = SIZES
        .iter()
        .flat_map(|(size, _)| ways.map(|way| case(way, *size)))
        .collect();
    let readings = bench.turns(&cases)?;
    let mut rows = Vec::new();
    for (index, (by, way)) in ways.into_iter().enumerate() {
        let times: Vec<f64> = readings
            .iter()
            .skip(index)
            .step_by(ways.len())
            .map(|readings| readings.summary().median)
            .collect();
        // Of an IMIX each size takes its own time; no frame is cheaper for what was before it.
        let (mut time, mut bytes, mut count) = (0.0, 0.0, 0.0);
        for ((size, share), ns) in SIZES.iter().zip(&times) {
            time += share * ns;
            bytes += share * f64::from(u32::try_from(*size)?);
            count += share;
        }
        let name = name(by, way);
        eprintln!("{name:<20} {times:.0?} ns, IMIX {:.0} ns", time / count);
        rows.push(json!({
            "by": name,
            "sizes": SIZES.map(|(size, _)| size),
            "ns": times,
            "imix_bytes": bytes / count,
            "imix_ns": time / count,
        }));
    }
    report.put("by_size", Value::Array(rows));
    Ok(())
}

const fn name(by: By, way: Way) -> &'static str {
    match (by, way) {
        (By::Ours, Way::Up) => "gateway_up",
        (By::Ours, Way::Down) => "gateway_down",
        (_, _) => by.name(),
    }
}

/// Each number of sessions, in order, by chance, and most of them by few; beside it, LAN to WAN, how the least that a gateway can take
/// grows, which has a bucket and a record to fetch from memory, too.
pub(crate) fn sessions(bench: &mut Bench<'_>, report: &mut Report) -> Result<()> {
    let load = |way, flows, order| Load {
        flows,
        order,
        ..Load::usual(way)
    };
    let mut cases = Vec::new();
    for flows in SESSIONS {
        for order in [Order::Sequential, Order::Random] {
            cases.push(load(Way::Up, flows, order));
            cases.push(load(Way::Down, flows, order));
        }
    }
    cases.push(load(Way::Up, MOST, Order::Zipf));
    cases.push(load(Way::Down, MOST, Order::Zipf));
    // The same frames by a bare redirect: reading them takes time, too.
    let measured: Vec<(By, Load)> = cases
        .iter()
        .flat_map(|load| [By::Bare, By::Ours, By::Least].map(|by| (by, *load)))
        .filter(|(by, load)| *by != By::Least || load.way == Way::Up)
        .collect();
    let readings = bench.turns(&measured)?;
    let of = |by, load| {
        let at = measured.iter().position(|case| *case == (by, load));
        at.and_then(|at| readings.get(at)).context("a case that was measured")
    };
    let time = |by, load| Ok::<_, anyhow::Error>(of(by, load)?.summary().median);
    let added = |by, load| Ok::<_, anyhow::Error>(of(by, load)?.minus(of(By::Bare, load)?).summary().median);
    let mut rows = Vec::new();
    for load in cases {
        let (time, added) = (time(By::Ours, load)?, added(By::Ours, load)?);
        eprintln!(
            "{:>6} sessions, {:<10} {:?}: {time:.0} ns, added {added:.0}",
            load.flows,
            load.order.name(),
            load.way
        );
        rows.push(json!({
            "way": format!("{:?}", load.way).to_lowercase(),
            "sessions": load.flows,
            "order": load.order.name(),
            "ns": time,
            "added_ns": added,
        }));
    }
    report.put("by_sessions", Value::Array(rows));
    // By how much more it takes by chance, and the rate by Zipf's law.
    let grows = |by, way| {
        let few = load(way, SESSIONS[0], Order::Random);
        let more = added(by, load(way, MOST, Order::Random))? - added(by, few)?;
        Ok::<_, anyhow::Error>((more, time(by, few)? / time(by, load(way, MOST, Order::Zipf))?))
    };
    let (up, down) = (grows(By::Ours, Way::Up)?, grows(By::Ours, Way::Down)?);
    let least = grows(By::Least, Way::Up)?;
    report.single("scale_60k_random_added_ns", up.0.max(down.0));
    report.single("scale_60k_zipf", up.1.min(down.1));
    report.single("least_60k_random_added_ns", least.0);
    report.single("least_60k_zipf", least.1);
    Ok(())
}

/// New sessions in a second, ours and connection tracking's.
pub(crate) fn new_sessions(bench: &mut Bench<'_>, gateway: &Gateway<'_>, report: &mut Report) -> Result<()> {
    let flows = &bench.flows.all;
    let count = f64::from(u32::try_from(flows.len())?);
    ensure!(
        kernel::most()? > MOST,
        "the kernel tracks at most {} connections (net.netfilter.nf_conntrack_max)",
        kernel::most()?
    );
    let (mut ours, mut theirs) = (Readings::default(), Readings::default());
    for _ in 0..bench.rounds {
        gateway.flush()?;
        ours.add(count / gateway.open(&mut bench.tools, flows)?.as_secs_f64());
        let chain = bench.beds.chain(By::KernelNat);
        kernel::forget(chain)?;
        theirs.add(count / gateway::open(&mut bench.tools, chain, flows)?.as_secs_f64());
    }
    report.figure("new_sessions_per_s", &ours);
    report.figure("kernel_new_sessions_per_s", &theirs);
    Ok(())
}

/// Both directions of the same sessions, on one processor one after the other, and on two at once; beside the same by a bare redirect, which
/// tells how much of a second processor this machine's is.
pub(crate) fn two_processors(bench: &mut Bench<'_>, report: &mut Report) -> Result<()> {
    if processor::count() < 2 {
        report.put("two_core_scaling", Value::Null);
        return Ok(());
    }
    let mut other = Tools::load()?;
    let mut scaling = [Readings::default(), Readings::default()];
    let before = bench.tools.sunk()?;
    let mut sent = 0;
    for _ in 0..bench.rounds {
        for (by, scaling) in [By::Ours, By::Bare].into_iter().zip(&mut scaling) {
            let (found, frames) = by_two(bench, &mut other, by)?;
            scaling.add(found);
            sent += frames;
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    let arrived = bench.tools.sunk()? - before;
    ensure!(arrived * 1_000 >= sent * 995, "{arrived} of {sent} frames arrived");
    report.figure("two_core_scaling", &scaling[0]);
    report.figure("redirect_two_core_scaling", &scaling[1]);
    Ok(())
}

/// How many times faster two processors are, and how many frames were sent for that.
fn by_two(bench: &mut Bench<'_>, other: &mut Tools, by: By) -> Result<(f64, u64)> {
    let [up, down] = [Way::Up, Way::Down].map(Load::usual);
    let chain = bench.beds.chain(by);
    let down_sent = bench.prepare(by, down)?;
    other.make(&bench.flows.templates(by, down)?)?;
    let up_sent = bench.prepare(by, up)?;
    let one = bench.tools.run(chain, &up_sent)?.spent + other.run(chain, &down_sent)?.spent;
    let tools = &mut bench.tools;
    let both = std::thread::scope(|scope| -> Result<Duration> {
        let second = scope.spawn(|| {
            let sent = Sent {
                processor: 1,
                ..down_sent
            };
            other.run(chain, &sent)
        });
        let up = tools.run(chain, &up_sent)?.spent;
        let down = second.join().map_err(|_| anyhow!("a sending thread panicked"))??.spent;
        Ok(up.max(down))
    })?;
    let frames = 2 * (u64::from(up_sent.frames) + u64::from(down_sent.frames));
    Ok((one.as_secs_f64() / both.as_secs_f64(), frames))
}
