//! Owns how a report is told: to people, and to programs.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::{Finding, Level, Report, Subject};
use crate::datapath::load::role_name;

/// What was done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its kind.
    pub id: &'static str,
    /// The command that was carried out, or would be.
    pub command: String,
    /// Why it could not be.
    pub failure: Option<String>,
}

/// What is looked at: the gateway, and whether it is loaded.
pub fn head(subject: &Subject) -> String {
    let state = if subject.is_loaded { "loaded" } else { "not loaded" };
    format!(
        "Instance {}: {}, {} and {}, {state}",
        subject.instance,
        if subject.is_edge() {
            "customer edge"
        } else {
            "border relay"
        },
        subject.lan.join(", "),
        subject.wan
    )
}

/// For people: the worst last, where they look; `all` shows what is as it should be, too.
///
/// # Errors
/// None that a string can have.
pub fn text(report: &Report, all: bool) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let mut findings: Vec<&Finding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| finding.level);
    for finding in findings {
        let Finding {
            kind,
            level,
            object,
            what,
            mend,
            ..
        } = finding;
        if *level == Level::Ok {
            if all {
                let about = if object.is_empty() {
                    String::new()
                } else {
                    format!(" ({object})")
                };
                writeln!(out, "ok       {}: {what}{about}", kind.id)?;
            }
            continue;
        }
        writeln!(out, "{:<8} {}: {what}", level.name(), kind.id)?;
        writeln!(out, "         why:  {}", kind.why)?;
        if let Some(mend) = mend {
            writeln!(
                out,
                "         mend: {mend}{}",
                if finding.fix.is_some() {
                    "   (--fix does it)"
                } else {
                    ""
                }
            )?;
        }
    }
    writeln!(out, "{}", summary(report))?;
    Ok(out)
}

/// The last line.
pub fn summary(report: &Report) -> String {
    let count = |level: Level| {
        let number = report.count(level);
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {}{plural}", level.name())
    };
    format!(
        "{} things looked at: {}, {}, {}",
        report.findings.len(),
        count(Level::Error),
        count(Level::Warning),
        count(Level::Note)
    )
}

/// For people: what was done, or would be.
pub fn steps(steps: &[Step], is_dry: bool) -> String {
    let done = if is_dry { "would do" } else { "did" };
    steps.iter().fold(String::new(), |text, step| {
        let line = match &step.failure {
            None => format!("{done}: {} ({})\n", step.command, step.id),
            Some(failure) => format!("could not: {} ({}): {failure}\n", step.command, step.id),
        };
        text + &line
    })
}

/// For programs: keys are stable, new ones may come.
pub fn json(subject: Option<&Subject>, report: &Report, done: &[Step], is_dry: bool) -> Value {
    json!({
        "instance": subject.map(|subject| subject.instance.to_string()),
        "role": subject.map(|subject| role_name(subject.role)),
        "loaded": subject.map(|subject| subject.is_loaded),
        "worst": report.worst(),
        "counts": {
            "error": report.count(Level::Error),
            "warning": report.count(Level::Warning),
            "note": report.count(Level::Note),
            "ok": report.count(Level::Ok),
        },
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "dry_run": is_dry,
        "fixes": done.iter().map(|step| json!({
            "id": step.id,
            "command": step.command,
            "error": step.failure,
        })).collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "id": finding.kind.id,
        "level": finding.level,
        "about": finding.object,
        "what": finding.what,
        "why": finding.kind.why,
        "mend": finding.mend,
        "fixable": finding.fix.is_some(),
    })
}
