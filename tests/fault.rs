//! Owns the tests of faults: what happens to a gateway, to the packets through it and to the machine when something breaks, and
//! what mends it. `docs/faults.md` has the results as a table.

#[path = "fault/flow.rs"]
mod flow;
#[path = "fault/full.rs"]
mod full;
#[path = "fault/gone.rs"]
mod gone;
#[path = "fault/kill.rs"]
mod kill;
#[path = "fault/memory.rs"]
mod memory;
#[path = "fault/others.rs"]
mod others;
#[path = "fault/pins.rs"]
mod pins;
#[path = "fault/random.rs"]
mod random;
#[path = "fault/upgrade.rs"]
mod upgrade;

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mape_tests::{
    gateway::{self, Gateway, Role},
    lab::{Lab, LabOptions, is_root},
    netns::Netns,
    plan,
    process::{Finished, wait_for, watch_signals},
    traces::Traces,
};
use serde_json::Value;

/// Long enough for anything in a lab; what must be quicker is measured.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long what goes by itself (a process that was told to end) may take.
const SETTLING: Duration = Duration::from_secs(5);
/// A port of the lab's line, forwarded to host 1.
const FORWARD: &str = "tcp,4928,192.168.10.2:80";
const CE_ADDRESS: &str = "2001:db8:12:3400:0:c000:212:34";

/// A lab whose border relay is loaded and whose customer edge is about to be.
struct Site {
    lab: Lab,
    program: std::path::PathBuf,
    /// The customer edge's node before anything was loaded.
    before: Traces,
}

