//! Owns `mape-bench`: what a packet's way takes, by a bare redirect, by our gateway and by the kernel, beside each other on one machine. Prints JSON.
//! `cargo xtask bench` builds it, runs it and makes a report of what it prints.

mod against;
mod bed;
mod cases;
mod count;
mod frames;
mod gateway;
mod kernel;
mod latency;
mod memory;
mod processor;
mod programs;
mod report;
mod run;
mod scale;
mod slow;
mod spread;
mod stats;
mod tcp;
mod tools;
mod usual;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};
use clap::Parser;

/// What to measure.
#[derive(Parser)]
#[command(about = "Measures the gateway beside a bare redirect and the kernel; prints JSON")]
struct Arguments {
    /// The figures that targets hold for, and not all sizes and numbers of sessions.
    #[arg(long)]
    quick: bool,
    /// Frames in one timed run by XDP; a kernel path gets a fifth.
    #[arg(long, default_value_t = 1_000_000)]
    frames: u32,
    /// Timed runs of each case, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these parts of a run.
    #[arg(long, value_enum, conflicts_with_all = ["count", "against"])]
    only: Vec<Part>,
    /// Only this: what a packet's way takes beside the kernel's tunnel and the usual rules of source NAT, for a machine whose clock counts
    /// instructions (`cargo xtask bench-vm`).
    #[arg(long, conflicts_with = "against")]
    count: bool,
    /// Only this: the fast path beside that of another mape-ctl, of another commit, say.
    #[arg(long, value_name = "MAPE-CTL")]
    against: Option<PathBuf>,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// 64 bytes, 1,000 sessions, beside the ceiling and the kernel.
    Usual,
    /// Both directions on two processors.
    Processors,
    /// Packets from the tunnel, shared by processors.
    Spread,
    /// 100 to 60,000 sessions.
    Sessions,
    /// Sizes of frames.
    Sizes,
    /// How long frames are under way.
    Latency,
    /// The slow path.
    Slow,
    /// What the programs take by themselves.
    Programs,
    /// New sessions.
    New,
    /// Loading, `stat`, memory.
    Control,
    /// Native IPv6 by TCP.
    Ipv6,
    /// IPv4 by TCP.
    Tcp,
}

impl Arguments {
    /// Whether a part is wanted.
    fn wants(&self, part: Part) -> bool {
        let is_quick = !matches!(part, Part::Sizes | Part::Latency | Part::Slow | Part::Tcp);
        if self.only.is_empty() {
            is_quick || !self.quick
        } else {
            self.only.contains(&part)
        }
    }
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        rustix::process::geteuid().is_root(),
        "loading BPF programs and making network namespaces needs root"
    );
    ensure!(
        arguments.frames >= 1_000 && arguments.rounds >= 1,
        "at least 1,000 frames and one round"
    );
    mape_tests::process::watch_signals()?;
    let report = run::run(&arguments)?;
    println!("{report:#}");
    Ok(())
}
