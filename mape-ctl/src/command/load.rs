//! `mape-ctl load`: puts a gateway into the kernel.

use std::io::{self, Write as _};

use anyhow::{Result, ensure};

use crate::{cli::LoadArgs, config, datapath::load, instance::Instance, tunnel::process};

/// The gateway is up, but something that was configured cannot work; the warnings before say what.
#[derive(Debug, thiserror::Error)]
#[error("the gateway is only partly up: see the warnings above")]
pub struct Partly;

/// Reads the configuration, puts it into effect and says what was done.
///
/// # Errors
/// A mistake in the configuration, or whatever stands in the way: nothing is changed then. [`Partly`] where it is.
pub fn run(instance: &Instance, args: &LoadArgs) -> Result<()> {
    let resolved = config::resolve(instance, args)?;
    report(&[], &resolved.warnings)?;
    let mut done = load::load(&resolved.gateway)?;
    process::see_to(instance, resolved.gateway.tunnel.process, &mut done);
    report(&done.messages, &done.warnings)?;
    ensure!(!done.partly, Partly);
    Ok(())
}

/// Messages to standard output, warnings to standard error.
pub(super) fn report(messages: &[String], warnings: &[String]) -> Result<()> {
    for warning in warnings {
        eprintln!("mape-ctl: warning: {warning}");
    }
    let mut out = io::stdout().lock();
    for message in messages {
        writeln!(out, "{message}")?;
    }
    Ok(())
}