impl Site {
    /// Without root the test is skipped.
    fn new() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        watch_signals()?;
        let program = gateway::program()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        // Not this file's subject: always of the same build as the test.
        lab.load_in(&["br"], &program)?;
        let gateway = lab.prepare("ce", &program)?.clone();
        configure(
            &gateway,
            "device = \"mape0\"",
            "device = \"mape0\"\nroutes = [\"0.0.0.0/0\"]",
        )?;
        let node = lab.node("ce")?;
        // `load` adds it then, and must take it away again.
        node.tool(&format!("ip -6 address del {CE_ADDRESS}/128 dev wan0"))?;
        wait_for("link-local addresses", PATIENCE, || {
            let addresses = node.tool("ip -6 -o addr show scope link")?;
            Ok(["lan0", "lan1", "wan0"]
                .iter()
                .all(|name| addresses.contains(name) && !addresses.contains("tentative")))
        })?;
        let before = Traces::of(node, &gateway)?;
        Ok(Some(Self { lab, program, before }))
    }

    /// The same with a loaded gateway that forwards.
    fn loaded() -> Result<Option<Self>> {
        let Some(site) = Self::new()? else { return Ok(None) };
        site.load()?.success()?;
        site.lab.wait_until_reachable("host1")?;
        Ok(Some(site))
    }

    /// Changes a line of the configuration.
    fn configure(&self, from: &str, to: &str) -> Result<()> {
        configure(self.gateway()?, from, to)
    }

    fn ce(&self) -> Result<&Netns> {
        self.lab.node("ce")
    }

    fn gateway(&self) -> Result<&Gateway> {
        self.lab.gateway(Role::Ce)
    }

    fn ctl(&self, words: &[&str]) -> Result<Finished> {
        self.gateway()?.ctl(self.ce()?, words)
    }

    /// The words of the usual load.
    fn load_words(&self) -> Result<Vec<String>> {
        let config = self.gateway()?.config().to_string_lossy().into_owned();
        Ok(["load", "--config", &config, "--forward", FORWARD]
            .map(str::to_owned)
            .into())
    }

    fn load_with(&self, more: &[&str]) -> Result<Finished> {
        let words = self.load_words()?;
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.ctl(&words)
    }

    fn load(&self) -> Result<Finished> {
        self.load_with(&[])
    }

    fn stat(&self) -> Result<Value> {
        let finished = self.ctl(&["stat", "--json", "--no-rates"])?.success()?;
        Ok(serde_json::from_str(&finished.stdout)?)
    }

    /// Starts mape-ctl on the customer edge, behind other words where there are some, and does not wait for it.
    fn spawn(&self, before: &[&str], words: &[String]) -> Result<Child> {
        let instance = self.gateway()?.instance().to_owned();
        let program = self.program.to_string_lossy().into_owned();
        let all = before.iter().map(|word| (*word).to_owned()).chain([program]);
        let all: Vec<String> = all
            .chain(["--instance".to_owned(), instance])
            .chain(words.iter().cloned())
            .collect();
        self.ce()?.enter(|| {
            let (first, rest) = all.split_first().context("no words")?;
            let mut command = Command::new(first);
            command.args(rest).stdin(Stdio::null());
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            child.with_context(|| format!("cannot start {first}"))
        })
    }

    /// Fails unless what is no business of a gateway's goes on: IPv6 of the machine, and its LAN.
    fn others_are_well(&self) -> Result<()> {
        for (node, to) in [("ce", plan::BR_IPV6.to_string()), ("host1", "192.168.10.1".to_owned())] {
            let ping = self
                .lab
                .exec(node, &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", &to], PATIENCE)?;
            ensure!(ping.status.success(), "{node} does not reach {to}: {}", ping.stdout);
        }
        Ok(())
    }

    /// Packets in the fast path, outbound and inbound.
    fn forwarded(&self) -> Result<[u64; 2]> {
        let stat = self.stat()?;
        let packets = |direction: &str| stat["directions"][direction]["forwarded"]["packets"].as_u64();
        let both = packets("outbound").zip(packets("inbound"));
        both.map(|(outbound, inbound)| [outbound, inbound])
            .context("`mape-ctl stat --json` lacks what was forwarded")
    }

    /// Fails unless packets go through in the fast path, both ways.
    fn forwards(&self) -> Result<()> {
        self.lab.wait_until_reachable("host1")?;
        // Now and then a packet takes the slow path, so that the kernel sees whether the router is still there.
        wait_for("packets in the fast path", PATIENCE, || {
            let before = self.forwarded()?;
            self.lab.wait_until_reachable("host1")?;
            let after = self.forwarded()?;
            Ok(after[0] > before[0] && after[1] > before[1])
        })
    }

    /// Unloads, and fails unless everything is as it was before the gateway was loaded.
    fn unload_leaves_nothing(&self) -> Result<()> {
        self.ctl(&["unload"])?.success()?;
        self.is_as_before()
    }

    /// As [`Self::is_as_before`], where devices are others than before.
    fn left_nothing_of_ours(&self) -> Result<()> {
        let now = Traces::of(self.ce()?, self.gateway()?)?;
        let all = [&now.links[..], &now.addresses, &now.routes, &now.classifiers].concat();
        let ours = all
            .iter()
            .filter(|line| line.contains("mape") || line.contains(CE_ADDRESS));
        let ours: Vec<_> = ours.collect();
        ensure!(
            ours.is_empty() && now.classifiers.is_empty() && now.pins.is_empty() && now.files.is_empty(),
            "left: {ours:?}, {now:?}"
        );
        Ok(())
    }

    fn is_as_before(&self) -> Result<()> {
        let look = || Traces::of(self.ce()?, self.gateway()?)?.same_as(&self.before);
        let waited = wait_for("the machine as it was", SETTLING, || Ok(look().is_ok()));
        waited.and_then(|()| look()).or_else(|_| look())
    }
}

fn configure(gateway: &Gateway, from: &str, to: &str) -> Result<()> {
    let config = fs::read_to_string(gateway.config())?;
    ensure!(config.contains(from), "the configuration has no {from}");
    Ok(fs::write(gateway.config(), config.replace(from, to))?)
}
