//! TCP through both gateways held against TCP through a bare XDP redirect: how often each had to send again.
//!
//! The bare redirect stands where the customer edge stands, between two hosts of one network, so it changes nothing in a
//! packet; the gateways translate, encapsulate, cross a router, decapsulate.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{Xdp, XdpMode},
};
use mape_common::layout::programs;
use mape_tests::{
    gateway,
    lab::{Lab, LabOptions},
    netns::Netns,
    process::{Background, watch_signals},
    servers::Servers,
    table::kernel::KernelWorld,
    traffic::iperf::{self, Direction, Tcp},
};
use serde_json::Value;

const SECONDS: u32 = 4;
/// One full queue makes a stream send hundreds of segments again, and any program on the machine can fill one: what the gateways lose
/// by themselves, they lose each time.
const ATTEMPTS: usize = 3;
const STREAMS: [u32; 2] = [1, 4];
/// Payload of a segment inside the tunnel with time stamps: what a retransmission is one of.
const SEGMENT_BITS: f64 = 1408.0 * 8.0;

struct Rooms(Vec<Netns>);

impl Drop for Rooms {
    fn drop(&mut self) {
        for netns in &self.0 {
            netns.delete();
        }
    }
}

/// A program of the object on a device of the calling thread's namespace; where it redirects to, if it does.
fn attach(name: &str, device: &str, target: Option<&str>) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(mape_ctl::object::object())?;
    if let Some(target) = target {
        let mut map: Array<_, u32> = Array::try_from(ebpf.map_mut("REDIRECT_TO").context("REDIRECT_TO")?)?;
        map.set(0, KernelWorld::index(target)?, 0)?;
    }
    let program: &mut Xdp = ebpf.program_mut(name).context("program")?.try_into()?;
    program.load()?;
    program.attach(device, XdpMode::Driver)?;
    Ok(ebpf)
}

/// Two hosts with a bare redirect between them; TCP of each number of streams.
fn through_a_bare_redirect() -> Result<Vec<Tcp>> {
    let name = |node: &str| format!("mape-bare-{node}-{}", std::process::id());
    let mut rooms = Rooms(Vec::new());
    for node in ["left", "middle", "right"] {
        rooms.0.push(Netns::create(&name(node))?);
    }
    let [left, middle, right] = &rooms.0[..] else {
        anyhow::bail!("three namespaces")
    };
    for (host, far, near, address) in [(left, "l0", "m0", "192.0.2.1/24"), (right, "r0", "m1", "192.0.2.2/24")] {
        host.tool(&format!(
            "ip link add {far} type veth peer name {near} netns {}",
            middle.name()
        ))?;
        host.tool(&format!("ip addr add {address} dev {far}"))?;
        for (netns, device) in [(host, far), (middle, near)] {
            netns.tool(&format!("ethtool -K {device} tx off sg off tso off gso off gro on"))?;
            netns.tool(&format!("ip link set {device} mtu 1460 txqueuelen 1000 up"))?;
        }
    }
    let programs = [
        middle.enter(|| attach(programs::BARE, "m0", Some("m1")))?,
        middle.enter(|| attach(programs::BARE, "m1", Some("m0")))?,
        left.enter(|| attach(programs::PASS, "l0", None))?,
        right.enter(|| attach(programs::PASS, "r0", None))?,
    ];
    let _server: Background = right.start(&["iperf3", "--server", "--bind", "192.0.2.2"])?;
    left.run(&["ping", "-c", "3", "-i", "0.2", "192.0.2.2"], Duration::from_secs(20))?
        .success()?;
    let runs = STREAMS.map(|streams| -> Result<Tcp> {
        let line = format!("iperf3 --client 192.0.2.2 --json --time {SECONDS} --parallel {streams}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let finished = left.run(&words, Duration::from_mins(1))?.success()?;
        let report: Value = serde_json::from_str(&finished.stdout)?;
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64).context("iperf3's report");
        Ok(Tcp {
            bits_per_second: number("/end/sum_received/bits_per_second")?,
            retransmits: report
                .pointer("/end/sum_sent/retransmits")
                .and_then(Value::as_u64)
                .context("retransmits")?,
        })
    });
    drop(programs);
    runs.into_iter().collect()
}

/// The same through both gateways of the lab.
fn through_the_gateways() -> Result<Vec<Tcp>> {
    let mut lab = Lab::up(&LabOptions::default())?;
    let _servers = Servers::start(&lab)?;
    lab.load(&gateway::program()?)?;
    lab.wait_until_reachable("host1")?;
    STREAMS
        .into_iter()
        .map(|streams| iperf::tcp(&lab, "host1", Direction::Up, streams, SECONDS))
        .collect()
}

/// Segments sent again, of a million.
fn per_million(tcp: &Tcp) -> f64 {
    let again = f64::from(u32::try_from(tcp.retransmits).unwrap_or(u32::MAX));
    again * 1e6 * SEGMENT_BITS / (tcp.bits_per_second * f64::from(SECONDS))
}

#[test]
fn tcp_sends_again_no_more_often_than_through_a_bare_redirect() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return;
    }
    watch_signals().unwrap();
    let mut worse = Vec::new();
    for _ in 0..ATTEMPTS {
        worse = attempt().unwrap();
        if worse.is_empty() {
            return;
        }
    }
    panic!("in each of {ATTEMPTS} attempts; in the last: {}", worse.join("; "));
}

/// Both, one after the other; where the gateways have sent again more often than they may.
fn attempt() -> Result<Vec<String>> {
    let bare = through_a_bare_redirect()?;
    let ours = through_the_gateways()?;
    let mut worse = Vec::new();
    for ((bare, ours), streams) in bare.iter().zip(&ours).zip(STREAMS) {
        println!(
            "{streams} streams: bare redirect {:.0} Mbit/s, {} sent again; gateways {:.0} Mbit/s, {} sent again",
            bare.bits_per_second / 1e6,
            bare.retransmits,
            ours.bits_per_second / 1e6,
            ours.retransmits
        );
        // Two processors run both ends and every hop: a few losses are the machine's, at either.
        if per_million(ours) > per_million(bare).max(200.0) * 2.0 {
            worse.push(format!(
                "{streams} streams: {:.0} of a million segments sent again, {:.0} through the bare redirect",
                per_million(ours),
                per_million(bare)
            ));
        }
    }
    Ok(worse)
}
