//! Owns our gateway in a chain: the program as it is shipped, loaded by its own command, and its sessions.

use std::{
    collections::BTreeMap,
    env, fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway::config_text,
    plan::Shape,
    process::{self, CleanUp, Finished},
};
use serde_json::Value;

use crate::{
    bed::{Chain, Way},
    frames::{Flow, Template},
    memory,
    tools::{Sent, Tools},
};

/// The verifier takes a second; under emulation a minute.
const LIMIT: Duration = Duration::from_mins(5);
/// Frames of new flows in one call.
const AT_ONCE: u32 = 4_096;
/// The smallest frame of Ethernet, without its check sequence.
const SHORTEST: usize = 60;

/// A loaded gateway; it is unloaded with this.
pub(crate) struct Gateway<'a> {
    chain: &'a Chain,
    program: PathBuf,
    instance: String,
    config: PathBuf,
    /// How long its last `load` took.
    pub load: Duration,
}

impl<'a> Gateway<'a> {
    /// Loads one into a chain.
    pub(crate) fn load(chain: &'a Chain, name: &str) -> Result<Self> {
        Self::load_by(program()?, chain, name)
    }

    /// Loads one into a chain by that mape-ctl.
    pub(crate) fn load_by(program: PathBuf, chain: &'a Chain, name: &str) -> Result<Self> {
        let instance = format!("bench{}-{name}", std::process::id());
        let config = env::temp_dir().join(format!("mape-{instance}.toml"));
        let text = config_text("ce", Shape::VirtualEdge);
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut gateway = Self {
            chain,
            program,
            instance,
            config,
            load: Duration::ZERO,
        };
        let begin = Instant::now();
        gateway.again()?;
        gateway.load = begin.elapsed();
        Ok(gateway)
    }

    /// Loads it again over itself.
    fn again(&self) -> Result<()> {
        self.again_with(&[])
    }

    /// The same with flags that go before what the file says.
    pub(crate) fn again_with(&self, flags: &[&str]) -> Result<()> {
        let config = self.config.to_string_lossy().into_owned();
        let words = [&["load", "--config", &config], flags].concat();
        self.ctl(&words)?.success().map(drop)
    }

    /// Bytes of its maps.
    pub(crate) fn map_bytes(&self) -> Result<u64> {
        memory::of_maps(&self.instance)
    }

    /// Takes both NICs out of the fast path.
    pub(crate) fn detach(&self) -> Result<()> {
        self.ctl(&["detach"])?.success().map(drop)
    }

    /// Ends all sessions.
    pub(crate) fn flush(&self) -> Result<()> {
        self.ctl(&["sessions", "--flush", "--yes"])?.success().map(drop)
    }

    /// Runs its `stat` and gives what it says and how long that took.
    pub(crate) fn stat(&self) -> Result<(Value, Duration)> {
        let begin = Instant::now();
        let said = self.ctl(&["stat", "--json", "--no-rates"])?.success()?.stdout;
        let took = begin.elapsed();
        Ok((serde_json::from_str(&said)?, took))
    }

    fn ctl(&self, words: &[&str]) -> Result<Finished> {
        self.chain.middle().enter(|| {
            process::run(
                std::process::Command::new(&self.program)
                    .args(["--instance", &self.instance])
                    .args(words),
                LIMIT,
            )
        })
    }

    /// Opens sessions for flows by sending the first packet of each; the time that took.
    pub(crate) fn open(&self, tools: &mut Tools, flows: &[Flow]) -> Result<Duration> {
        open(tools, self.chain, flows)
    }

    /// The flows' external ports.
    pub(crate) fn external_ports(&self, flows: &[Flow]) -> Result<Vec<u16>> {
        let said = self
            .ctl(&["sessions", "--json", "--protocol", "udp"])?
            .success()?
            .stdout;
        let report: Value = serde_json::from_str(&said).context("`mape-ctl sessions --json` printed no JSON")?;
        let rows = report["sessions"].as_array().context("no sessions")?;
        let known: BTreeMap<Flow, u16> = rows.iter().filter_map(row).collect();
        ensure!(
            known.len() >= flows.len(),
            "{} sessions of {}",
            known.len(),
            flows.len()
        );
        flows
            .iter()
            .map(|flow| {
                known
                    .get(flow)
                    .copied()
                    .with_context(|| format!("no session of {flow:?}"))
            })
            .collect()
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let _clean_up = CleanUp::begin();
        if let Err(error) = self.ctl(&["unload"]).and_then(Finished::success) {
            eprintln!("cannot unload {}: {error:#}", self.instance);
        }
        // It may never have been written.
        let _ = fs::remove_file(&self.config);
    }
}

/// Sends one packet of each flow; the time that took until all were through.
pub(crate) fn open(tools: &mut Tools, chain: &Chain, flows: &[Flow]) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for some in flows.chunks(AT_ONCE as usize) {
        let templates: Vec<Template> = some.iter().map(|flow| flow.up(64)).collect();
        tools.make(&templates)?;
        let count = u32::try_from(templates.len())?;
        let arrived = tools.send(
            chain,
            &Sent {
                way: Way::Up,
                len: SHORTEST,
                frames: count,
                templates: count,
                processor: 0,
            },
        )?;
        took += arrived.took.spent;
        // Once in two seconds one goes by the stack, to ask for the router.
        ensure!(
            arrived.frames + 2 >= u64::from(count),
            "{} of {count} first packets came out",
            arrived.frames
        );
    }
    Ok(took)
}

/// A session as a flow and its external port.
fn row(row: &Value) -> Option<(Flow, u16)> {
    let address = |key: &str| -> Option<Ipv4Addr> { row[key].as_str()?.parse().ok() };
    let port = |key: &str| u16::try_from(row[key].as_u64()?).ok();
    let flow = Flow {
        host: address("inside")?,
        port: port("inside_port")?,
        remote: address("remote")?,
    };
    Some((flow, port("external_port")?))
}

/// The mape-ctl to measure: the one that is named, else the one beside this program.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(program) = env::var_os("MAPE_CTL") {
        return Ok(PathBuf::from(program));
    }
    let own = env::current_exe().context("cannot find this program's own file")?;
    let beside = own.with_file_name("mape-ctl");
    ensure!(
        beside.is_file(),
        "there is no mape-ctl beside {}: `cargo xtask bench` builds both",
        own.display()
    );
    Ok(beside)
}
