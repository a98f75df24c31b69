//! Parses the task's name and hands over to its file; nothing else.

mod bench;
mod bench_vm;
mod build;
mod cargo;
mod demo;
mod document;
mod ebpf_check;
mod fuzz;
mod lab;
mod lint;
mod rust_src;
mod setup;
mod test;
mod test_vm;
mod verify_kernels;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and the lab need; quick when all is there.
    Setup,
    /// Compile mape-ctl, with the BPF programs inside, for release.
    Build,
    /// Check format, clippy (host and BPF) and licences.
    Lint,
    /// Hold the BPF object to its budgets: panic paths, stack, instructions, map memory.
    EbpfCheck {
        /// An object to look at instead of the one inside mape-ctl; nothing is loaded then.
        #[arg(long)]
        object: Option<PathBuf>,
        /// Make the instructions that the programs have their budgets (mape-ebpf/budget.json).
        #[arg(long)]
        keep: bool,
    },
    /// Load every program on Debian's kernels, in virtual machines, and show how far the verifier goes (needs no root).
    VerifyKernels(verify_kernels::VerifyKernels),
    /// Try the gateway on virtio NICs under Debian's kernels, in virtual machines (root).
    TestVm(test_vm::TestVm),
    /// Measure the gateway beside a bare redirect and the kernel, and make a report of it (root).
    Bench(bench::Bench),
    /// Count the instructions of a packet's way, beside the kernel's tunnel and NAT, in virtual machines (needs no root).
    BenchVm(bench_vm::BenchVm),
    /// Give the core's parsers and steps inputs that nobody thought of, each target for a while (cargo-fuzz).
    Fuzz(fuzz::Fuzz),
    /// Keep the lab open to play in (root).
    #[command(subcommand)]
    Lab(lab::LabTask),
    /// Set up, build, and show what the gateway does with real traffic (root).
    Demo,
    /// Set up, build, and run every test this machine can run (root).
    Test,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    mape_tests::process::watch_signals()?;
    match Arguments::parse().task {
        Task::Setup => setup::as_far_as_allowed(),
        Task::Build => build::build().map(drop),
        Task::Lint => lint::lint(),
        Task::EbpfCheck { object, keep } => ebpf_check::ebpf_check(object.as_deref(), keep),
        Task::VerifyKernels(arguments) => verify_kernels::verify_kernels(arguments),
        Task::TestVm(arguments) => test_vm::test_vm(arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::BenchVm(arguments) => bench_vm::bench_vm(&arguments),
        Task::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Task::Lab(task) => lab::lab(task),
        Task::Demo => demo::demo(),
        Task::Test => test::test(),
    }
}
