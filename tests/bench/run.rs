//! Owns the order of a run.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    Arguments, Part, against,
    cases::{Beds, Bench, By, Flows},
    count,
    frames::Flow,
    gateway::Gateway,
    latency, programs,
    report::Report,
    scale, slow, spread, tcp,
    tools::Tools,
    usual,
};

/// Flows with sessions, as many as any case has.
const FLOWS: u32 = 60_000;

/// Measures everything that was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<Value> {
    let mut tools = Tools::load()?;
    if arguments.count {
        return count::count(tools, arguments);
    }
    if let Some(other) = &arguments.against {
        return against::compare(tools, other, arguments);
    }
    let beds = Beds::make(&mut tools, &By::ALL)?;
    let gateway = Gateway::load(beds.chain(By::Ours), "fast")?;
    let all: Vec<Flow> = (0..FLOWS).map(Flow::number).collect();
    gateway.open(&mut tools, &all)?;
    let flows = Flows {
        ports: gateway.external_ports(&all)?,
        other_ports: Vec::new(),
        all,
    };
    let mut bench = Bench::new(tools, &beds, &flows, arguments);
    let mut report = Report::default();
    report.put("frames", json!(arguments.frames));
    report.put("rounds", json!(arguments.rounds));

    let wants = |part| arguments.wants(part);
    if wants(Part::Usual) {
        usual::measure(&mut bench, &mut report)?;
    }
    if wants(Part::Processors) {
        scale::two_processors(&mut bench, &mut report)?;
    }
    if wants(Part::Spread) {
        spread::measure(&mut bench, &gateway, &mut report)?;
    }
    if wants(Part::Sessions) {
        scale::sessions(&mut bench, &mut report)?;
    }
    if wants(Part::Sizes) {
        scale::sizes(&mut bench, &mut report)?;
    }
    if wants(Part::Latency) {
        latency::measure(&mut bench, &mut report)?;
    }
    if wants(Part::Slow) {
        slow::measure(&mut bench, &mut report)?;
    }
    // Behind all that has sessions: they have other ports from here on.
    if wants(Part::Programs) {
        programs::measure(&mut bench, &gateway, &mut report)?;
    }
    if wants(Part::New) {
        scale::new_sessions(&mut bench, &gateway, &mut report)?;
    }
    if wants(Part::Control) {
        control(&gateway, &mut report)?;
    }
    if wants(Part::Ipv6) {
        tcp::ipv6(&mut bench.tools, arguments.rounds, &mut report)?;
    }
    if wants(Part::Tcp) {
        tcp::ipv4(arguments.rounds.min(3), &mut report)?;
    }
    Ok(report.value())
}

/// What whoever runs it waits for, and what it takes.
fn control(gateway: &Gateway<'_>, report: &mut Report) -> Result<()> {
    let (stat, took) = gateway.stat()?;
    let told = stat.pointer("/sessions/udp/sessions").and_then(Value::as_u64);
    ensure!(
        told.is_some_and(|told| told >= u64::from(FLOWS - FLOWS / 1_000)),
        "`mape-ctl stat` does not tell of {FLOWS} sessions: {}",
        stat["sessions"]
    );
    report.single("stat_ms", took.as_secs_f64() * 1e3);
    report.single("load_ms", gateway.load.as_secs_f64() * 1e3);
    report.put("map_bytes", gateway.map_bytes()?.into());
    Ok(())
}
