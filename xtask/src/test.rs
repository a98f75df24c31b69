//! Owns `cargo xtask test`: everything that can be tested on this machine, and one line that sums it up.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::interrupted;

use crate::{
    bench_vm,
    build::build,
    cargo::{cargo, target},
    ebpf_check, setup,
    test_vm::{self, InTests},
};

/// What a test prints when this machine lacks something it needs; the reason follows.
const SKIPPED: &str = "SKIPPED: ";

#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    /// What has failed: a test's name, or what else in a word; and what it said.
    failures: Vec<(String, String)>,
    skipped: Vec<String>,
}

impl Count {
    fn fail(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.failed += 1;
        self.failures.push((what.into(), said.into()));
    }
}

/// Sets up, builds, runs all tests, and fails when one failed.
pub(crate) fn test() -> Result<()> {
    let begin = Instant::now();
    setup::as_far_as_allowed()?;
    let program = build()?;
    let mut count = Count::default();

    match ebpf_check::dissect(&program) {
        Ok(()) => count.passed += 1,
        Err(error) => {
            count.fail("the BPF object", format!("{error:#}"));
        }
    }

    let host = [
        "test",
        "--release",
        "--no-fail-fast",
        "-p",
        "mape-common",
        "-p",
        "mape-ctl",
        "-p",
        "xtask",
    ];
    let mut command = cargo(&host);
    command.args(["--features", "mape-common/host", "--", "--show-output"]);
    run_tests(&mut command, &mut count)?;

    run_tests(&mut interleavings(), &mut count)?;

    // One lab at a time: two would share the processors and spoil each other's time limits.
    let mut command = cargo(&["test", "--release", "--no-fail-fast", "-p", "mape-tests"]);
    command
        .args(["--", "--show-output", "--test-threads", "1"])
        .env("MAPE_CTL", &program);
    run_tests(&mut command, &mut count)?;

    match test_vm::in_tests(&program) {
        Ok(InTests::Done { passed, failed }) => {
            count.passed += passed;
            for row in failed {
                count.fail("virtual machines", row);
            }
        }
        Ok(InTests::Skipped(reason)) => count.skipped.push(reason),
        Err(error) => {
            count.fail("virtual machines", format!("{error:#}"));
        }
    }
    match bench_vm::in_tests(&program) {
        Ok(Ok(over)) if over.is_empty() => count.passed += 1,
        Ok(Ok(over)) => {
            count.fail("the budget of instructions", over.join("\n"));
        }
        Ok(Err(reason)) => count.skipped.push(reason),
        Err(error) => {
            count.fail("counting instructions", format!("{error:#}"));
        }
    }
    if interrupted() {
        bail!("interrupted");
    }

    for reason in &count.skipped {
        println!("skipped: {reason}");
    }
    // Once more, where whoever looks at the end finds it.
    for (what, said) in &count.failures {
        println!("\nFAILED: {what}\n{said}");
    }
    println!("took {} s", begin.elapsed().as_secs());
    println!(
        "{} passed, {} failed, {} skipped",
        count.passed,
        count.failed,
        count.skipped.len()
    );
    if count.failed > 0 {
        let names: Vec<&str> = count.failures.iter().map(|(what, _)| what.as_str()).collect();
        bail!(
            "{} tests failed, and what they said stands above: {}",
            count.failed,
            names.join(", ")
        );
    }
    Ok(())
}

/// The core under a model checker, which wants it compiled another way: in a folder of its own, or each would throw away the
/// other's work.
fn interleavings() -> Command {
    let mut command = cargo(&["test", "--release", "-p", "mape-common", "--features", "host"]);
    command
        .args(["--test", "interleavings", "--target-dir"])
        .arg(target().join("interleavings"))
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=loom");
    command
}

/// Runs one `cargo test`, shows its output as it comes, and counts.
fn run_tests(command: &mut Command, count: &mut Count) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has no standard output")?;
    let (mut results, failed_before) = (0, count.failed);
    let (mut failed, mut heard) = (Vec::new(), Heard::default());
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo test says")?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            results += 1;
            count.passed += number_before(result, "passed");
            count.failed += number_before(result, "failed");
            let ignored = number_before(result, "ignored");
            count
                .skipped
                .extend((0..ignored).map(|_| "a test marked #[ignore]".to_owned()));
        }
        failed.extend(failed_test(&line).map(str::to_owned));
        heard.line(&line);
        if let Some(reason) = line.strip_prefix(SKIPPED) {
            count.passed = count.passed.saturating_sub(1);
            count.skipped.push(reason.to_owned());
        }
    }
    for test in failed {
        let said = heard.of(&test);
        count.failures.push((test, said));
    }
    let status = child.wait().context("cannot read cargo test's exit status")?;
    if interrupted() {
        bail!("interrupted");
    }
    if !status.success() && count.failed == failed_before {
        // It did not compile, or a test program died before its result line.
        let what = format!("a cargo test that ended after {results} results");
        count.fail(what, format!("it ended with {status}"));
    }
    Ok(())
}

/// What tests have said, by name, as `--show-output` has it behind them all.
#[derive(Default)]
struct Heard(Vec<(String, Vec<String>)>);

impl Heard {
    /// Of what one has said; a backtrace tells little to who has not the program.
    const MOST: usize = 40;

    fn line(&mut self, line: &str) {
        let name = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = name {
            self.0.push((name.to_owned(), Vec::new()));
        } else if matches!(line, "failures:" | "successes:" | "stack backtrace:") {
            // What follows is nobody's.
            self.0.push(<(String, Vec<String>)>::default());
        } else if let Some((_, lines)) = self.0.last_mut()
            && lines.len() < Self::MOST
        {
            lines.push(line.to_owned());
        }
    }

    fn of(&self, test: &str) -> String {
        let found = self.0.iter().rfind(|(name, _)| name == test);
        found.map_or_else(String::new, |(_, lines)| lines.join("\n").trim().to_owned())
    }
}

/// The name in `test NAME ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The number in front of a word, as in `3 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> usize {
    let parts = text.split([';', '.']).map(str::trim);
    parts
        .filter_map(|part| part.strip_suffix(word)?.trim().parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::{Heard, failed_test, number_before};

    #[test]
    fn counts_are_read_from_a_result_line() {
        let line = "ok. 12 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(number_before(line, "passed"), 12);
        assert_eq!(number_before(line, "failed"), 1);
        assert_eq!(number_before(line, "ignored"), 3);
    }

    #[test]
    fn what_a_test_has_said_is_found_by_its_name() {
        let output = "test a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nfine\n\n\nsuccesses:\n    a\n\nfailures:\n\n\
                      ---- b stdout ----\n3 lost\nthread 'b' panicked\nstack backtrace:\n   0: f\n\nfailures:\n    b\n";
        let mut heard = Heard::default();
        output.lines().for_each(|line| heard.line(line));
        assert_eq!(heard.of("b"), "3 lost\nthread 'b' panicked");
        assert_eq!(heard.of("a"), "fine");
        assert_eq!(heard.of("c"), "");
    }

    #[test]
    fn a_test_that_failed_is_named() {
        assert_eq!(failed_test("test lost::sheep ... FAILED"), Some("lost::sheep"));
        assert_eq!(failed_test("test lost::sheep ... ok"), None);
        assert_eq!(failed_test("test result: FAILED. 11 passed; 1 failed"), None);
    }
}
