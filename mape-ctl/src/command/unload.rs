//! `mape-ctl unload`: takes a gateway out of the kernel.

use anyhow::Result;

use super::load::report;
use crate::{datapath::unload, instance::Instance};

/// Takes the gateway out and says what was done.
///
/// # Errors
/// Whatever stands in the way.
pub fn run(instance: &Instance) -> Result<()> {
    let done = unload::unload(instance)?;
    report(&done.messages, &done.warnings)
}
