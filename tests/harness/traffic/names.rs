//! Owns DNS queries.

use std::time::Duration;

use anyhow::Result;

use crate::{lab::Lab, plan};

/// How many queries got the right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Queries sent, each from a port of its own.
    pub asked: usize,
    /// Right answers.
    pub answered: usize,
}

/// Asks `count` times over UDP, or over TCP.
///
/// # Errors
/// When dig cannot run.
pub fn query(lab: &Lab, host: &str, count: usize, over_tcp: bool) -> Result<Names> {
    let (name, address) = plan::NAME;
    let (server, transport) = (format!("@{}", plan::DNS), if over_tcp { "+tcp" } else { "+notcp" });
    let mut words = vec!["dig", &server, "+short", "+tries=1", "+time=2", transport];
    // One dig asks all, one after the other; each query opens a new socket.
    words.extend(std::iter::repeat_n(name, count));
    let finished = lab.exec(host, &words, Duration::from_mins(1))?;
    let expected = address.to_string();
    Ok(Names {
        asked: count,
        answered: finished.stdout.lines().filter(|line| line.trim() == expected).count(),
    })
}
