//! Owns the tests of `mape-ctl load` and `unload` as an operator meets them: what they make, refuse, say and leave behind.

use std::{
    env, fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway,
    netns::Netns,
    pass,
    process::{CleanUp, Finished, run, wait_for, watch_signals},
};
use serde_json::{Value, json};

/// Far more than any mape-ctl call needs; a router that does not answer takes it 3 s.
const LIMIT: Duration = Duration::from_secs(20);
/// Every layout version of every release has a folder here, and every instance one in it.
const PINS: &str = "/sys/fs/bpf/mape";
/// Where the records and locks of instances are.
const RECORDS: &str = "/run/mape";
/// The tunnel's address on the WAN that follows from the flags below.
const CE_ADDRESS: &str = "2001:db8:12:3400:0:c000:212:34";
const BR: &str = "2001:db8:ffff::1";
/// The line, without its interfaces.
const LINE: [&str; 6] = [
    "--prefix",
    "2001:db8:12:3400::/56",
    "--rule",
    "2001:db8::/40,192.0.2.0/24,16,6",
    "--br",
    BR,
];

/// A machine to become a customer edge, and a second namespace that is its LAN host and its IPv6 router.
struct Site {
    ce: Netns,
    far: Netns,
    instance: String,
    program: PathBuf,
}

/// What mape-ctl may change on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Interfaces, each with the id of its XDP program.
    links: Vec<(String, Option<u64>)>,
    addresses: String,
    routes: String,
    pins: Vec<PathBuf>,
    record: bool,
    /// IPv4 forwarding of `lan0`.
    forwarding: bool,
}

