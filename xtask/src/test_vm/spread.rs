//! Owns the packets from the tunnel where several processors could take them: by the queues of a NIC, and by the gateway where there is one queue.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mape_tests::{gateway::handed, process::pause, traffic::numbered};
use serde_json::Value;

use super::{
    bench::{Bench, CONFIG},
    report::Found,
};
use crate::vm::live::Live;

/// The far side's first port.
const FIRST_PORT: u16 = 7_200;
const FLOWS: u16 = 48;
/// Datagrams of a flow.
const ROUNDS: u32 = 40;
/// Between two bursts of one datagram each: an emulated processor takes its time.
const BREAK: Duration = Duration::from_millis(15);

/// Which queues the packets come by: those who hand them to the machine may tell inner flows apart, or not.
pub(super) fn by_queues(bench: &mut Bench) -> Result<Found> {
    let before = received(&mut bench.machine)?;
    flows(bench)?;
    let after = received(&mut bench.machine)?;
    let by_queue: Vec<u64> = after.iter().zip(&before).map(|(now, then)| now - then).collect();
    Ok(Found::works(format!("{FLOWS} flows, frames by queue: {by_queue:?}")))
}

/// They come by one queue, and the gateway has both processors forward them.
pub(super) fn by_processors(bench: &mut Bench) -> Result<Found> {
    let queues = received(&mut bench.machine)?.len();
    ensure!(queues == 1, "there are {queues} queues");
    bench.must_ctl(&format!("load --config {CONFIG} --spread all"))?;
    bench.wait_until_reachable()?;
    flows(bench)?;
    let stat: Value = serde_json::from_str(&bench.must_ctl("stat --json")?)?;
    let handed = handed(&stat)?;
    let given: u64 = handed.iter().map(|[given, _]| given).sum();
    let taken: u64 = handed.iter().map(|[_, taken]| taken).sum();
    let all = u64::from(FLOWS) * u64::from(ROUNDS);
    ensure!(
        taken == given && taken * 5 > all && taken * 5 < all * 4,
        "of {all} packets handed on and taken over, by processor: {handed:?}"
    );
    Ok(Found::works(format!(
        "{FLOWS} flows in one queue, {all} datagrams, each flow's in order; handed on and taken over, by processor: {handed:?}"
    )))
}

/// Sends every flow's datagrams to the LAN host, which gets all of them, each flow's in order.
fn flows(bench: &Bench) -> Result<()> {
    let ports = FIRST_PORT..FIRST_PORT + FLOWS;
    let pairs = ports
        .map(|port| numbered::pair(&bench.lab, "host1", port))
        .collect::<Result<Vec<_>>>()?;
    for round in 0..ROUNDS {
        for (_, far) in &pairs {
            far.send(&round.to_be_bytes())?;
        }
        pause(BREAK)?;
    }
    let mut arrived = 0;
    for (number, (near, _)) in pairs.iter().enumerate() {
        arrived += numbered::in_order(near, ROUNDS).with_context(|| format!("flow {number}"))?;
    }
    let sent = u32::from(FLOWS) * ROUNDS;
    ensure!(arrived == sent, "{arrived} of {sent} datagrams arrived");
    Ok(())
}

/// Frames that the WAN's driver has given to the program, by queue.
fn received(machine: &mut Live) -> Result<Vec<u64>> {
    let said = machine.must("ethtool -S wan0")?;
    let count = |line: &str| {
        let (name, number) = line.trim().split_once(": ")?;
        // rx0 or, in older drivers, rx_queue_0; their sum is none of them.
        let queue = name.strip_prefix("rx")?.strip_suffix("_xdp_packets")?;
        queue
            .ends_with(|letter: char| letter.is_ascii_digit())
            .then(|| number.parse().ok())?
    };
    let counts: Vec<u64> = said.lines().filter_map(count).collect();
    ensure!(!counts.is_empty(), "the driver counts by no queue: {said}");
    Ok(counts)
}
