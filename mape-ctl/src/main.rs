//! Owns the process: arguments in, exit code out. 0: done; 1: could not; 2: wrong usage; 3: partly up.
//!
//! A reader that goes away (`mape-ctl stat | head`) is no failure: the exit code is 0 then.

use std::{io, process::ExitCode};

use clap::Parser as _;
use mape_ctl::{
    cli::Cli,
    command::{self, check::Unwell, load::Partly},
    config::ConfigError,
};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const PARTLY_UP: u8 = 3;

fn main() -> ExitCode {
    // clap answers --help, --version and wrong usage by itself, with these codes.
    match command::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                eprint!("{usage}");
                return ExitCode::from(WRONG_USAGE);
            }
            if let Some(unwell) = error.downcast_ref::<Unwell>() {
                return ExitCode::from(if unwell.is_error { FAILED } else { PARTLY_UP });
            }
            eprint!("{}", message(&error));
            if error.is::<Partly>() {
                return ExitCode::from(PARTLY_UP);
            }
            let is_usage = error.downcast_ref::<ConfigError>().is_some_and(ConfigError::is_usage);
            ExitCode::from(if is_usage { WRONG_USAGE } else { FAILED })
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The error and its causes, a line each; a cause whose text its parent has already said is left out.
fn message(error: &anyhow::Error) -> String {
    let mut lines: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !lines.last().is_some_and(|last| last.ends_with(&cause)) {
            lines.push(cause);
        }
    }
    let kinds = std::iter::once("error").chain(std::iter::repeat("because"));
    kinds.zip(&lines).fold(String::new(), |text, (kind, line)| {
        text + "mape-ctl: " + kind + ": " + line + "\n"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_stand_below_the_error_and_nothing_is_said_twice() {
        let error = anyhow::anyhow!("no such device")
            .context("cannot attach to lan0")
            .context("cannot attach to lan0");
        assert_eq!(
            message(&error),
            "mape-ctl: error: cannot attach to lan0\nmape-ctl: because: no such device\n"
        );
    }

    #[test]
    fn a_reader_that_goes_away_is_recognised_below_other_causes() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot print");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }
}
