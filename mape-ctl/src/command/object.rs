//! `mape-ctl object`: the BPF object out of this binary, for tests and for looking at it with other tools.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{cli::ObjectArgs, object::object};

/// Writes the object to a file.
///
/// # Errors
/// When there is none in this build, or the file cannot be written.
pub fn run(args: &ObjectArgs) -> Result<()> {
    ensure!(
        !object().is_empty(),
        "this mape-ctl was built with MAPE_SKIP_EBPF=1 and carries no BPF object; build it without"
    );
    fs::write(&args.output, object()).with_context(|| format!("cannot write {}", args.output.display()))
}
