//! Owns the proof that `mape-ctl explain` says what then happens, changes nothing, and that `mape-ctl trace` shows it.
//!
//! A frame is explained first and then given to the loaded gateway's own programs, with its own maps, by a test run: outcome
//! and every byte must be the same.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    TestRun as _, TestRunOptions,
    maps::{Array, HashMap, Map, MapData},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;
use mape_common::{
    layout::{PermissionKey, maps, programs},
    nat::index::{Bucket, WORDS},
    trace::Gate,
};
use mape_tests::{
    gateway::{self, Gateway, Role},
    lab::{Lab, LabOptions},
    netns::Netns,
    plan,
    process::{wait_for, watch_signals},
    servers::Servers,
    table::kernel::now,
    traffic::{
        iperf::Direction,
        numbered::{self, Load},
        ping,
    },
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// Ports of the CE's set.
const OWN: [u16; 3] = [0x1340, 0x1341, 0x2342];

/// A lab whose gateways are loaded; none without root.
fn loaded() -> Result<Option<Lab>> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return Ok(None);
    }
    watch_signals()?;
    let mut lab = Lab::up(&LabOptions::default())?;
    lab.load(&gateway::program()?)?;
    Ok(Some(lab))
}

struct Edge<'a> {
    node: &'a Netns,
    gateway: &'a Gateway,
}

impl<'a> Edge<'a> {
    fn new(lab: &'a Lab, role: Role) -> Result<Self> {
        Ok(Self {
            node: lab.node(role.node())?,
            gateway: lab.gateway(role)?,
        })
    }

    fn pin(&self, kind: &str, name: &str) -> PathBuf {
        self.gateway.pin(&format!("{kind}/{name}"))
    }

    /// What `explain` says of one packet.
    fn explain(&self, words: &str) -> Result<Value> {
        let mut all = vec!["explain", "--json"];
        all.extend(words.split_whitespace());
        let finished = self.gateway.ctl(self.node, &all)?.success()?;
        let told: Value = serde_json::from_str(&finished.stdout)?;
        Ok(told["packets"][0].clone())
    }

