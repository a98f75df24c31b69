//! Owns how the lab drives mape-ctl: the configuration files of the gateways, load, unload and statistics.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    netns::Netns,
    plan::{self, Shape, edges},
    process::{self, Background, Finished},
};

const LIMIT: Duration = Duration::from_mins(1);
/// Where mape-ctl keeps the pins of its instances: a folder for each layout of the maps.
pub(crate) const PINS: &str = "/sys/fs/bpf/mape";

/// Which end of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The customer edge.
    Ce,
    /// The border relay.
    Br,
}

impl Role {
    /// The node it runs in; of several customer edges, the first.
    pub fn node(self) -> &'static str {
        match self {
            Self::Ce => "ce",
            Self::Br => "br",
        }
    }
}

/// The mape-ctl to test: the one that `cargo xtask test` names, else the one built beside the running test program.
///
/// # Errors
/// When there is none, with what to do.
pub fn program() -> Result<PathBuf> {
    if let Some(program) = env::var_os("MAPE_CTL") {
        return Ok(PathBuf::from(program));
    }
    let own = env::current_exe().context("cannot find this program's own file")?;
    let beside = own
        .ancestors()
        .nth(2)
        .map(|folder| folder.join("mape-ctl"))
        .filter(|file| file.is_file());
    beside
        .context("there is no mape-ctl beside this test: run `cargo xtask test`, or build it in the same profile first")
}

/// One mape-ctl instance in the lab.
#[derive(Debug, Clone)]
pub struct Gateway {
    role: Role,
    node: &'static str,
    instance: String,
    program: PathBuf,
    config: PathBuf,
}

impl Gateway {
    /// Writes the configuration file; nothing is loaded yet.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(node: &'static str, lab: &str, shape: Shape, program: &Path, folder: &Path) -> Result<Self> {
        let gateway = Self::in_node(node, lab, program, folder);
        let config = &gateway.config;
        fs::write(config, config_text(node, shape)).with_context(|| format!("cannot write {}", config.display()))?;
        // `lab down` is another process: it finds the program and the instance by these.
        fs::write(folder.join("mape-ctl.path"), program.as_os_str().as_encoded_bytes())?;
        Ok(gateway)
    }

    fn in_node(node: &'static str, lab: &str, program: &Path, folder: &Path) -> Self {
        Self {
            role: if node == Role::Br.node() { Role::Br } else { Role::Ce },
            node,
            instance: format!("{lab}-{node}"),
            program: program.to_path_buf(),
            config: folder.join(format!("{node}.toml")),
        }
    }

    /// The gateways that an earlier process loaded into a lab.
    pub fn left_by(folder: &Path) -> Vec<Self> {
        let Ok(program) = fs::read_to_string(folder.join("mape-ctl.path")) else {
            return Vec::new();
        };
        let id = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id = id.strip_prefix("mape-").unwrap_or(id);
        let all = Shape::ThreeEdges.gateways().iter();
        all.map(|node| Self::in_node(node, id, Path::new(&program), folder))
            .filter(|gateway| gateway.config.exists())
            .collect()
    }

    /// Which end it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The node it runs in.
    pub fn node(&self) -> &'static str {
        self.node
    }

    /// The name mape-ctl knows it by.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The configuration file, for tests that change it.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Runs a mape-ctl command for this instance inside its node.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn ctl(&self, node: &Netns, words: &[&str]) -> Result<Finished> {
        node.enter(|| {
            process::run(
                Command::new(&self.program)
                    .args(["--instance", &self.instance])
                    .args(words),
                LIMIT,
            )
        })
    }

    /// Starts a mape-ctl command for this instance inside its node that runs until it is stopped, with these environment variables.
    ///
    /// # Errors
    /// As [`Background::start`].
    pub fn start(&self, node: &Netns, environment: &[(&str, &str)], words: &[&str]) -> Result<Background> {
        node.enter(|| {
            Background::start(
                Command::new(&self.program)
                    .args(["--instance", &self.instance])
                    .args(words)
                    .envs(environment.iter().copied()),
            )
        })
    }

    /// `mape-ctl load`, and the default route that the box's administrator would have made.
    ///
    /// # Errors
    /// When mape-ctl refuses.
    pub fn load(&self, node: &Netns) -> Result<()> {
        self.load_with(node, &[])
    }

    /// As [`Self::load`], with flags that go before what the file says.
    ///
    /// # Errors
    /// When mape-ctl refuses.
    pub fn load_with(&self, node: &Netns, flags: &[&str]) -> Result<()> {
        let config = self.config.to_string_lossy();
        let words = [&["load", "--config", &config], flags].concat();
        self.ctl(node, &words)?.success()?;
        if self.role == Role::Ce && !node.tool("ip -4 route show default")?.contains("mape0") {
            node.tool("ip -4 route add default dev mape0")?;
        }
        Ok(())
    }

    /// `mape-ctl stat --json`.
    ///
    /// # Errors
    /// When mape-ctl refuses or prints something else.
    pub fn stat(&self, node: &Netns) -> Result<Value> {
        let finished = self.ctl(node, &["stat", "--json"])?.success()?;
        serde_json::from_str(&finished.stdout).context("`mape-ctl stat --json` printed no JSON")
    }

    /// How many packets XDP has forwarded so far: outbound, inbound.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn forwarded(&self, node: &Netns) -> Result<[u64; 2]> {
        let [forwarded, _] = self.by_path(node)?;
        Ok(forwarded)
    }

    /// How many packets have taken the fast path and the slow one: forwarded by XDP, translated by way of the stack; each outbound, inbound.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn by_path(&self, node: &Netns) -> Result<[[u64; 2]; 2]> {
        let stat = self.stat(node)?;
        let packets = |direction: &str, path: &str| {
            let path = format!("/directions/{direction}/{path}/packets");
            stat.pointer(&path)
                .and_then(Value::as_u64)
                .with_context(|| format!("`mape-ctl stat --json` lacks {path}"))
        };
        let both = |path| Ok::<_, anyhow::Error>([packets("outbound", path)?, packets("inbound", path)?]);
        Ok([both("forwarded")?, both("delivered")?])
    }

    /// How many packets have not been forwarded for that reason, both ways.
    ///
    /// # Errors
    /// As [`Self::stat`].
    pub fn refused(&self, node: &Netns, label: &str) -> Result<u64> {
        refused(&self.stat(node)?, label)
    }

    /// The file by which the kernel keeps one of the gateway's objects.
    #[cfg(feature = "tables")]
    pub fn pin(&self, name: &str) -> PathBuf {
        let layout = format!("v{}", mape_common::layout::LAYOUT_VERSION);
        [PINS, &layout, &self.instance, name].iter().collect()
    }

    /// Unloads, and removes the pins even when mape-ctl cannot: they outlive the namespace.
    pub fn unload(&self, node: &Netns) {
        let _ = self.ctl(node, &["unload"]);
        for layout in fs::read_dir(PINS).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(layout.path().join(&self.instance));
        }
    }
}

