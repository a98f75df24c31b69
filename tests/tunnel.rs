//! Owns the tests of the tunnel in user space: customer edges made of it and nothing else, so that nothing is translated.
//!
//! The shared address is on the loopback device of each edge, and what is bound to it uses ports of the edge's set.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway::{self, Gateway, Role},
    lab::{Lab, LabOptions},
    netns::Netns,
    plan::{
        self, Shape,
        edges::{self, Edge},
    },
    process::{Background, wait_for, watch_signals},
    table::frame::{self, Frame},
    traffic::{
        numbered::{self, Load, Numbered},
        peers,
    },
};
use rustix::net::{AddressFamily, Protocol, RawProtocol, SendFlags, SocketType, bind, sendto, socket};
use serde_json::Value;

/// The UDP and TCP port of the first edge, and of the third: the first of their sets.
const PORT: u16 = 0x1340;
const OTHER_PORT: u16 = 0x1360;
const PATIENCE: Duration = Duration::from_secs(10);
/// Payloads of datagrams: the largest that the tunnel takes whole, and one that has to be fragmented before.
const WHOLE: usize = 1_432;
const LARGE: usize = 3_972;
/// What a TCP connection carries, each way.
const MEBIBYTES: usize = 32;

/// A lab with a border relay of ours, and edges that are tunnels in user space.
struct Tunnels {
    lab: Lab,
    running: Vec<(&'static str, Background)>,
}

impl Tunnels {
    fn new(edges: &[Edge]) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions {
            shape: Shape::ThreeEdges,
            ..LabOptions::default()
        })?;
        lab.load_in(&["br"], &gateway::program()?)?;
        // A larger one would have to be fragmented by the border relay.
        lab.node("internet")?
            .tool("ip -4 route replace 192.0.2.0/24 via 203.0.113.1 mtu 1460")?;
        let mut tunnels = Self {
            lab,
            running: Vec::new(),
        };
        for edge in edges {
            tunnels.start(edge)?;
        }
        Ok(Some(tunnels))
    }

    /// The configuration of an edge, with a rule to forward by.
    fn configure(&self, edge: &Edge) -> Result<Gateway> {
        let lab = &self.lab;
        let gateway = Gateway::new(
            edge.node,
            lab.id(),
            Shape::ThreeEdges,
            &gateway::program()?,
            lab.folder(),
        )?;
        let text = fs::read_to_string(gateway.config())?.replace("fmr = false", "fmr = true");
        fs::write(gateway.config(), text)?;
        Ok(gateway)
    }

    fn start(&mut self, edge: &Edge) -> Result<()> {
        let gateway = self.configure(edge)?;
        let node = self.lab.node(edge.node)?;
        node.tool(&format!("ip -4 address add {}/32 dev lo", edge.ipv4))?;
        let program = gateway::program()?;
        let (program, config) = (program.to_string_lossy(), gateway.config().to_string_lossy());
        let mut tunnel = node.start(&[
            &program,
            "--instance",
            gateway.instance(),
            "tunnel",
            "--json",
            "--config",
            &config,
        ])?;
        wait_for("the tunnel", PATIENCE, || {
            ensure!(tunnel.is_running(), "it has ended");
            let pid = fs::read_to_string(format!("/run/mape/{}.tunnel.pid", gateway.instance()));
            Ok(pid.is_ok_and(|text| text.ends_with("ready\n")))
        })?;
        self.running.push((edge.node, tunnel));
        Ok(())
    }

    /// Ends the tunnel of an edge; gives the line that it leaves.
    fn stop(&mut self, edge: &Edge) -> Result<Value> {
        let place = self.running.iter().position(|(node, _)| *node == edge.node);
        let (_, tunnel) = self.running.remove(place.context("no such tunnel")?);
        let finished = tunnel.stop()?.success()?;
        let line = finished.stdout.lines().last().context("it said nothing")?;
        println!("{}: {line}", edge.node);
        let links = self.lab.node(edge.node)?.tool("ip link")?;
        ensure!(!links.contains("mape0"), "its device is still there");
        serde_json::from_str(line).context("no JSON")
    }

    fn udp(&self, node: &str, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
        self.lab.node(node)?.enter(|| numbered::socket((address, port)))
    }

    /// A socket of the first edge and one of the server, each connected to the other, once the way is there.
    fn pair(&self, port: u16) -> Result<[UdpSocket; 2]> {
        let near = self.udp("ce", edges::FIRST.ipv4, port)?;
        let far = self.udp("internet", plan::SERVER, port)?;
        self.meet(near, far)
    }

    fn meet(&self, near: UdpSocket, far: UdpSocket) -> Result<[UdpSocket; 2]> {
        let _ = self;
        near.connect(far.local_addr()?)?;
        far.connect(near.local_addr()?)?;
        numbered::greet(&near, &far)?;
        Ok([near, far])
    }
}