    /// Gives a frame to the program of an interface, as if it had come by there: XDP action and frame.
    fn give(&self, interface: &str, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let name = match (self.gateway.role(), interface) {
            (Role::Ce, "wan0") => programs::WAN,
            (Role::Ce, _) => programs::LAN,
            (Role::Br, "wan0") => programs::RELAY_V6,
            (Role::Br, _) => programs::RELAY_V4,
        };
        let path = self.pin("programs", name);
        self.node.enter(|| {
            let program = Xdp::from_pin(&path, XdpAttachType::Interface)?;
            let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
            let ifindex = rustix::net::netdevice::name_to_index(&socket, interface)?;
            // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
            let context: Vec<u8> = [0, u32::try_from(frame.len())?, 0, ifindex, 0, 0]
                .into_iter()
                .flat_map(u32::to_ne_bytes)
                .collect();
            let mut out = vec![0; 4_096];
            let result = program.test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })?;
            out.truncate(usize::try_from(result.data_size_out)?);
            Ok((result.return_value, out))
        })
    }

    /// Nothing comes from the router here; one that had been silent for two seconds would be asked for by one of the packets.
    fn hear_router(&self) -> Result<()> {
        if self.gateway.role() == Role::Ce {
            let mut hops: Array<MapData, [u64; 4]> = self.map(maps::HOPS)?;
            let [key, to, from, when] = hops.get(&0, 0)?;
            hops.set(0, [key, to, from, when & !0xffff_ffff | u64::from(now().0)], 0)?;
        }
        Ok(())
    }

    /// Explains a packet, gives it to the programs, and holds one against the other; `chance` leaves the port out.
    fn agree(&self, words: &str, outcome: &str, reason: Option<&str>, chance: bool) -> Result<Value> {
        self.hear_router()?;
        let told = self.explain(words)?;
        ensure!(told["outcome"] == outcome, "{words}: {told:#}");
        ensure!(told["reason"].as_str() == reason, "{words}: {told:#}");
        let frame = bytes(&told["came"])?;
        let interface = told["interface"].as_str().context("interface")?;
        let (action, out) = self.give(interface, &frame)?;
        let wanted: &[u32] = match outcome {
            "forwarded" => &[XDP_REDIRECT, XDP_TX],
            "answered" => &[XDP_TX],
            "dropped" => &[XDP_DROP],
            _ => &[XDP_PASS],
        };
        ensure!(
            wanted.contains(&action),
            "{words}: the kernel says {action}, explain says {outcome}"
        );
        match told["frame"].as_str() {
            _ if chance => {}
            Some(_) => ensure!(
                bytes(&told["frame"])? == out,
                "{words}: {told:#}\nthe kernel makes {out:02x?}"
            ),
            None => ensure!(
                action == XDP_DROP || out == frame,
                "{words}: the kernel has changed the frame"
            ),
        }
        Ok(told)
    }

    fn map<M: TryFrom<Map, Error = aya::maps::MapError>>(&self, name: &str) -> Result<M> {
        let data = MapData::from_pin(self.pin("maps", name))?;
        Ok(M::try_from(Map::from_map_data(data)?)?)
    }

    fn words<const N: usize>(&self, name: &str) -> Result<Vec<[u64; N]>> {
        let map: Array<MapData, [u64; N]> = self.map(name)?;
        (0..map.len()).map(|index| Ok(map.get(&index, 0)?)).collect()
    }

    /// All that packets change, but for the counters: frames of the lab's own neighbours move those at any time.
    fn state(&self) -> Result<State> {
        let permissions: HashMap<MapData, PermissionKey, u64> = self.map(maps::PERMISSIONS)?;
        let mut permissions = permissions.iter().collect::<Result<Vec<_>, _>>()?;
        permissions.sort_by_key(|(key, _)| format!("{key:?}"));
        Ok(State {
            flows: self.words(maps::FLOWS)?,
            sessions: self.words(maps::SESSIONS)?,
            words: [maps::PORTS, maps::OVERLAP, maps::REFUSED, maps::GAUGES, maps::GATE]
                .into_iter()
                .map(|name| self.words::<1>(name))
                .collect::<Result<_>>()?,
            hops: self.words(maps::HOPS)?,
            permissions,
            hosts: self.words(maps::HOSTS)?,
        })
    }

    fn is_traced(&self) -> Result<bool> {
        let gate: Array<MapData, u64> = self.map(maps::GATE)?;
        let gate = Gate(gate.get(&0, 0)?);
        ensure!(gate.is_open(), "the gate stays open");
        Ok(gate.is_traced())
    }
}

#[derive(PartialEq)]
struct State {
    flows: Vec<[u64; WORDS]>,
    sessions: Vec<[u64; 8]>,
    words: Vec<Vec<[u64; 1]>>,
    hops: Vec<[u64; 4]>,
    permissions: Vec<(PermissionKey, u64)>,
    hosts: Vec<[u64; 2]>,
}

fn bytes(hex: &Value) -> Result<Vec<u8>> {
    let text = hex.as_str().context("no frame")?;
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(text.get(at..at + 2).context("odd")?, 16)?))
        .collect()
}

fn steps(told: &Value) -> String {
    told["story"].to_string()
}

