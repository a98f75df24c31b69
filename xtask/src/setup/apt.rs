//! Owns apt beside the system's: other suites of the mirrors in use, in a folder of their own. Neither the system's sources
//! nor its packages are touched; signatures are checked as always.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::{Finished, run};

use super::debian::find;

/// Debian's own keys, as every Debian has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Fetching an index or some packages over a slow line.
const LIMIT: Duration = Duration::from_mins(10);

/// Apt with sources and a state folder of its own.
pub(crate) struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// Suites such as `trixie-backports` and `bookworm-security`, in a folder that is made where it is missing.
    pub(crate) fn new(folder: &Path, suites: &[impl AsRef<str>]) -> Result<Self> {
        if find("apt-get").is_none() {
            bail!("there is no apt-get: this is no Debian");
        }
        for inner in ["lists/partial", "archives/partial"] {
            let inner = folder.join(inner);
            fs::create_dir_all(&inner).with_context(|| format!("cannot create {}", inner.display()))?;
        }
        let mirrors = mirrors()?;
        let lines = suites
            .iter()
            .flat_map(|suite| mirrors.iter().map(move |mirror| source(mirror, suite.as_ref())));
        let list = folder.join("sources.list");
        fs::write(&list, lines.collect::<String>()).with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Fetches the suites' indexes. Those that can be had are there even where this fails.
    pub(crate) fn update(&self) -> Result<()> {
        self.call("apt-get", &self.folder, &["-qq", "update"]).map(drop)
    }

    /// What `apt-cache` says.
    pub(crate) fn cache<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        Ok(self.call("apt-cache", &self.folder, arguments)?.stdout)
    }

    /// Fetches one package and unpacks it into a folder.
    pub(crate) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let archives = self.empty_archives()?;
        self.call("apt-get", &archives, &["-qq", "download", package])?;
        unpack_all(&archives, target)
    }

    /// Fetches from a suite what installing a package would install here, and unpacks it into a folder instead.
    pub(crate) fn unpack_with_dependencies(&self, package: &str, suite: &str, target: &Path) -> Result<()> {
        let archives = self.empty_archives()?;
        // Nothing is installed, so nothing needs the lock that only root may take.
        let arguments = [
            "-qq",
            "--option=Debug::NoLocking=true",
            "--yes",
            "--no-install-recommends",
            "--reinstall",
            "--download-only",
            "--target-release",
            suite,
            "install",
            package,
        ];
        self.call("apt-get", &self.folder, &arguments)?;
        unpack_all(&archives, target)
    }

    /// The folder for packages; what an interrupted run left there is removed.
    fn empty_archives(&self) -> Result<PathBuf> {
        let archives = self.folder.join("archives");
        fs::remove_dir_all(&archives)
            .and_then(|()| fs::create_dir_all(archives.join("partial")))
            .with_context(|| format!("cannot empty {}", archives.display()))?;
        Ok(archives)
    }

    fn call<S: AsRef<OsStr>>(&self, program: &str, folder: &Path, arguments: &[S]) -> Result<Finished> {
        let own = |name: &str| self.folder.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", own("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            // What the machine prefers says nothing of these suites.
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=-".to_owned(),
            format!("Dir::State::Lists={}", own("lists")),
            format!("Dir::Cache::archives={}", own("archives")),
            // The package caches in memory: the machine's own would be overwritten with these sources.
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            // The sandbox user may not enter a folder of root's.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let mut command = Command::new(program);
        command.current_dir(folder);
        for option in &options {
            command.args(["-o", option]);
        }
        run(command.args(arguments), LIMIT)?.success()
    }
}

/// Unpacks all packages of a folder into another, and removes them.
fn unpack_all(archives: &Path, target: &Path) -> Result<()> {
    let mut packages = 0;
    for entry in fs::read_dir(archives)? {
        let package = entry?.path();
        if package.extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(target), LIMIT)?.success()?;
        fs::remove_file(&package)?;
        packages += 1;
    }
    if packages == 0 {
        bail!("apt-get downloaded no package");
    }
    Ok(())
}

fn source(mirror: &str, suite: &str) -> String {
    // Security updates are an archive of their own, beside the other one.
    let archive = if suite.ends_with("-security") { "-security" } else { "" };
    format!("deb [signed-by={KEYRING}] {mirror}{archive} {suite} main\n")
}

/// The mirrors this machine uses already; only those under a folder `debian` can have other suites.
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

#[cfg(test)]
mod tests {
    use super::source;

    #[test]
    fn security_updates_come_from_their_own_archive() {
        let end = |suite| {
            source("http://mirror.example/debian", suite)
                .split_once("] ")
                .map(|(_, end)| end.to_owned())
        };
        assert_eq!(
            end("trixie-backports").as_deref(),
            Some("http://mirror.example/debian trixie-backports main\n")
        );
        assert_eq!(
            end("trixie-security").as_deref(),
            Some("http://mirror.example/debian-security trixie-security main\n")
        );
    }
}
