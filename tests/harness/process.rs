//! Owns the running of programs: with a time limit, ended by their own process id, and stopped by Ctrl-C.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at a program that has not ended.
const POLL: Duration = Duration::from_millis(5);
/// What a program gets between the polite signal and the final one.
const GRACE: Duration = Duration::from_secs(2);

/// How many clean-ups are under way.
static CLEANING: AtomicUsize = AtomicUsize::new(0);

/// What a finished program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Finished {
    /// The output if the program ended well, else an error that shows what it said.
    ///
    /// # Errors
    /// When the exit status is not zero.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() {
            self.stdout.trim()
        } else {
            self.stderr.trim()
        };
        bail!("`{}` ended with {}: {}", self.line, self.status, said)
    }
}

/// Makes Ctrl-C and SIGTERM end waits with an error, so that `Drop` cleans up; a second signal ends the process at once.
///
/// # Errors
/// When the handler cannot be installed.
pub fn watch_signals() -> Result<()> {
    let flag = interruption();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .context("cannot install a signal handler")?;
    }
    Ok(())
}

/// Whether a signal asked us to stop; not while something is being cleaned up.
pub fn interrupted() -> bool {
    interruption().load(Ordering::Relaxed) && CLEANING.load(Ordering::Relaxed) == 0
}

/// As long as it lives, programs run to their end although a signal came: clean-up needs them.
#[derive(Debug)]
pub struct CleanUp(());

impl CleanUp {
    /// Begins.
    pub fn begin() -> Self {
        CLEANING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for CleanUp {
    fn drop(&mut self) {
        CLEANING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the calling thread on a processor; what it sends through veths is received there, too.
///
/// # Errors
/// When the kernel has no such processor for it.
pub fn stay_on(processor: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {processor} alone"))
}

/// Sleeps, but not past a signal.
///
/// # Errors
/// When a signal arrived.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if interrupted() {
            bail!("interrupted");
        }
        thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// Waits until `ready` says yes.
///
/// # Errors
/// When the time is over (the error names `what`), a signal arrived, or `ready` fails.
pub fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !ready()? {
        if Instant::now() >= end {
            bail!("{what}: not there after {} s", limit.as_secs_f32());
        }
        pause(Duration::from_millis(20))?;
    }
    Ok(())
}

/// Runs a program to its end and collects its output.
///
/// # Errors
/// When it cannot be started, or was ended because the limit was reached or a signal arrived. A bad exit status is
/// no error here: see [`Finished::success`].
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let line = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let waited = wait(&mut child, limit);
    if waited.is_err() {
        stop(&mut child);
    }
    let stdout = stdout.join().unwrap_or_default();
    let stderr = stderr.join().unwrap_or_default();
    let status = waited.with_context(|| format!("`{line}` was ended: {}", stderr.trim()))?;
    Ok(Finished {
        line,
        status,
        stdout,
        stderr,
    })
}

/// Runs a program whose output the user sees directly.
///
/// # Errors
/// As [`run`], and when the exit status is not zero.
pub fn show(command: &mut Command, limit: Duration) -> Result<()> {
    let line = line(command);
    let mut child = command.spawn().with_context(|| format!("cannot start `{line}`"))?;
    let waited = wait(&mut child, limit);
    if waited.is_err() {
        stop(&mut child);
    }
    let status = waited.with_context(|| format!("`{line}` was ended"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// A program that runs beside us until it is stopped or dropped.
#[derive(Debug)]
pub struct Background {
    line: String,
    child: Child,
    stdout: Option<thread::JoinHandle<String>>,
    stderr: Option<thread::JoinHandle<String>>,
}

impl Background {
    /// Starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let line = line(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let stdout = Some(collect(child.stdout.take()));
        let stderr = Some(collect(child.stderr.take()));
        Ok(Self {
            line,
            child,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// As [`run`].
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let status = wait(&mut self.child, limit);
        self.collected(status)
    }

    /// Asks the program to end, insists after a moment, and returns what it said.
    ///
    /// # Errors
    /// When its status cannot be read.
    pub fn stop(mut self) -> Result<Finished> {
        stop(&mut self.child);
        let status = self.child.wait().context("cannot read the exit status");
        self.collected(status)
    }

    fn collected(&mut self, status: Result<ExitStatus>) -> Result<Finished> {
        if status.is_err() {
            stop(&mut self.child);
        }
        let stdout = self
            .stdout
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let stderr = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let status = status.with_context(|| format!("`{}` was ended: {}", self.line, stderr.trim()))?;
        Ok(Finished {
            line: self.line.clone(),
            status,
            stdout,
            stderr,
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

fn interruption() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Arc::clone(FLAG.get_or_init(Arc::default))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Reads in a thread of its own: a program that fills one pipe while we read the other would hang.
fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read until the error is the best there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("cannot read the exit status")? {
            return Ok(status);
        }
        if interrupted() {
            bail!("interrupted");
        }
        if Instant::now() >= end {
            bail!("not finished after {} s", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Ends the child by its process id; harmless when it has ended already.
fn stop(child: &mut Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    // A failing kill means that it has just ended.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let end = Instant::now() + GRACE;
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}
