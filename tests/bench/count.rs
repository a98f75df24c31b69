//! Owns what a packet's way takes where time is instructions: all ways beside each other, with the kernel's tunnel among them.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    Arguments,
    bed::Way,
    cases::{Beds, Bench, By, Flows, Load},
    frames::Flow,
    gateway::{self, Gateway},
    kernel,
    report::Report,
    stats::Readings,
    tools::Tools,
};

const CHAINS: [By; 8] = [
    By::Nothing,
    By::Bare,
    By::Encapsulating,
    By::Least,
    By::Ours,
    By::Kernel,
    By::KernelNat,
    By::KernelTunnel,
];
/// Each case, and what its figure is called.
const CASES: [(&str, By, Way); 11] = [
    ("generator", By::Nothing, Way::Up),
    ("generator_down", By::Nothing, Way::Down),
    ("redirect", By::Bare, Way::Up),
    ("redirect_down", By::Bare, Way::Down),
    ("encapsulate", By::Encapsulating, Way::Up),
    ("least", By::Least, Way::Up),
    ("up", By::Ours, Way::Up),
    ("down", By::Ours, Way::Down),
    ("kernel_forward", By::Kernel, Way::Up),
    ("kernel_snat", By::KernelNat, Way::Up),
    ("kernel_tunnel", By::KernelTunnel, Way::Up),
];

/// Counts; a figure is instructions a packet, or a new session.
pub(crate) fn count(mut tools: Tools, arguments: &Arguments) -> Result<Value> {
    let beds = Beds::make(&mut tools, &CHAINS)?;
    let gateway = Gateway::load(beds.chain(By::Ours), "count")?;
    let all: Vec<Flow> = (0..Load::usual(Way::Up).flows).map(Flow::number).collect();
    gateway.open(&mut tools, &all)?;
    let flows = Flows {
        ports: gateway.external_ports(&all)?,
        other_ports: Vec::new(),
        all,
    };
    let mut bench = Bench::new(tools, &beds, &flows, arguments);
    let mut report = Report::default();
    report.put("frames", json!(arguments.frames));
    let cases = CASES.map(|(_, by, way)| (by, Load::usual(way)));
    for ((name, ..), readings) in CASES.iter().zip(bench.turns(&cases)?) {
        report.figure(name, &readings);
    }
    let (made, made_down) = (report.get("generator"), report.get("generator_down"));
    let (up, down) = (report.get("up"), report.get("down"));
    report.single("up_added", up - report.get("redirect"));
    report.single("encapsulate_added", report.get("encapsulate") - report.get("redirect"));
    report.single("least_added", report.get("least") - report.get("redirect"));
    report.single("down_added", down - report.get("redirect_down"));
    for (name, of) in [
        ("kernel_forward_to_up", "kernel_forward"),
        ("kernel_snat_to_up", "kernel_snat"),
        ("kernel_tunnel_to_up", "kernel_tunnel"),
    ] {
        report.single(name, (report.get(of) - made) / (up - made));
    }
    report.single(
        "kernel_tunnel_to_down",
        (report.get("kernel_tunnel") - made) / (down - made_down),
    );
    new_sessions(&mut bench, &gateway, &mut report)?;
    Ok(report.value())
}

fn new_sessions(bench: &mut Bench<'_>, gateway: &Gateway<'_>, report: &mut Report) -> Result<()> {
    let flows = &bench.flows.all;
    let count = f64::from(u32::try_from(flows.len())?);
    for by in [By::Ours, By::KernelNat, By::KernelTunnel] {
        let mut readings = Readings::default();
        for _ in 0..bench.rounds {
            let chain = bench.beds.chain(by);
            if by == By::Ours {
                gateway.flush()?;
            } else {
                kernel::forget(chain)?;
            }
            let took = gateway::open(&mut bench.tools, chain, flows)?;
            readings.add(took.as_secs_f64() * 1e9 / count);
        }
        report.figure(&format!("{}_new_session", by.name()), &readings);
    }
    Ok(())
}
