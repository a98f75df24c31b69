//! Owns the programs that live on ICMP errors: traceroute, mtr and tracepath.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;

/// More hops than the lab has.
const MOST_HOPS: &str = "8";
const LIMIT: Duration = Duration::from_secs(40);

/// What the probes of a trace are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Datagrams to ports that nobody listens on.
    Udp,
    /// Echo requests.
    Icmp,
    /// SYNs.
    Tcp,
}

/// Who answered a probe; none where nobody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The address.
    pub from: Option<Ipv4Addr>,
    /// It was said that the target cannot be reached, where that is not the end of an ordinary trace.
    pub is_refusal: bool,
}

/// Runs traceroute with one probe a hop, one after the other.
///
/// # Errors
/// When it cannot run.
pub fn traceroute(lab: &Lab, host: &str, target: Ipv4Addr, probe: Probe) -> Result<Vec<Hop>> {
    let target = target.to_string();
    let mut words = vec!["traceroute", "-n", "-q", "1", "-N", "1", "-w", "1", "-m", MOST_HOPS];
    words.extend(match probe {
        Probe::Udp => ["-p", "33434"].as_slice(),
        Probe::Icmp => &["-I"],
        Probe::Tcp => &["-T", "-p", "80"],
    });
    words.push(&target);
    let finished = lab.exec(host, &words, LIMIT)?.success()?;
    Ok(hops(&finished.stdout))
}

fn hops(text: &str) -> Vec<Hop> {
    let hop = |line: &str| {
        let mut words = line.split_whitespace();
        words.next()?.parse::<u8>().ok()?;
        Some(Hop {
            from: words.next()?.parse().ok(),
            is_refusal: words.any(|word| word.starts_with('!')),
        })
    };
    text.lines().filter_map(hop).collect()
}

/// A line of mtr's report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Who answered; none where nobody did.
    pub from: Option<Ipv4Addr>,
    /// Probes that nobody answered, per cent.
    pub lost: f64,
}

/// Runs mtr for `cycles` rounds.
///
/// # Errors
/// When it cannot run or prints something else than its report.
pub fn mtr(lab: &Lab, host: &str, target: Ipv4Addr, probe: Probe, cycles: u8) -> Result<Vec<Line>> {
    let (target, cycles) = (target.to_string(), cycles.to_string());
    let mut words = vec!["mtr", "--json", "-n", "-i", "0.3", "-G", "1", "-m", MOST_HOPS];
    words.extend(["-c", &cycles]);
    words.extend(match probe {
        Probe::Udp => ["--udp"].as_slice(),
        Probe::Icmp => &[],
        Probe::Tcp => &["--tcp", "-P", "80"],
    });
    words.push(&target);
    let finished = lab.exec(host, &words, LIMIT)?.success()?;
    report(&finished.stdout).with_context(|| format!("mtr said: {}{}", finished.stdout, finished.stderr))
}

fn report(text: &str) -> Option<Vec<Line>> {
    let report: Value = serde_json::from_str(text).ok()?;
    let line = |hub: &Value| {
        Some(Line {
            from: hub.get("host")?.as_str()?.parse().ok(),
            lost: hub.get("Loss%")?.as_f64()?,
        })
    };
    report.pointer("/report/hubs")?.as_array()?.iter().map(line).collect()
}

/// What tracepath found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Who answered, hop by hop; none where nobody did.
    pub hops: Vec<Option<Ipv4Addr>>,
    /// The largest packet that goes the whole way.
    pub mtu: u16,
    /// Whether the target answered.
    pub is_reached: bool,
}

/// Runs tracepath.
///
/// # Errors
/// When it cannot run or prints something else.
pub fn tracepath(lab: &Lab, host: &str, target: Ipv4Addr) -> Result<Way> {
    let target = target.to_string();
    let finished = lab
        .exec(host, &["tracepath", "-4", "-n", "-m", MOST_HOPS, &target], LIMIT)?
        .success()?;
    way(&finished.stdout).with_context(|| format!("tracepath said: {}{}", finished.stdout, finished.stderr))
}

/// A hop has a line for each answer to it: from a router before it that what was sent is too big, then its own. The last line is
/// the sum.
fn way(text: &str) -> Option<Way> {
    let mut hops: Vec<Option<Ipv4Addr>> = Vec::new();
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(':') else {
            continue;
        };
        let Ok(number) = number.trim().parse::<usize>() else {
            continue;
        };
        let from = rest.split_whitespace().next().and_then(|word| word.parse().ok());
        if hops.len() < number {
            hops.resize(number, None);
        }
        if let Some(hop) = number.checked_sub(1).and_then(|at| hops.get_mut(at)) {
            *hop = from.or(*hop);
        }
    }
    let (_, sum) = text.rsplit_once("pmtu ")?;
    Some(Way {
        hops,
        mtu: sum.split_whitespace().next()?.parse().ok()?,
        is_reached: text.contains("reached"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);
    const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn a_trace_has_a_line_for_each_hop() {
        let text = "traceroute to 198.51.100.1 (198.51.100.1), 8 hops max, 60 byte packets\n \
                    1  192.168.10.1  0.063 ms\n 2  *\n 3  198.51.100.1  0.025 ms !H\n";
        let hop = |from, is_refusal| Hop { from, is_refusal };
        assert_eq!(
            hops(text),
            [hop(Some(NEAR), false), hop(None, false), hop(Some(FAR), true)]
        );
    }

    #[test]
    fn a_report_is_read_hub_by_hub() {
        let text = r#"{"report": {"mtr": {"dst": "198.51.100.1"}, "hubs": [
            {"count": 1, "host": "192.168.10.1", "Loss%": 0.0, "Snt": 3}, {"count": 2, "host": "???", "Loss%": 100.0, "Snt": 3}]}}"#;
        let line = |from, lost| Line { from, lost };
        assert_eq!(report(text), Some(vec![line(Some(NEAR), 0.0), line(None, 100.0)]));
    }

    #[test]
    fn of_a_path_the_last_mtu_counts() {
        let text = " 1?: [LOCALHOST]                      pmtu 1500\n 1:  192.168.10.1    0.050ms \n \
                    2:  192.168.10.1    0.030ms pmtu 1460\n 2:  no reply\n 3:  192.168.10.1    0.030ms pmtu 1360\n 3:  198.51.100.1   0.060ms reached\n     \
                    Resume: pmtu 1360 hops 3 back 3 \n";
        let found = Way {
            hops: vec![Some(NEAR), Some(NEAR), Some(FAR)],
            mtu: 1360,
            is_reached: true,
        };
        assert_eq!(way(text), Some(found));
    }
}
