//! Owns the tests of a gateway whose processors share the packets from the tunnel: one receive queue, many flows, each in its order.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    plan,
    process::{stay_on, wait_for, watch_signals},
    servers::Servers,
    traffic::{
        iperf::Direction,
        numbered::{self, Load},
        web,
    },
};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// The far side's first port; each flow has one of its own.
const FIRST_PORT: u16 = 7_100;
const FLOWS: u16 = 96;
/// Datagrams of a flow.
const ROUNDS: u32 = 200;
/// At once: a veth holds 256 redirected frames and drops the next.
const BURST: usize = 32;
/// A port of the line, forwarded to a server on the LAN.
const FORWARDED: u16 = 4928;
const SERVER_PORT: u16 = 8_080;
const CONNECTIONS: usize = 40;

/// A flow's two sockets: on the LAN, on the Internet.
struct Flow {
    near: UdpSocket,
    far: UdpSocket,
}

struct Bench {
    lab: Lab,
}

impl Bench {
    /// A gateway that is loaded with these flags; none where this machine cannot show anything.
    fn new(flags: &[&str]) -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        if processors < 2 {
            println!("SKIPPED: one processor has nobody to share with");
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        // As a NIC without more, or of a machine that has been given no more.
        for (node, device) in [("transit", "ce0"), ("ce", "wan0")] {
            lab.node(node)?.tool(&format!("ethtool -L {device} rx 1 tx 1"))?;
        }
        let program = gateway::program()?;
        lab.load_in(&["br"], &program)?;
        lab.prepare("ce", &program)?;
        lab.load_again("ce", flags)?;
        lab.wait_until_reachable("host1")?;
        let queues = lab.node("ce")?.tool("ethtool -l wan0")?;
        let receive = queues.lines().rfind(|line| line.starts_with("RX:"));
        ensure!(
            receive.is_some_and(|line| line.split_whitespace().nth(1) == Some("1")),
            "wan0 has more than one receive queue: {queues}"
        );
        Ok(Some(Self { lab }))
    }

    fn flows(&self) -> Result<Vec<Flow>> {
        (FIRST_PORT..FIRST_PORT + FLOWS)
            .map(|port| {
                let (near, far) = numbered::pair(&self.lab, "host1", port)?;
                Ok(Flow { near, far })
            })
            .collect()
    }

    fn stat(&self) -> Result<Value> {
        self.lab.gateway(Role::Ce)?.stat(self.lab.node("ce")?)
    }

    /// What processors have handed on and taken over, by their numbers.
    fn handed(&self) -> Result<Vec<[u64; 2]>> {
        gateway::handed(&self.stat()?)
    }
}

/// Sends every flow's datagrams downwards by a thread that stays on the first processor, so that the gateway receives all of them
/// there, and counts those that come; each flow in its order.
fn shoot(flows: &[Flow]) -> Result<u32> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            stay_on(0)?;
            for round in 0..ROUNDS {
                for some in flows.chunks(BURST) {
                    for flow in some {
                        flow.far.send(&round.to_be_bytes())?;
                    }
                    thread::sleep(Duration::from_micros(500));
                }
            }
            Ok(())
        });
        sender.join().map_err(|_| anyhow!("the sender panicked"))?
    })?;
    let mut arrived = 0;
    for (number, flow) in flows.iter().enumerate() {
        arrived += numbered::in_order(&flow.near, ROUNDS).with_context(|| format!("flow {number}"))?;
    }
    Ok(arrived)
}

fn sum(handed: &[[u64; 2]], which: usize) -> u64 {
    handed.iter().map(|one| one[which]).sum()
}

/// The kernel's threads that take packets over, of all gateways.
fn threads() -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let names = processes.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("cpumap/")).count()
}

