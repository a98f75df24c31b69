//! Owns a virtual machine that stays on and does what it is told: its NICs, its agent, and its end.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use mape_tests::process::{Background, interrupted, pause};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{boot::last_lines, folder, guest::Answer, kernel::Kernel, qemu::Qemu};

/// From switching on until the agent says that it is ready: some seconds, more on a busy machine.
const BOOT: Duration = Duration::from_mins(2);
/// A script's own limit is the machine's to keep; the answer may take this much longer.
const GRACE: Duration = Duration::from_secs(20);

/// What the machine looks like to its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// QEMU's name of the board: `pc` or `q35`.
    pub(crate) board: &'static str,
    pub(crate) processors: u32,
    /// Pairs of queues of each NIC.
    pub(crate) queues: u32,
}

impl Shape {
    /// As reports call it.
    pub(crate) fn name(self) -> String {
        let plural = if self.queues == 1 { "" } else { "s" };
        format!(
            "{}, {} vCPU, {} queue{plural}",
            self.board, self.processors, self.queues
        )
    }
}

/// A virtio NIC.
pub(crate) struct Nic {
    /// The last byte of its address tells it from others.
    pub(crate) mac: String,
    /// The queues of its TAP device.
    pub(crate) queues: Vec<OwnedFd>,
}

/// What a machine is made of.
pub(crate) struct Parts<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) kernel: &'a Kernel,
    /// The archive of its file system, which [`super::guest::agent_file_system`] began.
    pub(crate) file_system: &'a Path,
    pub(crate) memory_mib: u32,
    pub(crate) shape: Shape,
    pub(crate) nics: Vec<Nic>,
    /// Further properties of the NICs, as QEMU writes them: `mrg_rxbuf=off`.
    pub(crate) nic_properties: &'a str,
    /// Its clock counts the instructions of its one processor, one a nanosecond: what takes time elsewhere takes none there.
    pub(crate) counts_instructions: bool,
}

/// A machine that is on; dropped, it is switched off.
pub(crate) struct Live {
    program: Background,
    log: PathBuf,
    socket: PathBuf,
    agent: BufReader<UnixStream>,
}

impl Live {
    /// Switches it on and waits for its agent.
    pub(crate) fn start(parts: Parts<'_>) -> Result<Self> {
        let logs = folder().join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let log = logs.join(format!("{}-live.kernel", parts.kernel.release));
        fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
        // A socket's path is short.
        let socket = env::temp_dir().join(format!("mape-vm-{}.agent", std::process::id()));
        // What an interrupted run left.
        let _ = fs::remove_file(&socket);
        let mut command = parts.command(&log, &socket);
        for queue in parts.nics.iter().flat_map(|nic| &nic.queues) {
            fcntl_setfd(queue, FdFlags::empty()).context("cannot hand a queue to QEMU")?;
        }
        let mut program = Background::start(&mut command)?;
        // QEMU has its own now: while ours are open too, the TAP devices do not notice when it ends.
        drop(parts);
        let end = Instant::now() + BOOT;
        let agent = loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                break stream;
            }
            if !program.is_running() {
                let said = program.stop()?;
                bail!("QEMU ended with {}: {}", said.status, said.stderr.trim());
            }
            ensure!(Instant::now() < end, "QEMU does not open {}", socket.display());
            pause(Duration::from_millis(20))?;
        };
        let mut live = Self {
            program,
            log,
            socket,
            agent: BufReader::new(agent),
        };
        let ready = live.line(end)?;
        ensure!(ready == "ready", "the agent says {ready:?}");
        Ok(live)
    }

    /// Runs a script in the machine's shell; one that does not end within the limit is ended, with exit code 137.
    pub(crate) fn script(&mut self, script: &str, limit: Duration) -> Result<Answer> {
        let line = format!("{} {}\n", limit.as_secs().max(1), STANDARD.encode(script));
        self.agent
            .get_mut()
            .write_all(line.as_bytes())
            .context("cannot write to the agent")?;
        let said = self.line(Instant::now() + limit + GRACE)?;
        answer(&said).with_context(|| format!("the agent says {said:?}"))
    }

    /// A script that must succeed, and what it prints.
    pub(crate) fn must(&mut self, script: &str) -> Result<String> {
        let answer = self.script(script, Duration::from_secs(30))?;
        ensure!(
            answer.exit_code == 0,
            "a script in the machine (`{}`, …) ended with {}: {}{}",
            script.lines().next().unwrap_or_default(),
            answer.exit_code,
            answer.stdout,
            answer.stderr
        );
        Ok(answer.stdout)
    }

    /// The end of what its kernel has said.
    pub(crate) fn log(&self) -> String {
        last_lines(&self.log)
    }

    fn line(&mut self, end: Instant) -> Result<String> {
        let stream = self.agent.get_ref();
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut bytes = Vec::new();
        loop {
            match self.agent.read_until(b'\n', &mut bytes) {
                Ok(_) if bytes.last() == Some(&b'\n') => {
                    bytes.pop();
                    return String::from_utf8(bytes).context("the agent's answer is no text");
                }
                Ok(_) => bail!("the machine has switched itself off; its kernel said:\n{}", self.log()),
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::TimedOut => {}
                Err(error) => return Err(error).context("cannot read from the agent"),
            }
            if interrupted() {
                bail!("interrupted");
            }
            ensure!(
                Instant::now() < end && self.program.is_running(),
                "the machine does not answer; its kernel said:\n{}",
                self.log()
            );
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // The program ends with its own drop.
        let _ = fs::remove_file(&self.socket);
    }
}

