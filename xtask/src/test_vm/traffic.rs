//! Owns the traffic through a customer edge: by the fast path, and what only the slow path takes.

use std::{fs, net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    capture::Capture,
    plan,
    traffic::{
        iperf::Direction,
        names,
        numbered::{self, Load},
        ping, web,
    },
};

use super::{
    bench::{Bench, CONFIG},
    report::Found,
};

/// Of the file that is sent each way.
const MEBIBYTES: u64 = 8;
const BOTH: [Direction; 2] = [Direction::Down, Direction::Up];
/// Datagrams that are counted one by one.
const NUMBERED: Load = Load {
    count: 2_000,
    size: 200,
    rate: 1_000,
};
/// An echo that does not fit the tunnel, and does fit the LAN.
const TOO_BIG: u32 = 1_472;
/// The MTU of a narrow link on the way to the relay, what the outer header takes of it, and an echo that fits the tunnel and not that.
const NARROW: u16 = 1_400;
const OUTER: u16 = 40;
const NARROW_ECHO: u32 = 1_400;

/// A file and counted datagrams each way.
pub(super) fn both_ways(bench: &Bench) -> Result<String> {
    let mut said = Vec::new();
    for direction in BOTH {
        let file = web::transfer(&bench.lab, &bench.servers, "host1", direction, MEBIBYTES)?;
        ensure!(file.is_intact(), "{MEBIBYTES} MiB {direction:?}: another SHA-256");
        said.push(format!("TCP {direction:?} {:.0} Mbit/s", file.bits_per_second / 1e6));
        counted(bench, direction, NUMBERED)?;
    }
    Ok(said.join(", "))
}

fn counted(bench: &Bench, direction: Direction, load: Load) -> Result<()> {
    let seen = numbered::send(&bench.lab, "host1", direction, load)?;
    // Where nothing comes back, a packet in two seconds asks by the stack whether the router is still there.
    let most = load.count / load.rate as usize / 2 + 1;
    ensure!(
        (seen.sent, seen.lost, seen.duplicates, seen.damaged) == (load.count, 0, 0, 0) && seen.reordered <= most,
        "UDP {direction:?}, {} bytes: {seen:?}",
        load.size
    );
    Ok(())
}

fn echoes(bench: &Bench, count: u32, size: u32) -> Result<()> {
    let echo = ping::ping(&bench.lab, "host1", &plan::SERVER.to_string(), count, size)?;
    ensure!(
        (echo.received, echo.duplicates) == (count, 0),
        "ping with {size} bytes: {echo:?}"
    );
    Ok(())
}

/// Everything that fits, with a capture on the provider's side.
pub(super) fn fast(bench: &mut Bench) -> Result<Found> {
    let before = bench.counts()?;
    let capture = Capture::start(&bench.lab, "transit", "br0")?;
    let said = both_ways(bench)?;
    echoes(bench, 50, 56)?;
    for over_tcp in [false, true] {
        let names = names::query(&bench.lab, "host1", 25, over_tcp)?;
        ensure!(names.answered == names.asked, "DNS: {names:?}");
    }
    let wire = capture.judge()?;
    ensure!(
        wire.is_clean() && wire.from_ce > 0 && wire.to_ce > 0,
        "on the wire: {} frames from the CE, {} to it; {:?}",
        wire.from_ce,
        wire.to_ce,
        wire.described
    );
    let counts = bench.counts()?.since(before);
    // 8 MiB are 6,000 segments.
    ensure!(
        counts.fast.iter().all(|packets| *packets > 8_000) && counts.slow.iter().all(|packets| *packets < 100),
        "not by the fast path: {counts:?}"
    );
    Ok(Found::works(format!(
        "{said}; {} packets out and {} in by XDP, {} and {} by the stack; {} frames on the wire without a fault",
        counts.fast[0], counts.fast[1], counts.slow[0], counts.slow[1], wire.frames
    )))
}

/// Packets in fragments.
pub(super) fn fragments(bench: &mut Bench) -> Result<Found> {
    let host = bench.lab.node("host1")?;
    host.tool("ip -4 route replace default via 192.168.10.1 mtu 1460")?;
    let passed = in_fragments(bench);
    bench
        .lab
        .node("host1")?
        .tool("ip -4 route replace default via 192.168.10.1")?;
    passed.map(Found::works)
}

/// Packets in fragments, each larger than the tunnel: cut by a host that knows only its LAN.
pub(super) fn large_fragments(bench: &mut Bench) -> Result<Found> {
    in_fragments(bench).map(Found::works)
}

pub(super) fn in_fragments(bench: &Bench) -> Result<String> {
    echoes(bench, 20, 4_000)?;
    for direction in BOTH {
        let large = Load {
            count: 200,
            size: 8_192,
            rate: 100,
        };
        counted(bench, direction, large)?;
    }
    Ok("pings of 4,000 bytes, datagrams of 8,192 bytes both ways".to_owned())
}

