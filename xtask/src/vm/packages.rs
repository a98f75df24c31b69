//! Owns which Debian suites the virtual machines' parts come from, and keeps what was unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::folder;
use crate::setup::{apt::PrivateApt, progress};

/// The suites with kernels to test on, each with another series.
const KERNEL_SUITES: [&str; 6] = [
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "trixie",
    "trixie-security",
    "trixie-backports",
];

/// Programs are for this machine, whatever kernel runs in the virtual one; so they come from this machine's release.
pub(super) struct HostApt {
    apt: PrivateApt,
    codename: String,
}

impl HostApt {
    /// Looks at the suites anew.
    pub(super) fn new() -> Result<Self> {
        let codename = codename().context("/etc/os-release names no Debian release")?;
        let suites = ["", "-security", "-backports"].map(|suffix| format!("{codename}{suffix}"));
        let apt = PrivateApt::new(&folder().join("apt-host"), &suites)?;
        apt.update().with_context(|| {
            format!(
                "this machine's Debian mirror does not serve all of: {}",
                suites.join(" ")
            )
        })?;
        Ok(Self { apt, codename })
    }

    /// Unpacks a package and what it needs that is not installed here, the newest of release and backports.
    pub(super) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let suite = format!("{}-backports", self.codename);
        whole(target, |folder| {
            self.apt.unpack_with_dependencies(package, &suite, folder)
        })
    }
}

/// Looks at the kernels' suites anew. A suite that is gone from the mirror is passed over: kernels of the others are still there.
pub(super) fn kernel_apt() -> Result<PrivateApt> {
    progress("asking which kernels Debian has (apt-get update)");
    let apt = PrivateApt::new(&folder().join("apt-kernels"), &KERNEL_SUITES)?;
    if let Err(error) = apt.update() {
        progress(&format!("not all suites can be had: {error:#}"));
    }
    Ok(apt)
}

/// Fills a folder, or leaves none: an interrupted run must not look like a finished one.
pub(super) fn whole(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut partial = target.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    fill(&partial)?;
    fs::rename(&partial, target).with_context(|| format!("cannot create {}", target.display()))
}

fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let named = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    named.map(|name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use anyhow::bail;

    use super::whole;

    #[test]
    fn a_folder_is_whole_or_not_there() {
        let folder = env::temp_dir().join(format!("mape-whole-{}", std::process::id()));
        let target = folder.join("target");
        let half = whole(&target, |partial| {
            fs::write(partial.join("one"), "1")?;
            bail!("the line is cut")
        });
        assert!(half.is_err() && !target.exists());
        whole(&target, |partial| Ok(fs::write(partial.join("two"), "2")?)).unwrap();
        assert!(target.join("two").exists() && !target.join("one").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
