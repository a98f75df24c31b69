//! Owns the lab around a virtual machine: its namespaces, its NICs, and the mape-ctl inside.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway::{config_text, refused},
    lab::{Lab, LabOptions},
    plan,
    process::pause,
    servers::Servers,
    tap,
};
use serde_json::Value;

use crate::{
    setup::progress,
    vm::{
        self,
        guest::{self, Answer},
        kernel::{Kernel, debian_version},
        live::{Live, Nic, Parts, Shape},
        modules::Module,
        qemu::Qemu,
    },
};

/// The modules that a gateway's kernel has at hand: NICs, the tunnel, tc, and NAT for the peer that is made of the kernel alone.
pub(super) const MODULES: [&str; 21] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    // libcrc32c asks for it by a name that no module has.
    "crc32c_generic",
    "ip6_tunnel",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_numgen",
    "nft_masq",
    "nf_reject_ipv4",
    "af_packet",
    "veth",
    "inet_diag",
];
/// What scripts run besides busybox.
const PROGRAMS: [&str; 7] = ["curl", "ethtool", "ip", "nft", "ping", "ss", "tc"];
/// The machine switches itself off after this, whatever becomes of us.
const LIFE: Duration = Duration::from_mins(30);
/// The maps of 65,536 sessions, the file system twice, and the verifier.
const MEMORY_MIB: u32 = 1_024;
/// Emulated, the verifier takes 10 to 20 s for all programs, and several times that on a busy machine.
pub(super) const LOAD: Duration = Duration::from_mins(4);
/// The configuration file inside.
pub(super) const CONFIG: &str = "/etc/mape.toml";

/// What all machines with one kernel have in common.
pub(super) struct Setup<'a> {
    pub(super) qemu: &'a Qemu,
    pub(super) kernel: &'a Kernel,
    pub(super) file_system: &'a Path,
    /// The program under test, inside and outside.
    pub(super) mape_ctl: &'a Path,
}

/// Writes the file system for machines with a kernel.
pub(super) fn file_system(kernel: &Kernel, modules: &[Module], mape_ctl: &Path) -> Result<PathBuf> {
    let mut files = guest::agent_file_system(modules, &PROGRAMS, LIFE)?;
    files.program("bin/mape-ctl", mape_ctl)?;
    let archive = vm::folder().join(format!("live-{}.cpio", kernel.release));
    files.write(&archive)?;
    Ok(archive)
}

/// A machine in its lab, switched on. What it consists of goes in this order.
pub(super) struct Bench {
    pub(super) machine: Live,
    pub(super) servers: Servers,
    pub(super) lab: Lab,
    /// Debian's version of the kernel inside, which tells more than its release.
    pub(super) kernel: String,
    /// What `unload` must come back to.
    pub(super) before: String,
    /// What `load` has said.
    pub(super) loaded: String,
}

impl Bench {
    /// Makes the lab, switches the machine on, gives its NICs their names and addresses, and loads the gateway outside.
    pub(super) fn start(setup: &Setup<'_>, shape: Shape, plan: plan::Shape, nic_properties: &str) -> Result<Self> {
        let mut lab = Lab::up(&LabOptions {
            id: String::new(),
            shape: plan,
        })?;
        let machine = match switch_on(setup, shape, &lab, nic_properties) {
            Err(error) if setup.qemu.is_accelerated() => {
                progress(&format!(
                    "KVM does not run this kernel, it is emulated from now on: {error:#}"
                ));
                setup.qemu.emulate();
                switch_on(setup, shape, &lab, nic_properties)?
            }
            other => other?,
        };
        if plan == plan::Shape::VirtualEdge {
            // The border relay has no stack that would fragment what does not fit the tunnel.
            let internet = lab.node("internet")?;
            internet.tool("ip -4 route replace 192.0.2.0/24 via 203.0.113.1 mtu 1460")?;
        }
        lab.load(setup.mape_ctl).context("loading the gateway outside")?;
        let servers = Servers::start(&lab)?;
        let mut bench = Self {
            machine,
            servers,
            lab,
            kernel: setup.kernel.release.clone(),
            before: String::new(),
            loaded: String::new(),
        };
        bench.configure()?;
        Ok(bench)
    }

    fn configure(&mut self) -> Result<()> {
        let shape = self.lab.shape();
        let mut script = vec!["set -e".to_owned()];
        for (number, [_, _, device]) in shape.taps().iter().enumerate() {
            let mac = mac(number);
            script.push(format!("nic=$(grep -l {mac} /sys/class/net/*/address | cut -d/ -f5)"));
            script.push(format!("ip link set \"$nic\" name {device}"));
        }
        // As in the lab's namespaces.
        for (setting, value) in [
            ("ipv6/conf/all/accept_dad", 0),
            ("ipv6/conf/default/accept_dad", 0),
            ("ipv6/conf/default/router_solicitations", 0),
            ("ipv4/conf/all/rp_filter", 0),
            ("ipv4/conf/default/rp_filter", 0),
            ("ipv4/conf/all/forwarding", 1),
        ] {
            script.push(format!("echo {value} >/proc/sys/net/{setting}"));
        }
        for [_, _, device] in shape.taps() {
            script.push(format!("ip link set {device} up"));
        }
        for line in shape.virtual_addresses() {
            let family = if line.contains(':') { "-6" } else { "-4" };
            script.push(format!("ip {family} {line}"));
        }
        let config = config_text("ce", shape);
        script.push(format!("cat >{CONFIG} <<'EOF'\n{config}EOF\n"));
        self.machine.must(&script.join("\n"))?;
        if let Some(version) = debian_version(&self.machine.must("uname -v")?) {
            version.clone_into(&mut self.kernel);
        }
        Ok(())
    }