#[test]
fn explain_says_what_then_happens_byte_for_byte() {
    let Some(lab) = loaded().unwrap() else { return };
    let ce = Edge::new(&lab, Role::Ce).unwrap();
    let [own, tcp_own, other] = OWN;
    let to_udp = format!("udp 192.168.10.2:{own} 198.51.100.7:4000");
    let to_tcp = format!("tcp 192.168.10.2:{tcp_own} 198.51.100.7:443");

    // A new session, then one in use.
    let told = ce.agree(&to_udp, "forwarded", None, false).unwrap();
    assert!(
        steps(&told).contains("its own number is in the port set and free"),
        "{told:#}"
    );
    assert_eq!(told["story"]["programs"].as_array().map(Vec::len), Some(2), "{told:#}");
    assert_eq!(
        told["story"]["would_make"].as_array().map(Vec::len),
        Some(3),
        "{told:#}"
    );
    let told = ce.agree(&to_udp, "forwarded", None, false).unwrap();
    assert_eq!(
        told["story"]["would_make"].as_array().map(Vec::len),
        Some(0),
        "{told:#}"
    );
    assert_eq!(told["story"]["programs"].as_array().map(Vec::len), Some(1), "{told:#}");

    // A port by chance: the outcome is the same, the port need not be.
    let told = ce
        .agree("udp 192.168.10.2:5000 198.51.100.7:4000", "forwarded", None, true)
        .unwrap();
    assert!(steps(&told).contains("by chance, one of 239 free ports"), "{told:#}");
    let port = told["after"]["inner"]["source_port"].as_u64().unwrap();
    assert!(plan::is_own_port(u16::try_from(port).unwrap()), "{port}");
    // Nobody's yet: chance may have chosen the one that was meant to be.
    let nobodys = if port == u64::from(other) { other + 1 } else { other };

    // TCP: clamped, then established.
    let told = ce.agree(&to_tcp, "forwarded", None, false).unwrap();
    assert_eq!(told["before"]["inner"]["mss"], 1_460);
    assert_eq!(told["after"]["inner"]["mss"], 1_420);
    let answer = format!("tcp 198.51.100.7:443 192.0.2.18:{tcp_own} --inbound --flags syn,ack");
    let told = ce.agree(&answer, "forwarded", None, false).unwrap();
    assert_eq!(told["after"]["inner"]["mss"], 1_420);
    ce.agree(
        &format!("{to_tcp} --flags ack,psh --length 700"),
        "forwarded",
        None,
        false,
    )
    .unwrap();

    // Inbound: permitted from another port of the same host, filtered from another host, nobody's port, a foreign port.
    for (from, to, outcome, reason) in [
        ("198.51.100.7:4001", own, "forwarded", None),
        ("198.51.100.99:4000", own, "dropped", Some("filtered")),
        ("198.51.100.7:4000", nobodys, "dropped", Some("no-session")),
        ("198.51.100.7:4000", 0x1350, "dropped", Some("foreign-port")),
    ] {
        ce.agree(&format!("udp {from} 192.0.2.18:{to} --inbound"), outcome, reason, false)
            .unwrap();
    }
    // From another customer edge, and not from what the rule gives it.
    let spoofed = format!("udp 198.51.100.7:4000 192.0.2.18:{own} --outer-source 2001:db8:99:100::1");
    ce.agree(&spoofed, "dropped", Some("security-invalid-v6"), false)
        .unwrap();

    for (words, outcome, reason) in [
        (
            "udp 192.168.10.2:5001 198.51.100.7:4000 --ttl 1",
            "passed",
            "ttl-expired",
        ),
        ("udp 192.168.10.2:5001 192.168.20.2:4000", "passed", "not-tunnelled"),
        (
            "udp 192.168.20.77:5001 198.51.100.7:4000 --from lan0",
            "passed",
            "source-not-lan",
        ),
        (
            "tcp 192.168.10.2:5001 198.51.100.7:80 --flags rst",
            "dropped",
            "reset-without-session",
        ),
    ] {
        ce.agree(words, outcome, Some(reason), false).unwrap();
    }
    let large = format!("{to_udp} --length 1500");
    let told = ce.agree(&large, "answered", Some("too-big"), false).unwrap();
    assert_eq!(told["after"]["inner"]["what"], "fragmentation needed, MTU 1460");

    // A ping keeps its identifier where that is in the set.
    ce.agree(
        &format!("icmp 192.168.10.2:{own} 198.51.100.7"),
        "forwarded",
        None,
        false,
    )
    .unwrap();
    let reply = format!("icmp 198.51.100.7 192.0.2.18:{own} --inbound");
    ce.agree(&reply, "forwarded", None, false).unwrap();
}

