//! `mape-ctl run`: loads a gateway and looks after it.

use anyhow::Result;

use crate::{
    cli::LoadArgs,
    instance::Instance,
    kernel,
    run::{self, RunError},
};

/// Loads the gateway and looks after it until a signal ends this process.
///
/// # Errors
/// A mistake in the configuration, or whatever stands in the way at the start.
pub fn run(instance: &Instance, args: &LoadArgs) -> Result<()> {
    kernel::check_root("run")?;
    match run::run(instance, args) {
        // The same exit code as from `load`.
        Err(RunError::Config(error)) => Err(error.into()),
        ended => Ok(ended?),
    }
}