#[test]
fn one_queues_flows_are_shared_out_and_each_keeps_its_order() {
    let _alone = alone();
    let before = threads();
    let Some(bench) = Bench::new(&["--spread"]).unwrap() else {
        return;
    };
    let flows = bench.flows().unwrap();
    let before_shooting = bench.handed().unwrap();
    let arrived = shoot(&flows).unwrap();
    let sent = u32::from(FLOWS) * ROUNDS;
    let handed = bench.handed().unwrap();
    println!("{arrived} of {sent} datagrams arrived; handed on and taken over, by processor: {handed:?}");
    assert_eq!(arrived, sent);
    assert_eq!(
        sum(&handed, 0),
        sum(&handed, 1),
        "some were lost on the way: {handed:?}"
    );
    // Received by the first, and shared out evenly; the others' own part is what they have taken over.
    let share = f64::from(sent) / f64::from(u32::try_from(handed.len()).unwrap());
    for (number, [now, before]) in handed
        .iter()
        .zip(&before_shooting)
        .map(|(now, before)| [now, before])
        .enumerate()
        .skip(1)
    {
        let taken = f64::from(u32::try_from(now[1] - before[1]).unwrap());
        assert!(
            taken > share * 0.5 && taken < share * 1.5,
            "processor {number} took {taken} over, {share} would be its share"
        );
    }

    // All on the one that receives them again: nothing is handed on, and nobody waits for it.
    bench.lab.load_again("ce", &["--spread", "none"]).unwrap();
    assert_eq!(bench.stat().unwrap()["spread"], Value::Null);
    wait_for("the kernel's threads to end", Duration::from_secs(5), || {
        Ok(threads() == before)
    })
    .unwrap();
    assert_eq!(shoot(&flows).unwrap(), sent);
    // And shared again, then gone with the gateway.
    bench.lab.load_again("ce", &["--spread", "0-1"]).unwrap();
    assert_eq!(shoot(&flows).unwrap(), sent);
    assert!(sum(&bench.handed().unwrap(), 0) > u64::from(sent) / 4);
    let refused = bench
        .lab
        .load_again("ce", &["--spread", "1,4095"])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("4095") && refused.contains("not online"), "{refused}");
    // That is as it was: the same processors, with the same program.
    let unchanged = bench.handed().unwrap();
    assert_eq!(shoot(&flows).unwrap(), sent);
    assert!(sum(&bench.handed().unwrap(), 1) > sum(&unchanged, 1));
    let gateway = bench.lab.gateway(Role::Ce).unwrap();
    gateway
        .ctl(bench.lab.node("ce").unwrap(), &["unload"])
        .unwrap()
        .success()
        .unwrap();
    wait_for("the kernel's threads to end", Duration::from_secs(5), || {
        Ok(threads() == before)
    })
    .unwrap();
}

/// Connections from the Internet to a server on the LAN, and a file each way: what opens sessions, looks after them and closes them.
fn connections_by_another_processor(flags: &[&str]) -> Result<()> {
    let Some(bench) = Bench::new(&[flags, &["--spread", "1"]].concat())? else {
        return Ok(());
    };
    let forward = format!("tcp,{FORWARDED},192.168.10.2:{SERVER_PORT}");
    bench
        .lab
        .load_again("ce", &[flags, &["--spread", "1", "--forward", &forward]].concat())?;
    let before = bench.handed()?;
    let listener = bench
        .lab
        .node("host1")?
        .enter(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT))?))?;
    thread::scope(|scope| -> Result<()> {
        let server = scope.spawn(|| -> Result<()> {
            for _ in 0..CONNECTIONS {
                let (mut client, _) = listener.accept()?;
                let mut heard = [0; 5];
                client.read_exact(&mut heard)?;
                client.write_all(&heard.to_ascii_uppercase())?;
            }
            Ok(())
        });
        let clients = scope.spawn(|| -> Result<()> {
            stay_on(0)?;
            for _ in 0..CONNECTIONS {
                let mut client = bench.lab.node("internet")?.enter(|| {
                    let to = SocketAddr::from((plan::CE_IPV4, FORWARDED));
                    Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?)
                })?;
                client.set_read_timeout(Some(Duration::from_secs(5)))?;
                client.write_all(b"hello")?;
                let mut answer = [0; 5];
                client.read_exact(&mut answer)?;
                ensure!(answer == *b"HELLO", "{answer:?}");
            }
            Ok(())
        });
        clients.join().map_err(|_| anyhow!("a client panicked"))??;
        server.join().map_err(|_| anyhow!("the server panicked"))?
    })?;
    let after = bench.handed()?;
    // At least the SYN, the request and a FIN of each.
    let least = u64::try_from(CONNECTIONS)? * 3;
    ensure!(sum(&after, 1) >= sum(&before, 1) + least, "{before:?}, then {after:?}");
    let servers = Servers::start(&bench.lab)?;
    for direction in [Direction::Down, Direction::Up] {
        let file = web::transfer(&bench.lab, &servers, "host1", direction, 16)?;
        ensure!(file.is_intact(), "{direction:?}: another SHA-256");
    }
    let stat = bench.stat()?;
    let packets = |path: &str| stat.pointer(path).and_then(Value::as_u64).context("no number");
    ensure!(packets("/directions/inbound/forwarded/packets")? > 4_000, "{stat}");
    Ok(())
}

