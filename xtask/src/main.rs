//! Parses the task's name and hands over to its file; nothing else.

mod rust_src;
mod setup;

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
}

fn main() -> Result<()> {
    mape_tests::process::watch_signals()?;
    match Arguments::parse().task {
        Task::Setup => setup::everything(),
    }
}
