//! Owns the proof that `mape-ctl check` finds real faults on a real customer edge, that what it says mends them, and that it finds
//! nothing where nothing is wrong.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use mape_common::layout::LAYOUT_VERSION;
use mape_tests::{
    gateway::{self, Gateway, Role},
    lab::{self, Lab, LabOptions},
    netns::Netns,
    pass, plan,
    process::{Finished, wait_for, watch_signals},
};
use serde_json::Value;

const PINS: &str = "/sys/fs/bpf/mape";
const LIMIT: Duration = Duration::from_secs(10);

/// What `check` has said.
struct Said {
    code: Option<i32>,
    json: Value,
}

impl Said {
    fn new(finished: &Finished) -> Result<Self> {
        let json = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no JSON: {}{}", finished.stdout, finished.stderr))?;
        Ok(Self {
            code: finished.status.code(),
            json,
        })
    }

    fn wrong(&self) -> impl Iterator<Item = &Value> {
        let findings = self.json["findings"].as_array().into_iter().flatten();
        findings.filter(|finding| finding["level"] != "ok")
    }

    /// What is wrong of a kind: the worst level, and the command that mends it.
    fn find(&self, id: &str) -> Option<(&str, &str)> {
        let rank = |finding: &&Value| {
            ["note", "warning", "error"]
                .iter()
                .position(|level| finding["level"] == *level)
        };
        let found = self.wrong().filter(|finding| finding["id"] == id).max_by_key(rank)?;
        Some((found["level"].as_str()?, found["mend"].as_str()?))
    }

    /// Ids and levels of what is worse than a note.
    fn worse_than_notes(&self) -> Vec<String> {
        self.wrong()
            .filter(|finding| finding["level"] != "note")
            .map(|finding| format!("{} {}: {}", finding["level"], finding["id"], finding["what"]))
            .collect()
    }

    fn fixes(&self) -> Vec<&str> {
        let fixes = self.json["fixes"].as_array().into_iter().flatten();
        fixes.filter_map(|fix| fix["command"].as_str()).collect()
    }
}

/// A lab with a border relay, and a customer edge that is looked at.
struct Site {
    lab: Lab,
}

