//! Owns the tunnel as a process: at most one of an instance, started by `load` to outlive it, ended by `unload`.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::instance::{Instance, RUN_FOLDER};

/// How long a tunnel that was started may take until it is ready.
const READY: Duration = Duration::from_secs(5);
/// How long one that was asked to end may take; then it is ended.
const GRACE: Duration = Duration::from_secs(3);
/// How long the lock is waited for.
const TAKE: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(10);

/// Why there is no such process, or one too many.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is one.
    #[error("a tunnel of instance {instance} runs already (process {pid})")]
    Running {
        /// The instance.
        instance: Instance,
        /// Its process id.
        pid: i32,
    },
    /// Its file.
    #[error("cannot keep {file}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be started.
    #[error("cannot start `mape-ctl tunnel`")]
    Start(#[source] io::Error),
    /// It has ended at once.
    #[error("`mape-ctl tunnel` has ended at once: {0}")]
    Ended(String),
    /// It does not become ready.
    #[error("`mape-ctl tunnel` was started and is not ready after {} s; see {log}", READY.as_secs())]
    NotReady {
        /// What it writes.
        log: PathBuf,
    },
    /// It does not end.
    #[error("the tunnel of instance {0} does not end")]
    Endless(Instance),
}

fn file(instance: &Instance) -> PathBuf {
    Path::new(RUN_FOLDER).join(format!("{instance}.tunnel.pid"))
}

/// Where a tunnel that `load` has started writes what it has to say.
pub fn log(instance: &Instance) -> PathBuf {
    Path::new(RUN_FOLDER).join(format!("{instance}.tunnel.log"))
}

/// Held as long as the process is the instance's tunnel; its file names the process.
#[derive(Debug)]
#[must_use = "another tunnel may start when this is dropped"]
pub struct Held {
    file: File,
    path: PathBuf,
}

impl Held {
    /// Becomes the instance's tunnel.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub fn take(instance: &Instance) -> Result<Self, ProcessError> {
        let path = file(instance);
        let failed = |source| ProcessError::File {
            file: path.clone(),
            source,
        };
        fs::create_dir_all(RUN_FOLDER).map_err(failed)?;
        // Not cut before it is locked: it may be another's.
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let end = Instant::now() + TAKE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // Who looks whether there is a tunnel holds the lock for a moment, too.
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => {
                    return Err(ProcessError::Running {
                        instance: instance.clone(),
                        pid: written(&path).map_or(0, |(pid, _)| pid),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        let mut held = Self { file, path };
        held.write("starting")?;
        Ok(held)
    }

    /// Says that packets are carried from here on.
    ///
    /// # Errors
    /// [`ProcessError::File`].
    pub fn ready(&mut self) -> Result<(), ProcessError> {
        self.write("ready")
    }

    fn write(&mut self, word: &str) -> Result<(), ProcessError> {
        let text = format!("{} {word}\n", std::process::id());
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(|source| ProcessError::File {
            file: self.path.clone(),
            source,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The file stays: removed, it could be another's by then. Without its lock it says nothing.
        let _ = self.file.set_len(0);
    }
}

/// What the file says: the process, and whether it is ready.
fn written(path: &Path) -> Option<(i32, bool)> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    let (pid, word) = text.trim().split_once(' ')?;
    Some((pid.parse().ok().filter(|pid| *pid > 1)?, word == "ready"))
}

/// The instance's tunnel, if one runs.
pub fn running(instance: &Instance) -> Option<Pid> {
    let path = file(instance);
    let file = File::open(&path).ok()?;
    // Whoever holds the lock lives; the number of one that does not may be another's.
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => written(&path).and_then(|(pid, _)| Pid::from_raw(pid)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Has a tunnel that runs look at the gateway again; false where none runs.
pub fn tell(instance: &Instance) -> bool {
    running(instance).is_some_and(|pid| kill_process(pid, Signal::HUP).is_ok())
}

/// Has a tunnel that runs look at the gateway again, or starts one that outlives this process. Gives its process id, and whether it is new.
///
/// # Errors
/// [`ProcessError`].
pub fn ensure(instance: &Instance) -> Result<(i32, bool), ProcessError> {
    if let Some(pid) = running(instance)
        && kill_process(pid, Signal::HUP).is_ok()
    {
        return Ok((pid.as_raw_nonzero().get(), false));
    }
    start(instance).map(|pid| (pid, true))
}

fn start(instance: &Instance) -> Result<i32, ProcessError> {
    let log = log(instance);
    let output = File::create(&log).map_err(|source| ProcessError::File {
        file: log.clone(),
        source,
    })?;
    let again = output.try_clone().map_err(ProcessError::Start)?;
    let program = std::env::current_exe().map_err(ProcessError::Start)?;
    // A process group of its own, so that Ctrl-C in this one's terminal is not meant for it; it leaves the session by itself.
    let mut child = Command::new(program)
        .args(["--instance", instance.as_ref(), "tunnel", "--detached"])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(again)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(ProcessError::Start)?;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let end = Instant::now() + READY;
    loop {
        if written(&file(instance)) == Some((pid, true)) {
            return Ok(pid);
        }
        if child.try_wait().map_err(ProcessError::Start)?.is_some() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(ProcessError::Ended(
                said.trim().replace("mape-ctl: ", "").replace('\n', "; "),
            ));
        }
        if Instant::now() >= end {
            return Err(ProcessError::NotReady { log });
        }
        thread::sleep(POLL);
    }
}

/// Ends the instance's tunnel; gives its process id if there was one.
///
/// # Errors
/// [`ProcessError::Endless`].
pub fn stop(instance: &Instance) -> Result<Option<i32>, ProcessError> {
    let Some(pid) = running(instance) else {
        forget(instance);
        return Ok(None);
    };
    for signal in [Signal::TERM, Signal::KILL] {
        // One that has just ended by itself is as good.
        let _ = kill_process(pid, signal);
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if running(instance).is_none() {
                forget(instance);
                return Ok(Some(pid.as_raw_nonzero().get()));
            }
            thread::sleep(POLL);
        }
    }
    Err(ProcessError::Endless(instance.clone()))
}

fn forget(instance: &Instance) {
    // Files of a tunnel that is not there any longer; what cannot be removed says nothing.
    let _ = fs::remove_file(file(instance));
    let _ = fs::remove_file(log(instance));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_counts_only_where_it_is_whole() {
        let path = std::env::temp_dir().join(format!("mape-tunnel-{}", std::process::id()));
        for (text, expected) in [
            ("812 ready\n", Some((812, true))),
            ("812 starting\n", Some((812, false))),
            ("", None),
            ("812", None),
            ("1 ready", None),
            ("-1 ready", None),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(written(&path), expected, "{text:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(written(&path), None);
    }
}
