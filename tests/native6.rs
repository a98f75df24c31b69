//! Owns the tests of native IPv6 through a gateway that `mape-ctl run` looks after: forwarded in XDP while nothing is in its way, and by the kernel else.

use std::{
    collections::hash_map::DefaultHasher,
    hash::Hasher as _,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use mape_tests::{
    gateway::{self, Role, refused},
    lab::{Lab, LabOptions, alone, is_root},
    process::{Background, Finished, wait_for, watch_signals},
};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// Long enough for anything in a lab; what must be quicker is measured.
const PATIENCE: Duration = Duration::from_secs(15);
/// Within the customer edge's prefix, on its LAN: the gateway and a host.
const GATEWAY: &str = "2001:db8:12:3410::1";
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0x3410, 0, 0, 0, 2);
/// A host behind the provider's router.
const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const PORT: u16 = 7_016;
const MEBIBYTE: usize = 1 << 20;

/// A lab with IPv6 behind the customer edge; the node of the border relay is only a far host.
struct Site {
    lab: Lab,
    run: Option<Background>,
}

impl Site {
    fn new() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        for (node, line) in [
            ("ce", format!("address add {GATEWAY}/64 dev lan0 nodad")),
            ("host1", format!("address add {HOST}/64 dev eth0 nodad")),
            ("host1", format!("route add default via {GATEWAY}")),
            (
                "transit",
                "route add 2001:db8:12:3410::/64 via 2001:db8:12:3400::2".to_owned(),
            ),
        ] {
            lab.node(node)?.tool(&format!("ip -6 {line}"))?;
        }
        for interface in ["all", "lan0", "wan0"] {
            lab.node("ce")?
                .sysctl(&format!("ipv6/conf/{interface}/forwarding"), "1")?;
        }
        lab.prepare("ce", &gateway::program()?)?;
        Ok(Some(Self { lab, run: None }))
    }

    fn start(&mut self) -> Result<()> {
        let gateway = self.lab.gateway(Role::Ce)?;
        let config = gateway.config().to_string_lossy().into_owned();
        self.run = Some(gateway.start(self.lab.node("ce")?, &[], &["run", "--config", &config])?);
        wait_for("run", PATIENCE, || {
            Ok(self.stat().is_ok_and(|stat| stat["gate"] == "open"))
        })
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let run = self.run.take().context("run has ended")?;
        kill_process(run.pid(), signal)?;
        // Its end is awaited, so that no one else has its number.
        run.finish(PATIENCE).map(drop)
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

    /// Native packets that XDP has forwarded, outbound and inbound.
    fn native(&self) -> Result<[u64; 2]> {
        let stat = self.stat()?;
        let packets = |way: &str| {
            stat["directions"][way]["native"]["packets"]
                .as_u64()
                .context("no counter")
        };
        Ok([packets("outbound")?, packets("inbound")?])
    }

    fn is_by_xdp(&self) -> Result<bool> {
        Ok(self.stat()?["native_ipv6"] == "xdp")
    }

    /// Waits until native IPv6 is forwarded so; gives how long that took.
    fn becomes(&self, by_xdp: bool) -> Result<Duration> {
        let begin = Instant::now();
        wait_for(&format!("forwarded by XDP: {by_xdp}"), PATIENCE, || {
            Ok(self.is_by_xdp()? == by_xdp)
        })?;
        Ok(begin.elapsed())
    }

    /// The address of a device.
    fn mac(&self, node: &str, device: &str) -> Result<String> {
        let shown = self.tool(node, &format!("ip -o link show {device}"))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        Ok(words.nth(1).with_context(|| shown.clone())?.to_owned())
    }

    /// Pings, with more words for `ping`; what it says, whether there was an answer or not.
    fn ping(&self, from: &str, to: Ipv6Addr, more: &str) -> Result<(bool, String)> {
        let line = format!("ping -6 -n -W 1 {more} {to}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let finished = self.lab.exec(from, &words, PATIENCE)?;
        Ok((finished.status.success(), finished.stdout + &finished.stderr))
    }

    fn is_reachable(&self) -> Result<bool> {
        Ok(self.ping("host1", FAR, "-c 1")?.0)
    }

    fn wait_until_reachable(&self) -> Result<()> {
        wait_for("an answer by IPv6", PATIENCE, || self.is_reachable())
    }

    /// Sends so much from one node to another; every byte arrives.
    fn tcp(&self, from: &str, to: (&str, Ipv6Addr), bytes: usize) -> Result<()> {
        let listener = self
            .lab
            .node(to.0)?
            .enter(|| Ok(TcpListener::bind(SocketAddr::from((to.1, PORT)))?))?;
        let receiving = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let (mut hash, mut count, mut buffer) = (DefaultHasher::new(), 0, vec![0; 65_536]);
            loop {
                let len = stream.read(&mut buffer).context("the stream has come to a halt")?;
                if len == 0 {
                    return Ok::<_, anyhow::Error>((count, hash.finish()));
                }
                hash.write(&buffer[..len]);
                count += len;
            }
        });
        let sent = self.lab.node(from)?.enter(|| {
            let mut stream = TcpStream::connect((to.1, PORT))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let noise: Vec<u8> = (0_u32..)
                .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
                .take(bytes)
                .collect();
            stream.write_all(&noise)?;
            stream.shutdown(Shutdown::Write)?;
            let mut hash = DefaultHasher::new();
            hash.write(&noise);
            Ok((bytes, hash.finish()))
        })?;
        let received = receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        ensure!(sent == received, "sent {sent:?}, received {received:?}");
        Ok(())
    }
}

