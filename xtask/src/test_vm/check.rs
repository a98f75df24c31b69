//! Owns `mape-ctl check` inside a machine: what it finds of a gateway that is well, and of NICs that cannot serve.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    bench::{Bench, CONFIG},
    report::Found,
};

/// Whether the machine is fit, and then whether the loaded gateway is well: there must be no error, and warnings are told.
pub(super) fn of_one_that_is_well(bench: &mut Bench) -> Result<Found> {
    let mut said = Vec::new();
    for (which, words) in [
        ("that gateway", format!("--config {CONFIG}")),
        ("the loaded one", String::new()),
    ] {
        let (code, findings) = look(bench, &words)?;
        let errors = of_level(&findings, "error");
        ensure!(errors.is_empty(), "{which}: {errors:?}");
        let warnings = of_level(&findings, "warning");
        ensure!(
            code == if warnings.is_empty() { 0 } else { 3 },
            "{which}: exit code {code}, {warnings:?}"
        );
        let warned = if warnings.is_empty() {
            "nothing wrong".to_owned()
        } else {
            warnings.join("; ")
        };
        said.push(format!("{which}, {} looked at: {warned}", findings.len()));
    }
    Ok(Found::works(said.join("; ")))
}

/// An error of that kind is found before `load`.
pub(super) fn ensure_finds(bench: &mut Bench, id: &str) -> Result<()> {
    let (code, findings) = look(bench, &format!("--config {CONFIG}"))?;
    let errors = of_level(&findings, "error");
    ensure!(
        code == 1 && errors.iter().any(|error| error.starts_with(id)),
        "exit code {code}; no {id} among {errors:?}"
    );
    Ok(())
}

/// Exit code and findings, those included that are as they should be.
fn look(bench: &mut Bench, words: &str) -> Result<(i32, Vec<Value>)> {
    let answer = bench.ctl(&format!("check --json --all {words}"))?;
    let report: Value = serde_json::from_str(&answer.stdout)
        .with_context(|| format!("`mape-ctl check --json` printed no JSON: {}", answer.stderr))?;
    let findings = report["findings"].as_array().context("a report without findings")?;
    Ok((answer.exit_code, findings.clone()))
}

fn of_level(findings: &[Value], level: &str) -> Vec<String> {
    let of_level = findings.iter().filter(|finding| finding["level"] == level);
    of_level
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("id"), text("what"))
        })
        .collect()
}
