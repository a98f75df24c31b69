//! Owns Debian's cloud kernels: the newest package of a series, unpacked and kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    folder,
    packages::{kernel_apt, whole},
};
use crate::setup::{apt::PrivateApt, progress};

/// A kernel that can be booted.
pub(crate) struct Kernel {
    /// The release, as `uname -r` says it.
    pub(crate) release: String,
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// Where its package was unpacked.
    pub(crate) package: PathBuf,
}

impl Kernel {
    /// Major and minor number.
    pub(crate) fn version(&self) -> [u32; 2] {
        let mut numbers = numbers(&self.release).into_iter();
        [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
    }
}

/// Finds kernels; asks Debian only when one is not kept already, and then once.
pub(crate) struct Kernels {
    kept: PathBuf,
    /// Ask even where one is kept.
    refresh: bool,
    apt: Option<PrivateApt>,
}

impl Kernels {
    pub(crate) fn new(refresh: bool) -> Self {
        Self {
            kept: folder().join("kernels"),
            refresh,
            apt: None,
        }
    }

    /// The newest kernel of a series: `6.1` is any 6.1.x, `7` any 7.x.
    pub(crate) fn newest(&mut self, series: &str) -> Result<Kernel> {
        let Some(series) = parse_series(series) else {
            bail!("{series:?} is no kernel series; write one or two numbers: 6.12, or 7 for the newest of all 7.x");
        };
        if !self.refresh
            && let Some(package) = newest(&self.kept_packages(), &series)
        {
            return self.unpacked(&package);
        }
        let apt = self.apt()?;
        let found = apt.cache(&["search", "--names-only", "^linux-(image|binary)-[0-9].*-cloud-amd64$"])?;
        let names: Vec<String> = found
            .lines()
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect();
        let package = newest(&names, &series).context("Debian has no such kernel in the suites that were asked")?;
        self.provide(&package)?;
        self.unpacked(&package)
    }

    /// Where the kernel's modules are: since 6.19 in a package of their own.
    pub(crate) fn modules(&mut self, kernel: &Kernel) -> Result<PathBuf> {
        if let Some(folder) = modules_in(&kernel.package, &kernel.release) {
            return Ok(folder);
        }
        let package = self.provide(&format!("linux-modules-{}", kernel.release))?;
        modules_in(&package, &kernel.release).with_context(|| format!("{} has no modules", package.display()))
    }

    fn apt(&mut self) -> Result<&PrivateApt> {
        Ok(match &mut self.apt {
            Some(apt) => apt,
            none => none.insert(kernel_apt()?),
        })
    }

    fn provide(&mut self, package: &str) -> Result<PathBuf> {
        let target = self.kept.join(package);
        if !target.exists() {
            let apt = self.apt()?;
            progress(&format!("fetching {package}"));
            whole(&target, |folder| apt.unpack(package, folder))?;
        }
        Ok(target)
    }

    fn kept_packages(&self) -> Vec<String> {
        // The folder is not there before the first one is kept.
        let entries = fs::read_dir(&self.kept).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    fn unpacked(&self, package: &str) -> Result<Kernel> {
        let folder = self.kept.join(package);
        let (_, release) = split(package).with_context(|| format!("{package} is no package of a kernel"))?;
        // Since 6.19 the image lies with the modules.
        let places = [
            folder.join(format!("boot/vmlinuz-{release}")),
            folder.join(format!("usr/lib/modules/{release}/vmlinuz")),
        ];
        let image = places
            .into_iter()
            .find(|place| is_file(place))
            .with_context(|| format!("{} has no kernel image", folder.display()))?;
        Ok(Kernel {
            release: release.to_owned(),
            image,
            package: folder,
        })
    }
}

fn modules_in(package: &Path, release: &str) -> Option<PathBuf> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| package.join(place).join(release).join("kernel"));
    places.into_iter().find(|place| place.is_dir())
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file())
}

/// What a running kernel says of itself, without what is the same in all: of `#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-02)`.
pub(crate) fn debian_version(version: &str) -> Option<&str> {
    let (_, version) = version.split_once("Debian ")?;
    version.split_whitespace().next()
}

/// One or two numbers.
fn parse_series(text: &str) -> Option<Vec<u32>> {
    let numbers: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    numbers.filter(|numbers| numbers.len() <= 2)
}

/// What the package holds, and the kernel's release. Packages without one, such as `linux-image-6.12-cloud-amd64`, only name
/// the newest.
fn split(package: &str) -> Option<(Part, &str)> {
    let (part, release) = match package.strip_prefix("linux-image-") {
        Some(release) => (Part::Image, release),
        None => (Part::Binary, package.strip_prefix("linux-binary-")?),
    };
    let is_release = release.ends_with("-cloud-amd64") && numbers(release).len() > 2;
    is_release.then_some((part, release))
}

/// In the order of preference: since 6.19 the image's package is empty and needs the binary's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Image,
    Binary,
}

fn numbers(release: &str) -> Vec<u32> {
    let version = release.strip_suffix("-cloud-amd64").unwrap_or(release);
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn newest(packages: &[String], series: &[u32]) -> Option<String> {
    let candidates = packages.iter().filter_map(|package| {
        let (part, release) = split(package)?;
        let version = numbers(release);
        version.starts_with(series).then_some((version, part, package))
    });
    candidates.max().map(|(_, _, package)| package.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest_of(names: &[&str], series: &str) -> Option<String> {
        let names: Vec<String> = names.iter().map(|name| format!("linux-{name}-cloud-amd64")).collect();
        let package = newest(&names, &parse_series(series)?)?;
        let name = package.strip_prefix("linux-")?.strip_suffix("-cloud-amd64")?;
        Some(name.to_owned())
    }

    #[test]
    fn the_newest_is_chosen_by_number() {
        let names = [
            "image-6.1.0-9",
            "image-6.1.0-56",
            "image-6.1.0-0.deb11.52",
            "image-6.1",
            "image-6.12-",
            "image-6.12.9+deb13",
            "image-6.12.117+deb13",
            "image-6.12.117+deb12",
            "image-7.2.12+deb13",
            "binary-7.2.12+deb13",
            "image-7.10.1+deb13",
            "binary-7.10.1+deb13",
        ];
        let rows = [
            ("6.1", Some("image-6.1.0-56")),
            ("6.12", Some("image-6.12.117+deb13")),
            ("7", Some("binary-7.10.1+deb13")),
            ("7.2", Some("binary-7.2.12+deb13")),
            ("5.10", None),
        ];
        for (series, expected) in rows {
            assert_eq!(newest_of(&names, series).as_deref(), expected, "{series}");
        }
    }

    #[test]
    fn debians_version_is_read() {
        let version = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-02)\n";
        assert_eq!(debian_version(version), Some("6.1.192-2"));
        assert_eq!(debian_version("#1 SMP\n"), None);
    }

    #[test]
    fn a_series_is_one_or_two_numbers() {
        assert_eq!(parse_series("6.12"), Some(vec![6, 12]));
        assert_eq!(parse_series("7"), Some(vec![7]));
        for bad in ["", "7.x", "6.1.192", "newest", "../6"] {
            assert_eq!(parse_series(bad), None, "{bad}");
        }
    }
}