#[test]
fn xdp_forwards_what_it_can_and_the_stack_does_the_rest() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    site.start().unwrap();
    site.becomes(true).unwrap();
    site.wait_until_reachable().unwrap();
    let before = site.native().unwrap();
    let (answered, said) = site.ping("host1", FAR, "-c 20 -i 0.02").unwrap();
    assert!(answered && said.contains(" 0% packet loss"), "{said}");
    let after = site.native().unwrap();
    // One packet each way may have been the one that the neighbour is asked after by.
    assert!((0..2).all(|way| after[way] - before[way] >= 18), "{before:?} {after:?}");

    site.tcp("host1", ("br", FAR), 4 * MEBIBYTE).unwrap();
    site.tcp("br", ("host1", HOST), 4 * MEBIBYTE).unwrap();
    let stat = site.stat().unwrap();
    let [outbound, inbound] = site.native().unwrap();
    println!("{outbound} packets outbound and {inbound} inbound in XDP");
    assert!(outbound > 2_000 && inbound > 2_000, "{outbound} {inbound}");
    assert!(refused(&stat, "native-asks").unwrap() >= 2);
    for direction in ["outbound", "inbound"] {
        assert_eq!(
            stat["directions"][direction]["forwarded"]["packets"], 0,
            "none of the tunnel's"
        );
    }

    // The last hop, and packets that do not fit: a route's MTU, and a NIC's.
    let (answered, said) = site.ping("host1", FAR, "-c 1 -t 1").unwrap();
    assert!(
        !answered && said.contains(&format!("From {GATEWAY}")) && said.contains("Time exceeded"),
        "{said}"
    );
    for (change, back) in [
        (
            "ip -6 route change default via 2001:db8:12:3400::1 mtu lock 1400",
            "ip -6 route change default via 2001:db8:12:3400::1",
        ),
        ("ip link set wan0 mtu 1400", "ip link set wan0 mtu 1500"),
    ] {
        site.tool("ce", change).unwrap();
        let (answered, said) = site.ping("host1", FAR, "-c 1 -M do -s 1400").unwrap();
        assert!(
            !answered && said.to_lowercase().contains("packet too big") && said.contains("mtu=1400"),
            "{change}: {said}"
        );
        site.tool("ce", back).unwrap();
        site.wait_until_reachable().unwrap();
        // What the host has learned of the path is not for the next one.
        site.tool("host1", "ip -6 route flush cache").unwrap();
    }

    let told = site
        .ctl(&["explain", "--json", "--hex", &echo(&site).unwrap()])
        .unwrap();
    let told: Value = serde_json::from_str(&told.success().unwrap().stdout).unwrap();
    let packet = &told["packets"][0];
    // Or the packet is the one that asks.
    let outcome = (
        packet["outcome"].as_str(),
        packet["leaves_by"].as_str(),
        packet["reason"].as_str(),
    );
    assert!(
        [
            (Some("forwarded"), Some("wan0"), None),
            (Some("passed"), None, Some("native-asks"))
        ]
        .contains(&outcome),
        "{packet}"
    );
    let stopped = site.run.take().unwrap().stop().unwrap();
    assert!(stopped.stdout.contains("native IPv6: forwarded in XDP"), "{stopped:?}");
    assert!(!site.is_by_xdp().unwrap(), "run has ended, and the lease with it");
}