impl Site {
    /// Makes the machine, ready for `load` to succeed; without root says that the test is skipped.
    fn new() -> Result<Option<Self>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return Ok(None);
        }
        watch_signals()?;
        let program = gateway::program()?;
        let instance = format!("life-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let ce = Netns::create(&format!("{instance}-ce"))?;
        let far = Netns::create(&format!("{instance}-far")).inspect_err(|_| ce.delete())?;
        let site = Self {
            ce,
            far,
            instance,
            program,
        };
        site.furnish()?;
        Ok(Some(site))
    }

    fn furnish(&self) -> Result<()> {
        for (near, addresses) in [
            ("lan0", ["192.168.10.1/24", "192.168.10.2/24"]),
            ("wan0", ["fd00::2/64", "fd00::1/64"]),
        ] {
            let far = self.far.name();
            self.ce
                .tool(&format!("ip link add {near} type veth peer name {near}p netns {far}"))?;
            self.ce.tool(&format!("ip addr add {} dev {near}", addresses[0]))?;
            self.far.tool(&format!("ip addr add {} dev {near}p", addresses[1]))?;
            // The far end of a redirect receives only with this, see `pass`.
            self.far.tool(&format!("ethtool -K {near}p gro on"))?;
            self.ce.tool(&format!("ip link set {near} up"))?;
            self.far.tool(&format!("ip link set {near}p up"))?;
        }
        self.far.tool("ip route add default via 192.168.10.1")?;
        self.ce.tool(&format!("ip -6 route add {BR} via fd00::1"))?;
        // They come by themselves, a moment after the links: not to be taken for something that mape-ctl made.
        wait_for("link-local addresses", Duration::from_secs(5), || {
            let addresses = self.ce.tool("ip -6 -o addr show scope link")?;
            Ok(["lan0", "wan0"].iter().all(|name| addresses.contains(name)))
        })
    }

    /// Runs mape-ctl for this instance on the machine.
    fn mape(&self, words: &[&str]) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(["--instance", &self.instance]).args(words);
        self.ce.enter(|| run(&mut command, LIMIT))
    }

    /// `load` with these interfaces, and with more flags.
    fn load_with(&self, lan: &str, wan: &str, more: &[&str]) -> Result<Finished> {
        let mut words = vec!["load", "--lan", lan, "--wan", wan];
        words.extend(LINE);
        words.extend(more);
        self.mape(&words)
    }

    fn load(&self, more: &[&str]) -> Result<Finished> {
        self.load_with("lan0", "wan0", more)
    }

    fn stat(&self) -> Result<Value> {
        let finished = self.mape(&["stat", "--json", "--no-rates"])?.success()?;
        serde_json::from_str(&finished.stdout).context("`mape-ctl stat --json` printed no JSON")
    }

    /// Fails unless the gateway forwards, with its programs on both interfaces.
    fn is_up(&self) -> Result<()> {
        let stat = self.stat()?;
        ensure!(stat["gate"] == "open", "the gate: {}", stat["gate"]);
        let links = stat["links"].as_array().context("no links")?;
        let states: Vec<_> = links.iter().map(|link| (&link["name"], &link["alive"])).collect();
        ensure!(
            states.len() == 2 && states.iter().all(|(_, alive)| **alive == true),
            "links: {states:?}"
        );
        let traces = self.traces()?;
        ensure!(traces.pins.len() == 1, "pins: {:?}", traces.pins);
        for name in ["lan0", "wan0"] {
            let has_program = traces.links.iter().any(|(link, id)| link == name && id.is_some());
            ensure!(has_program, "no XDP program on {name}: {:?}", traces.links);
        }
        Ok(())
    }

    fn traces(&self) -> Result<Traces> {
        let links: Value = serde_json::from_str(&self.ce.tool("ip -j link show")?)?;
        let program = |link: &Value| {
            let id = link.pointer("/xdp/prog/id").and_then(Value::as_u64);
            (link["ifname"].as_str().unwrap_or_default().to_owned(), id)
        };
        let folders = fs::read_dir(PINS).into_iter().flatten().flatten();
        let forwarding = "/proc/sys/net/ipv4/conf/lan0/forwarding";
        Ok(Traces {
            links: links.as_array().context("no links")?.iter().map(program).collect(),
            addresses: self.ce.tool("ip -o addr show")?,
            routes: self.ce.tool("ip -4 route show")? + &self.ce.tool("ip -6 route show")?,
            pins: folders
                .map(|folder| folder.path().join(&self.instance))
                .filter(|folder| folder.exists())
                .collect(),
            record: Path::new(RECORDS).join(format!("{}.json", self.instance)).exists(),
            forwarding: self.ce.enter(|| Ok(fs::read_to_string(forwarding)?))?.trim() == "1",
        })
    }

    /// Fails unless `load` was refused with exit code 1, these words in the message, and the machine as it was before.
    fn refuses(&self, before: &Traces, load: &Finished, words: &[&str]) -> Result<()> {
        ensure!(load.status.code() == Some(1), "exit code: {load:?}");
        says(load, words)?;
        let after = self.traces()?;
        ensure!(after == *before, "left behind: {after:?}, before: {before:?}");
        Ok(())
    }

    fn sessions(&self) -> Result<usize> {
        let finished = self.mape(&["sessions", "--count"])?.success()?;
        finished.stdout.trim().parse().context("no number")
    }

    /// The port of the shared address that the first session has.
    fn external_port(&self) -> Result<u64> {
        let finished = self.mape(&["sessions", "--json"])?.success()?;
        let list: Value = serde_json::from_str(&finished.stdout)?;
        list["sessions"][0]["external_port"].as_u64().context("no session")
    }

    /// Sends a UDP packet from the LAN host to each of so many remote addresses, and waits until all are in the tunnel.
    fn send(&self, remotes: u8) -> Result<()> {
        self.far.enter(|| {
            let socket = UdpSocket::bind("192.168.10.2:4000")?;
            for remote in 1..=remotes {
                socket.send_to(b"hello", format!("198.51.100.{remote}:5000"))?;
            }
            Ok(())
        })?;
        wait_for("packets in the tunnel", Duration::from_secs(3), || {
            let stat = self.stat()?;
            let packets = stat.pointer("/directions/outbound/forwarded/packets");
            Ok(packets.and_then(Value::as_u64) == Some(remotes.into()))
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _clean_up = CleanUp::begin();
        let _ = self.mape(&["unload"]);
        // Pins, record and lock outlive the namespace, also where mape-ctl could not unload.
        for folder in fs::read_dir(PINS).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(folder.path().join(&self.instance));
        }
        for end in ["json", "lock"] {
            let _ = fs::remove_file(Path::new(RECORDS).join(format!("{}.{end}", self.instance)));
        }
        self.ce.delete();
        self.far.delete();
    }
}

