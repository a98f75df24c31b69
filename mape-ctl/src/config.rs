//! Owns the configuration: a TOML file and flags, read into [`low`], checked into a [`Gateway`] by [`check`].
//!
//! Both go through the same checks, and every mistake names the file and line or the flag that it stands in.

mod check;
mod forward;
mod line;
mod low;
mod problem;
#[cfg(test)]
mod tests;

use std::fs;

pub use problem::{ConfigError, Problem};

use self::{low::Low, problem::from_toml};
use crate::{cli::LoadArgs, gateway::Gateway, instance::Instance};

/// What file and flags mean.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The gateway.
    pub gateway: Gateway,
    /// What is allowed but unwise.
    pub warnings: Vec<String>,
}

/// Reads the file, if there is one, puts the flags over it, and checks the whole.
///
/// # Errors
/// [`ConfigError`]: the first mistake found.
pub fn resolve(instance: &Instance, flags: &LoadArgs) -> Result<Resolved, ConfigError> {
    let Some(path) = &flags.config else {
        return read(instance, None, flags);
    };
    let file = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => read(instance, Some((&file, &text)), flags),
        Err(source) => Err(ConfigError::Read { file, source }),
    }
}

/// The same, with the file's name and text in hand.
///
/// # Errors
/// [`ConfigError`]: the first mistake found.
pub fn read(instance: &Instance, file: Option<(&str, &str)>, flags: &LoadArgs) -> Result<Resolved, ConfigError> {
    let mut low = match file {
        None => Low::default(),
        Some((_, text)) => toml::from_str(text).map_err(|error| from_toml(&error).locate(file))?,
    };
    low.override_by(flags);
    check::gateway(instance, &low).map_err(|mistake| mistake.locate(file))
}
