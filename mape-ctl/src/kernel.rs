//! Owns what the kernel must have: version, privileges, BPF file system, BTF; and its settings under `/proc/sys`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Where the BPF file system belongs.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The oldest kernel that has everything: compare-and-swap in BPF (5.12), timers (5.15), `bpf_loop` (5.17), and a coarse clock.
pub const OLDEST: (u32, u32) = (6, 1);
/// A kernel whose verifier was not done with the programs after five minutes and 3 GiB (docs/kernels.md); the ones before and after are.
const NEVER_DONE: (u32, u32) = (6, 19);
/// Files that a load has open at once: each map and program is one.
const FILES: u64 = 256;
const BPFFS_MAGIC: i64 = 0xcafe_4a11;

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Older than [`OLDEST`].
    #[error(
        "Linux {found} is too old: {}.{} or newer is needed (older ones lack compare-and-swap in BPF, bpf_loop or BPF timers)",
        OLDEST.0,
        OLDEST.1
    )]
    TooOld {
        /// The release as the kernel says it.
        found: String,
    },
    /// [`NEVER_DONE`].
    #[error(
        "Linux {found} cannot check the programs: its verifier takes all memory and comes to no end; \
         use another kernel, 6.18 or older (from 6.1 on) or 7.0 or newer"
    )]
    NeverDone {
        /// The release as the kernel says it.
        found: String,
    },
    /// Not root.
    #[error("{0} needs root (CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN); run it with sudo")]
    NotRoot(&'static str),
    /// No type information, without which timers in maps cannot be described to the kernel.
    #[error(
        "the kernel gives no BTF (/sys/kernel/btf/vmlinux is missing); it must be built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf,
    /// The BPF file system is not there and cannot be mounted.
    #[error("{BPFFS} is no BPF file system and cannot be made one; try: mount -t bpf bpf {BPFFS}")]
    NoBpffs(#[source] io::Error),
    /// Pins would vanish with this process.
    #[error(
        "this process has mounts of its own, without the BPF file system: pins made here would vanish with it. \
         `ip netns exec` does that; use: nsenter --net=/run/netns/NAME mape-ctl …"
    )]
    PrivateMounts,
    /// A process that may open too few files; the kernel's answers do not tell that from other faults.
    #[error(
        "this process may open {allowed} files, and maps and programs need {FILES} of them; raise that: ulimit -n {FILES}, \
         or LimitNOFILE={FILES} in the service"
    )]
    Files {
        /// How many at most.
        allowed: u64,
    },
    /// A setting cannot be changed.
    #[error("cannot set {setting} to {value}; set it yourself: sysctl -w {setting}={value}")]
    Setting {
        /// Its name, with dots.
        setting: String,
        /// The value wanted.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Checks version and BTF; `command` names who needs root.
///
/// # Errors
/// [`KernelError`].
pub fn check(command: &'static str) -> Result<(), KernelError> {
    check_release(&release())?;
    check_root(command)?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(KernelError::NoBtf);
    }
    Ok(())
}

/// Sees to it that this process may open as many files as a load needs, as far as the system lets it.
///
/// # Errors
/// [`KernelError::Files`].
pub fn allow_files() -> Result<(), KernelError> {
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |allowed: Option<u64>| allowed.is_none_or(|allowed| allowed >= FILES);
    if is_enough(limit.current) {
        return Ok(());
    }
    let wanted = Rlimit {
        current: Some(FILES),
        maximum: limit.maximum,
    };
    if is_enough(limit.maximum) && setrlimit(Resource::Nofile, wanted).is_ok() {
        return Ok(());
    }
    Err(KernelError::Files {
        allowed: limit.current.unwrap_or(FILES),
    })
}

/// Refuses a kernel that would not come to an end with the programs, before it is asked to.
///
/// # Errors
/// [`KernelError::NeverDone`].
pub fn check_verifier() -> Result<(), KernelError> {
    check_known(&release())
}

/// Refuses [`NEVER_DONE`].
///
/// # Errors
/// [`KernelError::NeverDone`].
pub fn check_known(release: &str) -> Result<(), KernelError> {
    if version(release) == NEVER_DONE {
        return Err(KernelError::NeverDone {
            found: release.to_owned(),
        });
    }
    Ok(())
}

/// The release as the kernel says it.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Checks that this is root; without, the kernel's own answers are hard to understand.
///
/// # Errors
/// [`KernelError::NotRoot`].
pub fn check_root(command: &'static str) -> Result<(), KernelError> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(KernelError::NotRoot(command))
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether tc programs are kept by links (TCX), which outlive who has made them.
pub fn has_tcx() -> bool {
    version(&release()) >= (6, 6)
}

/// Refuses what is older than [`OLDEST`].
///
/// # Errors
/// [`KernelError::TooOld`].
pub fn check_release(release: &str) -> Result<(), KernelError> {
    if version(release) < OLDEST {
        Err(KernelError::TooOld {
            found: release.to_owned(),
        })
    } else {
        Ok(())
    }
}

/// What is not wrong, but slow: the just-in-time compiler switched off.
pub fn warnings() -> Vec<String> {
    if is_jit_off() {
        vec![
            "the BPF compiler is off, so packets are interpreted: slow; switch it on: sysctl -w net.core.bpf_jit_enable=1".to_owned(),
        ]
    } else {
        Vec::new()
    }
}

/// Whether BPF is interpreted. A kernel that cannot interpret has no such setting, or it is always on.
pub fn is_jit_off() -> bool {
    fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|text| text.trim() == "0")
}

