//! Owns the tests of `mape-ctl run`: changes of the machine followed while packets flow, processes looked after, and its end.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::Hasher as _,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    plan,
    process::{Background, Finished, wait_for, watch_signals},
    table::frame::{Frame, Payload},
    traffic::{
        iperf::Direction,
        numbered::{self, Load, Numbered},
    },
};
use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

/// Where the far side of a stream listens.
const PORT: u16 = 7_010;
/// Datagrams per second while something changes.
const RATE: u32 = 250;
/// Long enough for anything in a lab; what must be quicker is measured.
const PATIENCE: Duration = Duration::from_secs(15);

/// A lab whose customer edge is looked after by `run`.
struct Site {
    lab: Lab,
    run: Option<Background>,
    manager: UnixDatagram,
    socket: PathBuf,
}

impl Site {
    fn new() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        let program = gateway::program()?;
        lab.load_in(&["br"], &program)?;
        lab.node("transit")?.sysctl("ipv6/conf/ce0/ndisc_notify", "1")?;
        let gateway = lab.prepare("ce", &program)?;
        let config = fs::read_to_string(gateway.config())?;
        fs::write(gateway.config(), with_routes(&config))?;
        let socket = lab.folder().join("notify");
        let manager = UnixDatagram::bind(&socket)?;
        manager.set_read_timeout(Some(PATIENCE))?;
        let mut site = Self {
            lab,
            run: None,
            manager,
            socket,
        };
        site.start()?;
        site.lab.wait_until_reachable("host1")?;
        Ok(Some(site))
    }

    fn start(&mut self) -> Result<()> {
        let gateway = self.lab.gateway(Role::Ce)?;
        let (config, socket) = (gateway.config().to_string_lossy(), self.socket.to_string_lossy());
        let words = ["run", "--config", &config];
        self.run = Some(gateway.start(self.lab.node("ce")?, &[("NOTIFY_SOCKET", &socket)], &words)?);
        self.told("READY=1")
    }

    /// Waits until the service manager is told that.
    fn told(&self, word: &str) -> Result<()> {
        let mut buffer = [0; 512];
        loop {
            let len = self
                .manager
                .recv(&mut buffer)
                .with_context(|| format!("the manager was not told {word}"))?;
            let said = String::from_utf8_lossy(&buffer[..len]);
            if said.lines().any(|line| line == word) {
                return Ok(());
            }
        }
    }

    fn pid(&self) -> Result<Pid> {
        Ok(self.run.as_ref().context("run has ended")?.pid())
    }

    /// Ends `run` as a service manager does.
    fn stop(&mut self) -> Result<Finished> {
        self.run.take().context("run has ended")?.stop()
    }

    fn ctl(&self, words: &[&str]) -> Result<Finished> {
        self.lab.gateway(Role::Ce)?.ctl(self.lab.node("ce")?, words)
    }

    fn tool(&self, node: &str, line: &str) -> Result<String> {
        self.lab.node(node)?.tool(line)
    }

    fn stat(&self) -> Result<Value> {
        let finished = self.ctl(&["stat", "--json", "--no-rates"])?.success()?;
        Ok(serde_json::from_str(&finished.stdout)?)
    }

    /// Packets in the fast path, outbound and inbound.
    fn forwarded(&self) -> Result<[u64; 2]> {
        let stat = self.stat()?;
        let packets = |direction: &str| stat["directions"][direction]["forwarded"]["packets"].as_u64();
        let both = packets("outbound").zip(packets("inbound"));
        both.map(|(outbound, inbound)| [outbound, inbound])
            .context("`mape-ctl stat --json` lacks what was forwarded")
    }

    /// The next hop towards the border relay.
    fn router(&self) -> Result<Value> {
        Ok(self.stat()?["next_hops"][0].clone())
    }

    fn tunnel_pid(&self) -> Result<i32> {
        let path = format!("/run/mape/{}.tunnel.pid", self.lab.gateway(Role::Ce)?.instance());
        let text = fs::read_to_string(&path).with_context(|| format!("there is no {path}"))?;
        let (pid, _) = text.split_once(' ').with_context(|| format!("{path}: {text:?}"))?;
        Ok(pid.parse()?)
    }

    /// Sends numbered datagrams while something is done, a second after the first; gives what became of them.
    fn across(&self, seconds: u32, change: impl FnOnce() -> Result<()>) -> Result<Numbered> {
        let load = Load {
            count: usize::try_from(RATE * seconds)?,
            size: 200,
            rate: RATE,
        };
        thread::scope(|scope| {
            let sending = scope.spawn(|| numbered::send(&self.lab, "host1", Direction::Up, load));
            thread::sleep(Duration::from_secs(1));
            let changed = change();
            let seen = sending.join().map_err(|_| anyhow!("the sender panicked"))??;
            changed?;
            ensure!(seen.damaged == 0, "{seen:?}");
            Ok(seen)
        })
    }
}

