//! Owns one run of a virtual machine: from switching on to its answers, with a time limit.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use mape_tests::process::run;

use super::{
    folder,
    guest::{self, Answer},
    kernel::Kernel,
    qemu::Qemu,
};

/// Lines of the kernel's log that a failure shows.
const LOG_LINES: usize = 15;

/// What a machine is made of.
pub(crate) struct Machine<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) kernel: &'a Kernel,
    /// The archive of its file system, which [`guest::file_system`] began.
    pub(crate) file_system: &'a Path,
    pub(crate) memory_mib: u32,
    /// After which it is ended.
    pub(crate) limit: Duration,
}

impl Machine<'_> {
    /// Boots, lets the steps run, and returns what came of them once the machine has switched itself off.
    pub(crate) fn run(&self) -> Result<Vec<Answer>> {
        let logs = folder().join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let log = logs.join(format!("{}.kernel", self.kernel.release));
        let answers = logs.join(format!("{}.answers", self.kernel.release));
        for file in [&log, &answers] {
            // An earlier run's must not be taken for this one's.
            fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
        }
        self.emulate(&log, &answers)
            .and_then(|()| guest::read(&answers))
            .map_err(|error| anyhow!("{error:#}; {} ends with:\n{}", log.display(), last_lines(&log)))
    }

    fn emulate(&self, log: &Path, answers: &Path) -> Result<()> {
        let mut command = self.qemu.command();
        // `-cpu max`: what the emulator can do. Nothing but what is asked for: no network, no screen, no disk.
        command.args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
        command.args(["-m", &self.memory_mib.to_string()]);
        for port in [log, answers] {
            command.arg("-serial").arg(format!("file:{}", port.display()));
        }
        command.arg("-kernel").arg(&self.kernel.image);
        command.arg("-initrd").arg(self.file_system);
        // A panic restarts at once, and a restart ends QEMU.
        command.args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
        let finished = run(&mut command, self.limit)?;
        if !finished.status.success() {
            bail!("QEMU ended with {}: {}", finished.status, finished.stderr.trim());
        }
        Ok(())
    }
}

pub(super) fn last_lines(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(LOG_LINES);
    let indented = lines.iter().skip(first).map(|line| format!("    {}", line.trim_end()));
    indented.collect::<Vec<_>>().join("\n")
}
