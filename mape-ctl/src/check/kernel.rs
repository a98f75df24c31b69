//! The kernel itself: whether it has what the programs need, and whether this process may use it.

use std::{fs, path::Path};

use socket2::{Domain, Socket, Type};

use super::{Level, Report, Trouble, fix::Fix, kind};
use crate::kernel;

/// Address family of AF_XDP sockets.
const AF_XDP: i32 = 44;
/// Capabilities by name and number: what loading programs, changing the network and sending pings take.
const CAPABILITIES: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_BPF", 39),
];

/// What is known of the kernel.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) release: String,
    pub(super) is_root: bool,
    /// Effective capabilities, a bit each.
    pub(super) capabilities: u64,
    pub(super) has_btf: bool,
    pub(super) is_jit_off: bool,
    pub(super) is_bpffs: bool,
    /// Mounts made here are there for others.
    pub(super) shares_mounts: bool,
    pub(super) has_tcx: bool,
    pub(super) has_ip6_tunnel: bool,
    pub(super) has_tun: bool,
    pub(super) has_af_xdp: bool,
}

pub(super) fn gather() -> Facts {
    Facts {
        release: kernel::release(),
        is_root: kernel::check_root("check").is_ok(),
        capabilities: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| effective(&status))
            .unwrap_or(u64::MAX),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        is_jit_off: kernel::is_jit_off(),
        is_bpffs: kernel::is_bpffs(),
        shares_mounts: kernel::shares_mounts_with_init(),
        has_tcx: kernel::has_tcx(),
        has_ip6_tunnel: kernel::has_ip6_tunnel(),
        has_tun: Path::new("/dev/net/tun").exists(),
        has_af_xdp: Socket::new(Domain::from(AF_XDP), Type::RAW, None).is_ok(),
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

pub(super) fn judge(report: &mut Report, facts: &Facts) {
    let not_root = (!facts.is_root).then(|| {
        Trouble::new(
            "mape-ctl does not run as root, so only the kernel was looked at",
            "sudo mape-ctl check …",
        )
    });
    report.see(kind::KERNEL_ROOT, "", not_root);
    report.see(
        kind::KERNEL_CAPABILITIES,
        "",
        facts.is_root.then(|| missing(facts)).flatten(),
    );
    report.see(kind::KERNEL_VERSION, &facts.release, version(&facts.release));
    let no_btf = (!facts.has_btf).then(|| {
        Trouble::new(
            "/sys/kernel/btf/vmlinux is missing",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, as Debian's are",
        )
    });
    report.see(kind::KERNEL_BTF, "", no_btf);
    let interpreted = facts.is_jit_off.then(|| {
        let setting = "net/core/bpf_jit_enable".to_owned();
        Trouble::mended_by("the BPF compiler is off", Fix::Sysctl { setting, value: "1" })
    });
    report.see(kind::KERNEL_JIT, "", interpreted);
    report.see(kind::KERNEL_BPFFS, kernel::BPFFS, bpffs(facts));
    let filters = (!facts.has_tcx).then(|| {
        Trouble::new(
            "this kernel has no TCX",
            "nothing, as long as no other tool rebuilds the tunnel device's qdisc; else Linux 6.6 or newer",
        )
    });
    report.see(kind::KERNEL_TCX, "", filters);
    report.see(kind::KERNEL_TUNNEL, "", tunnel(facts));
    let no_af_xdp = (!facts.has_af_xdp).then(|| {
        Trouble::new(
            "this kernel has no AF_XDP sockets: fragments that come before their first one are dropped",
            "use a kernel built with CONFIG_XDP_SOCKETS, as Debian's are",
        )
    });
    report.see(kind::KERNEL_AF_XDP, "", no_af_xdp);
}

fn missing(facts: &Facts) -> Option<Trouble> {
    let lacks: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, number)| facts.capabilities & (1 << number) == 0)
        .map(|(name, _)| *name)
        .collect();
    (!lacks.is_empty()).then(|| {
        Trouble::new(
            format!("this root lacks {}", lacks.join(", ")),
            "let the container have them, or run mape-ctl outside of it",
        )
    })
}

fn version(release: &str) -> Option<Trouble> {
    let refused = kernel::check_release(release).and_then(|()| kernel::check_known(release));
    refused.err().map(|error| {
        Trouble::new(
            error.to_string(),
            "boot another kernel; docs/kernels.md lists those that were tried",
        )
    })
}

fn bpffs(facts: &Facts) -> Option<Trouble> {
    if facts.is_bpffs {
        return None;
    }
    Some(if facts.shares_mounts {
        Trouble::mended_by("it is not mounted; load does it", Fix::Mount).only(Level::Note)
    } else {
        Trouble::new(
            "this process has mounts of its own, without the BPF file system: pins made here would vanish with it",
            "nsenter --net=/run/netns/NAME mape-ctl … in the place of ip netns exec",
        )
    })
}

fn tunnel(facts: &Facts) -> Option<Trouble> {
    match (facts.has_ip6_tunnel, facts.has_tun) {
        (true, _) => None,
        (false, true) => Some(
            Trouble::new(
                "this kernel has no ip6_tunnel: the slow path's packets are carried by a process, `mape-ctl tunnel`",
                "nothing, load starts it; or a kernel with ip6_tunnel (modprobe ip6_tunnel)",
            )
            .only(Level::Note),
        ),
        (false, false) => Some(Trouble::new(
            "there is neither ip6_tunnel nor /dev/net/tun",
            "modprobe ip6_tunnel, or modprobe tun; a container needs the device /dev/net/tun",
        )),
    }
}