#[test]
fn explain_knows_when_no_port_is_left() {
    let Some(lab) = loaded().unwrap() else { return };
    let ce = Edge::new(&lab, Role::Ce).unwrap();
    let told = ce.explain("tcp 192.168.10.2:20000 198.51.100.9:443").unwrap();
    let mut frame = bytes(&told["came"]).unwrap();
    for port in 20_000..20_000 + u16::try_from(plan::PORTS).unwrap() {
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        assert_eq!(ce.give("lan0", &frame).unwrap().0, XDP_REDIRECT, "{port}");
    }
    let child = trace(
        &ce,
        &["--outcome", "ports-exhausted", "--count", "1", "--seconds", "20"],
    )
    .unwrap();
    let told = ce
        .agree(
            "tcp 192.168.10.2:30000 198.51.100.9:443",
            "dropped",
            Some("ports-exhausted"),
            false,
        )
        .unwrap();
    assert!(steps(&told).contains("looked at 240 of 240 ports"), "{told:#}");
    assert!(
        told["advice"].as_str().unwrap().contains("mape-ctl sessions"),
        "{told:#}"
    );
    // Who follows packets is told of it, whatever else passes.
    let seen = lines(child).unwrap();
    assert_eq!(seen.len(), 1, "{seen:#?}");
    assert_eq!(
        (&seen[0]["alert"], &seen[0]["action"]),
        (&true.into(), &"dropped".into())
    );
    // It was refused, so the next one of the same host is dropped at once; who tries again later is answered; another
    // destination shares.
    let again = "tcp 192.168.10.2:30001 198.51.100.9:443";
    ce.agree(again, "dropped", Some("recently-refused"), false).unwrap();
    thread::sleep(Duration::from_secs(2));
    ce.agree(again, "answered", Some("ports-exhausted"), false).unwrap();
    ce.agree("tcp 192.168.10.2:30000 198.51.100.9:80", "forwarded", None, true)
        .unwrap();
}

#[test]
fn a_border_relays_way_is_explained_too() {
    let Some(lab) = loaded().unwrap() else { return };
    lab.wait_until_reachable("host1").unwrap();
    let br = Edge::new(&lab, Role::Br).unwrap();
    let [own, ..] = OWN;
    let towards = format!("udp 198.51.100.7:4000 192.0.2.18:{own}");
    let told = br.agree(&towards, "forwarded", None, false).unwrap();
    assert_eq!(told["after"]["outer"]["destination"], plan::CE_IPV6.to_string());
    br.agree("udp 198.51.100.7:4000 203.0.113.77:9", "passed", Some("no-rule"), false)
        .unwrap();
    let back = format!(
        "udp 192.0.2.18:{own} 198.51.100.7:4000 --inbound --outer-source {}",
        plan::CE_IPV6
    );
    br.agree(&back, "forwarded", None, false).unwrap();
    let spoofed = format!(
        "udp 192.0.2.19:{own} 198.51.100.7:4000 --inbound --outer-source {}",
        plan::CE_IPV6
    );
    br.agree(&spoofed, "dropped", Some("security-invalid-v4"), false)
        .unwrap();
}

#[test]
fn explaining_changes_nothing() {
    let Some(lab) = loaded().unwrap() else { return };
    let ce = Edge::new(&lab, Role::Ce).unwrap();
    let told = ce.explain("udp 192.168.10.2:5000 198.51.100.7:4000").unwrap();
    ce.give("lan0", &bytes(&told["came"]).unwrap()).unwrap();
    let before = ce.state().unwrap();
    let entries: usize = before.flows.iter().map(|words| Bucket::from_words(*words).len()).sum();
    assert_eq!(entries, 4, "a mapping and a session, in both tables");
    for words in [
        "udp 192.168.10.2:5000 198.51.100.7:4000",
        "udp 192.168.10.2:5000 198.51.100.8:4000",
        "udp 192.168.10.3:5001 198.51.100.7:4000",
        "tcp 192.168.10.2:5000 198.51.100.7:443",
        "udp 192.168.10.2:5002 198.51.100.7:4000 --length 1500",
        "icmp 192.168.10.2 198.51.100.7",
    ] {
        ce.explain(words).unwrap();
    }
    assert!(before == ce.state().unwrap(), "explain has written into a map");
}