/// How long nothing arrived.
fn outage(seen: &Numbered) -> Duration {
    Duration::from_secs(1) * u32::try_from(seen.lost).unwrap_or(u32::MAX) / RATE
}

fn with_routes(config: &str) -> String {
    config.replace("device = \"mape0\"", "device = \"mape0\"\nroutes = [\"0.0.0.0/0\"]")
}

/// A TCP connection from host 1 to the server that carries bytes until it is told to end, a few hundred kilobytes a second.
struct Stream {
    enough: Arc<AtomicBool>,
    sending: thread::JoinHandle<Result<(u64, u64)>>,
    receiving: thread::JoinHandle<Result<(u64, u64)>>,
}

impl Stream {
    fn start(lab: &Lab) -> Result<Self> {
        let listener = lab
            .node("internet")?
            .enter(|| Ok(TcpListener::bind((plan::SERVER, PORT))?))?;
        let receiving = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let (mut hash, mut count, mut buffer) = (DefaultHasher::new(), 0, vec![0; 65_536]);
            loop {
                let len = stream.read(&mut buffer).context("the stream has come to a halt")?;
                if len == 0 {
                    return Ok((count, hash.finish()));
                }
                hash.write(&buffer[..len]);
                count += u64::try_from(len)?;
            }
        });
        let enough = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&enough);
        let sending = lab.node("host1")?.spawn_thread(move || {
            let mut stream = TcpStream::connect((plan::SERVER, PORT))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let (mut hash, mut count) = (DefaultHasher::new(), 0_u64);
            while !done.load(Ordering::Relaxed) {
                let block: Vec<u8> = count.to_be_bytes().into_iter().cycle().take(4_096).collect();
                stream.write_all(&block)?;
                hash.write(&block);
                count += 4_096;
                thread::sleep(Duration::from_millis(10));
            }
            Ok((count, hash.finish()))
        })?;
        Ok(Self {
            enough,
            sending,
            receiving,
        })
    }

    /// Ends the connection; every byte has arrived. Gives how many there were.
    fn finish(self) -> Result<u64> {
        self.enough.store(true, Ordering::Relaxed);
        let sent = self.sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        let received = self.receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        // The hash goes over the bytes, however they were cut.
        ensure!(
            sent.0 == received.0 && sent.0 > 0,
            "sent {sent:?}, received {received:?}"
        );
        Ok(sent.0)
    }
}

#[test]
fn a_router_with_another_mac_address_is_followed_within_a_second() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    let stream = Stream::start(&site.lab).unwrap();
    let new = "02:00:00:00:99:01";
    let seen = site
        .across(4, || {
            site.tool("transit", &format!("ip link set ce0 address {new}"))?;
            Ok(())
        })
        .unwrap();
    println!("announced: {seen:?}, nothing arrived for {:?}", outage(&seen));
    assert!(outage(&seen) < Duration::from_secs(1), "{seen:?}");
    assert_eq!(site.router().unwrap()["mac"], new);

    // Without a word: it has to be asked.
    site.lab
        .node("transit")
        .unwrap()
        .sysctl("ipv6/conf/ce0/ndisc_notify", "0")
        .unwrap();
    let new = "02:00:00:00:99:02";
    let seen = site
        .across(18, || {
            site.tool("transit", &format!("ip link set ce0 address {new}"))?;
            Ok(())
        })
        .unwrap();
    println!("silent: {seen:?}, nothing arrived for {:?}", outage(&seen));
    assert!(outage(&seen) < Duration::from_secs(15), "{seen:?}");
    assert_eq!(site.router().unwrap()["mac"], new);
    println!("{} bytes of TCP across both", stream.finish().unwrap());
    let said = site.stop().unwrap();
    assert!(said.stdout.contains(new), "{}", said.stdout);
}

