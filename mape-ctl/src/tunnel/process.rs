//! Owns the tunnel as a process: started by `load` or `run` to outlive them, ended by `unload`.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    datapath::load::Done,
    instance::{Instance, RUN_FOLDER},
    kernel,
    post::{self, Post, PostError},
};

/// How long a tunnel that was started may take until it is ready.
const READY: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Why there is no such process, or one too many.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Which process it is.
    #[error(transparent)]
    Post(#[from] PostError),
    /// What it writes has no file.
    #[error("cannot keep {file}")]
    Log {
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
}

/// Where a tunnel that was started writes what it has to say.
pub fn log(instance: &Instance) -> PathBuf {
    Path::new(RUN_FOLDER).join(format!("{instance}.tunnel.log"))
}

/// The instance's tunnel, if one runs.
pub fn running(instance: &Instance) -> Option<Pid> {
    post::holder(Post::Tunnel, instance)
}

/// Has a tunnel that runs look at the gateway again; gives its process id, if one runs.
pub fn tell(instance: &Instance) -> Option<i32> {
    let pid = running(instance)?;
    kill_process(pid, Signal::HUP).ok()?;
    Some(pid.as_raw_nonzero().get())
}

/// Has a tunnel that runs look at the gateway again, or starts one that outlives this process. Gives its process id, and whether it is new.
///
/// # Errors
/// [`ProcessError`].
pub fn ensure(instance: &Instance) -> Result<(i32, bool), ProcessError> {
    match tell(instance) {
        Some(pid) => Ok((pid, false)),
        None => start(instance).map(|pid| (pid, true)),
    }
}

fn start(instance: &Instance) -> Result<i32, ProcessError> {
    let log = log(instance);
    let output = File::create(&log).map_err(|source| ProcessError::Log {
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
        if post::is_ready(Post::Tunnel, instance, pid) {
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
/// [`PostError`].
pub fn stop(instance: &Instance) -> Result<Option<i32>, PostError> {
    let ended = post::stop(Post::Tunnel, instance)?;
    // Nobody writes it any longer; what cannot be removed says nothing.
    let _ = fs::remove_file(log(instance));
    Ok(ended)
}

/// Sees to the process that carries the tunnel's packets where the kernel does not.
pub fn see_to(instance: &Instance, is_wanted: bool, done: &mut Done) {
    let Some(device) = done.carried.clone() else {
        // One of an earlier load, whose device was another.
        if let Err(error) = stop(instance) {
            done.warnings.push(error.to_string());
        }
        return;
    };
    let why = if kernel::has_ip6_tunnel() {
        "ip6_tunnel is not used here"
    } else {
        "this kernel has no ip6_tunnel"
    };
    let lost = format!("until `mape-ctl tunnel` runs, packets that XDP does not take are lost in {device}");
    if !is_wanted {
        if tell(instance).is_none() {
            done.messages.push(format!("{why}: {lost}"));
        }
        return;
    }
    match ensure(instance) {
        Ok((pid, true)) => done.messages.push(format!(
            "{why}: started `mape-ctl tunnel` for {device} (process {pid}), which unload ends"
        )),
        Ok((pid, false)) => done
            .messages
            .push(format!("`mape-ctl tunnel` for {device} runs on (process {pid})")),
        Err(error) => {
            done.warnings.push(format!("{error}; {lost}"));
            done.partly = true;
        }
    }
}
