//! Owns `cargo xtask fuzz`: each target for a while under cargo-fuzz, and what it found among the regressions.
//!
//! cargo-fuzz wants the nightly compiler for flags of its own; the stable one takes them with RUSTC_BOOTSTRAP=1. Its address sanitizer
//! is left out: the core has no unsafe code beyond single atomic words, and without it the fuzzer is several times faster.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mape_tests::process::{run, show};

use crate::cargo::{cargo, root, target};

/// Compiling everything with the fuzzer's counters.
const BUILD_LIMIT: Duration = Duration::from_hours(1);
/// Beside the time that a target is given: beginning, reading its corpus, ending.
const SLACK: Duration = Duration::from_mins(10);
/// An input's bytes, at most.
const LONGEST: u32 = 4_096;

/// Fuzzes the parsers and steps of the core.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// wire, config, map, step or relay; all where none is named.
    target: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the targets one after the other; fails at the end where one found something.
pub(crate) fn fuzz(arguments: &Fuzz) -> Result<()> {
    let installed = run(&mut cargo(&["fuzz", "--version"]), Duration::from_secs(10))?;
    if !installed.status.success() {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz --locked");
    }
    let known = targets()?;
    for name in &arguments.target {
        ensure!(known.contains(name), "there is no target {name}; there are {known:?}");
    }
    let wanted = known
        .iter()
        .filter(|name| arguments.target.is_empty() || arguments.target.contains(name));
    show(&mut cargo_fuzz("build", None), BUILD_LIMIT).context("the fuzzer's targets do not compile")?;
    let mut failed = Vec::new();
    for name in wanted {
        let found = fuzz_one(name, arguments.seconds)?;
        if !found.is_empty() {
            failed.push(name.as_str());
        }
        for file in found {
            println!("fuzz: {name}: FOUND {}", file.display());
        }
    }
    if !failed.is_empty() {
        bail!(
            "{}: something was found; `cargo test -p mape-tests --test replay` shows what",
            failed.join(", ")
        );
    }
    Ok(())
}

fn folder() -> PathBuf {
    root().join("tests").join("fuzz")
}

/// The targets by the names of their files.
fn targets() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder().join("fuzz_targets"))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    Ok(names)
}

fn cargo_fuzz(task: &str, name: Option<&str>) -> Command {
    // Telling the fuzzer every comparison would cost more than half of the time, most of it for comparisons of the checks.
    let mut command = cargo(&["fuzz", task, "--no-trace-compares", "--sanitizer", "none", "--fuzz-dir"]);
    command.arg(folder()).arg("--target-dir").arg(target().join("fuzz"));
    command
        .args(name)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("MAPE_SKIP_EBPF", "1");
    command
}

/// Fuzzes one target; gives the new files among its regressions. What the fuzzer learns meanwhile stays in the folder that everything
/// built goes into: only what somebody chooses is kept in the corpus.
fn fuzz_one(name: &str, seconds: u64) -> Result<Vec<PathBuf>> {
    let (kept, found) = (
        folder().join("corpus").join(name),
        folder().join("regressions").join(name),
    );
    let learnt = target().join("fuzz").join("corpus").join(name);
    for folder in [&found, &learnt] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = files(&found)?;
    let mut command = cargo_fuzz("run", Some(name));
    command.arg(&learnt).arg(&kept).arg(&found).arg("--");
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-print_final_stats=1", "-timeout=10", "-verbosity=0"]);
    let finished = run(&mut command, Duration::from_secs(seconds) + SLACK)?;
    let after = files(&found)?;
    let new: Vec<PathBuf> = after.difference(&before).cloned().collect();
    let stat = |name: &str| statistic(&finished.stderr, name).unwrap_or("?");
    println!(
        "fuzz: {name}: {} inputs, {} a second, {} of them new ways",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        stat("new_units_added")
    );
    if !finished.status.success() && new.is_empty() {
        eprint!("{}", finished.stderr);
        bail!("{name}: the fuzzer ended without saying what it found");
    }
    if !new.is_empty() {
        let panic = finished.stderr.lines().skip_while(|line| !line.contains("panicked at"));
        panic.take(4).for_each(|line| println!("fuzz: {name}: {line}"));
    }
    Ok(new)
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// A number out of what libFuzzer says at its end.
fn statistic<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
    line.map(|line| line.trim_start_matches(':').trim())
}

#[cfg(test)]
mod tests {
    use super::statistic;

    #[test]
    fn numbers_are_read_from_the_last_lines() {
        let said = "Done 12 runs\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     17\n";
        assert_eq!(statistic(said, "number_of_executed_units"), Some("1234"));
        assert_eq!(statistic(said, "average_exec_per_sec"), Some("17"));
        assert_eq!(statistic(said, "peak_rss_mb"), None);
    }
}
