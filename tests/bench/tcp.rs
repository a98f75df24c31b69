//! Owns what TCP gets, by iperf3: native IPv6 through the box and of its own beside a box without us, and IPv4 beside the kernel's NAT.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mape_tests::{
    lab::{Lab, LabOptions},
    netns::Netns,
    process::{interrupted, wait_for},
    recipe,
    servers::Servers,
    traffic::iperf::{self, Direction},
};
use serde_json::{Value, json};

use crate::{
    bed::{Chain, DEVICES, Way},
    gateway::Gateway,
    report::Report,
    stats::Readings,
    tools::Tools,
};

const SECONDS: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);
/// In the router's namespace, and as the LAN host reaches it.
const SERVER: &str = "2001:db8:12:3400::1";

/// What native IPv6 loses by the gateway's being attached, as a part of what goes without it: forwarded by XDP, forwarded by the kernel
/// behind our programs, and the box's own. Beside it what it loses by any program, one that passes everything: large frames and
/// finished sums.
pub(crate) fn ipv6(tools: &mut Tools, rounds: usize, report: &mut Report) -> Result<()> {
    let (without, pass, stack, ours) = (six("six")?, six("six-pass")?, six("six-stack")?, six("six-ours")?);
    let gateways = [Gateway::load(&stack, "stack")?, Gateway::load(&ours, "six")?];
    gateways[0].again_with(&["--ipv6-forward", "never"])?;
    gateways[1].again_with(&["--ipv6-forward", "always"])?;
    // A veth takes what a program sends by it where it has a program, or GRO: as a NIC does.
    for chain in [&pass, &stack, &ours] {
        tools.pass_at_the_ends(chain)?;
    }
    let [_, lan, wan, _] = DEVICES;
    for device in [lan, wan] {
        tools.pass(pass.middle(), device)?;
    }
    let mut servers = Vec::new();
    for chain in [&without, &pass, &stack, &ours] {
        let (router, _) = chain.sink(Way::Up);
        servers.push(router.start(&["iperf3", "--server", "--bind", SERVER])?);
        wait_for("iperf3", LIMIT, || {
            Ok(!router.tool("ss -6 -H -l -n -t sport = :5201")?.trim().is_empty())
        })?;
    }
    let (mut by_xdp, mut by_stack, mut by_pass) = <(Readings, Readings, Readings)>::default();
    let (mut own, mut own_by_pass) = <(Readings, Readings)>::default();
    for _ in 0..rounds {
        let plain = iperf6(without.source(Way::Up))?;
        by_pass.add(1.0 - iperf6(pass.source(Way::Up))? / plain);
        by_stack.add(1.0 - iperf6(stack.source(Way::Up))? / plain);
        by_xdp.add(1.0 - iperf6(ours.source(Way::Up))? / plain);
        let plain = iperf6(without.middle())?;
        own_by_pass.add(1.0 - iperf6(pass.middle())? / plain);
        own.add(1.0 - iperf6(ours.middle())? / plain);
    }
    let (stat, _) = gateways[1].stat()?;
    let native = stat
        .pointer("/directions/outbound/native/packets")
        .and_then(Value::as_u64);
    ensure!(
        native > Some(1_000),
        "XDP has forwarded {native:?} packets of native IPv6"
    );
    report.figure("ipv6_forwarding_loss", &by_xdp);
    report.figure("ipv6_own_loss", &own);
    report.single(
        "ipv6_loss",
        report.get("ipv6_forwarding_loss").max(report.get("ipv6_own_loss")),
    );
    report.figure("ipv6_loss_by_stack", &by_stack);
    report.figure("ipv6_loss_by_pass", &by_pass);
    report.figure("ipv6_own_loss_by_pass", &own_by_pass);
    Ok(())
}