#[test]
fn sessions_begin_live_and_end_on_another_processor() {
    let _alone = alone();
    connections_by_another_processor(&[]).unwrap();
}

#[test]
fn the_generic_layer_hands_on_as_well() {
    let _alone = alone();
    connections_by_another_processor(&["--generic"]).unwrap();
}

#[test]
fn changing_who_shares_loses_nothing() {
    let _alone = alone();
    let Some(bench) = Bench::new(&["--spread"]).unwrap() else {
        return;
    };
    let load = Load {
        count: 1_000_000,
        size: 100,
        rate: 2_000,
    };
    let flows = bench.flows().unwrap();
    let stop = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let beside = scope.spawn(|| numbered::until(&flows[0].far, &flows[0].near, load, &stop));
        for flags in [
            ["--spread", "none"],
            ["--spread", "1"],
            ["--spread", "0"],
            ["--spread", "all"],
        ] {
            let loaded = bench.lab.load_again("ce", &flags);
            if loaded.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            loaded.unwrap();
            thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, Ordering::Relaxed);
        beside.join().unwrap()
    })
    .unwrap();
    println!("beside four loads: {seen:?}");
    assert_eq!((seen.lost, seen.duplicates, seen.damaged), (0, 0, 0));
}

#[test]
fn who_follows_packets_sees_those_that_were_handed_on() {
    let _alone = alone();
    let Some(bench) = Bench::new(&["--spread", "1"]).unwrap() else {
        return;
    };
    let flows = bench.flows().unwrap();
    let gateway = bench.lab.gateway(Role::Ce).unwrap();
    let ce = bench.lab.node("ce").unwrap();
    let words = [
        "trace",
        "--json",
        "--direction",
        "inbound",
        "--outcome",
        "forwarded",
        "--count",
        "20",
        "--seconds",
        "20",
    ];
    let following = gateway.start(ce, &[], &words).unwrap();
    // It asks the kernel once it is there.
    thread::sleep(Duration::from_millis(500));
    let before = bench.handed().unwrap();
    shoot(&flows[..4]).unwrap();
    let after = bench.handed().unwrap();
    assert_eq!(
        sum(&after, 1) - sum(&before, 1),
        4 * u64::from(ROUNDS),
        "all are handed on"
    );
    let told = following.finish(Duration::from_secs(30)).unwrap();
    let lines: Vec<Value> = told
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(lines.len(), 20, "{told:?}");
}

#[test]
fn a_load_that_is_interrupted_leaves_them_as_they_were() {
    let _alone = alone();
    let Some(bench) = Bench::new(&["--spread", "1"]).unwrap() else {
        return;
    };
    let gateway = bench.lab.gateway(Role::Ce).unwrap();
    let ce = bench.lab.node("ce").unwrap();
    let config = gateway.config().to_string_lossy().into_owned();
    let begin = Instant::now();
    bench.lab.load_again("ce", &["--spread", "1"]).unwrap();
    let whole = begin.elapsed();
    let there = || -> Result<(bool, bool)> {
        let program = ce.tool("ip -d link show dev wan0")?.contains("mape_spread_xdp");
        Ok((program, bench.stat()?["spread"].is_object()))
    };
    let mut interrupted = 0;
    for part in 4..12 {
        let loading = gateway.start(ce, &[], &["load", "--config", &config]).unwrap();
        thread::sleep(whole * part / 12);
        // It may have come to its end by now.
        let _ = kill_process(loading.pid(), Signal::INT);
        let done = loading.finish(Duration::from_secs(30)).unwrap();
        let now = there().unwrap();
        if done.status.success() {
            assert_eq!(now, (false, false), "{done:?}");
            bench.lab.load_again("ce", &["--spread", "1"]).unwrap();
        } else {
            interrupted += 1;
            assert_eq!(now, (true, true), "{done:?}");
        }
        let pins: Vec<String> = fs::read_dir(gateway.pin("programs"))
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        assert!(!pins.iter().any(|name| name.ends_with("-old")), "{pins:?}");
        assert!(
            pins.contains(&"mape_spread_xdp".to_owned()) && !pins.contains(&"mape_wan_xdp".to_owned()),
            "{pins:?}"
        );
    }
    println!("interrupted {interrupted} of 8 times, within {whole:?}");
    assert!(interrupted > 0);
    let flows = bench.flows().unwrap();
    assert_eq!(shoot(&flows).unwrap(), u32::from(FLOWS) * ROUNDS);
}
