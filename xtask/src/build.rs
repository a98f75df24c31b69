//! Owns `cargo xtask build`: the release program with the BPF object inside.

use anyhow::Result;
use std::path::PathBuf;

use crate::{cargo::release_program, setup};

/// Builds mape-ctl, and says what to do when something it needs is missing.
pub(crate) fn build() -> Result<PathBuf> {
    setup::check_for_building()?;
    let program = release_program("mape-ctl", "mape-ctl")?;
    println!("built {}", program.display());
    Ok(program)
}