#[test]
fn mtus_routes_and_addresses_are_followed_within_a_second() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    let stream = Stream::start(&site.lab).unwrap();
    let follows = |site: &Site, key: &str, value: Value| -> Result<Duration> {
        let begin = Instant::now();
        wait_for(&format!("{key} = {value}"), PATIENCE, || {
            Ok(site.router()?[key] == value)
        })?;
        Ok(begin.elapsed())
    };
    let changes = [
        (
            "ip -6 route change default via 2001:db8:12:3400::1 mtu 1400",
            "mtu",
            Value::from(1_400),
        ),
        (
            "ip -6 route change default via 2001:db8:12:3400::1",
            "mtu",
            Value::from(1_500),
        ),
        ("ip link set wan0 mtu 1480", "mtu", Value::from(1_480)),
        ("ip link set wan0 mtu 1500", "mtu", Value::from(1_500)),
        (
            "ip -6 route change default via 2001:db8:12:3400::9",
            "router",
            Value::from("2001:db8:12:3400::9"),
        ),
        (
            "ip -6 route change default via 2001:db8:12:3400::1",
            "router",
            Value::from("2001:db8:12:3400::1"),
        ),
    ];
    site.tool("transit", "ip -6 address add 2001:db8:12:3400::9/64 dev ce0 nodad")
        .unwrap();
    for (line, key, value) in changes {
        site.tool("ce", line).unwrap();
        let took = follows(&site, key, value.clone()).unwrap();
        println!("{line}: {key} is {value} after {took:?}");
        // `stat` itself takes part of that.
        assert!(took < Duration::from_secs(1), "{line}: {took:?}");
    }
    let mac = "02:00:00:00:99:03";
    site.tool("ce", &format!("ip link set lan1 address {mac}")).unwrap();
    wait_for("the NIC's own address", Duration::from_secs(2), || {
        let stat = site.stat()?;
        let links = stat["links"].as_array().context("no links")?;
        Ok(links.iter().any(|link| link["name"] == "lan1" && link["mac"] == mac))
    })
    .unwrap();
    println!("{} bytes of TCP across all", stream.finish().unwrap());
    let said = site.stop().unwrap();
    assert!(said.stdout.contains("MTU 1400 (was 1500)"), "{}", said.stdout);
    assert!(said.stderr.contains("wan0 has an MTU of 1480"), "{}", said.stderr);
}

#[test]
fn devices_that_are_gone_and_back_are_taken_up_again() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    for (device, wire) in [("wan0", true), ("mape0", false), ("lan0", true)] {
        let stream = Stream::start(&site.lab).unwrap();
        let mut since = Instant::now();
        if wire {
            site.lab.cut("ce", device).unwrap();
            thread::sleep(Duration::from_millis(500));
            site.lab.mend("ce", device).unwrap();
            since = Instant::now();
        } else {
            site.tool("ce", &format!("ip link delete {device}")).unwrap();
        }
        site.lab.wait_until_reachable("host1").unwrap();
        println!("{device}: reachable {:?} after it was back", since.elapsed());
        wait_for("the fast path", PATIENCE, || {
            let before = site.forwarded()?;
            site.lab.wait_until_reachable("host1")?;
            let after = site.forwarded()?;
            Ok(after[0] > before[0] && after[1] > before[1])
        })
        .unwrap();
        println!("{device}: in the fast path {:?} after it was back", since.elapsed());
        println!("{device}: {} bytes of TCP across", stream.finish().unwrap());
    }
    assert!(site.tool("ce", "ip -4 route show default").unwrap().contains("mape0"));
    let link = site.lab.gateway(Role::Ce).unwrap().pin("links/wan0");
    assert!(link.exists(), "{}", link.display());
    let said = site.stop().unwrap();
    println!("{}{}", said.stdout, said.stderr);
    assert!(
        !said.stderr.contains("are dropped"),
        "early fragments are held again each time"
    );
    for line in ["wan0 is gone", "mape0 is gone", "lan0 is gone"] {
        assert!(said.stdout.contains(line) || said.stderr.contains(line), "{line}");
    }
}

