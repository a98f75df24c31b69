//! Owns QEMU: the machine's own where it is new enough, else Debian's from backports, unpacked and not installed.

use std::{
    cell::Cell,
    env,
    ffi::OsString,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::run;

use super::{
    folder,
    packages::{HostApt, whole},
};
use crate::setup::{debian::find, progress};

/// Older ones emulate cmpxchg16b wrongly: Linux 6.12 crashed in more than half of the boots under 7.2.
const OLDEST: u32 = 10;
const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU that can be run.
pub(crate) struct Qemu {
    program: PathBuf,
    /// Where it is unpacked; none where it is installed.
    root: Option<PathBuf>,
    accelerated: Cell<bool>,
}

impl Qemu {
    /// Fetches it unless it is there.
    pub(crate) fn provide() -> Result<Self> {
        if env::consts::ARCH != "x86_64" {
            bail!(
                "the virtual machines are x86_64 and run this machine's mape-ctl, which is for {}",
                env::consts::ARCH
            );
        }
        if let Some(program) = find(PROGRAM) {
            let installed = Self {
                program,
                root: None,
                accelerated: Cell::new(has_kvm()),
            };
            if installed.major()? >= OLDEST {
                return Ok(installed);
            }
        }
        let root = folder().join("qemu");
        if !root.exists() {
            progress("fetching QEMU from backports (apt-get)");
            let apt = HostApt::new()?;
            whole(&root, |folder| apt.unpack("qemu-system-x86", folder))?;
        }
        let unpacked = Self {
            program: root.join("usr/bin").join(PROGRAM),
            root: Some(root),
            accelerated: Cell::new(has_kvm()),
        };
        match unpacked.major()? {
            major if major >= OLDEST => Ok(unpacked),
            major => bail!(
                "this Debian's backports have QEMU {major}, but {OLDEST} or newer is needed; install one into PATH"
            ),
        }
    }

    /// Whether the processor itself runs the machines.
    pub(crate) fn is_accelerated(&self) -> bool {
        self.accelerated.get()
    }

    /// Emulates from now on.
    pub(crate) fn emulate(&self) {
        self.accelerated.set(false);
    }

    /// A command that finds its libraries and firmware.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|inner| root.join(inner));
            command.env("LD_LIBRARY_PATH", joined(&libraries));
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(firmware));
            }
        }
        command
    }

    fn major(&self) -> Result<u32> {
        let said = run(self.command().arg("--version"), Duration::from_secs(20))?
            .success()?
            .stdout;
        major(&said).with_context(|| format!("{} does not say its version", self.program.display()))
    }
}

/// Whether the processor can run machines. Other ways to have /dev/kvm, in virtual machines without that, boot no kernel of Debian's.
fn has_kvm() -> bool {
    let is_processors_own = ["kvm_intel", "kvm_amd"]
        .iter()
        .any(|module| Path::new("/sys/module").join(module).exists());
    is_processors_own && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

fn joined(folders: &[impl AsRef<Path>]) -> OsString {
    folders
        .iter()
        .map(|folder| folder.as_ref().as_os_str())
        .collect::<Vec<_>>()
        .join(":".as_ref())
}

/// Of `QEMU emulator version 10.0.2 (Debian …)`.
fn major(said: &str) -> Option<u32> {
    let (_, version) = said.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_version_is_read() {
        assert_eq!(
            major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"),
            Some(10)
        );
        assert_eq!(major("QEMU emulator version 7.2.22"), Some(7));
        assert_eq!(major("something else"), None);
    }
}
