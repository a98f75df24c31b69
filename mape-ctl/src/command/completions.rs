//! `mape-ctl completions`: what a shell needs to complete mape-ctl's arguments.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionsArgs};

/// Prints the completion script of a shell.
///
/// # Errors
/// When it cannot be printed.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mape-ctl", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}