#[test]
fn what_was_made_and_is_taken_away_is_made_again() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    for (take, show, there) in [
        ("ip -4 route del default dev mape0", "ip -4 route show default", "mape0"),
        (
            "ip -6 address del 2001:db8:12:3400:0:c000:212:34/128 dev wan0",
            "ip -6 address show dev wan0",
            "2001:db8:12:3400:0:c000:212:34/128",
        ),
    ] {
        site.tool("ce", take).unwrap();
        wait_for(there, PATIENCE, || Ok(site.tool("ce", show)?.contains(there))).unwrap();
        site.lab.wait_until_reachable("host1").unwrap();
    }
}

#[test]
fn the_tunnels_process_is_started_again_and_outlives_run() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    if site.tunnel_pid().is_err() {
        println!("SKIPPED: this kernel carries the tunnel itself");
        return;
    }
    let first = site.tunnel_pid().unwrap();
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    let begin = Instant::now();
    wait_for("another tunnel", PATIENCE, || {
        Ok(site.tunnel_pid().is_ok_and(|pid| pid != first))
    })
    .unwrap();
    println!("started again after {:?}", begin.elapsed());
    let second = site.tunnel_pid().unwrap();
    let said = site.stop().unwrap();
    assert!(said.status.success(), "{said:?}");
    site.told("STOPPING=1").unwrap();
    assert!(
        said.stderr.contains(&format!("(process {first}) has ended")),
        "{}",
        said.stderr
    );
    assert_eq!(site.tunnel_pid().unwrap(), second, "it goes on");
    assert_eq!(site.stat().unwrap()["gate"], "open");
    site.lab.wait_until_reachable("host1").unwrap();
    // Another one takes both over.
    site.start().unwrap();
    assert_eq!(site.tunnel_pid().unwrap(), second, "it is taken over");
    kill_process(Pid::from_raw(second).unwrap(), Signal::KILL).unwrap();
    wait_for("another tunnel", PATIENCE, || {
        Ok(site.tunnel_pid().is_ok_and(|pid| pid != second))
    })
    .unwrap();
}

