//! `mape-ctl load`: puts a gateway into the kernel.

use std::io::{self, Write as _};

use anyhow::{Result, ensure};

use crate::{
    cli::LoadArgs,
    config,
    datapath::load::{self, Done},
    instance::Instance,
    kernel,
    tunnel::process,
};

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
    carry(instance, resolved.gateway.tunnel.process, &mut done);
    report(&done.messages, &done.warnings)?;
    ensure!(!done.partly, Partly);
    Ok(())
}

/// Sees to the process that carries the tunnel's packets where the kernel does not.
fn carry(instance: &Instance, is_wanted: bool, done: &mut Done) {
    let Some(device) = done.carried.clone() else {
        // One of an earlier load, whose device was another.
        if let Err(error) = process::stop(instance) {
            done.warnings.push(error.to_string());
        }
        return;
    };
    let why = if kernel::has_ip6_tunnel() {
        "ip6_tunnel is not used here"
    } else {
        "this kernel has no ip6_tunnel"
    };
    let lost = format!("until `mape-ctl tunnel` runs, packets that XDP does not take are lost in {device}");
    if !is_wanted {
        if !process::tell(instance) {
            done.messages.push(format!("{why}: {lost}"));
        }
        return;
    }
    match process::ensure(instance) {
        Ok((pid, true)) => done.messages.push(format!(
            "{why}: started `mape-ctl tunnel` for {device} (process {pid}), which unload ends"
        )),
        Ok((pid, false)) => done
            .messages
            .push(format!("`mape-ctl tunnel` for {device} runs on (process {pid})")),
        Err(error) => {
            done.warnings.push(format!("{error}; {lost}"));
            done.partly = true;
        }
    }
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
