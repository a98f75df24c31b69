//! Owns the tests of the slow path with real programs and of flows that change paths while they run: by NICs taken out of the fast
//! path and put back.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV6},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use mape_tests::{
    capture::Capture,
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    netns::Netns,
    plan::{self, Shape},
    process::{interrupted, watch_signals},
    recipe,
    servers::Servers,
    table::frame::{Frame, udp},
    traffic::{
        iperf::Direction,
        numbered::{self, Load, Numbered},
        ping, snmp,
        trace::{self, Probe},
        web,
    },
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket};
use serde_json::Value;

const SERVER: &str = "198.51.100.1";

/// A lab with both gateways, in which the Internet sends no packet larger than the tunnel takes: the relay's slow path is not ours.
fn lab() -> Result<Option<Lab>> {
    if !is_root() {
        return Ok(None);
    }
    watch_signals()?;
    let mut lab = Lab::up(&LabOptions {
        shape: Shape::FarServer,
        ..LabOptions::default()
    })?;
    // What this host sends may be fragmented on its way.
    lab.node("host1")?.sysctl("ipv4/ip_no_pmtu_disc", "1")?;
    lab.node("internet")?
        .tool("ip -4 route replace 192.0.2.0/24 via 203.0.113.1 mtu 1460")?;
    lab.load(&gateway::program()?)?;
    for host in ["host1", "host2"] {
        lab.wait_until_reachable(host)?;
    }
    Ok(Some(lab))
}

fn ctl(lab: &Lab, words: &[&str]) -> Result<String> {
    let done = lab.gateway(Role::Ce)?.ctl(lab.node("ce")?, words)?.success()?;
    Ok(done.stdout)
}

fn attach(lab: &Lab) -> Result<()> {
    lab.gateway(Role::Ce)?.load(lab.node("ce")?)
}

fn stat(lab: &Lab) -> String {
    ctl(lab, &["stat"]).unwrap_or_else(|error| error.to_string())
}

/// Packets of the customer edge by either path.
fn by_path(lab: &Lab) -> Result<[[u64; 2]; 2]> {
    lab.gateway(Role::Ce)?.by_path(lab.node("ce")?)
}

fn is_whole(seen: &Numbered) -> bool {
    (seen.lost, seen.duplicates, seen.reordered, seen.damaged) == (0, 0, 0, 0)
}

#[test]
fn what_is_larger_than_the_tunnel_arrives_whole() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let capture = Capture::start(&lab, "transit", "ce0").unwrap();
    for (host, size) in [("host1", 4_000), ("host1", 1_472), ("host2", 8_000), ("host1", 20_000)] {
        let echo = ping::ping(&lab, host, SERVER, 50, size).unwrap();
        assert_eq!(
            (echo.received, echo.duplicates),
            (50, 0),
            "{host}, {size}: {echo:?}\n{}",
            stat(&lab)
        );
    }
    for (size, count, rate) in [(1_472, 1_000, 1_000), (8_192, 1_000, 300), (60_000, 50, 20)] {
        let seen = numbered::send(&lab, "host1", Direction::Up, Load { count, size, rate }).unwrap();
        println!("{size} bytes: {seen:?}");
        assert!(is_whole(&seen), "{size}: {seen:?}\n{}", stat(&lab));
    }
    let wire = capture.judge().unwrap();
    assert!(wire.is_clean() && wire.from_ce > 6_000, "{wire:?}");
    // With DF, the host is told.
    let told = ping::whole(&lab, "host2", "198.51.100.9", 1_472).unwrap();
    assert_eq!(told.told.map(|(_, mtu)| mtu), Some(1_460), "{told:?}");
}

/// Datagrams, so many a second, and a file of so many mebibytes arrive whole both ways, and a trace shows the server.
fn passes_both_ways(lab: &Lab, servers: &Servers, host: &str, rate: u32, mebibytes: u64) -> Result<()> {
    for direction in [Direction::Up, Direction::Down] {
        let load = Load {
            count: 2_000,
            size: 1_400,
            rate,
        };
        let seen = numbered::send(lab, host, direction, load)?;
        ensure!(is_whole(&seen), "{direction:?}: {seen:?}\n{}", stat(lab));
        let file = web::transfer(lab, servers, host, direction, mebibytes)?;
        println!("{direction:?}: {:.0} Mbit/s", file.bits_per_second / 1e6);
        ensure!(file.is_intact(), "{direction:?}: {file:?}");
    }
    let route = trace::traceroute(lab, host, plan::SERVER, Probe::Icmp)?;
    ensure!(route.last().and_then(|hop| hop.from) == Some(plan::SERVER), "{route:?}");
    Ok(())
}