/// An echo request from the host to the far one, as hexadecimal digits.
fn echo(site: &Site) -> Result<String> {
    let mac = |node, device| Ok::<_, anyhow::Error>(site.mac(node, device)?.replace(':', ""));
    let hex = |address: Ipv6Addr| format!("{:032x}", address.to_bits());
    Ok(format!(
        "{}{}86dd6000000000083a40{}{}8000000000010001",
        mac("ce", "lan0")?,
        mac("host1", "eth0")?,
        hex(HOST),
        hex(FAR)
    ))
}

#[test]
fn neighbours_that_change_are_followed() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    // As after a minute or two of traffic: what the kernel knows of a neighbour is old.
    site.lab
        .node("ce")
        .unwrap()
        .sysctl("ipv6/neigh/lan0/base_reachable_time_ms", "4000")
        .unwrap();
    site.lab
        .node("ce")
        .unwrap()
        .sysctl("ipv6/neigh/lan0/delay_first_probe_time", "1")
        .unwrap();
    site.start().unwrap();
    site.becomes(true).unwrap();
    site.wait_until_reachable().unwrap();
    // A host that changes asks for its router anew, and by that says who it is.
    site.tool("host1", "ip link set eth0 address 02:00:00:00:77:01")
        .unwrap();
    let begin = Instant::now();
    site.wait_until_reachable().unwrap();
    println!("a host that says something: reachable after {:?}", begin.elapsed());
    // One that says nothing of it has to be asked after, while packets to it flow.
    let mac = site.mac("ce", "lan0").unwrap();
    let knows = format!("ip -6 neigh replace {GATEWAY} lladdr {mac} dev eth0 nud permanent");
    site.tool("host1", &knows).unwrap();
    wait_for("the host to be known", PATIENCE, || {
        Ok(site.ping("br", HOST, "-c 1")?.0)
    })
    .unwrap();
    // Nor is the kernel about to ask by itself, as it is for a while after it has sent something there.
    let entry = format!("ip -6 neigh show dev lan0 to {HOST}");
    wait_for("an old entry", PATIENCE, || {
        Ok(site.tool("ce", &entry)?.contains("STALE"))
    })
    .unwrap();
    site.tool("host1", "ip link set eth0 address 02:00:00:00:77:02")
        .unwrap();
    site.tool("host1", &knows).unwrap();
    let begin = Instant::now();
    wait_for("the host to be found again", PATIENCE, || {
        Ok(site.ping("br", HOST, "-c 3 -i 0.2")?.0)
    })
    .unwrap();
    println!("a silent one: reachable after {:?}", begin.elapsed());
    let before = site.native().unwrap();
    assert!(site.ping("br", HOST, "-c 10 -i 0.02").unwrap().0);
    let after = site.native().unwrap();
    assert!(after[1] - before[1] >= 8, "in XDP again: {before:?} {after:?}");
}

#[test]
fn a_firewall_is_never_passed_by() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    site.start().unwrap();
    site.becomes(true).unwrap();
    site.wait_until_reachable().unwrap();
    for (family, hook, drop) in [
        ("inet", "forward", format!("ip6 daddr {FAR} drop")),
        ("ip6", "prerouting", format!("ip6 daddr {FAR} drop")),
    ] {
        site.tool("ce", &format!("nft add table {family} guard")).unwrap();
        let chain =
            format!("nft add chain {family} guard watch {{ type filter hook {hook} priority 0 ; policy accept ; }}");
        site.tool("ce", &chain).unwrap();
        let took = site.becomes(false).unwrap();
        println!("{family} {hook}: off after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(site.is_reachable().unwrap(), "the kernel forwards");
        site.tool("ce", &format!("nft add rule {family} guard watch {drop}"))
            .unwrap();
        let before = site.native().unwrap();
        assert!(!site.is_reachable().unwrap(), "the rule drops");
        assert_eq!(site.native().unwrap(), before, "and XDP keeps out of it");
        let found = site.ctl(&["check", "--passive", "--json"]).unwrap();
        let found: Value = serde_json::from_str(&found.stdout).unwrap();
        let finding = found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["id"] == "firewall-native")
            .unwrap();
        assert_eq!(finding["level"], "note", "{finding}");
        let what = finding["what"].as_str().unwrap();
        assert!(what.contains(&format!("{family} guard watch (hook {hook})")), "{what}");
        site.tool("ce", &format!("nft delete table {family} guard")).unwrap();
        println!("{family} {hook}: on again after {:?}", site.becomes(true).unwrap());
        site.wait_until_reachable().unwrap();
        let before = site.native().unwrap();
        assert!(site.ping("host1", FAR, "-c 5 -i 0.02").unwrap().0);
        assert!(site.native().unwrap()[0] - before[0] >= 4);
    }
    // Chains that it does not come by.
    for (family, hook) in [("ip", "forward"), ("inet", "input"), ("ip6", "output")] {
        site.tool("ce", &format!("nft add table {family} other")).unwrap();
        site.tool(
            "ce",
            &format!("nft add chain {family} other watch {{ type filter hook {hook} priority 0 ; }}"),
        )
        .unwrap();
    }
    thread::sleep(Duration::from_secs(1));
    assert!(site.is_by_xdp().unwrap());
    // Without forwarding in the kernel there is none in XDP.
    site.lab
        .node("ce")
        .unwrap()
        .sysctl("ipv6/conf/all/forwarding", "0")
        .unwrap();
    assert!(site.becomes(false).unwrap() < Duration::from_secs(2));
    assert!(!site.is_reachable().unwrap());
    site.lab
        .node("ce")
        .unwrap()
        .sysctl("ipv6/conf/all/forwarding", "1")
        .unwrap();
    site.becomes(true).unwrap();
    // Killed, `run` cannot withdraw anything: it ends by itself.
    site.end(Signal::KILL).unwrap();
    let took = site.becomes(false).unwrap();
    println!("run killed: off after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    site.wait_until_reachable().unwrap();
}

