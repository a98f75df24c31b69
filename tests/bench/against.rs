//! Owns the comparison of two builds of ours: their fast paths in chains of their own, in turn, beside one bare redirect.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    Arguments,
    bed::Way,
    cases::{Beds, Bench, By, Flows, Load},
    frames::Flow,
    gateway::Gateway,
    report::Report,
    stats::Readings,
    tools::Tools,
};

/// Both are loaded, and take turns.
pub(crate) fn compare(mut tools: Tools, other: &Path, arguments: &Arguments) -> Result<Value> {
    let beds = Beds::make(&mut tools, &[By::Bare, By::Ours, By::Other])?;
    let ours = Gateway::load(beds.chain(By::Ours), "ours")?;
    let theirs = Gateway::load_by(other.to_owned(), beds.chain(By::Other), "other")?;
    let [up, down] = [Way::Up, Way::Down].map(Load::usual);
    let all: Vec<Flow> = (0..up.flows).map(Flow::number).collect();
    for gateway in [&ours, &theirs] {
        gateway.open(&mut tools, &all)?;
    }
    let flows = Flows {
        ports: ours.external_ports(&all)?,
        other_ports: theirs.external_ports(&all)?,
        all,
    };
    let mut bench = Bench::new(tools, &beds, &flows, arguments);
    let mut report = Report::default();
    report.put("rounds", json!(arguments.rounds));
    for (way, load) in [("up", up), ("down", down)] {
        let readings = bench.turns(&[(By::Bare, load), (By::Ours, load), (By::Other, load)])?;
        let [bare, ours, theirs] = &readings[..] else {
            bail!("three cases");
        };
        report.figure(&format!("{way}_redirect_ns"), bare);
        report.figure(&format!("{way}_added_ns"), &ours.minus(bare));
        report.figure(&format!("{way}_added_by_other_ns"), &theirs.minus(bare));
        report.figure(&format!("{way}_difference_ns"), &ours.minus(theirs));
    }
    let mut new = [Readings::default(), Readings::default()];
    for _ in 0..arguments.rounds {
        for (gateway, new) in [&ours, &theirs].into_iter().zip(&mut new) {
            gateway.flush()?;
            let took = gateway.open(&mut bench.tools, &flows.all)?;
            new.add(took.as_secs_f64() * 1e9 / f64::from(up.flows));
        }
    }
    report.figure("new_session_ns", &new[0]);
    report.figure("new_session_by_other_ns", &new[1]);
    report.single("load_ms", ours.load.as_secs_f64() * 1e3);
    report.single("load_by_other_ms", theirs.load.as_secs_f64() * 1e3);
    Ok(report.value())
}