/// Packets that each processor has handed on and taken over, by what `mape-ctl stat --json` has printed; as many as the highest number
/// of one that shares asks for.
///
/// # Errors
/// When nobody shares.
pub fn handed(stat: &Value) -> Result<Vec<[u64; 2]>> {
    let processors = stat.pointer("/spread/processors").and_then(Value::as_array);
    let mut handed = Vec::new();
    for one in processors.context("nobody shares the packets from the tunnel")? {
        let number = |key: &str| one[key].as_u64().with_context(|| format!("a processor without {key}"));
        let at = usize::try_from(number("processor")?)?;
        handed.resize(handed.len().max(at + 1), [0; 2]);
        handed[at] = [number("handed_on")?, number("taken_over")?];
    }
    Ok(handed)
}

/// How many packets have not been forwarded for that reason, both ways, by what `mape-ctl stat --json` has printed.
///
/// # Errors
/// When it has no reasons.
pub fn refused(stat: &Value, label: &str) -> Result<u64> {
    let of = |direction: &str| {
        let reasons = stat.pointer(&format!("/directions/{direction}/reasons"))?.as_array()?;
        let found = reasons.iter().find(|reason| reason["label"] == label);
        found.map_or(Some(0), |reason| reason["packets"].as_u64())
    };
    [of("outbound"), of("inbound")]
        .into_iter()
        .sum::<Option<u64>>()
        .context("`mape-ctl stat --json` lacks the reasons")
}

/// The configuration file of a node's gateway.
pub fn config_text(node: &str, shape: Shape) -> String {
    let (role, lan, more) = match edges::ALL.iter().find(|edge| edge.node == node) {
        Some(edge) => (
            Role::Ce,
            format!("{:?}", shape.lan_devices()),
            format!("prefix = \"{}\"\n", edge.prefix),
        ),
        None => (Role::Br, r#"["inet0"]"#.to_owned(), String::new()),
    };
    let (role, br, offset) = (role.node(), plan::BR_IPV6, plan::PSID_OFFSET);
    format!(
        r#"role = "{role}"
lan = {lan}
wan = "wan0"

[map]
{more}br = "{br}"
format = "rfc7597"

[[map.rule]]
ipv6 = "2001:db8::/40"
ipv4 = "192.0.2.0/24"
ea-len = 16
psid-offset = {offset}
fmr = false

[tunnel]
device = "mape0"
mtu = 1460

[nat]
sessions = 65536
"#
    )
}
