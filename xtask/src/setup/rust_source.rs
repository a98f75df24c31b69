//! Owns where rust-src comes from: rustup's component, or Debian's package of exactly the same version.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::{Finished, run};

use super::{debian::find, progress};
use crate::rust_src::{in_cache, rust_src, version};

/// Debian's suite that follows Rust's releases.
const SUITE: &str = "trixie-backports";
/// Debian's own keys, as every Debian has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const RUSTUP_LIMIT: Duration = Duration::from_mins(2);
const APT_LIMIT: Duration = Duration::from_mins(10);

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
    if find("apt-get").is_none() {
        bail!("there is no apt-get");
    }
    let version = version().context("cannot run `rustc --version`")?;
    let target = in_cache().context("neither XDG_CACHE_HOME nor HOME says where the cache is")?;
    let cache = target.parent().context("the cache folder has no parent")?;
    let work = cache.with_extension(format!("new-{}", std::process::id()));
    fs::create_dir_all(work.join("lists/partial")).with_context(|| format!("cannot create {}", work.display()))?;
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
    let list = work.join("sources.list");
    let line = |uri: String| format!("deb [signed-by={KEYRING}] {uri} {SUITE} main\n");
    let sources: Vec<String> = mirrors()?.into_iter().map(line).collect();
    fs::write(&list, sources.concat()).with_context(|| format!("cannot write {}", list.display()))?;
    let private = Private {
        list,
        lists: work.join("lists"),
    };
    private
        .apt("apt-get", work, &["-qq", "update"])
        .with_context(|| format!("this machine's Debian mirror does not serve {SUITE}"))?;
    let versions = private.apt("apt-cache", work, &["madison", "rust-src"])?.stdout;
    let wanted = format!("{version}+");
    let full = versions
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|candidate| candidate.starts_with(&wanted))
        .with_context(|| format!("{SUITE} has no rust-src {version}, only: {}", short(&versions)))?;
    private.apt("apt-get", work, &["-qq", "download", &format!("rust-src={full}")])?;
    let package = fs::read_dir(work)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    run(
        Command::new("dpkg-deb").arg("-x").arg(&package).arg(work.join("files")),
        APT_LIMIT,
    )?
    .success()?;
    Ok(work.join(format!("files/usr/src/rustc-{version}/library")))
}

/// The mirrors this machine uses already; only those under a folder `debian` can have the suite.
fn mirrors() -> Result<Vec<String>> {
    let arguments = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let output = run(Command::new("apt-get").args(arguments), Duration::from_secs(30))?.success()?;
    let mut mirrors: Vec<String> = output
        .stdout
        .lines()
        .map(|line| line.trim_end_matches('/').to_owned())
        .collect();
    mirrors.retain(|uri| uri.ends_with("/debian"));
    mirrors.sort();
    mirrors.dedup();
    if mirrors.is_empty() {
        bail!("apt knows no Debian mirror: is /etc/apt/sources.list empty? Run `apt-get update` once");
    }
    Ok(mirrors)
}

/// Apt with one source and a state folder of its own.
struct Private {
    list: PathBuf,
    lists: PathBuf,
}

impl Private {
    fn apt(&self, program: &str, folder: &Path, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(program);
        command.current_dir(folder);
        command
            .arg("-o")
            .arg(format!("Dir::Etc::sourcelist={}", self.list.display()));
        command
            .arg("-o")
            .arg(format!("Dir::State::Lists={}", self.lists.display()));
        // The sandbox user may not enter the cache folder of root.
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        // The package caches in memory: the machine's own would be overwritten with this one source.
        command.args(["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
        run(command.args(arguments), APT_LIMIT)?.success()
    }
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
