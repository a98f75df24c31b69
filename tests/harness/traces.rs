//! Owns what a gateway may leave on a machine: everything in a network namespace, in bpffs and in files that `mape-ctl` can have
//! made, taken down twice and compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs},
};
use serde_json::Value;

use crate::{
    gateway::{Gateway, PINS},
    netns::Netns,
};

/// Where the records, locks and logs of instances are.
const RECORDS: &str = "/run/mape";

/// What is there at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Each interface with its alias and the number of its XDP program.
    pub links: Vec<String>,
    /// tc programs on links, by device and side.
    pub classifiers: Vec<String>,
    /// Queueing disciplines and filters.
    pub queues: Vec<String>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Routes of all tables.
    pub routes: Vec<String>,
    /// Policy rules.
    pub rules: Vec<String>,
    /// Neighbours that the kernel was told to keep.
    pub neighbours: Vec<String>,
    /// Firewall rules.
    pub firewall: Vec<String>,
    /// Pinned objects of the instance, in any layout.
    pub pins: Vec<PathBuf>,
    /// Files of the instance; its lock stays.
    pub files: Vec<PathBuf>,
    /// Processes in the namespace.
    pub processes: usize,
}

impl Traces {
    /// Looks at a node.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn of(node: &Netns, gateway: &Gateway) -> Result<Self> {
        let lines = |command: &str| -> Result<Vec<String>> {
            let mut lines: Vec<String> = node.tool(command)?.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort();
            Ok(lines)
        };
        let shown: Value = serde_json::from_str(&node.tool("ip -j link show")?)?;
        let devices = shown.as_array().context("`ip -j link show` printed no list")?;
        let names: Vec<&str> = devices.iter().filter_map(|link| link["ifname"].as_str()).collect();
        let neighbours = lines("ip -4 neigh show nud all")?;
        Ok(Self {
            links: devices
                .iter()
                .map(|link| {
                    let program = link.pointer("/xdp/prog/id");
                    format!("{} {} {program:?}", link["ifname"], link["ifalias"])
                })
                .collect(),
            classifiers: node.enter(|| Ok(classifiers(&names)))?,
            queues: lines("tc qdisc show")?,
            addresses: lines("ip -o address show")?,
            routes: [
                lines("ip -4 route show table all")?,
                // Those of multicast come and go with the kernel's own needs.
                lines("ip -6 route show table all type unicast")?,
                lines("ip -6 route show table all type local")?,
            ]
            .concat(),
            rules: [lines("ip -4 rule show")?, lines("ip -6 rule show")?].concat(),
            neighbours: neighbours
                .into_iter()
                .filter(|line| line.contains("managed") || line.contains("PERMANENT"))
                .collect(),
            firewall: firewall(node)?,
            pins: pins(gateway.instance()),
            files: files(gateway.instance()),
            processes: node.pids()?.len(),
        })
    }

    /// Fails, naming what differs, unless both are the same.
    ///
    /// # Errors
    /// When they differ.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        if self == before {
            return Ok(());
        }
        let lists = |traces: &Self| {
            let paths = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect();
            [
                traces.links.clone(),
                traces.classifiers.clone(),
                traces.queues.clone(),
                traces.addresses.clone(),
                traces.routes.clone(),
                traces.rules.clone(),
                traces.neighbours.clone(),
                traces.firewall.clone(),
                paths(&traces.pins),
                paths(&traces.files),
                vec![format!("{} processes", traces.processes)],
            ]
        };
        let mut text = String::new();
        for (now, then) in lists(self).into_iter().zip(lists(before)) {
            let more = now.iter().filter(|line| !then.contains(line));
            let less = then.iter().filter(|line| !now.contains(line));
            text.extend(more.map(|line| format!("\n+ {line}")));
            text.extend(less.map(|line| format!("\n- {line}")));
        }
        bail!("the machine is not as it was:{text}")
    }
}

/// The kernel's numbers of a loaded gateway's programs and maps, by which is seen whether they go.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    programs: Vec<u32>,
    maps: Vec<u32>,
}

impl Objects {
    /// Those that are pinned, and those on devices.
    ///
    /// # Errors
    /// When a pin cannot be opened.
    pub fn of(gateway: &Gateway) -> Result<Self> {
        let mut found = Self::default();
        for path in pins(gateway.instance()) {
            let folder = path.parent().and_then(Path::file_name);
            if folder.is_some_and(|name| name == "programs") {
                found.programs.push(ProgramInfo::from_pin(&path)?.id());
            } else if folder.is_some_and(|name| name == "maps") {
                found.maps.push(MapInfo::from_pin(&path)?.id());
            }
        }
        Ok(found)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.programs.len() + self.maps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are in the kernel at this moment.
    pub fn alive(&self) -> usize {
        let programs = loaded_programs().flatten().map(|found| found.id());
        let maps = loaded_maps().flatten().map(|found| found.id());
        programs.filter(|id| self.programs.contains(id)).count() + maps.filter(|id| self.maps.contains(id)).count()
    }
}

/// In the namespace of the calling thread.
fn classifiers(names: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        for (side, word) in [(TcAttachType::Ingress, "ingress"), (TcAttachType::Egress, "egress")] {
            // Kernels before 6.6 do not know the question; what is there then is seen among the filters.
            let Ok((_, programs)) = SchedClassifier::query_tcx(name, side) else {
                continue;
            };
            found.extend(programs.iter().map(|program| format!("{name} {word} {}", program.id())));
        }
    }
    found
}

/// nftables' and, where they are separate, iptables' rules; none where neither tool is there.
fn firewall(node: &Netns) -> Result<Vec<String>> {
    let limit = std::time::Duration::from_secs(10);
    let mut lines = Vec::new();
    for words in [&["nft", "list", "ruleset"][..], &["iptables-save"], &["ip6tables-save"]] {
        let is_there = Path::new("/usr/sbin").join(words[0]).exists();
        if is_there {
            let said = node.run(words, limit)?.stdout;
            // iptables-save writes the time beside the rules.
            lines.extend(said.lines().filter(|line| !line.starts_with('#')).map(str::to_owned));
        }
    }
    Ok(lines)
}

fn pins(instance: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = entries(Path::new(PINS)).map(|layout| layout.join(instance)).collect();
    folders.retain(|folder| folder.is_dir());
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                found.push(entry);
            }
        }
        found.push(folder);
    }
    found.sort();
    found
}

fn files(instance: &str) -> Vec<PathBuf> {
    let is_own = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix(instance)
            .is_some_and(|rest| rest.starts_with('.') && rest != ".lock")
    };
    let mut found: Vec<PathBuf> = entries(Path::new(RECORDS)).filter(is_own).collect();
    found.sort();
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}
