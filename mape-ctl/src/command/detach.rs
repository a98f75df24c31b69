//! `mape-ctl detach`: takes NICs out of the fast path, for a look at the slow one.

use anyhow::Result;

use super::load::report;
use crate::{datapath::detach, instance::Instance};

/// Takes the programs off and says what was done.
///
/// # Errors
/// Whatever stands in the way.
pub fn run(instance: &Instance, nics: &[String]) -> Result<()> {
    let done = detach::detach(instance, nics)?;
    report(&done.messages, &done.warnings)
}