/// A chain whose host has IPv6, too.
fn six(name: &str) -> Result<Chain> {
    let chain = Chain::new(name)?;
    let [host, lan, wan, router] = DEVICES;
    for (netns, line) in [
        (
            chain.source(Way::Up),
            format!("address add 2001:db8:a::2/64 dev {host} nodad"),
        ),
        (chain.source(Way::Up), "route add default via 2001:db8:a::1".to_owned()),
        (chain.middle(), format!("address add 2001:db8:a::1/64 dev {lan} nodad")),
        (
            chain.sink(Way::Up).0,
            format!("route add 2001:db8:a::/64 via 2001:db8:12:3400::2 dev {router}"),
        ),
    ] {
        // The link-local addresses are tentative for a moment, the lines above are not.
        netns
            .tool(&format!("ip -6 {line}"))
            .with_context(|| format!("{name}, {wan}"))?;
    }
    for interface in ["all", lan, wan] {
        chain
            .middle()
            .sysctl(&format!("ipv6/conf/{interface}/forwarding"), "1")?;
    }
    Ok(chain)
}

/// Bits a second that a server gets.
fn iperf6(netns: &Netns) -> Result<f64> {
    ensure!(!interrupted(), "interrupted");
    let time = SECONDS.to_string();
    let words = ["iperf3", "--client", SERVER, "--json", "--time", &time];
    let finished = netns.run(&words, LIMIT)?.success()?;
    let report: Value = serde_json::from_str(&finished.stdout)?;
    let rate = report
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64);
    rate.context("iperf3's report")
}

/// IPv4 through both gateways, and through the kernel's NAT by the usual recipe and no tunnel: by frames as on a wire, and as large as the
/// kernel likes. A veth hands its program neither large frames nor finished sums, so ours are those of a wire each time.
pub(crate) fn ipv4(rounds: usize, report: &mut Report) -> Result<()> {
    let program = crate::gateway::program()?;
    let lab = |name: &str| {
        Lab::up(&LabOptions {
            id: format!("bench{}{name}", std::process::id()),
            ..LabOptions::default()
        })
    };
    let mut ours = lab("o")?;
    ours.load(&program)?;
    let kernel = lab("k")?;
    recipe::apply(&kernel)?;
    let mut rows = Vec::new();
    for offloads in [false, true] {
        for lab in [&ours, &kernel] {
            lab.wait_until_reachable("host1")?;
        }
        if offloads {
            large_frames(&kernel)?;
        }
        let _servers = [Servers::start(&ours)?, Servers::start(&kernel)?];
        for streams in [1, 4] {
            for direction in [Direction::Up, Direction::Down] {
                let mut rates = [Readings::default(), Readings::default()];
                for _ in 0..rounds {
                    for (lab, rates) in [&ours, &kernel].into_iter().zip(&mut rates) {
                        ensure!(!interrupted(), "interrupted");
                        rates.add(iperf::tcp(lab, "host1", direction, streams, SECONDS)?.bits_per_second / 1e6);
                    }
                }
                let [ours, kernel] = rates.map(|rates| rates.summary().median);
                let frames = if offloads { "large" } else { "wire" };
                eprintln!(
                    "TCP, {frames} frames, {streams} streams, {direction:?}: gateways {ours:.0} Mbit/s, kernel {kernel:.0}"
                );
                rows.push(json!({
                    "frames": frames,
                    "streams": streams,
                    "direction": format!("{direction:?}").to_lowercase(),
                    "gateways_mbps": ours,
                    "kernel_snat_mbps": kernel,
                }));
            }
        }
    }
    report.put("tcp", rows.into());
    Ok(())
}

/// Has the hosts send frames as large as their kernel makes them, and every device take them.
fn large_frames(lab: &Lab) -> Result<()> {
    for (node, device) in [("host1", "eth0"), ("ce", "lan0"), ("ce", "wan0"), ("internet", "eth0")] {
        // What a device does not know stays as it is.
        lab.node(node)?
            .run(
                &[
                    "ethtool", "-K", device, "tx", "on", "sg", "on", "tso", "on", "gso", "on", "gro", "on",
                ],
                LIMIT,
            )
            .map(drop)?;
    }
    Ok(())
}