/// What is larger than the tunnel: the sender is told, or the gateway fragments.
pub(super) fn too_big(bench: &mut Bench) -> Result<Found> {
    let whole = ping::whole(&bench.lab, "host1", &plan::SERVER.to_string(), TOO_BIG)?;
    let router = Ipv4Addr::new(192, 168, 10, 1);
    ensure!(
        whole.told == Some((router, 1_460)),
        "a sender of packets that must not be fragmented is told: {whole:?}"
    );
    let in_pieces = may_be_fragmented(bench, TOO_BIG)?;
    Ok(Found::works(format!("told 1460 by {router}; {in_pieces}")))
}

/// Sends what may be fragmented, and needs to be: by the stack.
fn may_be_fragmented(bench: &mut Bench, size: u32) -> Result<String> {
    let before = bench.counts()?;
    let (size, server) = (size.to_string(), plan::SERVER.to_string());
    let words = [
        "ping", "-n", "-q", "-M", "dont", "-i", "0.05", "-c", "20", "-W", "2", "-s", &size, &server,
    ];
    // What the host has just learnt would have it fragment by itself.
    bench.lab.node("host1")?.tool("ip -4 route flush cache")?;
    let said = bench.lab.exec("host1", &words, Duration::from_secs(30))?.stdout;
    ensure!(
        said.contains("20 received"),
        "pings of {size} bytes that may be fragmented: {said}"
    );
    let counts = bench.counts()?.since(before);
    ensure!(
        counts.slow[0] >= 20,
        "the stack should have fragmented them: {counts:?}"
    );
    Ok(format!(
        "20 of 20 pings fragmented by the stack ({} fragments)",
        counts.slow[0]
    ))
}

/// A link between the gateway and its relay that is narrower than the tunnel, with `mape-ctl run` there; taken out again at the end. What was learned
/// of it is forgotten: by the kernel when told to, by the gateway when it is loaded anew.
pub(super) fn narrow_path(bench: &mut Bench) -> Result<Found> {
    let way = format!("{}/128 dev br0", plan::BR_IPV6);
    let transit = |bench: &Bench, line: &str| {
        bench
            .lab
            .node("transit")?
            .tool(&format!("ip -6 route {line}"))
            .map(drop)
    };
    bench.run()?;
    transit(bench, &format!("add {way} mtu {NARROW}"))?;
    let mut passed = by_narrow_path(bench);
    if passed.is_err() {
        let told = bench
            .machine
            .must("cat /tmp/run.log; ip -4 route show dev mape0; mape-ctl stat")?;
        passed = passed.context(told);
    }
    transit(bench, &format!("delete {way}"))?;
    bench.must_ctl("unload")?;
    bench.machine.must("ip -6 route flush cache; ip -4 route flush cache")?;
    let said = passed?;
    bench.must_ctl(&format!("load --config {CONFIG}"))?;
    bench.wait_until_reachable()?;
    Ok(Found::works(said))
}

fn by_narrow_path(bench: &mut Bench) -> Result<String> {
    let mut said = Vec::new();
    for by in ["XDP", "the stack"] {
        let fits = told_what_fits(bench).context(by)?;
        bench.wait_for("ip -4 route show dev mape0", &format!("mtu {}", NARROW - OUTER))?;
        let in_pieces = may_be_fragmented(bench, NARROW_ECHO).context(by)?;
        for direction in BOTH {
            let file = web::transfer(&bench.lab, &bench.servers, "host1", direction, MEBIBYTES)?;
            ensure!(file.is_intact(), "{by}, {direction:?}: another SHA-256");
        }
        said.push(format!("{by}: {fits}, {in_pieces}, a file each way"));
        if by == "XDP" {
            bench.must_ctl("detach")?;
        }
    }
    Ok(said.join("; "))
}

/// Whoever sends what must not be fragmented is told what the narrow link leaves, after a packet or two of which only the gateway was told.
fn told_what_fits(bench: &Bench) -> Result<String> {
    let router = Ipv4Addr::new(192, 168, 10, 1);
    bench.lab.node("host1")?.tool("ip -4 route flush cache")?;
    let whole = ping::whole(&bench.lab, "host1", &plan::SERVER.to_string(), NARROW_ECHO)?;
    ensure!(
        whole
            .told
            .is_some_and(|(from, mtu)| from == router && mtu == NARROW - OUTER),
        "{router} should tell {}: {whole:?}",
        NARROW - OUTER
    );
    Ok(format!("told {}", NARROW - OUTER))
}

