//! Owns throughput: runs iperf3 in a host against the server and reads its JSON.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{lab::Lab, plan, traffic::snmp};

/// Which way the payload goes, seen from the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the LAN to the Internet.
    Up,
    /// From the Internet to the LAN.
    Down,
}

/// What one TCP run showed.
#[derive(Debug, Clone, Copy)]
pub struct Tcp {
    /// Payload received, in bits per second.
    pub bits_per_second: f64,
    /// Segments the sender sent again.
    pub retransmits: u64,
}

/// What one UDP run showed.
#[derive(Debug, Clone, Copy)]
pub struct Udp {
    /// Payload received, in bits per second.
    pub bits_per_second: f64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that did not reach the receiving machine.
    pub lost: u64,
    /// Datagrams that reached it and were not read in time, as its kernel counts them: on a busy machine iperf3 is not woken
    /// before its buffer is full.
    pub unread: u64,
    /// Datagrams that arrived after a later one.
    pub out_of_order: u64,
}

/// Sends TCP for some seconds over `streams` connections.
///
/// # Errors
/// When iperf3 fails.
pub fn tcp(lab: &Lab, host: &str, direction: Direction, streams: u32, seconds: u32) -> Result<Tcp> {
    let end = run(lab, host, direction, seconds, &format!("--parallel {streams}"))?;
    Ok(Tcp {
        bits_per_second: float(&end, "/sum_received/bits_per_second")?,
        retransmits: whole(&end, "/sum_sent/retransmits")?,
    })
}

/// Sends UDP datagrams of `size` bytes for some seconds, as many bits per second as said.
///
/// # Errors
/// When iperf3 fails.
pub fn udp(lab: &Lab, host: &str, direction: Direction, megabits: u32, size: u32, seconds: u32) -> Result<Udp> {
    let far = match direction {
        Direction::Up => "internet",
        Direction::Down => host,
    };
    let before = snmp::overflowed(lab, far)?;
    let end = run(
        lab,
        host,
        direction,
        seconds,
        &format!("--udp --bitrate {megabits}M --length {size} --window 200K"),
    )?;
    let streams = end
        .pointer("/streams")
        .and_then(Value::as_array)
        .context("iperf3 reported no streams")?;
    let out_of_order = streams
        .iter()
        .filter_map(|stream| stream.pointer("/udp/out_of_order")?.as_u64())
        .sum();
    // `sum` holds the receiver's loss and the sender's rate.
    let (sent, missing) = (whole(&end, "/sum/packets")?, whole(&end, "/sum/lost_packets")?);
    let unread = missing.min(snmp::overflowed(lab, far)? - before);
    let seconds = float(&end, "/sum/seconds")?;
    let received = u32::try_from(sent.saturating_sub(missing)).context("more datagrams than the check ever sends")?;
    Ok(Udp {
        bits_per_second: f64::from(received) * f64::from(size) * 8.0 / seconds,
        sent,
        lost: missing - unread,
        unread,
        out_of_order,
    })
}

fn run(lab: &Lab, host: &str, direction: Direction, seconds: u32, more: &str) -> Result<Value> {
    let reverse = if direction == Direction::Down { "--reverse" } else { "" };
    let line = format!(
        "iperf3 --client {} --json --connect-timeout 5000 --time {seconds} {reverse} {more}",
        plan::SERVER
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let finished = lab.exec(host, &words, Duration::from_secs(u64::from(seconds) + 30))?;
    let mut report: Value = serde_json::from_str(&finished.stdout).with_context(|| {
        format!(
            "iperf3 printed no JSON: {} {}",
            finished.stdout.trim(),
            finished.stderr.trim()
        )
    })?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3 from {host}: {error}");
    }
    Ok(report["end"].take())
}

fn float(report: &Value, path: &str) -> Result<f64> {
    report
        .pointer(path)
        .and_then(Value::as_f64)
        .with_context(|| format!("iperf3's report lacks end{path}"))
}

fn whole(report: &Value, path: &str) -> Result<u64> {
    report
        .pointer(path)
        .and_then(Value::as_u64)
        .with_context(|| format!("iperf3's report lacks end{path}"))
}