#[test]
fn the_gateways_own_traffic_passes_the_tunnel() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let servers = Servers::start(&lab).unwrap();
    let capture = Capture::start(&lab, "transit", "ce0").unwrap();
    for size in [56, 1_432, 4_000] {
        let echo = ping::ping(&lab, "ce", SERVER, 30, size).unwrap();
        assert_eq!(echo.received, 30, "{size}: {echo:?}\n{}", stat(&lab));
    }
    // TCP hands the device up to 64 KiB at once, with sums that nobody has made yet.
    passes_both_ways(&lab, &servers, "ce", 2_000, 32).unwrap();
    let wire = capture.judge().unwrap();
    assert!(wire.is_clean() && wire.from_ce > 20_000, "{wire:?}");
}

#[test]
fn without_xdp_everything_takes_the_slow_path_and_is_right_on_the_wire() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let servers = Servers::start(&lab).unwrap();
    println!("{}", ctl(&lab, &["detach"]).unwrap());
    let [fast, _] = by_path(&lab).unwrap();
    // As from a NIC that has left sums and cutting to others: the bridge of a virtual machine's host does.
    for host in ["host1", "host2"] {
        lab.node(host)
            .unwrap()
            .tool("ethtool -K eth0 tx on sg on tso on gso on")
            .unwrap();
    }
    let capture = Capture::start(&lab, "transit", "ce0").unwrap();
    let echo = ping::ping(&lab, "host2", SERVER, 50, 1_000).unwrap();
    assert_eq!(echo.received, 50, "{echo:?}\n{}", stat(&lab));
    passes_both_ways(&lab, &servers, "host1", 1_000, 16).unwrap();
    let wire = capture.judge().unwrap();
    assert!(wire.is_clean() && wire.from_ce > 10_000, "{wire:?}");
    let [later, _] = by_path(&lab).unwrap();
    assert_eq!(later, fast, "no packet was forwarded by XDP");
}

/// The tunnel device has no program, as when somebody has made it anew; and another one sends with the tunnel's address.
#[test]
fn nothing_leaves_untranslated_where_the_tunnel_device_has_no_program() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let (gateway, ce) = (lab.gateway(Role::Ce).unwrap(), lab.node("ce").unwrap());
    ctl(&lab, &["detach"]).unwrap();
    fs::remove_file(gateway.pin("tunnel/egress")).unwrap();
    let capture = Capture::start(&lab, "transit", "ce0").unwrap();
    let echo = ping::ping(&lab, "host1", SERVER, 20, 56).unwrap();
    assert_eq!(echo.received, 0, "{echo:?}\n{}", stat(&lab));
    carry_as_it_is(ce, plan::CE_IPV4, 5).unwrap();
    carry_as_it_is(ce, [192, 168, 10, 2].into(), 20).unwrap();
    let wire = capture.judge().unwrap();
    assert!(wire.is_clean() && wire.from_ce == 5, "{wire:?}");
    assert_eq!(gateway.refused(ce, "untranslated").unwrap(), 20, "{}", stat(&lab));

    attach(&lab).unwrap();
    let echo = ping::ping(&lab, "host1", SERVER, 20, 56).unwrap();
    assert_eq!(echo.received, 20, "{echo:?}\n{}", stat(&lab));
}

/// Sends datagrams of that source into the tunnel, as a tunnel device without a program does.
fn carry_as_it_is(ce: &Netns, source: Ipv4Addr, count: usize) -> Result<()> {
    let port = (4096..=u16::MAX).find(|port| plan::is_own_port(*port));
    let packet = Frame::new(source, plan::SERVER, udp(port.context("no port is ours")?, 9)).packet();
    ce.enter(|| {
        let raw = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::IPIP)).context("no raw socket")?;
        bind(&raw, &SocketAddrV6::new(plan::CE_IPV6, 0, 0, 0))?;
        for _ in 0..count {
            let sent = sendto(
                &raw,
                &packet,
                SendFlags::empty(),
                &SocketAddrV6::new(plan::BR_IPV6, 0, 0, 0),
            );
            // So the kernel says that a program has dropped the packet.
            if sent != Err(Errno::NOBUFS) {
                sent?;
            }
        }
        Ok(())
    })
}