/// Options, which XDP leaves to the stack.
pub(super) fn options(bench: &mut Bench) -> Result<Found> {
    let before = bench.counts()?;
    let server = plan::SERVER.to_string();
    // The border relay's XDP has no stack behind it that would carry them on: what counts is that they come out, translated.
    let filter = format!(
        "ip6 proto 4 and ip6[40] > 0x45 and ip6[52:4] = {:#x}",
        u32::from(plan::CE_IPV4)
    );
    let words = ["timeout", "20", "tcpdump", "-i", "br0", "-n", "-c", "5", &filter];
    let watching = bench.lab.spawn("transit", &words)?;
    thread::sleep(Duration::from_secs(1));
    let words = [
        "ping", "-n", "-q", "-T", "tsonly", "-i", "0.2", "-c", "10", "-W", "1", &server,
    ];
    bench.lab.exec("host1", &words, Duration::from_secs(30))?;
    let seen = watching.finish(Duration::from_secs(25))?;
    ensure!(
        seen.status.success() && seen.stdout.lines().count() == 5,
        "packets with options do not leave translated: {}{}",
        seen.stdout,
        seen.stderr
    );
    let counts = bench.counts()?.since(before);
    ensure!(counts.slow[0] >= 5, "the stack should have forwarded them: {counts:?}");
    Ok(Found::works(format!(
        "timestamps, outbound: {} packets translated by the stack",
        counts.slow[0]
    )))
}

/// The same with a border relay that carries them on: they come back.
pub(super) fn options_both_ways(bench: &Bench) -> Result<()> {
    let server = plan::SERVER.to_string();
    let words = [
        "ping", "-n", "-q", "-T", "tsonly", "-i", "0.2", "-c", "10", "-W", "1", &server,
    ];
    let said = bench.lab.exec("host1", &words, Duration::from_secs(30))?.stdout;
    ensure!(said.contains("10 received"), "pings with timestamps: {said}");
    Ok(())
}

/// Packets whose TTL ends at the gateway, and behind it.
pub(super) fn time_exceeded(bench: &mut Bench) -> Result<Found> {
    let server = plan::SERVER.to_string();
    let mut said = Vec::new();
    for (ttl, router) in [("1", "192.168.10.1"), ("2", "203.0.113.1")] {
        let words = ["ping", "-n", "-t", ttl, "-i", "0.3", "-c", "3", "-W", "1", &server];
        let shown = bench.lab.exec("host1", &words, Duration::from_secs(20))?.stdout;
        ensure!(
            shown.contains(&format!("From {router} ")) && shown.contains("Time to live exceeded"),
            "a TTL of {ttl} should end at {router}: {shown}"
        );
        said.push(format!("{ttl}: {router}"));
    }
    Ok(Found::works(said.join(", ")))
}

/// What the gateway itself sends and gets.
pub(super) fn own(bench: &mut Bench) -> Result<Found> {
    let before = bench.counts()?;
    let (server, dns, (name, address)) = (plan::SERVER, plan::DNS, plan::NAME);
    let echo = bench.machine.must(&format!("ping -n -q -i 0.05 -c 20 -W 2 {server}"))?;
    ensure!(echo.contains("20 received"), "ping: {echo}");
    let looked_up = bench.machine.must(&format!("nslookup {name} {dns} || true"))?;
    ensure!(looked_up.contains(&address.to_string()), "nslookup: {looked_up}");
    own_file(bench)?;
    let counts = bench.counts()?.since(before);
    ensure!(
        counts.slow.iter().all(|packets| *packets > 50),
        "the stack should have carried them: {counts:?}"
    );
    Ok(Found::works(format!(
        "ping, DNS, 4 MiB by hash each way; {} packets out and {} in",
        counts.slow[0], counts.slow[1]
    )))
}

/// A file each way. What the kernel sends is cut into packets behind our programs, and what it gets it has put together before.
fn own_file(bench: &mut Bench) -> Result<()> {
    let server = plan::SERVER;
    let (down, up) = (
        bench.servers.files().join("down.bin"),
        bench.servers.files().join("up.bin"),
    );
    let bytes: Vec<u8> = (0..4_u32 << 20)
        .map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    fs::write(&down, &bytes).with_context(|| format!("cannot write {}", down.display()))?;
    bench.machine.must(&format!(
        "set -e
        curl -sS -m 20 -o /tmp/own.bin http://{server}/down.bin
        curl -sS -m 20 -H Expect: -T /tmp/own.bin http://{server}/up.bin"
    ))?;
    let back = fs::read(&up).with_context(|| format!("cannot read {}", up.display()))?;
    ensure!(back == bytes, "a file that went there and back is another one");
    Ok(())
}

/// What the gateway itself sends and gets in fragments.
pub(super) fn own_fragments(bench: &mut Bench) -> Result<Found> {
    let echo = bench.machine.must(&format!(
        "ping -n -q -i 0.05 -c 20 -W 2 -s 4000 {} || true",
        plan::SERVER
    ))?;
    ensure!(echo.contains("20 received"), "ping of 4,000 bytes: {}", echo.trim());
    Ok(Found::works("20 pings of 4,000 bytes"))
}