fn dropped(status: &Value, reason: &str) -> u64 {
    status["dropped"][reason].as_u64().unwrap_or(0)
}

fn is_whole(seen: &Numbered) -> bool {
    (seen.lost, seen.duplicates, seen.reordered, seen.damaged) == (0, 0, 0, 0)
}

#[test]
fn datagrams_and_connections_pass_whole_both_ways() {
    let Some(mut tunnels) = Tunnels::new(&[edges::FIRST]).unwrap() else {
        return;
    };
    let [near, far] = tunnels.pair(PORT).unwrap();
    let mut datagrams = 0;
    for (count, size, rate) in [(2_000, 100, 2_000), (1_000, WHOLE, 1_000), (300, LARGE, 300)] {
        let load = Load { count, size, rate };
        for (way, from, to) in [("up", &near, &far), ("down", &far, &near)] {
            let seen = numbered::between(from, to, load).unwrap();
            println!("{way}, {load:?}: {seen:?}");
            assert!(is_whole(&seen), "{way}, {load:?}: {seen:?}");
        }
        datagrams += u64::try_from(count).unwrap();
    }
    let lab = &tunnels.lab;
    let listener = lab
        .node("ce")
        .unwrap()
        .enter(|| Ok(TcpListener::bind((edges::FIRST.ipv4, PORT + 1))?))
        .unwrap();
    let dial = || Ok(TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?);
    let outside = lab.node("internet").unwrap().enter(dial).unwrap();
    let (inside, _) = listener.accept().unwrap();
    for (way, from, to) in [("up", &inside, &outside), ("down", &outside, &inside)] {
        for stream in [from, to] {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        let begin = Instant::now();
        assert_eq!(peers::transfer(from, to, MEBIBYTES).unwrap(), MEBIBYTES << 20, "{way}");
        let bits = f64::from(u32::try_from(MEBIBYTES << 23).unwrap());
        println!("TCP {way}: {:.0} Mbit/s", bits / begin.elapsed().as_secs_f64() / 1e6);
    }
    let status = tunnels.stop(&edges::FIRST).unwrap();
    for way in ["outbound", "inbound"] {
        // The large datagrams are three fragments each.
        let packets = status[way]["packets"].as_u64().unwrap();
        assert!(packets > datagrams + 600, "{way}: {packets}");
        assert!(status[way]["batches"].as_u64().unwrap() < packets, "{way}: one by one");
    }
    let dropped: Vec<_> = status["dropped"].as_object().unwrap().keys().collect();
    assert!(dropped.iter().all(|reason| *reason == "not-ipv4"), "{dropped:?}");
    let forwarded = tunnels.lab.gateway(Role::Br).unwrap();
    let forwarded = forwarded.forwarded(tunnels.lab.node("br").unwrap()).unwrap();
    assert!(forwarded.iter().all(|packets| *packets > datagrams), "{forwarded:?}");
}

#[test]
fn two_edges_send_to_each_other_over_a_path_that_is_too_narrow() {
    let third = edges::ALL[2];
    let Some(mut tunnels) = Tunnels::new(&[edges::FIRST, third]).unwrap() else {
        return;
    };
    let lab = &tunnels.lab;
    let by_relay = || {
        let relay = lab.gateway(Role::Br)?;
        relay.forwarded(lab.node("br")?)
    };
    let before = by_relay().unwrap();
    let load = Load {
        count: 500,
        size: WHOLE,
        rate: 500,
    };
    let sockets = |offset| {
        let near = tunnels.udp("ce", edges::FIRST.ipv4, PORT + offset)?;
        let far = tunnels.udp("ce3", third.ipv4, OTHER_PORT + offset)?;
        tunnels.meet(near, far)
    };
    let [near, far] = sockets(0).unwrap();
    for (from, to) in [(&near, &far), (&far, &near)] {
        let seen = numbered::between(from, to, load).unwrap();
        assert!(is_whole(&seen), "{seen:?}");
    }
    lab.node("transit")
        .unwrap()
        .tool(&format!("ip link set {} mtu 1400", third.link))
        .unwrap();
    // Packets without DF: those of the tunnel are fragmented on the way, once a router has said that they must be.
    let ce = lab.node("ce").unwrap();
    ce.sysctl("ipv4/ip_no_pmtu_disc", "1").unwrap();
    let [near, far] = sockets(1).unwrap();
    let passes = |near: &UdpSocket, far: &UdpSocket| {
        let once = Load { count: 20, ..load };
        wait_for("packets through the narrow path", PATIENCE, || {
            // Whose packet was too big is told so by an error of its next one.
            Ok(numbered::between(near, far, once).is_ok_and(|seen| is_whole(&seen)))
        })
    };
    passes(&near, &far).unwrap();
    let seen = numbered::between(&near, &far, load).unwrap();
    assert!(is_whole(&seen), "outer fragments: {seen:?}");
    // Packets with DF: the tunnel says what would fit.
    ce.sysctl("ipv4/ip_no_pmtu_disc", "0").unwrap();
    let [near, far] = sockets(2).unwrap();
    passes(&near, &far).unwrap();
    let route = ce
        .tool(&format!("ip -4 route get {} from {}", third.ipv4, edges::FIRST.ipv4))
        .unwrap();
    assert!(route.contains("mtu 1360"), "{route}");
    assert_eq!(by_relay().unwrap(), before, "the relay has no part in it");
    let status = tunnels.stop(&edges::FIRST).unwrap();
    assert!(status["answered"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["mtu"], 1_460, "the path to the relay is as it was");
    let status = tunnels.stop(&third).unwrap();
    assert!(status["inbound"]["packets"].as_u64().unwrap() > 1_040, "{status}");
}

#[test]
fn routes_follow_the_path_to_the_relay() {
    let Some(mut tunnels) = Tunnels::new(&[edges::FIRST]).unwrap() else {
        return;
    };
    let [near, far] = tunnels.pair(PORT).unwrap();
    let transit = tunnels.lab.node("transit").unwrap().clone();
    // The relay's link keeps its MTU: nothing large comes back.
    transit.tool("ip link set br0 mtu 1400").unwrap();
    let load = Load {
        count: 20,
        size: WHOLE,
        rate: 500,
    };
    wait_for("packets through the narrow path", PATIENCE, || {
        Ok(is_whole(&numbered::between(&near, &far, load)?))
    })
    .unwrap();
    let routes = tunnels
        .lab
        .node("ce")
        .unwrap()
        .tool("ip -4 route show dev mape0")
        .unwrap();
    assert!(routes.contains("mtu 1360"), "{routes}");
    let status = tunnels.stop(&edges::FIRST).unwrap();
    assert_eq!((&status["mtu"], &status["path_mtu"]), (&1_360.into(), &1_400.into()));
}

/// A socket that sends IPv4 in IPv6, from an address of its namespace.
fn raw(node: &Netns, from: Ipv6Addr) -> Result<OwnedFd> {
    node.enter(|| {
        let ipv4 = RawProtocol::new(4).map(Protocol::from_raw);
        let raw = socket(AddressFamily::INET6, SocketType::RAW, ipv4).context("no raw socket")?;
        bind(&raw, &SocketAddrV6::new(from, 0, 0, 0))?;
        Ok(raw)
    })
}

fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Vec<u8> {
    let payload = frame::Payload::Udp {
        from: from.1,
        to: to.1,
        data: data.to_vec(),
        checksum: true,
    };
    Frame::new(from.0, to.0, payload).packet()
}

fn send(raw: &OwnedFd, packet: &[u8]) -> Result<()> {
    sendto(
        raw,
        packet,
        SendFlags::empty(),
        &SocketAddrV6::new(edges::FIRST.ipv6, 0, 0, 0),
    )?;
    // A neighbour may have to be found first, and has room for few packets meanwhile.
    thread::sleep(Duration::from_millis(20));
    Ok(())
}

#[test]
fn outer_fragments_are_put_together_and_spoofed_senders_are_dropped_and_counted() {
    let Some(mut tunnels) = Tunnels::new(&[edges::FIRST]).unwrap() else {
        return;
    };
    let [near, _far] = tunnels.pair(PORT).unwrap();
    let (lab, own) = (&tunnels.lab, (edges::FIRST.ipv4, PORT));
    let server = (plan::SERVER, PORT);
    let mut buffer = vec![0; 4_096];
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let br = lab.node("br").unwrap();
    br.tool(&format!(
        "ip -6 route add {} via 2001:db8:ffff::fffe mtu 1280",
        edges::FIRST.ipv6
    ))
    .unwrap();
    let relay = raw(br, plan::BR_IPV6).unwrap();
    let data: Vec<u8> = (0..=255).cycle().take(WHOLE).collect();
    send(&relay, &datagram(server, own, &data)).unwrap();
    let len = near.recv(&mut buffer).expect("put together of two");
    assert_eq!(buffer[..len], data);
    // In no rule; in a rule that gives it other addresses; the relay, but for another edge's port or address.
    let stranger: Ipv6Addr = "2001:db8:ffff::fffe".parse().unwrap();
    let neighbour: Ipv6Addr = "2001:db8:12:3500::2".parse().unwrap();
    let stranger = raw(lab.node("transit").unwrap(), stranger).unwrap();
    let neighbour = raw(lab.node("ce2").unwrap(), neighbour).unwrap();
    for (count, sender, packet) in [
        (3, &stranger, datagram(server, own, b"spoofed")),
        (4, &neighbour, datagram(server, own, b"spoofed")),
        (5, &relay, datagram(server, (own.0, OTHER_PORT), b"spoofed")),
        (
            6,
            &relay,
            datagram(server, (Ipv4Addr::new(192, 0, 2, 77), PORT), b"spoofed"),
        ),
    ] {
        for _ in 0..count {
            send(sender, &packet).unwrap();
        }
    }
    near.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(near.recv(&mut buffer).is_err(), "a spoofed datagram has arrived");
    // What is not translated does not get out.
    let untranslated = tunnels.udp("ce", Ipv4Addr::UNSPECIFIED, 0).unwrap();
    untranslated.connect(("198.51.100.3", 53)).unwrap();
    for _ in 0..7 {
        untranslated.send(b"out").unwrap();
    }
    let status = tunnels.stop(&edges::FIRST).unwrap();
    for (reason, count) in [
        ("security-invalid-v6", 3),
        ("security-invalid-v4", 4),
        ("foreign-port", 5),
        ("not-my-address", 6),
        ("untranslated", 7),
    ] {
        assert_eq!(dropped(&status, reason), count, "{reason}: {status}");
    }
}

#[test]
fn load_starts_it_keeps_it_and_unload_ends_it() {
    let Some(mut tunnels) = Tunnels::new(&[]).unwrap() else {
        return;
    };
    if fs::metadata("/sys/module/ip6_tunnel").is_ok() {
        println!("this kernel has a tunnel of its own, which is not used");
    }
    let gateway = tunnels.configure(&edges::FIRST).unwrap();
    tunnels.lab.load_in(&["ce"], &gateway::program().unwrap()).unwrap();
    let node = tunnels.lab.node("ce").unwrap();
    let file = format!("/run/mape/{}.tunnel.pid", gateway.instance());
    let process = || -> Result<i32> {
        let text = fs::read_to_string(&file)?;
        let (pid, word) = text.trim().split_once(' ').context("nothing in the file")?;
        ensure!(word == "ready", "{word}");
        Ok(pid.parse()?)
    };
    let first = process().unwrap();
    let second = gateway.ctl(node, &["tunnel"]).unwrap();
    assert!(second.stderr.contains(&format!("process {first}")), "{second:?}");
    assert_eq!(second.status.code(), Some(1));

    // Outer fragments are what XDP does not take; the programs at the device lead them to the host that has the port.
    let port = PORT.to_string();
    gateway
        .ctl(node, &["forward", "add", "udp", &port, "192.168.10.2"])
        .unwrap()
        .success()
        .unwrap();
    let near = tunnels.udp("host1", Ipv4Addr::UNSPECIFIED, PORT).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let br = tunnels.lab.node("br").unwrap();
    br.tool(&format!(
        "ip -6 route add {} via 2001:db8:ffff::fffe mtu 1280",
        edges::FIRST.ipv6
    ))
    .unwrap();
    let relay = raw(br, plan::BR_IPV6).unwrap();
    let data = vec![7; WHOLE];
    let packet = datagram((plan::SERVER, PORT), (edges::FIRST.ipv4, PORT), &data);
    let arrives = || {
        let mut buffer = vec![0; 4_096];
        send(&relay, &packet).unwrap();
        let len = near.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..len], data);
    };
    arrives();

    let config = gateway.config().to_string_lossy().into_owned();
    let load = |more: &[&str]| {
        let words = [&["load", "--config", &config], more].concat();
        gateway.ctl(node, &words)?.success()
    };
    let again = load(&["--mtu", "1400"]).unwrap();
    assert!(
        again.stdout.contains(&format!("runs on (process {first})")),
        "{}",
        again.stdout
    );
    assert_eq!(process().unwrap(), first);
    wait_for("the routes' MTU", PATIENCE, || {
        Ok(node.tool("ip -4 route show dev mape0")?.contains("mtu 1400"))
    })
    .unwrap();
    arrives();
    // Another device: the same process goes on with that one.
    load(&["--tunnel-device", "mape1"]).unwrap();
    wait_for("the other device's reader", PATIENCE, || {
        Ok(node.tool("ip link show mape1")?.contains("LOWER_UP"))
    })
    .unwrap();
    assert_eq!(process().unwrap(), first);

    // One that was killed is started again.
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for("its end", PATIENCE, || {
        Ok(!node.tool("ip link show mape1")?.contains("LOWER_UP"))
    })
    .unwrap();
    load(&[]).unwrap();
    let new = process().unwrap();
    assert_ne!(new, first);
    arrives();

    let unloaded = gateway.ctl(node, &["unload"]).unwrap().success().unwrap();
    assert!(
        unloaded.stdout.contains(&format!("(process {new})")),
        "{}",
        unloaded.stdout
    );
    assert!(fs::metadata(&file).is_err(), "its file is still there");
    assert!(!node.tool("ip link").unwrap().contains("mape0"));

    let left_out = load(&["--tunnel-process", "false"]).unwrap();
    assert!(
        left_out.stdout.contains("until `mape-ctl tunnel` runs"),
        "{}",
        left_out.stdout
    );
    assert!(fs::metadata(&file).is_err(), "it was started all the same");
}