/// Which NICs leave the fast path, and for how long it is so, and then not so.
struct Change {
    nics: &'static [&'static str],
    pause: Duration,
}

/// Takes NICs out and puts them back until it is told to stop; gives how many times.
fn change(lab: &Lab, change: &Change, stop: &AtomicBool) -> Result<usize> {
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) && !interrupted() {
        let begin = Instant::now();
        ctl(lab, &[&["detach"], change.nics].concat())?;
        thread::sleep(change.pause);
        attach(lab)?;
        // However long loading takes on this machine: both paths have their share.
        thread::sleep(begin.elapsed());
        times += 2;
    }
    Ok(times)
}

/// Runs something while paths change; gives what it gave and how many changes there were.
fn while_changing<T: Send>(lab: &Lab, changes: &Change, work: impl FnOnce() -> Result<T> + Send) -> Result<(T, usize)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let changing = scope.spawn(|| change(lab, changes, &stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let times = changing.join().map_err(|_| anyhow!("the changing thread panicked"))??;
        Ok((done?, times))
    })
}

/// Packets that the tunnel device has had no room for.
fn dropped(lab: &Lab) -> Result<u64> {
    let text = lab.node("ce")?.tool("ip -j -s link show dev mape0")?;
    let links: Value = serde_json::from_str(&text)?;
    let dropped = links.pointer("/0/stats64/tx/dropped").and_then(Value::as_u64);
    dropped.context("no drops of the tunnel device")
}

fn load_stateful_rules(lab: &Lab) -> Result<()> {
    let file = lab.folder().join("stateful.nft");
    fs::write(&file, recipe::stateful_rules())?;
    lab.node("ce")?.tool(&format!("nft -f {}", file.display()))?;
    Ok(())
}

#[test]
fn flows_run_on_when_they_change_paths() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let servers = Servers::start(&lab).unwrap();
    load_stateful_rules(&lab).unwrap();
    let pause = Duration::from_millis(300);
    for nics in [&["lan0"][..], &["wan0"], &[]] {
        let changes = Change { nics, pause };
        for direction in [Direction::Up, Direction::Down] {
            let load = Load {
                count: 16_000,
                size: 1_000,
                rate: 2_000,
            };
            let begin = Instant::now();
            let (seen, times) =
                while_changing(&lab, &changes, || numbered::send(&lab, "host1", direction, load)).unwrap();
            println!(
                "{nics:?} {direction:?}: {times} changes in {:?}: {} lost, {} reordered, {} doubled of {}",
                begin.elapsed(),
                seen.lost,
                seen.reordered,
                seen.duplicates,
                seen.sent
            );
            assert!(times >= 2, "{times} changes");
            // What the tunnel's process was too slow for, on a busy machine, its device has counted.
            let counted = dropped(&lab).unwrap();
            assert!(
                (seen.damaged, seen.duplicates) == (0, 0) && u64::try_from(seen.lost).unwrap() <= counted,
                "{counted} dropped by the device, {seen:?}\n{}",
                stat(&lab)
            );
            let before = [
                snmp::sent_again(&lab, "host1").unwrap(),
                snmp::sent_again(&lab, "internet").unwrap(),
            ];
            let (file, times) = while_changing(&lab, &changes, || {
                web::transfer(&lab, &servers, "host1", direction, 512)
            })
            .unwrap();
            let after = [
                snmp::sent_again(&lab, "host1").unwrap(),
                snmp::sent_again(&lab, "internet").unwrap(),
            ];
            println!(
                "{nics:?} {direction:?}: {times} changes: {:.0} Mbit/s, {} sent again",
                file.bits_per_second / 1e6,
                after[0] - before[0] + after[1] - before[1]
            );
            assert!(file.is_intact() && times >= 2, "{file:?}, {times} changes");
        }
    }
    // Both paths had their share, and flows were the same ones: no more sessions than there were flows.
    let [fast, slow] = by_path(&lab).unwrap();
    println!("fast {fast:?}, slow {slow:?}");
    let shares = || -> Result<()> {
        ensure!(
            fast.iter().chain(&slow).all(|packets| *packets > 10_000),
            "fast {fast:?}, slow {slow:?}"
        );
        Ok(())
    };
    shares().unwrap();
}