/// A trace that runs in the CE's namespace.
fn trace(ce: &Edge<'_>, words: &[&str]) -> Result<std::process::Child> {
    let program = gateway::program()?;
    let child = ce.node.enter(|| {
        Ok(Command::new(program)
            .args(["--instance", ce.gateway.instance(), "trace", "--json"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?)
    })?;
    wait_for("the trace", LIMIT, || ce.is_traced())?;
    Ok(child)
}

fn lines(child: std::process::Child) -> Result<Vec<Value>> {
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn trace_shows_a_ping_and_is_off_again_afterwards() {
    let Some(lab) = loaded().unwrap() else { return };
    let servers = Servers::start(&lab).unwrap();
    lab.wait_until_reachable("host1").unwrap();
    let ce = Edge::new(&lab, Role::Ce).unwrap();
    assert!(!ce.is_traced().unwrap());
    let child = trace(
        &ce,
        &[
            "--protocol",
            "icmp",
            "--host",
            "198.51.100.7",
            "--count",
            "10",
            "--seconds",
            "20",
        ],
    )
    .unwrap();
    let echo = ping::ping(&lab, "host1", "198.51.100.7", 5, 56).unwrap();
    assert_eq!(echo.received, 5);
    let told = lines(child).unwrap();
    assert!(!ce.is_traced().unwrap(), "nothing stays switched on");
    assert_eq!(told.len(), 10, "{told:#?}");
    let of = |direction: &str| {
        told.iter()
            .filter(|one| one["direction"] == direction)
            .collect::<Vec<_>>()
    };
    let (out, back) = (of("outbound"), of("inbound"));
    assert_eq!((out.len(), back.len()), (5, 5), "{told:#?}");
    for one in &out {
        assert_eq!(
            (&one["outcome"], &one["interface"]),
            (&"forwarded".into(), &"lan0".into())
        );
        assert_eq!(one["packet"]["inner"]["what"], "echo request");
        assert_eq!(one["packet"]["inner"]["source"], plan::CE_IPV4.to_string());
        assert_eq!(one["packet"]["outer"]["source"], plan::CE_IPV6.to_string());
        assert_eq!(one["other_end"]["address"], "192.168.10.2", "{one:#}");
    }
    for one in &back {
        assert_eq!(
            (&one["outcome"], &one["interface"]),
            (&"forwarded".into(), &"wan0".into())
        );
        assert_eq!(one["packet"]["inner"]["destination"], "192.168.10.2");
        assert_eq!(one["other_end"]["address"], plan::CE_IPV4.to_string(), "{one:#}");
    }
    drop(servers);
}

#[test]
fn a_flood_is_told_in_bounds_and_a_killed_trace_ends() {
    let Some(lab) = loaded().unwrap() else { return };
    let servers = Servers::start(&lab).unwrap();
    lab.wait_until_reachable("host1").unwrap();
    let ce = Edge::new(&lab, Role::Ce).unwrap();
    let child = trace(&ce, &["--rate", "50", "--seconds", "4"]).unwrap();
    let load = Load {
        count: 20_000,
        size: 100,
        rate: 10_000,
    };
    let count = numbered::send(&lab, "host1", Direction::Up, load).unwrap();
    assert!(count.arrived > 15_000, "{count:?}");
    let told = lines(child).unwrap();
    let suppressed: u64 = told.iter().filter_map(|one| one["suppressed"].as_u64()).sum();
    let shown = told.iter().filter(|one| one.get("outcome").is_some()).count();
    println!("{shown} shown, {suppressed} not");
    // Fourteen a tick of 0.27 s, for 4 s and the ticks that it begins and ends in.
    assert!((14..=14 * 18).contains(&shown), "{shown}");
    assert!(suppressed > 10_000, "{suppressed}");

    let mut child = trace(&ce, &["--seconds", "60"]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ce.is_traced().unwrap(), "nobody has switched it off");
    thread::sleep(Duration::from_secs(4));
    // The next packet finds that its time is over.
    ping::ping(&lab, "host1", "198.51.100.7", 1, 56).unwrap();
    assert!(!ce.is_traced().unwrap());
    // And another one may begin.
    let child = trace(&ce, &["--seconds", "1"]).unwrap();
    lines(child).unwrap();
    drop(servers);
}
