//! Owns echo requests.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};

use crate::lab::Lab;

/// What one run of ping showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Answers received twice.
    pub duplicates: u32,
    /// Mean round trip in milliseconds; none when nothing came back.
    pub mean_ms: Option<f64>,
}

/// Sends `count` requests with `size` bytes of payload, a hundred each second.
///
/// # Errors
/// When ping cannot run.
pub fn ping(lab: &Lab, host: &str, target: &str, count: u32, size: u32) -> Result<Ping> {
    let (count, size) = (count.to_string(), size.to_string());
    let words = [
        "ping", "-n", "-q", "-i", "0.01", "-W", "2", "-c", &count, "-s", &size, target,
    ];
    let finished = lab.exec(host, &words, Duration::from_mins(1))?;
    parse(&finished.stdout).with_context(|| format!("ping said: {}{}", finished.stdout, finished.stderr))
}

/// What a host is told of packets that must not be fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// Answers received.
    pub received: u32,
    /// Who said first that they are too big, and for what MTU.
    pub told: Option<(Ipv4Addr, u16)>,
}

/// Sends three requests with `size` bytes of payload that must not be fragmented.
///
/// # Errors
/// When ping cannot run.
pub fn whole(lab: &Lab, host: &str, target: &str, size: u32) -> Result<Whole> {
    let size = size.to_string();
    let words = [
        "ping", "-n", "-M", "do", "-i", "0.2", "-W", "1", "-c", "3", "-s", &size, target,
    ];
    let finished = lab.exec(host, &words, Duration::from_mins(1))?;
    let sum = parse(&finished.stdout).with_context(|| format!("ping said: {}{}", finished.stdout, finished.stderr))?;
    Ok(Whole {
        received: sum.received,
        told: finished.stdout.lines().find_map(told),
    })
}

fn told(line: &str) -> Option<(Ipv4Addr, u16)> {
    let from = line.strip_prefix("From ")?.split_whitespace().next()?;
    let mtu = line.split_once("Frag needed and DF set (mtu = ")?.1;
    Some((from.parse().ok()?, mtu.trim_end_matches(')').parse().ok()?))
}

fn parse(text: &str) -> Option<Ping> {
    let line = text.lines().find(|line| line.contains("packets transmitted"))?;
    let number = |what: &str| {
        line.split(", ")
            .find_map(|part| part.strip_suffix(what)?.trim_start_matches('+').parse().ok())
    };
    let mean_ms = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt ")?.split('/').nth(4)?.parse().ok());
    Some(Ping {
        sent: number(" packets transmitted")?,
        received: number(" received")?,
        duplicates: number(" duplicates").unwrap_or(0),
        mean_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::{Ipv4Addr, Ping, parse, told};

    #[test]
    fn loss_duplicates_and_the_mean_are_read() {
        let text = "--- 198.51.100.1 ping statistics ---\n\
                    5 packets transmitted, 4 received, +2 duplicates, 20% packet loss, time 40ms\n\
                    rtt min/avg/max/mdev = 0.029/0.034/0.040/0.004 ms\n";
        assert_eq!(
            parse(text),
            Some(Ping {
                sent: 5,
                received: 4,
                duplicates: 2,
                mean_ms: Some(0.034)
            })
        );
    }

    #[test]
    fn who_says_too_big_and_for_what_mtu_is_read() {
        let line = "From 192.168.10.1 icmp_seq=1 Frag needed and DF set (mtu = 1360)";
        assert_eq!(told(line), Some((Ipv4Addr::new(192, 168, 10, 1), 1360)));
        assert_eq!(told("From 192.168.10.1 icmp_seq=1 Time to live exceeded"), None);
    }

    #[test]
    fn a_run_without_any_answer_has_no_mean() {
        let text = "3 packets transmitted, 0 received, 100% packet loss, time 2ms\n";
        assert_eq!(
            parse(text),
            Some(Ping {
                sent: 3,
                received: 0,
                duplicates: 0,
                mean_ms: None
            })
        );
    }
}