impl Parts<'_> {
    fn command(&self, log: &Path, socket: &Path) -> std::process::Command {
        let shape = self.shape;
        let mut command = self.qemu.command();
        let accelerator = match (self.counts_instructions, self.qemu.is_accelerated()) {
            (true, _) => "tcg,thread=single",
            (false, true) => "kvm",
            (false, false) => "tcg,thread=multi",
        };
        if self.counts_instructions {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args(["-M", shape.board, "-accel", accelerator, "-cpu", "max"]);
        command.args([
            "-smp",
            &shape.processors.to_string(),
            "-m",
            &self.memory_mib.to_string(),
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
        command.arg("-serial").arg(format!("file:{}", log.display()));
        command.arg("-kernel").arg(&self.kernel.image);
        command.arg("-initrd").arg(self.file_system);
        command.args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
        command.args(["-device", "virtio-serial-pci", "-chardev"]);
        command.arg(format!("socket,id=agent,path={},server=on,wait=off", socket.display()));
        command.args(["-device", "virtserialport,chardev=agent,name=agent"]);
        for (number, nic) in self.nics.iter().enumerate() {
            let queues: Vec<String> = nic.queues.iter().map(|queue| queue.as_raw_fd().to_string()).collect();
            let name = if queues.len() == 1 { "fd" } else { "fds" };
            command.args([
                "-netdev",
                &format!("tap,id=nic{number},{name}={}", queues.join(":")),
                "-device",
                &device(number, &nic.mac, queues.len(), self.nic_properties),
            ]);
        }
        command
    }
}

/// Two vectors a pair of queues, one for the control queue, one for changes of the configuration.
fn device(number: usize, mac: &str, queues: usize, properties: &str) -> String {
    let mut parts = vec![
        "virtio-net-pci".to_owned(),
        format!("netdev=nic{number}"),
        format!("mac={mac}"),
        "romfile=".to_owned(),
    ];
    if queues > 1 {
        parts.push(format!("mq=on,vectors={}", 2 * queues + 2));
    }
    if !properties.is_empty() {
        parts.push(properties.to_owned());
    }
    parts.join(",")
}

/// Of `0:c3Rkb3V0:c3RkZXJy`.
fn answer(said: &str) -> Option<Answer> {
    let mut parts = said.split(':');
    let exit_code = parts.next()?.parse().ok()?;
    let mut text = || {
        let bytes = STANDARD.decode(parts.next()?).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    Some(Answer {
        name: String::new(),
        stdout: text()?,
        stderr: text()?,
        exit_code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let found = answer("3:aGVsbG8K:").unwrap();
        assert_eq!(
            (found.exit_code, found.stdout.as_str(), found.stderr.as_str()),
            (3, "hello\n", "")
        );
        for bad in ["", "0", "0:aGVsbG8K", "x::", "0:*:"] {
            assert_eq!(answer(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_nic_with_several_queues_has_vectors_for_all() {
        assert_eq!(
            device(1, "52:54:00:00:00:02", 4, "mrg_rxbuf=off"),
            "virtio-net-pci,netdev=nic1,mac=52:54:00:00:00:02,romfile=,mq=on,vectors=10,mrg_rxbuf=off"
        );
    }
}