/// A file that is removed when this value goes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(site: &Site, name: &str, content: &[u8]) -> Result<Self> {
        let file = env::temp_dir().join(format!("{}-{name}", site.instance));
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self(file))
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The folder of the instance in a layout that no release has; removed, with what it is in, when this value goes.
struct OtherLayout(PathBuf);

impl OtherLayout {
    fn new(site: &Site) -> Result<Self> {
        let folder = Path::new(PINS).join("v999").join(&site.instance);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for OtherLayout {
    fn drop(&mut self) {
        for folder in self.0.ancestors().take(2) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Fails unless all these words are in what the program said.
fn says(finished: &Finished, words: &[&str]) -> Result<()> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for word in words {
        ensure!(
            said.contains(word),
            "`{}` does not say \"{word}\": {said}",
            finished.line
        );
    }
    Ok(())
}

#[test]
fn load_and_unload_may_be_repeated_and_nothing_is_left() {
    let Some(site) = Site::new().unwrap() else { return };
    let before = site.traces().unwrap();
    site.load(&[]).unwrap().success().unwrap();
    site.is_up().unwrap();
    let loaded = site.traces().unwrap();
    assert!(loaded.addresses.contains(CE_ADDRESS), "{loaded:?}");
    assert!(loaded.routes.contains("default dev mape0"), "{loaded:?}");
    assert!(loaded.links.iter().any(|(name, _)| name == "mape0"), "{loaded:?}");
    assert!(loaded.record, "{loaded:?}");

    site.load(&[]).unwrap().success().unwrap();
    site.is_up().unwrap();
    // The programs are exchanged for new ones, all else stays as it is.
    let mut again = site.traces().unwrap();
    let names = |traces: &Traces| traces.links.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(&loaded));
    again.links.clone_from(&loaded.links);
    assert_eq!(again, loaded, "the same load again makes and removes nothing");

    site.mape(&["unload"]).unwrap().success().unwrap();
    let repeated = site.mape(&["unload"]).unwrap().success().unwrap();
    says(&repeated, &["nothing is loaded"]).unwrap();
    let after = site.traces().unwrap();
    assert!(after.forwarding, "forwarding stays on, as docs/config.md says");
    let expected = Traces {
        forwarding: true,
        ..before
    };
    assert_eq!(after, expected);
    assert!(after.links.iter().all(|(_, program)| program.is_none()), "{after:?}");
    assert!(after.pins.is_empty() && !after.record, "{after:?}");
}

#[test]
fn forwarding_goes_on_after_mape_ctl_has_ended() {
    let Some(site) = Site::new().unwrap() else { return };
    site.load(&[]).unwrap().success().unwrap();
    site.is_up().unwrap();
    site.send(3).unwrap();
    site.is_up().unwrap();
}

#[test]
fn an_interface_that_is_not_there_is_named_with_those_that_are() {
    let Some(site) = Site::new().unwrap() else { return };
    let before = site.traces().unwrap();
    for (lan, wan, missing) in [("lan9", "wan0", "lan9"), ("lan0", "wan9", "wan9")] {
        let load = site.load_with(lan, wan, &[]).unwrap();
        let words = [
            &format!("there is no interface {missing}"),
            "did you mean",
            "there are: lan0, wan0",
        ];
        site.refuses(&before, &load, &words).unwrap();
    }
}

#[test]
fn a_bridge_is_refused_with_its_ports() {
    let Some(site) = Site::new().unwrap() else { return };
    site.ce.tool("ip link add br0 type bridge").unwrap();
    site.ce.tool("ip link set lan0 master br0").unwrap();
    let before = site.traces().unwrap();
    let load = site.load_with("br0", "wan0", &[]).unwrap();
    site.refuses(&before, &load, &["br0 is a bridge", "name lan0 instead"])
        .unwrap();
}

#[test]
fn an_interface_with_another_xdp_program_is_refused_until_it_is_gone() {
    let Some(site) = Site::new().unwrap() else { return };
    let object = Scratch::new(&site, "pass.o", &pass::elf()).unwrap();
    site.ce
        .tool(&format!("ip link set dev wan0 xdpdrv obj {} sec xdp", object.name()))
        .unwrap();
    let before = site.traces().unwrap();
    let foreign = before.links.iter().find_map(|(_, program)| *program).unwrap();
    let load = site.load(&[]).unwrap();
    site.refuses(&before, &load, &["wan0", "XDP program", &foreign.to_string()])
        .unwrap();

    site.ce.tool("ip link set dev wan0 xdpdrv off").unwrap();
    site.load(&[]).unwrap().success().unwrap();
    site.is_up().unwrap();
}

#[test]
fn without_a_route_to_the_border_relay_nothing_is_loaded() {
    let Some(site) = Site::new().unwrap() else { return };
    site.ce.tool(&format!("ip -6 route del {BR}")).unwrap();
    let before = site.traces().unwrap();
    let load = site.load(&[]).unwrap();
    let words = ["no way to the border relay", "no IPv6 route", "ip -6 route get", BR];
    site.refuses(&before, &load, &words).unwrap();
}

#[test]
fn with_a_router_that_does_not_answer_nothing_is_loaded() {
    let Some(site) = Site::new().unwrap() else { return };
    site.ce.tool(&format!("ip -6 route replace {BR} via fd00::99")).unwrap();
    let before = site.traces().unwrap();
    let load = site.load(&[]).unwrap();
    let words = [
        "no way to the border relay",
        "router fd00::99 does not answer on wan0",
        "ping -6 fd00::99%wan0",
    ];
    site.refuses(&before, &load, &words).unwrap();
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_key_that_was_meant() {
    let Some(site) = Site::new().unwrap() else { return };
    let text = "lan = [\"lan0\"]\nwan = \"wan0\"\n[map]\nprefx = \"2001:db8:12:3400::/56\"\n";
    let file = Scratch::new(&site, "wrong.toml", text.as_bytes()).unwrap();
    let before = site.traces().unwrap();
    let load = site.mape(&["load", "--config", &file.name()]).unwrap();
    assert!(!load.status.success(), "{load:?}");
    let place = format!("{}:4: ", file.name());
    says(&load, &[&place, "`prefx`", "probably meant: `prefix`"]).unwrap();
    assert_eq!(site.traces().unwrap(), before);
}

#[test]
fn sessions_outlive_a_changed_timeout_but_not_a_changed_port_set() {
    let Some(site) = Site::new().unwrap() else { return };
    site.load(&[]).unwrap().success().unwrap();
    site.send(5).unwrap();
    let timeout = ["--timeout-udp", "301"];
    let before = site.sessions().unwrap();
    assert!(before > 0);
    site.load(&timeout).unwrap().success().unwrap();
    site.is_up().unwrap();
    assert_eq!(site.sessions().unwrap(), before);

    // A port that becomes reserved takes the sessions on it along, and no others.
    let used = site.external_port().unwrap();
    let unused = if used == 1232 { "1233" } else { "1232" };
    let reserve = [&timeout[..], &["--reserved-ports", unused]].concat();
    site.load(&reserve).unwrap().success().unwrap();
    assert_eq!(site.sessions().unwrap(), before);
    let used = used.to_string();
    let reserve = [&timeout[..], &["--reserved-ports", &used]].concat();
    let reload = site.load(&reserve).unwrap().success().unwrap();
    says(&reload, &["not forwarded any longer or reserved were ended"]).unwrap();
    assert_eq!(site.sessions().unwrap(), 0);
    site.is_up().unwrap();
    let foreign = site.load(&["--reserved-ports", "22"]).unwrap();
    assert_eq!(foreign.status.code(), Some(2), "{foreign:?}");
    says(&foreign, &["port 22, which is not of this line; it has 1232-1235,"]).unwrap();

    // Another offset is another line: 4928-4943, 9024-9039, … A forward that it does not have goes.
    site.mape(&["forward", "add", "tcp", "1232", "192.168.10.2:80"])
        .unwrap()
        .success()
        .unwrap();
    let mut words = vec![
        "load",
        "--lan",
        "lan0",
        "--wan",
        "wan0",
        "--forward",
        "tcp,4928,192.168.10.2",
    ];
    words.extend(LINE.map(|word| {
        word.strip_suffix(",16,6")
            .map_or(word, |_| "2001:db8::/40,192.0.2.0/24,16,4")
    }));
    let reload = site.mape(&words).unwrap().success().unwrap();
    says(
        &reload,
        &[
            "ports have changed",
            "tcp 1232 to 192.168.10.2:80, added by command, is gone",
            "forwards: 1 ports, 1 of them new",
        ],
    )
    .unwrap();
    let list = site.mape(&["forward", "list"]).unwrap().success().unwrap();
    assert!(
        list.stdout.contains("4928") && !list.stdout.contains("1232"),
        "{list:?}"
    );
    site.is_up().unwrap();
}

#[test]
fn what_a_host_has_is_shown_marked_and_gone_with_its_sessions() {
    let Some(site) = Site::new().unwrap() else { return };
    site.load(&["--host-sessions", "6"]).unwrap().success().unwrap();
    let hosts = || site.stat().unwrap()["hosts"].clone();
    assert_eq!((&hosts()["count"], &hosts()["sessions"]), (&json!(0), &json!(0)));
    site.send(5).unwrap();
    assert_eq!(
        hosts(),
        json!({
            "count": 1,
            "sessions": 5,
            "ports": { "udp": 1, "tcp": 0, "icmp": 0 },
            "quota": { "sessions": 6, "ports": null },
            "near_quota": 1,
            "refused_packets": 0,
            "heaviest": [{
                "address": "192.168.10.2",
                "sessions": 5,
                "ports": { "udp": 1, "tcp": 0, "icmp": 0 },
                "near_quota_percent": { "sessions": 83 },
                "counted_with_others": false,
            }],
        })
    );

    // One more it may have, two more it may not.
    site.far
        .enter(|| {
            let socket = UdpSocket::bind("192.168.10.2:4000")?;
            for remote in 6..=8 {
                socket.send_to(b"hello", format!("198.51.100.{remote}:5000"))?;
            }
            Ok(())
        })
        .unwrap();
    wait_for("refusals", Duration::from_secs(3), || {
        Ok(hosts()["refused_packets"] == json!(2))
    })
    .unwrap();
    let text = site.mape(&["stat", "--no-rates"]).unwrap().success().unwrap();
    says(
        &text,
        &["6 of 6", "sessions 100 %", "2 packets were refused because their host"],
    )
    .unwrap();
    let by_host = site.mape(&["sessions", "--by-host"]).unwrap().success().unwrap();
    says(&by_host, &["192.168.10.2", "6 of 6"]).unwrap();

    site.mape(&["sessions", "--flush", "--yes"]).unwrap().success().unwrap();
    let after = hosts();
    assert_eq!((&after["count"], &after["heaviest"]), (&json!(0), &json!([])));
    let text = site.mape(&["stat", "--no-rates"]).unwrap().success().unwrap();
    says(&text, &["No LAN host has a session or a port."]).unwrap();
    // Zero is what is counted, too: it may have as many as before.
    site.far
        .enter(|| {
            let socket = UdpSocket::bind("192.168.10.2:4000")?;
            for remote in 11..=16 {
                socket.send_to(b"hello", format!("198.51.100.{remote}:5000"))?;
            }
            Ok(())
        })
        .unwrap();
    wait_for("sessions again", Duration::from_secs(3), || {
        Ok(hosts()["sessions"] == json!(6))
    })
    .unwrap();
    assert_eq!(hosts()["refused_packets"], json!(2));
}

#[test]
fn pins_of_another_layout_are_refused_with_the_way_to_remove_them() {
    let Some(site) = Site::new().unwrap() else { return };
    let layout = OtherLayout::new(&site).unwrap();
    let before = site.traces().unwrap();
    let load = site.load(&[]).unwrap();
    let remove = format!("rm -r {}", layout.0.display());
    site.refuses(&before, &load, &["layout v999", "unload it first", &remove])
        .unwrap();

    drop(layout);
    site.load(&[]).unwrap().success().unwrap();
    site.is_up().unwrap();
}