#[test]
fn there_is_one_of_an_instance_it_reloads_and_unload_ends_it() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    let config = site.lab.gateway(Role::Ce).unwrap().config().to_owned();
    let name = config.to_string_lossy().into_owned();
    let pid = site.pid().unwrap().as_raw_nonzero().to_string();
    for command in ["run", "load"] {
        let refused = site.ctl(&[command, "--config", &name]).unwrap();
        assert!(!refused.status.success(), "{command}");
        assert!(refused.stderr.contains(&pid), "{}", refused.stderr);
    }
    // Reload, with a configuration that is right and one that is not.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("mtu = 1460", "mtu = 1400")).unwrap();
    kill_process(site.pid().unwrap(), Signal::HUP).unwrap();
    site.told("RELOADING=1").unwrap();
    let begin = Instant::now();
    site.told("READY=1").unwrap();
    println!("reloaded within {:?}", begin.elapsed());
    assert!(site.tool("ce", "ip link show mape0").unwrap().contains("mtu 1400"));
    fs::write(&config, "role = \"neither\"\n").unwrap();
    kill_process(site.pid().unwrap(), Signal::HUP).unwrap();
    site.told("RELOADING=1").unwrap();
    site.told("READY=1").unwrap();
    site.lab.wait_until_reachable("host1").unwrap();
    let unloaded = site.ctl(&["unload"]).unwrap().success().unwrap();
    assert!(unloaded.stdout.contains("ended `mape-ctl run`"), "{}", unloaded.stdout);
    let said = site.run.take().unwrap().finish(PATIENCE).unwrap();
    assert!(said.status.success(), "{said:?}");
    assert!(
        said.stderr.contains("the configuration was not taken over"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_storm_of_changes_costs_little_and_hides_nothing() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let cpu = || -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", site.pid()?.as_raw_nonzero()))?;
        let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let before = cpu().unwrap();
    // 20,000 neighbours and routes, made and taken away, faster than anybody can read of them.
    let batch = site.lab.folder().join("storm");
    let mut lines = String::new();
    for round in ["add", "del"] {
        for number in 0..10_000 {
            let address = format!("2001:db8:12:3400::{:x}:{:x}", 1 + number / 5_000, 1 + number % 5_000);
            lines.extend(if number % 2 == 0 {
                ["neigh ", round, " ", &address, " lladdr 02:00:00:00:00:07 dev wan0\n"]
            } else {
                [
                    "route ",
                    round,
                    " ",
                    &address,
                    "/128 via 2001:db8:12:3400::1 dev wan0\n",
                ]
            });
        }
    }
    fs::write(&batch, lines).unwrap();
    let begin = Instant::now();
    site.tool("ce", &format!("ip -6 -batch {}", batch.display())).unwrap();
    let stormed = begin.elapsed();
    let used = Duration::from_millis(10) * u32::try_from(cpu().unwrap() - before).unwrap();
    println!("a storm of {stormed:?} took {used:?} of a processor");
    assert!(used < stormed + Duration::from_secs(1), "{used:?} of {stormed:?}");
    site.tool("transit", "ip link set ce0 address 02:00:00:00:99:04")
        .unwrap();
    wait_for("the router", Duration::from_secs(2), || {
        Ok(site.router()?["mac"] == "02:00:00:00:99:04")
    })
    .unwrap();
}

/// Sends fragments, each an IPv4 packet with its header, from a node.
fn send_raw(lab: &Lab, node: &str, to: Ipv4Addr, packets: &[Vec<u8>]) -> Result<()> {
    lab.node(node)?.enter(|| {
        // What is sent by a socket of protocol 255 has its header already.
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket")?;
        for packet in packets {
            sendto(&raw, packet, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
        }
        Ok(())
    })
}

/// The fragments of a datagram, the last one first.
fn reversed(id: u16, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Vec<Vec<u8>> {
    let payload = Payload::Udp {
        from: from.1,
        to: to.1,
        data: data.to_vec(),
        checksum: true,
    };
    backwards(id, from.0, to.0, payload)
}

/// The fragments of any packet, the last one first.
fn backwards(id: u16, from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Vec<Vec<u8>> {
    let frame = Frame {
        id,
        ..Frame::new(from, to, payload)
    };
    let mut pieces: Vec<Vec<u8>> = frame
        .split(1_400)
        .iter()
        .map(|piece| piece.bytes().split_off(14))
        .collect();
    pieces.reverse();
    pieces
}

const HOST_1: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);

/// A conversation by UDP between host 1 and the server: the sockets of both, and the host's address as the server sees it.
struct Talk {
    near: UdpSocket,
    far: UdpSocket,
    seen_from: SocketAddrV4,
}

impl Talk {
    fn begin(site: &Site) -> Result<Self> {
        let near = site.lab.node("host1")?.enter(|| numbered::socket((HOST_1, 5_000)))?;
        let far = site
            .lab
            .node("internet")?
            .enter(|| numbered::socket((plan::SERVER, PORT)))?;
        near.connect((plan::SERVER, PORT))?;
        let (seen_from, _) = numbered::greet(&near, &far)?;
        let SocketAddr::V4(seen_from) = seen_from else {
            bail!("{seen_from} is no IPv4 address")
        };
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        }
        Ok(Self { near, far, seen_from })
    }

    /// Sends a datagram in fragments, the last one first; whether it arrives whole.
    fn backwards(&self, site: &Site, direction: Direction, id: u16, len: usize) -> Result<bool> {
        let data: Vec<u8> = (0..=255).cycle().skip(usize::from(id)).take(len).collect();
        let (node, to, receiver, pieces) = match direction {
            Direction::Up => {
                let pieces = reversed(id, (HOST_1, 5_000), (plan::SERVER, PORT), &data);
                ("host1", plan::SERVER, &self.far, pieces)
            }
            Direction::Down => {
                let to = (*self.seen_from.ip(), self.seen_from.port());
                let pieces = reversed(id, (plan::SERVER, PORT), to, &data);
                ("internet", to.0, &self.near, pieces)
            }
        };
        send_raw(&site.lab, node, to, &pieces)?;
        let mut buffer = vec![0; 65_536];
        match receiver.recv(&mut buffer) {
            Ok(len) => {
                ensure!(buffer[..len] == data, "it arrives changed");
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }
}

/// Pings the server from host 1 with a request of 4,000 bytes whose last fragment goes first; whether it is answered in full.
fn ping_backwards(site: &Site, id: u16) -> Result<bool> {
    const IDENTIFIER: u16 = 0x4d45;
    let echo = Payload::Icmp {
        kind: 8,
        code: 0,
        id: IDENTIFIER,
        data: vec![7; 4_000],
    };
    let listening = site.lab.node("host1")?.enter(|| {
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).context("no raw socket")?;
        set_socket_timeout(&raw, Timeout::Recv, Some(Duration::from_secs(1)))?;
        Ok(raw)
    })?;
    send_raw(
        &site.lab,
        "host1",
        plan::SERVER,
        &backwards(id, HOST_1, plan::SERVER, echo),
    )?;
    let mut buffer = vec![0; 65_536];
    while let Ok((len, _)) = recv(&listening, &mut buffer[..], RecvFlags::empty()) {
        // Behind the IPv4 header: type, code, checksum, identifier.
        let is_answer = buffer[20] == 0 && buffer[24..26] == IDENTIFIER.to_be_bytes();
        if is_answer {
            return Ok(len >= 20 + 8 + 4_000 && buffer[28 + 3_999] == 7);
        }
    }
    Ok(false)
}

/// What a gateway has counted of early fragments.
fn early(site: &Site) -> Result<[u64; 5]> {
    // Counted a few times a second.
    thread::sleep(Duration::from_millis(300));
    let stat = site.stat()?;
    let of = |key: &str| {
        let value = stat.pointer(&format!("/early_fragments/{key}")).and_then(Value::as_u64);
        value.with_context(|| format!("`mape-ctl stat --json` lacks early_fragments/{key}"))
    };
    Ok([
        of("held")?,
        of("released")?,
        of("expired")?,
        of("displaced")?,
        of("lost")?,
    ])
}

fn missing(site: &Site) -> Result<u64> {
    gateway::refused(&site.stat()?, "fragment-first-missing")
}

#[test]
fn fragments_that_come_backwards_arrive_while_run_is_there() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    // What has been put in order here is in order at the border relay, too, but not what comes from beyond it.
    let br = site.lab.gateway(Role::Br).unwrap().clone();
    let node = site.lab.node("br").unwrap().clone();
    let config = br.config().to_string_lossy().into_owned();
    let br_run = br.start(&node, &[], &["run", "--config", &config]).unwrap();
    wait_for("the border relay's run", PATIENCE, || {
        let file = format!("/run/mape/{}.run.pid", br.instance());
        Ok(fs::read_to_string(file).is_ok_and(|text| text.contains("ready")))
    })
    .unwrap();
    let talk = Talk::begin(&site).unwrap();
    let mut id = 0;
    for direction in [Direction::Up, Direction::Down] {
        let mut whole = 0;
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            id += 1;
            let begin = Instant::now();
            whole += usize::from(talk.backwards(&site, direction, id, 4_000).unwrap());
            slowest = slowest.max(begin.elapsed());
        }
        if whole < 50 {
            for role in [Role::Ce, Role::Br] {
                let gateway = site.lab.gateway(role).unwrap();
                println!(
                    "{}",
                    gateway
                        .ctl(site.lab.node(role.node()).unwrap(), &["stat"])
                        .unwrap()
                        .stdout
                );
            }
        }
        println!("{direction:?}: {whole} of 50 arrived, the slowest after {slowest:?}");
        assert_eq!(whole, 50, "{direction:?}");
        id += 1;
        assert!(
            talk.backwards(&site, direction, id, 30_000).unwrap(),
            "{direction:?}: many fragments"
        );
    }
    // The server cuts its answers so that they fit the tunnel.
    site.tool("internet", "ip -4 route replace 192.0.2.0/24 via 203.0.113.1 mtu 1460")
        .unwrap();
    for id in 500..520 {
        assert!(ping_backwards(&site, id).unwrap(), "ping {id}");
    }
    let [held, released, expired, displaced, lost] = early(&site).unwrap();
    println!("held {held}, released {released}, expired {expired}, displaced {displaced}, lost {lost}");
    assert_eq!((released, expired, displaced, lost), (held, 0, 0, 0));
    // Outwards two early fragments of each datagram, inwards none where the border relay has put them in order.
    assert!(held >= 100 + 21, "{held}");
    assert_eq!(missing(&site).unwrap(), 0);

    // A first fragment that never comes.
    let pieces = reversed(9_999, (HOST_1, 5_000), (plan::SERVER, PORT), &[7; 4_000]);
    send_raw(&site.lab, "host1", plan::SERVER, &pieces[..2]).unwrap();
    thread::sleep(Duration::from_millis(2_500));
    let after = early(&site).unwrap();
    assert_eq!(after[2], 2, "{after:?}");

    // Without it, dropped and counted.
    kill_process(site.pid().unwrap(), Signal::KILL).unwrap();
    site.run.take().unwrap().finish(PATIENCE).unwrap();
    assert!(!talk.backwards(&site, Direction::Up, 10_000, 4_000).unwrap());
    assert_eq!(missing(&site).unwrap(), 2);
    site.start().unwrap();
    assert!(talk.backwards(&site, Direction::Up, 10_001, 4_000).unwrap());
    assert_eq!(missing(&site).unwrap(), 2);
    drop(br_run);
}

#[test]
fn a_flood_of_early_fragments_is_bounded_and_spares_others() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let talk = Talk::begin(&site).unwrap();
    let cpu = |site: &Site| -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", site.pid()?.as_raw_nonzero()))?;
        let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let flood = site
        .lab
        .node("host2")
        .unwrap()
        .spawn_thread(move || {
            let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket")?;
            let from = (Ipv4Addr::new(192, 168, 20, 2), 6_000);
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let id = u16::try_from(sent % 60_000)?;
                let pieces = reversed(id, from, (plan::SERVER, 9), &[0; 2_000]);
                sendto(
                    &raw,
                    &pieces[0],
                    SendFlags::empty(),
                    &SocketAddrV4::new(plan::SERVER, 0),
                )?;
                sent += 1;
            }
            Ok(sent)
        })
        .unwrap();
    let (begin, before) = (Instant::now(), cpu(&site).unwrap());
    let mut whole = 0;
    for id in 0..40 {
        whole += usize::from(talk.backwards(&site, Direction::Up, id, 4_000).unwrap());
    }
    let used = Duration::from_millis(10) * u32::try_from(cpu(&site).unwrap() - before).unwrap();
    let took = begin.elapsed();
    enough.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap().unwrap();
    let [held, released, expired, displaced, lost] = early(&site).unwrap();
    println!(
        "{sent} early fragments in {took:?}: {whole} of 40 datagrams beside them arrived, {used:?} of a processor"
    );
    println!("held {held}, released {released}, expired {expired}, displaced {displaced}, lost {lost}");
    assert!(whole >= 38, "{whole}");
    assert!(displaced > 0, "one sender has a share and no more");
    let memory = fs::read_to_string(format!("/proc/{}/status", site.pid().unwrap().as_raw_nonzero())).unwrap();
    let resident = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    println!("{resident}");
}
