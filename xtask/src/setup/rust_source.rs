//! Owns where rust-src comes from: rustup's component, or Debian's package of exactly the same version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::run;

use super::{apt::PrivateApt, debian::find, progress};
use crate::rust_src::{in_cache, rust_src, version};

/// Debian's suite that follows Rust's releases.
const SUITE: &str = "trixie-backports";
const RUSTUP_LIMIT: Duration = Duration::from_mins(2);

/// Fetches the source unless it is there.
pub(super) fn provide() -> Result<String> {
    if let Some(library) = rust_src() {
        return Ok(format!("found, {}", library.display()));
    }
    let why_not = match from_rustup() {
        Err(error) => first_line(&format!("{error:#}")),
        Ok(()) => match rust_src() {
            Some(library) => return Ok(format!("fetched by rustup, {}", library.display())),
            None => "it says that it is installed, but the files are not there".to_owned(),
        },
    };
    progress(&format!(
        "rustup cannot bring it ({why_not}); fetching Debian's package from {SUITE}"
    ));
    let target = from_debian().with_context(|| {
        let version = version().unwrap_or_else(|| "of this compiler".to_owned());
        format!("rust-src {version} came neither by rustup nor by apt; run `rustup component add rust-src` where the network allows it")
    })?;
    if rust_src().is_none() {
        bail!(
            "{} was unpacked, but is not a complete source of the core library",
            target.display()
        );
    }
    Ok(format!("fetched from Debian's {SUITE}, {}", target.display()))
}

fn from_rustup() -> Result<()> {
    if find("rustup").is_none() {
        bail!("there is no rustup");
    }
    progress("asking rustup for its component");
    run(
        Command::new("rustup")
            .args(["component", "add", "rust-src"])
            .env("RUST_BACKTRACE", "0"),
        RUSTUP_LIMIT,
    )?
    .success()?;
    Ok(())
}

/// Neither changes the system's sources nor installs anything: apt works in a folder of its own, and the package
/// is unpacked into the cache. Signatures are checked as always.
fn from_debian() -> Result<PathBuf> {
    let version = version().context("cannot run `rustc --version`")?;
    let target = in_cache().context("neither XDG_CACHE_HOME nor HOME says where the cache is")?;
    let cache = target.parent().context("the cache folder has no parent")?;
    let work = cache.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let unpacked = fetch(&version, &work).and_then(|library| {
        fs::create_dir_all(cache)?;
        // What an interrupted run left would make the rename fail.
        let _ = fs::remove_dir_all(&target);
        fs::rename(&library, &target).with_context(|| format!("cannot create {}", target.display()))
    });
    // The remains are in the cache folder and of no use; a failure to remove them changes nothing.
    let _ = fs::remove_dir_all(&work);
    unpacked.map(|()| target)
}

fn fetch(version: &str, work: &Path) -> Result<PathBuf> {
    let apt = PrivateApt::new(&work.join("apt"), &[SUITE])?;
    apt.update()
        .with_context(|| format!("this machine's Debian mirror does not serve {SUITE}"))?;
    let versions = apt.cache(&["madison", "rust-src"])?;
    let wanted = format!("{version}+");
    let full = versions
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|candidate| candidate.starts_with(&wanted))
        .with_context(|| format!("{SUITE} has no rust-src {version}, only: {}", short(&versions)))?;
    let files = work.join("files");
    apt.unpack(&format!("rust-src={full}"), &files)?;
    Ok(files.join(format!("usr/src/rustc-{version}/library")))
}

fn first_line(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| line.contains("error"))
        .or_else(|| text.lines().next())
        .unwrap_or_default();
    line.chars().take(100).collect()
}

fn short(versions: &str) -> String {
    versions
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(", ")
}
