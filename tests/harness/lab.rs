//! Owns the lab: brings the namespaces of `plan` up, runs programs in them, and takes everything down again.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    gateway::{self, Gateway},
    netns::Netns,
    pass,
    plan::{self, Shape},
    process::{self, Background, CleanUp, Finished, wait_for},
};

/// Begins the name of every namespace of every lab.
const PREFIX: &str = "mape-";
/// The id of the lab that stays open between commands.
pub const OPEN_LAB: &str = "lab";

/// One lab at a time: two would share the processors and spoil each other's figures.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the reason in the form that `cargo xtask test` counts, and says whether a lab can be made.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: network namespaces need root");
    }
    root
}

/// What kind of lab to make.
#[derive(Debug, Clone, Default)]
pub struct LabOptions {
    /// Tells this lab's namespaces from another's; a number of its own when empty.
    pub id: String,
    /// How the nodes are connected.
    pub shape: Shape,
}

/// A running lab; dropped, it takes down all it made.
#[derive(Debug)]
pub struct Lab {
    id: String,
    folder: PathBuf,
    nodes: BTreeMap<&'static str, Netns>,
    shape: Shape,
    gateways: Vec<Gateway>,
    keep: bool,
}

impl Lab {
    /// Makes the namespaces, links, addresses and routes; no gateway is loaded yet.
    ///
    /// # Errors
    /// When a step fails; what was made until then is taken down.
    pub fn up(options: &LabOptions) -> Result<Self> {
        sweep();
        let id = if options.id.is_empty() {
            unique_id()
        } else {
            options.id.clone()
        };
        if !Netns::names(&format!("{PREFIX}{id}-")).is_empty() {
            bail!("a lab \"{id}\" is open already: `cargo xtask lab down` closes it");
        }
        let folder = env::temp_dir().join(format!("{PREFIX}{id}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut lab = Self {
            id,
            folder,
            nodes: BTreeMap::new(),
            shape: options.shape,
            gateways: Vec::new(),
            keep: false,
        };
        lab.make_nodes(options)?;
        lab.make_links(options)?;
        lab.configure(&options.shape.addresses())?;
        let file = lab.folder.join("pass.o");
        fs::write(&file, pass::elf()).with_context(|| format!("cannot write {}", file.display()))?;
        for (node, device) in options.shape.echoed_to() {
            let attach = format!("ip link set dev {device} xdpdrv obj {} sec xdp", file.display());
            lab.node(node)?.tool(&attach)?;
        }
        for (node, setting) in options.shape.forwarding() {
            lab.node(node)?.sysctl(setting, "1")?;
        }
        Ok(lab)
    }

    /// Finds a lab that an earlier command left open.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(id: &str) -> Result<Self> {
        // Also what is left of one that was interrupted half-way: it must be possible to take that down.
        let open = |node: &'static str| Some((node, Netns::open(&format!("{PREFIX}{id}-{node}")).ok()?));
        // A virtual machine's lab has no node that these lack.
        let all = [Shape::LanRouter, Shape::OneArm, Shape::ThreeEdges, Shape::FarServer];
        let all = all.into_iter().flat_map(Shape::nodes);
        let nodes: BTreeMap<&str, Netns> = all.copied().filter_map(open).collect();
        let has = |node| nodes.contains_key(node);
        let shape = match (has("ce2"), has("lanrouter"), has("switch")) {
            (true, ..) => Shape::ThreeEdges,
            (false, true, _) => Shape::LanRouter,
            (false, false, true) => Shape::OneArm,
            (false, false, false) if has("farserver") => Shape::FarServer,
            (false, false, false) => Shape::TwoLans,
        };
        if nodes.is_empty() {
            bail!("no lab is open: `cargo xtask lab up` makes one");
        }
        let folder = env::temp_dir().join(format!("{PREFIX}{id}"));
        let gateways = Gateway::left_by(&folder);
        Ok(Self {
            id: id.to_owned(),
            folder,
            shape,
            nodes,
            gateways,
            keep: true,
        })
    }

    /// Leaves the lab running when this value goes.
    pub fn keep(mut self) {
        self.keep = true;
    }

    /// Takes the lab down when this value goes, also one that was found open.
    pub fn down(mut self) {
        self.keep = false;
    }

