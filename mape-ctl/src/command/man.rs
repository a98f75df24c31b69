//! `mape-ctl man`: manual pages of the program and of each subcommand, from the same text as `--help`.

use std::fs;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::cli::{Cli, ManArgs};

/// Writes the pages into a folder, which is made if need be.
///
/// # Errors
/// When the folder or a page cannot be written.
pub fn run(args: &ManArgs) -> Result<()> {
    let folder = &args.output;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    clap_mangen::generate_to(Cli::command(), folder).with_context(|| format!("cannot write into {}", folder.display()))
}
