//! Owns `cargo xtask ebpf-check`: holds the built BPF object to its budgets before any kernel sees it.

mod object;
mod stack;

use std::{collections::BTreeMap, env, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use mape_tests::process::{Finished, run, show};

use self::{object::Object, stack::Chain};
use crate::{bench_vm::budget, build::build, cargo::cargo};

/// The kernel's limit for a chain of calls, counted as the oldest supported kernel does: an object may load on a newer one
/// and be refused there.
const STACK_BUDGET: u32 = 512;
/// The kernel's limit of nested calls.
const FRAMES: usize = 8;

/// Builds, dissects the object, prints the figures, and fails when one is out of bounds; with a file, only dissects it.
pub(crate) fn ebpf_check(file: Option<&Path>, keep: bool) -> Result<()> {
    if let Some(file) = file {
        return judge(
            &fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
            keep,
        );
    }
    let program = build()?;
    dissect_and(&program, keep)?;
    if !rustix::process::geteuid().is_root() {
        println!("verifier and map memory: skipped, loading needs root");
        return Ok(());
    }
    let mut test = cargo(&["test", "--release", "--quiet", "-p", "mape-tests", "--test", "budget"]);
    test.args(["--", "--nocapture"]).env("MAPE_CTL", &program);
    show(&mut test, Duration::from_hours(1)).context("the kernel's figures, printed above, are out of bounds")
}

/// Takes the object out of mape-ctl and judges what can be seen without a kernel.
pub(crate) fn dissect(program: &Path) -> Result<()> {
    dissect_and(program, false)
}

/// The same, and where `keep` says so the instructions that the programs have are their budgets from now on.
fn dissect_and(program: &Path, keep: bool) -> Result<()> {
    let file = env::temp_dir().join(format!("mape-object-{}.o", std::process::id()));
    let path = file.to_string_lossy().into_owned();
    let dumped = run(
        Command::new(program).args(["object", "--output", &path]),
        Duration::from_secs(10),
    )
    .and_then(Finished::success)
    .and_then(|_| fs::read(&file).context("cannot read the object"));
    // Only a temporary file; it may not even be there.
    let _ = fs::remove_file(&file);
    judge(&dumped.context("mape-ctl did not give its BPF object")?, keep)
}

fn judge(bytes: &[u8], keep: bool) -> Result<()> {
    let object = Object::parse(bytes)?;
    let mut faults = Vec::new();
    for symbol in object.panic_symbols() {
        faults.push(format!(
            "{symbol} is in the object: some path can panic, and the kernel refuses such a program"
        ));
    }
    println!(
        "{:<20} {:>12} {:>9} {:>11}  deepest chain of calls",
        "program", "instructions", "functions", "stack bytes"
    );
    let mut programs = object.programs();
    programs.sort_by_key(|program| object.name(*program));
    if programs.is_empty() {
        bail!("the object has no XDP or tc program");
    }
    let mut counts = BTreeMap::new();
    for program in programs {
        let reached = object.reached_from(program);
        let instructions: usize = reached.iter().map(|function| object.instructions(*function)).sum();
        counts.insert(object.name(program).clone(), instructions);
        let Chain { bytes, functions } = stack::deepest(&object, program)?;
        let names: Vec<String> = functions
            .iter()
            .map(|(id, own)| format!("{} {own}", object.name(*id)))
            .collect();
        println!(
            "{:<20} {instructions:>12} {:>9} {bytes:>11}  {}",
            object.name(program),
            reached.len(),
            names.join(" > ")
        );
        if bytes > STACK_BUDGET {
            faults.push(format!(
                "{} uses {bytes} bytes of stack; the budget is {STACK_BUDGET}",
                object.name(program)
            ));
        }
        if functions.len() > FRAMES {
            faults.push(format!(
                "{} nests {} calls; the kernel allows {FRAMES}",
                object.name(program),
                functions.len()
            ));
        }
    }
    if keep {
        budget::keep_programs(&counts)?;
    }
    faults.extend(budget::programs_over(&counts)?);
    if faults.is_empty() {
        println!(
            "no panic path; no program over its budget of instructions; every chain within {STACK_BUDGET} bytes of stack and {FRAMES} calls"
        );
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}