/// Whether the kernel has tunnels of IPv4 in IPv6, built in, loaded, or to be loaded when one is made.
pub fn has_ip6_tunnel() -> bool {
    let modules = PathBuf::from("/lib/modules").join(release());
    let is_listed = |list: &str| fs::read_to_string(modules.join(list)).is_ok_and(|text| lists_ip6_tunnel(&text));
    Path::new("/sys/module/ip6_tunnel").exists() || is_listed("modules.builtin") || is_listed("modules.dep")
}

fn lists_ip6_tunnel(list: &str) -> bool {
    let names = list.lines().map(|line| line.split(':').next().unwrap_or(line));
    names
        .filter_map(|name| name.rsplit('/').next())
        .any(|name| name.split('.').next() == Some("ip6_tunnel"))
}

/// Sees to it that the BPF file system is mounted; true where this call has mounted it.
///
/// # Errors
/// [`KernelError::NoBpffs`], [`KernelError::PrivateMounts`].
pub fn ensure_bpffs() -> Result<bool, KernelError> {
    if is_bpffs() {
        return Ok(false);
    }
    if !shares_mounts_with_init() {
        return Err(KernelError::PrivateMounts);
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None).map_err(|errno| KernelError::NoBpffs(errno.into()))?;
    Ok(true)
}

/// Whether [`BPFFS`] is a BPF file system.
pub fn is_bpffs() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|found| found.f_type == BPFFS_MAGIC)
}

/// Whether mounts made here outlive this process. Unknown counts as yes: the check is for `ip netns exec`.
///
/// Not by `/proc/1/ns/mnt`, which even root may be forbidden to look at in a container.
pub fn shares_mounts_with_init() -> bool {
    let root = |process: &str| root_mount(&fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?);
    match (root("self"), root("1")) {
        (Some(own), Some(init)) => own == init,
        _ => true,
    }
}

/// The number of the mount at `/`: no two mount namespaces have one in common.
fn root_mount(mountinfo: &str) -> Option<u32> {
    let root = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"))?;
    root.split(' ').next()?.parse().ok()
}

/// The number of this process's network namespace.
pub fn network_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/net").ok().map(|found| found.ino())
}

fn setting_file(setting: &[&str]) -> PathBuf {
    setting
        .iter()
        .fold(PathBuf::from("/proc/sys"), |path, part| path.join(part))
}

/// Whether IPv4 packets that come in by an interface are forwarded.
pub fn forwards_ipv4(interface: &str) -> bool {
    let file = setting_file(&["net", "ipv4", "conf", interface, "forwarding"]);
    fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}

/// Whether routes into an interface without a carrier are passed over; the tunnel device never has one.
pub fn ignores_routes_without_carrier(interface: &str) -> bool {
    let file = setting_file(&["net", "ipv4", "conf", interface, "ignore_routes_with_linkdown"]);
    fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
}

/// Switches IPv4 forwarding on or off for what comes in by an interface.
///
/// # Errors
/// [`KernelError::Setting`].
pub fn set_ipv4_forwarding(interface: &str, on: bool) -> Result<(), KernelError> {
    let file = setting_file(&["net", "ipv4", "conf", interface, "forwarding"]);
    let value = if on { "1" } else { "0" };
    fs::write(file, value).map_err(|source| KernelError::Setting {
        setting: format!("net/ipv4/conf/{interface}/forwarding"),
        value,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_by_number() {
        for good in ["6.1.0-18-amd64", "6.18.44-fc", "7.0", "10.0-rc1"] {
            assert!(check_release(good).is_ok(), "{good}");
        }
        for old in ["5.15.0", "6.0.19", "4.19", "nonsense"] {
            assert!(matches!(check_release(old), Err(KernelError::TooOld { .. })), "{old}");
        }
    }

    #[test]
    fn the_kernels_tunnel_is_found_in_its_list_of_modules() {
        let dep = "kernel/net/ipv6/sit.ko.xz: kernel/net/ipv6/tunnel6.ko.xz\n\
                   kernel/net/ipv6/ip6_tunnel.ko.xz: kernel/net/ipv6/tunnel6.ko.xz\n";
        assert!(lists_ip6_tunnel(dep));
        assert!(lists_ip6_tunnel("kernel/net/ipv6/ip6_tunnel.ko\n"));
        assert!(!lists_ip6_tunnel(
            "kernel/net/ipv6/ip6_gre.ko: kernel/net/ipv6/ip6_tunnel.ko\n"
        ));
        assert!(!lists_ip6_tunnel(""));
    }

    #[test]
    fn one_kernel_is_not_asked_what_it_cannot_answer() {
        for good in ["6.1.0-56-cloud-amd64", "6.18.44", "7.0.13+deb13-cloud-amd64", "6.20.1"] {
            assert!(check_known(good).is_ok(), "{good}");
        }
        let refused = check_known("6.19.14+deb13-cloud-amd64").unwrap_err().to_string();
        assert!(
            refused.contains("6.18 or older") && refused.contains("7.0 or newer"),
            "{refused}"
        );
    }

    #[test]
    fn the_root_mounts_number_tells_namespaces_apart() {
        let text = "22 1 0:20 / / rw - ext4 /dev/vda rw\n23 22 0:21 / /sys rw - sysfs sysfs rw\n";
        assert_eq!(root_mount(text), Some(22));
        assert_eq!(root_mount("nonsense"), None);
    }

    #[test]
    fn dots_in_an_interface_name_stay_dots_in_the_settings_path() {
        let file = setting_file(&["net", "ipv4", "conf", "eth0.10", "forwarding"]);
        assert_eq!(file, Path::new("/proc/sys/net/ipv4/conf/eth0.10/forwarding"));
    }
}