    /// How the nodes are connected.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What tells this lab from others.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A folder for captures and downloads; it goes with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The names of the nodes this lab has.
    pub fn nodes(&self) -> impl Iterator<Item = &'static str> {
        self.nodes.keys().copied()
    }

    /// A node's namespace.
    ///
    /// # Errors
    /// When the lab has no such node.
    pub fn node(&self, node: &str) -> Result<&Netns> {
        let known = || self.nodes.keys().copied().collect::<Vec<_>>().join(", ");
        self.nodes
            .get(node)
            .with_context(|| format!("the lab has no node {node}; it has {}", known()))
    }

    /// Runs a program in a node to its end.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn exec(&self, node: &str, words: &[&str], limit: Duration) -> Result<Finished> {
        self.node(node)?.run(words, limit)
    }

    /// Starts a program in a node that runs until it is stopped.
    ///
    /// # Errors
    /// As [`Background::start`].
    pub fn spawn(&self, node: &str, words: &[&str]) -> Result<Background> {
        self.node(node)?.start(words)
    }

    /// Makes IPv4 go through plain routes, without any gateway: to try the lab and its tools themselves.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn route_plainly(&self) -> Result<()> {
        self.configure(&plan::PLAIN)
    }

    /// Loads all customer edges and the BR with this program; the lab unloads them at its end.
    ///
    /// # Errors
    /// What `mape-ctl load` says.
    pub fn load(&mut self, mape_ctl: &Path) -> Result<()> {
        self.load_in(self.shape.gateways(), mape_ctl)
    }

    /// The same for some of the nodes.
    ///
    /// # Errors
    /// What `mape-ctl load` says.
    pub fn load_in(&mut self, nodes: &[&'static str], mape_ctl: &Path) -> Result<()> {
        for name in nodes {
            let node = self.node(name)?.clone();
            // Kept before loading: what a failing load leaves must go too.
            self.prepare(name, mape_ctl)?.load(&node)?;
        }
        Ok(())
    }

    /// Writes a gateway's configuration; whoever loads it, the lab unloads it at its end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prepare(&mut self, node: &'static str, mape_ctl: &Path) -> Result<&Gateway> {
        let gateway = Gateway::new(node, &self.id, self.shape, mape_ctl, &self.folder)?;
        self.gateways.push(gateway);
        self.gateway_in(node)
    }

    /// Deletes a link, as if a NIC were pulled out.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn cut(&self, node: &str, device: &str) -> Result<()> {
        self.node(node)?.tool(&format!("ip link delete {device}"))?;
        Ok(())
    }

    /// Makes a link of the lab again, with the addresses and routes that went with it.
    ///
    /// # Errors
    /// When there is none, or `ip` refuses.
    pub fn mend(&self, node: &str, device: &str) -> Result<()> {
        let mut links = self.shape.links().iter();
        let link = links.find(|[near, near_device, far, far_device]| {
            (*near, *near_device) == (node, device) || (*far, *far_device) == (node, device)
        });
        let link = link.with_context(|| format!("the lab has no link {device} of {node}"))?;
        self.make_link(link)?;
        let [near, _, far, _] = link;
        for (node, lines) in self.shape.addresses() {
            if ![near, far].contains(&&node) {
                continue;
            }
            for line in lines {
                let family = if line.contains(':') { "-6" } else { "-4" };
                // All but what has gone with the link is there.
                let words: Vec<&str> = ["ip", family].into_iter().chain(line.split_whitespace()).collect();
                self.exec(node, &words, Duration::from_secs(5))?;
            }
        }
        Ok(())
    }

    /// A loaded gateway; of several customer edges, the first.
    ///
    /// # Errors
    /// When it is not loaded.
    pub fn gateway(&self, role: gateway::Role) -> Result<&Gateway> {
        self.gateway_in(role.node())
    }

    /// The gateway that is loaded in a node.
    ///
    /// # Errors
    /// When there is none.
    pub fn gateway_in(&self, node: &str) -> Result<&Gateway> {
        let found = self.gateways.iter().find(|gateway| gateway.node() == node);
        found.with_context(|| format!("no gateway is loaded in {node}"))
    }

    /// Loads a customer edge again, with more flags.
    ///
    /// # Errors
    /// What `mape-ctl load` says.
    pub fn load_again(&self, node: &str, flags: &[&str]) -> Result<()> {
        self.gateway_in(node)?.load_with(self.node(node)?, flags)
    }

    /// Pings the server until it answers and returns how many requests were lost before: the first packets to an
    /// unresolved neighbour may be.
    ///
    /// # Errors
    /// When there is no answer within ten seconds.
    pub fn wait_until_reachable(&self, host: &str) -> Result<usize> {
        let server = plan::SERVER.to_string();
        let mut lost = 0;
        wait_for(
            &format!("an answer from {server} to {host}"),
            Duration::from_secs(10),
            || {
                let ping = self.exec(
                    host,
                    &["ping", "-n", "-c", "1", "-W", "1", &server],
                    Duration::from_secs(5),
                )?;
                lost += usize::from(!ping.status.success());
                Ok(ping.status.success())
            },
        )?;
        Ok(lost)
    }

    fn make_nodes(&mut self, options: &LabOptions) -> Result<()> {
        for node in options.shape.nodes() {
            let netns = Netns::create(&format!("{PREFIX}{}-{node}", self.id))?;
            self.nodes.insert(node, netns);
        }
        Ok(())
    }

    fn make_links(&self, options: &LabOptions) -> Result<()> {
        options.shape.links().iter().try_for_each(|link| self.make_link(link))?;
        for [node, device, _] in options.shape.taps() {
            // They have no carrier until a virtual machine opens them; what it cannot cut or sum the kernel does before.
            let netns = self.node(node)?;
            netns.tool(&format!("ip tuntap add dev {device} mode tap multi_queue vnet_hdr"))?;
            netns.tool(&format!("ip link set {device} up"))?;
        }
        Ok(())
    }

    fn make_link(&self, [near, near_device, far, far_device]: &[&str; 4]) -> Result<()> {
        let (near_name, far_name) = (self.node(near)?.name(), self.node(far)?.name());
        let mut ip = Command::new("ip");
        ip.args(["link", "add", near_device, "netns", near_name, "type", "veth"]);
        ip.args(["peer", "name", far_device, "netns", far_name]);
        process::run(&mut ip, Duration::from_secs(10))?.success()?;
        let ends = [(near, near_device), (far, far_device)];
        // All offloads before the first end comes up: a veth notes at that moment whether its far end takes
        // redirected frames, and setting GRO there later, while that end is still down, does not correct the note.
        for (node, device) in ends {
            self.prepare_device(node, device)?;
        }
        for (node, device) in ends {
            self.node(node)?.tool(&format!("ip link set {device} up"))?;
        }
        Ok(())
    }

    /// Makes a veth behave as a wire between two machines.
    ///
    /// * Sending offloads off: with them a frame has no checksum yet, or is 64 kB long, when XDP on the other end sees it.
    /// * GRO on: a redirect puts the frame into the far end's NAPI queue, which only exists with XDP or GRO there;
    ///   without it every redirected frame is lost silently.
    /// * But nothing merged between the gateways, so that a capture shows what was on the wire.
    /// * A queue where the kernel sends: a veth towards XDP holds 256 frames, and what a burst brings beyond that is lost
    ///   unless there is a queue to wait in (newer kernels use it). Redirected frames have none in either case.
    fn prepare_device(&self, node: &str, device: &str) -> Result<()> {
        let netns = self.node(node)?;
        netns.tool(&format!("ethtool -K {device} tx off sg off tso off gso off gro on"))?;
        if ["transit", "switch"].contains(&node) {
            netns.tool(&format!("ip link set {device} gro_max_size 1"))?;
        }
        netns.tool(&format!("tc qdisc replace dev {device} root pfifo limit 1000"))?;
        Ok(())
    }

    fn configure(&self, lists: &[(&str, &[&str])]) -> Result<()> {
        for (node, lines) in lists {
            let netns = self.node(node)?;
            for line in *lines {
                let family = if line.contains(':') { "-6" } else { "-4" };
                netns.tool(&format!("ip {family} {line}"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let _clean_up = CleanUp::begin();
        for gateway in &self.gateways {
            if let Ok(node) = self.node(gateway.node()) {
                gateway.unload(node);
            }
        }
        self.nodes.values().for_each(end);
        // What a full disk or another's mount keeps us from removing is only files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Ends what still runs inside, politely first, and deletes the namespace.
fn end(netns: &Netns) {
    for (signal, patience) in [
        (Signal::TERM, Duration::from_secs(2)),
        (Signal::KILL, Duration::from_millis(200)),
    ] {
        let running = others_inside(netns);
        for pid in &running {
            // One that has just ended by itself is as good.
            let _ = kill_process(*pid, signal);
        }
        let deadline = Instant::now() + patience;
        while !running.is_empty() && !others_inside(netns).is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
    netns.delete();
}

/// Threads of this very process may still be on their way out of the namespace.
fn others_inside(netns: &Netns) -> Vec<Pid> {
    let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap_or_default());
    let pids = netns.pids().unwrap_or_default().into_iter().map(Pid::from_raw);
    pids.filter(|pid| *pid != own).flatten().collect()
}

/// The process id, so that a later run can tell whether the lab's owner is still there.
fn unique_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Takes down the labs of processes that were killed before they could do so.
fn sweep() {
    for name in Netns::names(PREFIX) {
        let mut parts = name[PREFIX.len()..].splitn(3, '-');
        let owner = parts
            .next()
            .and_then(|owner| owner.parse().ok())
            .and_then(Pid::from_raw);
        let (Some(owner), Some(number)) = (owner, parts.next()) else {
            continue;
        };
        if test_kill_process(owner).is_err() {
            let id = format!("{}-{number}", owner.as_raw_nonzero());
            if let Ok(lab) = Lab::open(&id) {
                lab.down();
            }
        }
    }
}
