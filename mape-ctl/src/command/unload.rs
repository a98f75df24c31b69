//! `mape-ctl unload`: takes a gateway out of the kernel.

use anyhow::Result;

use super::{load::report, runtime};
use crate::{datapath::load, instance::Instance};

/// Takes the gateway out and says what was done.
///
/// # Errors
/// Whatever stands in the way.
pub fn run(instance: &Instance) -> Result<()> {
    let done = runtime()?.block_on(load::unload(instance.as_ref()))?;
    report(&done.messages, &done.warnings)
}
