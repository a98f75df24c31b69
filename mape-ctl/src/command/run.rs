//! `mape-ctl run`: loads a gateway and looks after it.

use anyhow::Result;

use crate::{cli::LoadArgs, instance::Instance, kernel, run};

/// Loads the gateway and looks after it until a signal ends this process.
///
/// # Errors
/// A mistake in the configuration, or whatever stands in the way at the start.
pub fn run(instance: &Instance, args: &LoadArgs) -> Result<()> {
    kernel::check_root("run")?;
    run::run(instance, args).map_err(|error| match error {
        // The same exit code as from `load`.
        run::RunError::Config(error) => error.into(),
        error => error.into(),
    })
}
