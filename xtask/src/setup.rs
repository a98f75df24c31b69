//! Brings a bare machine to where the project builds and its lab runs; does nothing that is already done.

pub(crate) mod apt;
pub(crate) mod debian;
mod linker;
mod rust_source;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::run;

/// Where the kernel's BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// All that `demo`, `lab` and `test` need; ends at the first step that fails.
pub(crate) fn everything() -> Result<()> {
    step("root", root)?;
    step("Debian packages", debian::packages)?;
    for_building()?;
    step("BPF file system", bpffs)
}

/// What this user can set up: without root, what compiling needs.
pub(crate) fn as_far_as_allowed() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return everything();
    }
    for_building()?;
    println!("setup: not root: the Debian packages and the BPF file system, which the lab needs, were not looked at");
    Ok(())
}

/// Only what compiling needs; asks for no privileges unless something is missing.
fn for_building() -> Result<()> {
    step("rust-src", rust_source::provide)?;
    step("bpf-linker", linker::provide)
}

/// Refuses, with the way out, when something that compiling needs is missing; installs nothing.
pub(crate) fn check_for_building() -> Result<()> {
    if crate::rust_src::rust_src().is_none() {
        bail!("the source of Rust's core library (rust-src) is missing: run `cargo xtask setup`");
    }
    if linker::installed()?.is_none() {
        bail!("bpf-linker {} is missing: run `cargo xtask setup`", linker::VERSION);
    }
    Ok(())
}

/// The folder of the bpf-linker that the build will find.
pub(crate) fn linker_folder() -> Option<PathBuf> {
    linker::installed()
        .ok()
        .flatten()
        .and_then(|path| path.parent().map(Path::to_path_buf))
}

/// Says what a step found or did, or which one failed.
fn step(name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
    let done = work().with_context(|| format!("set-up, step \"{name}\""))?;
    println!("setup: {name}: {done}");
    Ok(())
}

/// Says on one line that a step will take a while.
pub(crate) fn progress(text: &str) {
    println!("setup:   {text}");
}

fn root() -> Result<String> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces and XDP need root: run this command as root (sudo -E keeps your Rust toolchain)");
    }
    Ok("yes".to_owned())
}

fn bpffs() -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    });
    if mounted {
        return Ok(format!("mounted on {BPFFS}"));
    }
    if !Path::new(BPFFS).is_dir() {
        bail!("{BPFFS} does not exist: is sysfs mounted, and does the kernel have CONFIG_BPF_SYSCALL?");
    }
    run(
        Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]),
        Duration::from_secs(10),
    )?
    .success()
    .with_context(|| {
        format!("mounting it on {BPFFS} needs CAP_SYS_ADMIN in the first user namespace (a container may lack it)")
    })?;
    Ok(format!("has been mounted on {BPFFS}"))
}
