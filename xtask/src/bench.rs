//! Owns `cargo xtask bench`: builds and runs `mape-bench`, and makes a report of what it has measured.

mod page;
mod plot;
mod target;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use mape_tests::process::run;
use serde_json::{Value, json};

use crate::{
    build::build,
    cargo::{release_program, root},
    document,
};

/// A short answer of a tool's.
const TOOL: Duration = Duration::from_secs(20);
/// The plot that the README and the document show.
const PICTURE: &str = "docs/performance.svg";
const DOCUMENT: &str = "docs/performance.md";

/// What to measure, and where to write it.
#[derive(Args)]
pub(crate) struct Bench {
    /// The figures that targets hold for, in two minutes; not all sizes of frames, latency, the slow path and TCP.
    #[arg(long)]
    quick: bool,
    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots to this file; it needs no other.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Put table and plot into docs/performance.md.
    #[arg(long, conflicts_with = "quick")]
    document: bool,
    /// Make the report of figures that an earlier run has written.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "json"])]
    from: Option<PathBuf>,
    /// Timed runs of each case, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only this: compare the fast path with that of another mape-ctl, of another commit, say; the two take turns.
    #[arg(long, value_name = "MAPE-CTL", conflicts_with_all = ["quick", "html", "document", "from", "check"])]
    against: Option<PathBuf>,
    /// Fail where a target is missed.
    #[arg(long)]
    check: bool,
}

/// Measures, or takes what was measured, and reports.
pub(crate) fn bench(arguments: &Bench) -> Result<()> {
    let figures = match &arguments.from {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{} holds no figures", file.display()))?
        }
        None => measure(arguments)?,
    };
    if let Some(file) = &arguments.json {
        write(file, &format!("{figures:#}\n"))?;
    }
    if arguments.against.is_some() {
        return Ok(());
    }
    let judged = target::judge(&figures);
    println!("\n{}", target::text(&judged));
    if let Some(file) = &arguments.html {
        write(file, &page::page(&figures, &judged)?)?;
    }
    if arguments.document {
        write(&root().join(PICTURE), &plot::throughput(&figures)?)?;
        let table = format!(
            "![throughput by size of frames](performance.svg)\n\n{}\n\n{}",
            page::about(&figures),
            target::markdown(&judged)
        );
        document::write_between_marks(&root().join(DOCUMENT), "bench", &table)?;
    }
    let missed = judged.iter().filter(|judged| judged.is_met == Some(false)).count();
    ensure!(!arguments.check || missed == 0, "{missed} targets are missed");
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Builds what is measured and what measures, and runs it.
fn measure(arguments: &Bench) -> Result<Value> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "loading BPF programs and making network namespaces needs root"
    );
    let mape_ctl = build()?;
    let program = release_program("mape-tests", "mape-bench")?;
    let mut command = Command::new(program);
    command
        .args(["--rounds", &arguments.rounds.to_string()])
        .env("MAPE_CTL", mape_ctl)
        // What it says meanwhile is for who waits.
        .stderr(Stdio::inherit())
        .stdout(Stdio::piped());
    if arguments.quick {
        command.arg("--quick");
    }
    if let Some(other) = &arguments.against {
        command.arg("--against").arg(other);
    }
    // Ctrl-C reaches it, too: it takes its namespaces down by itself.
    let finished = command.spawn().and_then(std::process::Child::wait_with_output);
    let finished = finished.context("cannot start mape-bench")?;
    ensure!(finished.status.success(), "mape-bench failed, see above");
    let mut figures: Value = serde_json::from_slice(&finished.stdout).context("mape-bench printed no JSON")?;
    figures["machine"] = machine().into();
    figures["kernel"] = tool("uname", &["-r"]).into();
    figures["commit"] = commit().into();
    figures["date"] = tool("date", &["--utc", "+%Y-%m-%d"]).into();
    figures["quick"] = json!(arguments.quick);
    Ok(figures)
}

/// The processor's name and how many there are.
fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    format!("{name}, {count} processors")
}

/// What is measured: the commit, and whether files differ from it.
fn commit() -> String {
    let short = tool("git", &["rev-parse", "--short", "HEAD"]);
    if tool("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        return short;
    }
    format!("{short} with changes")
}

/// What a tool says; nothing where it is not there.
fn tool(program: &str, arguments: &[&str]) -> String {
    let said = run(Command::new(program).current_dir(root()).args(arguments), TOOL);
    said.map(|finished| finished.stdout.trim().to_owned())
        .unwrap_or_default()
}
