//! Owns the Debian packages: which programs the lab runs, and how apt is asked for what is missing.

use std::{env, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use mape_tests::process::run;

use super::progress;

/// Each program that the lab runs, and the package that brings it.
const PROGRAMS: [(&str, &str); 21] = [
    // To forget connections, for measurements.
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    // The package `dnsmasq` would start a service on the machine; this one is the program alone.
    ("dnsmasq", "dnsmasq-base"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("mtr", "mtr-tiny"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("sha256sum", "coreutils"),
    ("ss", "iproute2"),
    ("strace", "strace"),
    ("tc", "iproute2"),
    ("tcpdump", "tcpdump"),
    ("tracepath", "iputils-tracepath"),
    ("traceroute", "traceroute"),
    ("tshark", "tshark"),
    ("turnserver", SERVICE.1),
    ("turnutils_natdiscovery", SERVICE.1),
    // The modules of Debian's kernels are packed with it.
    ("xz", "xz-utils"),
];

/// A service that installing its package would start, and keep starting, on the machine's real addresses; and the package.
const SERVICE: (&str, &str) = ("coturn.service", "coturn");

/// Fetching an index or a handful of packages over a slow line.
const APT_LIMIT: Duration = Duration::from_mins(10);

/// Installs the packages of the programs that are missing.
pub(super) fn packages() -> Result<String> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(format!("all {} programs are there", PROGRAMS.len()));
    }
    if find("apt-get").is_none() {
        bail!(
            "this is no Debian: install by hand what brings these: {}",
            missing.join(" ")
        );
    }
    progress(&format!("installing {} (apt-get)", missing.join(" ")));
    apt(&["update"]).context("apt-get update: is the network there, and is /etc/apt/sources.list right?")?;
    if missing.contains(&SERVICE.1)
        && let Some(systemctl) = find("systemctl")
    {
        progress(&format!(
            "the machine itself shall not run {0} (undone by: systemctl unmask {0})",
            SERVICE.0
        ));
        run(Command::new(systemctl).args(["mask", SERVICE.0]), APT_LIMIT)?.success()?;
    }
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments).with_context(|| format!("try by hand: apt-get install {}", missing.join(" ")))?;
    if let Some((program, package)) = PROGRAMS.iter().find(|(program, _)| find(program).is_none()) {
        bail!("{package} is installed, but there is no program {program} in PATH, /usr/sbin or /sbin");
    }
    Ok(format!("installed {}", missing.join(" ")))
}

/// A program's path; the folders of administrators' programs are often not in an ordinary PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn apt(arguments: &[&str]) -> Result<()> {
    // wireshark-common asks a question about capturing; noninteractive takes its default, which is no.
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"), APT_LIMIT)?.success()?;
    Ok(())
}