    /// Runs mape-ctl inside.
    pub(super) fn ctl(&mut self, words: &str) -> Result<Answer> {
        self.machine.script(&format!("mape-ctl {words}"), LOAD)
    }

    /// The same where it must succeed; what it prints.
    pub(super) fn must_ctl(&mut self, words: &str) -> Result<String> {
        let answer = self.ctl(words)?;
        ensure!(
            answer.exit_code == 0,
            "`mape-ctl {words}` ended with {}: {}{}",
            answer.exit_code,
            answer.stdout,
            answer.stderr
        );
        Ok(answer.stdout)
    }

    /// Loads the gateway by `mape-ctl run`, which stays.
    pub(super) fn run(&mut self) -> Result<()> {
        self.machine.must(&format!(
            "mape-ctl run --config {CONFIG} >/tmp/run.log 2>&1 </dev/null &"
        ))?;
        self.wait_for("cat /tmp/run.log", "wan0: native XDP, runs")
    }

    /// Waits until a command inside prints something.
    pub(super) fn wait_for(&mut self, command: &str, text: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let said = self.machine.must(command)?;
            if said.contains(text) {
                return Ok(());
            }
            ensure!(begin.elapsed() < LOAD, "`{command}` does not print `{text}`: {said}");
            pause(Duration::from_millis(500))?;
        }
    }

    fn stat(&mut self) -> Result<Value> {
        let text = self.must_ctl("stat --json")?;
        serde_json::from_str(&text).context("`mape-ctl stat --json` printed no JSON")
    }

    /// Packets that the gateway inside has not forwarded for that reason, both ways.
    pub(super) fn refused(&mut self, label: &str) -> Result<u64> {
        refused(&self.stat()?, label)
    }

    /// What the gateway inside has counted.
    pub(super) fn counts(&mut self) -> Result<Counts> {
        let stat = self.stat()?;
        let number = |path: &str| {
            stat.pointer(path)
                .and_then(Value::as_u64)
                .with_context(|| format!("`mape-ctl stat --json` lacks {path}"))
        };
        Ok(Counts {
            fast: [
                number("/directions/outbound/forwarded/packets")?,
                number("/directions/inbound/forwarded/packets")?,
            ],
            slow: [
                number("/directions/outbound/delivered/packets")?,
                number("/directions/inbound/delivered/packets")?,
            ],
        })
    }

    /// Waits until a packet of the host's comes back: neighbours are known then.
    pub(super) fn wait_until_reachable(&self) -> Result<usize> {
        self.lab.wait_until_reachable("host1")
    }
}

/// Packets that the gateway inside has forwarded, outbound and inbound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// By XDP.
    pub(super) fast: [u64; 2],
    /// By the stack.
    pub(super) slow: [u64; 2],
}

impl Counts {
    /// What has been added since.
    pub(super) fn since(self, before: Self) -> Self {
        let less = |[a, b]: [u64; 2], [c, d]: [u64; 2]| [a.saturating_sub(c), b.saturating_sub(d)];
        Self {
            fast: less(self.fast, before.fast),
            slow: less(self.slow, before.slow),
        }
    }
}

fn mac(number: usize) -> String {
    format!("52:54:00:00:00:{:02x}", number + 1)
}

fn switch_on(setup: &Setup<'_>, shape: Shape, lab: &Lab, nic_properties: &str) -> Result<Live> {
    let mut nics = Vec::new();
    for (number, [node, device, _]) in lab.shape().taps().iter().enumerate() {
        nics.push(Nic {
            mac: mac(number),
            queues: tap::open(lab.node(node)?, device, shape.queues)?,
        });
    }
    let begin = Instant::now();
    let machine = Live::start(Parts {
        qemu: setup.qemu,
        kernel: setup.kernel,
        file_system: setup.file_system,
        memory_mib: MEMORY_MIB,
        shape,
        nics,
        nic_properties,
        counts_instructions: false,
    })?;
    let properties = if nic_properties.is_empty() {
        String::new()
    } else {
        format!(", {nic_properties}")
    };
    progress(&format!(
        "Linux {} ({}{properties}) is up after {:.1} s",
        setup.kernel.release,
        shape.name(),
        begin.elapsed().as_secs_f32()
    ));
    Ok(machine)
}
