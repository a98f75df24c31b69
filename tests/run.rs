//! Owns the tests of `mape-ctl run`: changes of the machine followed while packets flow, processes looked after, and its end.

#[path = "run/early.rs"]
mod early;

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
