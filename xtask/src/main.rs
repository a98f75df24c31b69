//! Parses the task's name and hands over to its file; nothing else.

mod build;
mod cargo;
mod demo;
mod lab;
mod lint;
mod rust_src;
mod setup;
mod test;

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
    /// Install what building and the lab need (root); quick when all is there.
    Setup,
    /// Compile mape-ctl, with the BPF programs inside, for release.
    Build,
    /// Check format, clippy (host and BPF) and licences.
    Lint,
    /// Keep the lab open to play in (root).
    #[command(subcommand)]
    Lab(lab::LabTask),
    /// Set up, build, and show what the gateway does with real traffic (root).
    Demo,
    /// Set up, build, and run every test this machine can run (root).
    Test,
}

fn main() -> Result<()> {
    mape_tests::process::watch_signals()?;
    match Arguments::parse().task {
        Task::Setup => setup::everything(),
        Task::Build => build::build().map(drop),
        Task::Lint => lint::lint(),
        Task::Lab(task) => lab::lab(task),
        Task::Demo => demo::demo(),
        Task::Test => test::test(),
    }
}