impl Site {
    fn new(nodes: &[&'static str]) -> Result<Option<Self>> {
        if !lab::is_root() {
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        lab.load_in(nodes, &gateway::program()?)?;
        Ok(Some(Self { lab }))
    }

    fn node(&self) -> &Netns {
        self.lab.node("ce").expect("the lab has a customer edge")
    }

    fn edge(&self) -> &Gateway {
        self.lab.gateway(Role::Ce).expect("it is loaded")
    }

    fn check(&self, words: &[&str]) -> Result<Said> {
        let words = [&["check", "--json"], words].concat();
        Said::new(&self.edge().ctl(self.node(), &words)?)
    }

    fn shell(&self, line: &str) -> Result<String> {
        Ok(self.node().run(&["sh", "-c", line], LIMIT)?.success()?.stdout)
    }

    /// Fails unless all is well.
    fn is_well(&self) -> Result<()> {
        let said = self.check(&[])?;
        let wrong = said.worse_than_notes();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        ensure!(said.code == Some(0), "{:?}", said.code);
        Ok(())
    }

    fn finds(&self, id: &str, level: &str) -> Result<String> {
        let said = self.check(&[])?;
        let (found, mend) = said
            .find(id)
            .with_context(|| format!("{id} was not found: {:#?}", said.worse_than_notes()))?;
        ensure!(found == level, "{id}: {found}");
        let expected = match said.json["worst"].as_str() {
            Some("error") => 1,
            Some("warning") => 3,
            _ => 0,
        };
        ensure!(said.code == Some(expected), "exit code {:?} with {level}", said.code);
        Ok(mend.to_owned())
    }

    /// A fault is found, only told by a dry run, mended by `--fix`, and not mended twice.
    fn is_fixed(&self, id: &str, level: &str) -> Result<()> {
        let mend = self.finds(id, level)?;
        let dry = self.check(&["--fix", "--dry-run"])?;
        ensure!(dry.fixes().contains(&mend.as_str()), "{:?} lacks {mend}", dry.fixes());
        ensure!(dry.find(id).is_some(), "a dry run has mended {id}");
        let fixed = self.check(&["--fix"])?;
        ensure!(
            fixed.fixes().contains(&mend.as_str()),
            "{:?} lacks {mend}",
            fixed.fixes()
        );
        ensure!(fixed.json["fixes"][0]["error"].is_null(), "{}", fixed.json["fixes"]);
        let wrong = fixed.worse_than_notes();
        ensure!(wrong.is_empty() && fixed.code == Some(0), "after --fix: {wrong:#?}");
        let again = self.check(&["--fix"])?;
        ensure!(again.fixes().is_empty(), "twice: {:?}", again.fixes());
        println!("{id} ({level}): {mend}");
        Ok(())
    }

    /// A fault is found, left alone by `--fix`, and mended by the command that was said.
    fn is_mended_as_said(&self, id: &str, level: &str) -> Result<()> {
        let fixed = self.check(&["--fix"])?;
        ensure!(fixed.find(id).is_some(), "--fix has touched what is not ours: {id}");
        let mend = self.finds(id, level)?;
        // What stands behind the command are other ways.
        let command = mend.split([',', ';', '(']).next().unwrap_or_default();
        self.shell(command)?;
        println!("{id} ({level}): {command}");
        self.is_well().with_context(|| format!("after {command}"))
    }

    fn pins(&self) -> PathBuf {
        PathBuf::from(format!("{PINS}/v{LAYOUT_VERSION}")).join(self.edge().instance())
    }
}

#[test]
fn a_machine_is_looked_over_before_anything_is_loaded() {
    let _alone = lab::alone();
    let Some(site) = Site::new(&["br"]).unwrap() else {
        return;
    };
    let lab = &site.lab;
    let edge = Gateway::new(
        "ce",
        lab.id(),
        plan::Shape::default(),
        &gateway::program().unwrap(),
        lab.folder(),
    )
    .unwrap();
    let node = lab.node("ce").unwrap();
    let config = edge.config().to_string_lossy().into_owned();
    let check = |more: &[&str]| {
        let words = [&["check", "--json", "--config", &config], more].concat();
        Said::new(&edge.ctl(node, &words).unwrap()).unwrap()
    };
    let well = check(&[]);
    assert_eq!(well.worse_than_notes(), Vec::<String>::new());
    assert_eq!((well.code, &well.json["loaded"]), (Some(0), &Value::Bool(false)));

    // Without a configuration there is nothing to look at.
    let nothing = edge.ctl(node, &["check"]).unwrap();
    assert_eq!(nothing.status.code(), Some(1), "{}", nothing.stdout);
    assert!(nothing.stderr.contains("--config"), "{}", nothing.stderr);
    let wrong = edge.ctl(node, &["check", "--dry-run"]).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.stderr);

    let object = lab.folder().join("pass.o");
    node.tool(&format!("ip link set dev lan0 xdp obj {} sec xdp", object.display()))
        .unwrap();
    let foreign = check(&[]);
    let (level, mend) = foreign.find("nic-xdp").expect("the other's program is found");
    assert_eq!((level, foreign.code), ("error", Some(1)));
    node.tool(mend.split(',').next().unwrap()).unwrap();
    assert!(check(&[]).find("nic-xdp").is_none());

    for (flags, id, level) in [
        (["--wan", "wan9"], "nic-usable", "error"),
        (["--lan", "lo"], "nic-usable", "error"),
        (["--mtu", "1480"], "mtu-wan", "error"),
        (["--br", "2001:db8:eeee::1"], "route-relay", "error"),
        (["--generic", "true"], "nic-generic", "note"),
    ] {
        let said = check(&flags);
        let found = said.find(id).map(|(level, _)| level);
        if flags[0] == "--br" {
            // The default route has a way to any address; without it there is none.
            assert_eq!(found, None);
            node.tool("ip -6 route del default").unwrap();
            let said = check(&flags);
            assert_eq!(said.find(id).map(|(level, _)| level), Some(level), "{flags:?}");
            node.tool("ip -6 route add default via 2001:db8:12:3400::1").unwrap();
            continue;
        }
        assert_eq!(found, Some(level), "{flags:?}: {:#?}", said.worse_than_notes());
    }

    // A router that says nothing: the neighbour is missing.
    let transit = lab.node("transit").unwrap();
    let silence = "nft add table ip6 mute; nft add chain ip6 mute in '{ type filter hook input priority 0; }'; \
                   nft add rule ip6 mute in iifname ce0 drop";
    transit.run(&["sh", "-c", silence], LIMIT).unwrap().success().unwrap();
    node.tool("ip -6 neigh flush dev wan0").unwrap();
    let silent = check(&[]);
    assert_eq!(silent.find("route-neighbour").map(|(level, _)| level), Some("error"));
    // Nobody is asked, so nothing can be said of it.
    assert!(check(&["--passive"]).find("route-neighbour").is_none());
    transit.tool("nft delete table ip6 mute").unwrap();
    wait_for("the router", LIMIT, || Ok(check(&[]).find("route-neighbour").is_none())).unwrap();

    // Nothing was made or changed by all this.
    assert!(!node.tool("ip link").unwrap().contains("mape0"));
    assert!(
        !PathBuf::from(format!("{PINS}/v{LAYOUT_VERSION}"))
            .join(edge.instance())
            .exists()
    );
}

#[test]
fn faults_of_a_loaded_gateway_are_found_and_mended() {
    let _alone = lab::alone();
    let Some(site) = Site::new(&["br", "ce"]).unwrap() else {
        return;
    };
    site.is_well().unwrap();
    let said = site.check(&[]).unwrap();
    for id in [
        "tunnel-canary",
        "loaded-running",
        "loaded-gate",
        "tunnel-programs",
        "route-address",
    ] {
        let findings = said.json["findings"].as_array().unwrap();
        let looked = findings
            .iter()
            .any(|finding| finding["id"] == id && finding["level"] == "ok");
        assert!(looked, "{id}: {findings:#?}");
    }
    // Without packets the same is well, and what can only be known by them is left out.
    let passive = site.check(&["--passive"]).unwrap();
    assert_eq!((passive.code, passive.worse_than_notes()), (Some(0), Vec::new()));
    let findings = passive.json["findings"].as_array().unwrap();
    for id in ["tunnel-canary", "loaded-running", "route-neighbour", "route-echo"] {
        assert!(findings.iter().all(|finding| finding["id"] != id), "{id}");
    }
    // The other end is a gateway, too.
    let relay = site.lab.gateway(Role::Br).unwrap();
    let relay = Said::new(&relay.ctl(site.lab.node("br").unwrap(), &["check", "--json"]).unwrap()).unwrap();
    assert_eq!((relay.code, relay.worse_than_notes()), (Some(0), Vec::new()));
    assert_eq!(relay.json["role"], "br");
    let people = site.edge().ctl(site.node(), &["check", "--all"]).unwrap();
    println!("{}", people.stdout);
    assert!(
        people
            .stdout
            .lines()
            .any(|line| line.starts_with("ok       tunnel-canary"))
    );
    assert!(people.stdout.lines().last().unwrap().contains("0 errors, 0 warnings"));

    mended_by_fix(&site).unwrap();
    mended_by_hand(&site).unwrap();
    mended_by_load(&site).unwrap();
}

fn mended_by_fix(site: &Site) -> Result<()> {
    let node = site.node();
    node.sysctl("ipv4/conf/lan0/forwarding", "0")?;
    site.is_fixed("sysctl-forwarding", "error")?;
    node.sysctl("ipv4/conf/mape0/ignore_routes_with_linkdown", "1")?;
    site.is_fixed("sysctl-linkdown", "warning")?;

    node.sysctl("ipv6/conf/wan0/forwarding", "1")?;
    node.sysctl("ipv6/conf/wan0/accept_ra", "1")?;
    site.is_fixed("sysctl-accept-ra", "warning")?;
    node.sysctl("ipv6/conf/wan0/forwarding", "0")?;

    node.tool("ip link set dev mape0 mtu 1300")?;
    site.is_fixed("mtu-device", "warning")?;

    node.tool(&format!("ip -6 addr del {}/128 dev wan0", plan::CE_IPV6))?;
    site.is_fixed("route-address", "error")?;

    // As netplan would have it: the shared address alone, and a route that names it.
    let shared = plan::CE_IPV4;
    node.tool(&format!("ip addr add {shared}/32 dev mape0"))?;
    node.tool("ip addr del 192.0.0.2/32 dev mape0")?;
    node.tool(&format!(
        "ip -4 route add 198.51.100.0/24 dev mape0 src {shared} mtu 1400"
    ))?;
    let before = node.tool("ip -4 route show dev mape0")?;
    site.is_fixed("tunnel-shared-address", "error")?;
    let after = node.tool("ip -4 route show dev mape0")?;
    let again = after.lines().find(|line| line.starts_with("198.51.100.0/24"));
    ensure!(
        after.contains("default") && again.is_some_and(|line| line.contains("mtu 1400") && !line.contains("src")),
        "routes before:\n{before}after:\n{after}"
    );
    ensure!(
        node.tool("ip -4 addr show dev mape0")?.contains("192.0.0.2/32"),
        "no address"
    );
    node.tool("ip -4 route del 198.51.100.0/24 dev mape0")?;

    // Only where the kernel does not carry the packets by itself.
    let file = format!("/run/mape/{}.tunnel.pid", site.edge().instance());
    if let Some(pid) = fs::read_to_string(file)
        .ok()
        .and_then(|text| Some(text.split(' ').next()?.to_owned()))
    {
        node.tool(&format!("kill -9 {pid}"))?;
        site.is_fixed("tunnel-process", "error")?;
    } else {
        println!("SKIPPED: this kernel carries the tunnel's packets, there is no process to end");
    }
    Ok(())
}

fn mended_by_hand(site: &Site) -> Result<()> {
    let node = site.node();
    site.shell(
        "nft add table ip nat; nft add chain ip nat post '{ type nat hook postrouting priority srcnat; }'; \
         nft add rule ip nat post masquerade",
    )?;
    site.is_mended_as_said("firewall-nat", "warning")?;
    site.shell("nft add rule ip nat post oifname != mape0 masquerade")?;
    site.is_well().context("a rule for other interfaces")?;
    site.shell("nft delete table ip nat")?;

    site.shell(
        "nft add table inet f; nft add chain inet f passing '{ type filter hook forward priority 0; policy drop; }'; \
         nft add rule inet f passing ct state established,related accept; nft add rule inet f passing iifname lan0 accept; \
         nft add rule inet f passing iifname lan1 accept",
    )?;
    site.is_mended_as_said("firewall-forward", "warning")?;
    site.shell("nft delete table inet f")?;
    site.shell(
        "nft add table inet f; nft add chain inet f arriving '{ type filter hook input priority 0; policy drop; }'; \
         nft add rule inet f arriving ct state established,related accept; nft add rule inet f arriving meta l4proto ipv6-icmp accept",
    )?;
    site.is_mended_as_said("firewall-input", "warning")?;
    site.shell("nft delete table inet f")?;

    node.tool("tc qdisc add dev mape0 clsact")?;
    node.tool("tc filter add dev mape0 egress protocol all pref 5 u32 match u32 0 0")?;
    site.is_mended_as_said("tunnel-tc", "warning")?;
    node.tool("tc qdisc add dev lan0 clsact")?;
    node.tool("tc filter add dev lan0 ingress protocol all pref 7 u32 match u32 0 0")?;
    site.is_mended_as_said("nic-tc", "warning")?;

    // A program of TCX ends with whoever has attached it.
    let device = node.enter(|| attach("mape0"))?;
    let nic = node.enter(|| attach("wan0"))?;
    for id in ["tunnel-tc", "nic-tc"] {
        let mend = site.finds(id, "warning")?;
        ensure!(mend.starts_with("end the program"), "{id}: {mend}");
    }
    drop((device, nic));
    site.is_well().context("the other's programs are gone")?;

    node.tool(&format!("ip addr add {}/32 dev lo", plan::CE_IPV4))?;
    site.is_mended_as_said("tunnel-shared-address", "error")?;

    let other = PathBuf::from(PINS).join("v0").join(site.edge().instance());
    fs::create_dir_all(&other)?;
    let found = site.finds("loaded-layout", "error");
    fs::remove_dir(&other)?;
    // Another instance's may stand beside it.
    let _ = fs::remove_dir(PathBuf::from(PINS).join("v0"));
    ensure!(found?.contains("rm -r"), "no way out");
    site.is_well()
}

/// Attaches a tc program that does nothing.
fn attach(interface: &str) -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&pass::classifier())?;
    let program: &mut SchedClassifier = ebpf.program_mut("pass").context("no program")?.try_into()?;
    program.load()?;
    program.attach_with_options(
        interface,
        TcAttachType::Ingress,
        TcAttachOptions::TcxOrder(LinkOrder::default()),
    )?;
    Ok(ebpf)
}