#[test]
fn always_and_never_are_what_they_say() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let config = site
        .lab
        .gateway(Role::Ce)
        .unwrap()
        .config()
        .to_string_lossy()
        .into_owned();
    let load = |when: &str| {
        let said = site
            .ctl(&["load", "--config", &config, "--ipv6-forward", when])?
            .success()?;
        let line = said
            .stdout
            .lines()
            .find(|line| line.starts_with("native IPv6: "))
            .map(str::to_owned);
        line.with_context(|| said.stdout.clone())
    };
    let finding = |id: &str| -> Result<Vec<String>> {
        let found: Value = serde_json::from_str(&site.ctl(&["check", "--passive", "--json"])?.stdout)?;
        let all = found["findings"].as_array().context("no findings")?.iter();
        Ok(all
            .filter(|finding| finding["id"] == id && finding["level"] != "ok")
            .map(|finding| finding["what"].to_string())
            .collect())
    };
    assert!(load("auto").unwrap().contains("left to the kernel"));
    site.wait_until_reachable().unwrap();
    assert_eq!((site.is_by_xdp().unwrap(), site.native().unwrap()), (false, [0, 0]));
    assert!(finding("firewall-native").unwrap()[0].contains("nobody sees to it"));

    site.tool("ce", "nft add table ip6 guard").unwrap();
    site.tool(
        "ce",
        "nft add chain ip6 guard watch { type filter hook forward priority 0 ; policy drop ; }",
    )
    .unwrap();
    assert!(!site.is_reachable().unwrap());
    assert!(load("always").unwrap().contains("forwarded in XDP"));
    assert!(site.is_by_xdp().unwrap());
    // The packets that neighbours are asked after by are the kernel's, and dropped there.
    wait_for("an answer past the chain", PATIENCE, || site.is_reachable()).unwrap();
    assert!(site.native().unwrap()[0] > 0);
    let bypassed = finding("firewall-bypassed").unwrap();
    assert!(
        bypassed
            .iter()
            .any(|what| what.contains("native IPv6") && what.contains("ip6 guard watch")),
        "{bypassed:?}"
    );

    // A load that fails changes nothing about that.
    let failed = site
        .ctl(&["load", "--config", &config, "--ipv6-forward", "never", "--mtu", "9000"])
        .unwrap();
    assert!(!failed.status.success(), "{failed:?}");
    assert!(site.is_by_xdp().unwrap() && site.is_reachable().unwrap());

    assert!(load("never").unwrap().contains("left to the kernel"));
    let before = site.native().unwrap();
    assert!(!site.is_by_xdp().unwrap() && !site.is_reachable().unwrap());
    site.tool("ce", "nft delete table ip6 guard").unwrap();
    site.wait_until_reachable().unwrap();
    let stat = site.stat().unwrap();
    assert_eq!(site.native().unwrap(), before);
    assert!(
        refused(&stat, "other-ethertype").unwrap() > 0,
        "counted as if there were no such thing"
    );
    assert!(load("always").unwrap().contains("forwarded in XDP"));
    site.wait_until_reachable().unwrap();
    assert!(site.ping("host1", FAR, "-c 5 -i 0.02").unwrap().0);
    assert!(site.native().unwrap()[0] > before[0], "the stages are there again");
}