fn mended_by_load(site: &Site) -> Result<()> {
    let mend = |id: &str, level: &str| -> Result<()> {
        let said = site.finds(id, level)?;
        ensure!(said.contains("load"), "{said}");
        println!("{id} ({level}): {said}");
        site.lab.load_again("ce", &[])?;
        site.is_well().with_context(|| format!("loaded again after {id}"))
    };
    fs::remove_file(site.pins().join("tunnel/egress"))?;
    // What goes into the device leaves untranslated then, so the packet that is sent there is missed.
    site.finds("tunnel-canary", "error")?;
    mend("tunnel-programs", "error")?;

    fs::remove_file(site.pins().join("links/lan1"))?;
    mend("loaded-attached", "error")?;

    // Taken off on purpose: the slow path has it all, and the canary still goes through.
    site.edge().ctl(site.node(), &["detach"])?.success()?;
    let wrong = site.check(&[])?.worse_than_notes();
    ensure!(
        wrong.len() == 3 && wrong.iter().all(|text| text.contains("loaded-attached")),
        "detached: {wrong:#?}"
    );
    mend("loaded-attached", "warning")?;

    site.node().tool("ip link set dev lan1 mtu 1496")?;
    mend("loaded-nic", "warning")?;

    // A router with another MAC address, which the kernel has learnt.
    let transit = site.lab.node("transit")?;
    transit.tool("ip link set dev ce0 address 02:00:00:00:77:01")?;
    site.node().tool("ip -6 neigh flush dev wan0")?;
    mend("loaded-hop", "warning")
}
