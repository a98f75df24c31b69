//! Owns posts: what one process at a time does for an instance, named by a file that it holds locked as long as it lives.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::instance::{Instance, RUN_FOLDER};

/// How long the lock is waited for.
const TAKE: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(10);

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Post {
    /// `mape-ctl run`: keeps a gateway in accord with the machine.
    Run,
    /// `mape-ctl tunnel`: carries the tunnel device's packets.
    Tunnel,
}

impl Post {
    /// The subcommand.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Tunnel => "tunnel",
        }
    }

    /// How long one that was asked to end may take; then it is ended. `run` may be in the midst of loading.
    const fn grace(self) -> Duration {
        match self {
            Self::Run => Duration::from_secs(12),
            Self::Tunnel => Duration::from_secs(3),
        }
    }

    fn file(self, instance: &Instance) -> PathBuf {
        Path::new(RUN_FOLDER).join(format!("{instance}.{}.pid", self.name()))
    }
}

/// Why a post cannot be taken or ended.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// Somebody has it.
    #[error("`mape-ctl {}` of instance {instance} runs already (process {pid})", .post.name())]
    Taken {
        /// What.
        post: Post,
        /// The instance.
        instance: Instance,
        /// The process.
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
    /// It does not end.
    #[error("`mape-ctl {}` of instance {instance} does not end", .post.name())]
    Endless {
        /// What.
        post: Post,
        /// The instance.
        instance: Instance,
    },
}

/// Held as long as the process has the post; its file names the process.
#[derive(Debug)]
#[must_use = "another process may take the post when this is dropped"]
pub struct Held {
    file: File,
    path: PathBuf,
}

impl Held {
    /// Takes the post.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn take(post: Post, instance: &Instance) -> Result<Self, PostError> {
        let path = post.file(instance);
        let failed = |source| PostError::File {
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
                // Who looks whether there is one holds the lock for a moment, too.
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => {
                    return Err(PostError::Taken {
                        post,
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

    /// Says that the work is being done from here on.
    ///
    /// # Errors
    /// [`PostError::File`].
    pub fn ready(&mut self) -> Result<(), PostError> {
        self.write("ready")
    }

    fn write(&mut self, word: &str) -> Result<(), PostError> {
        let text = format!("{} {word}\n", std::process::id());
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(|source| PostError::File {
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

/// Whether that process has the post and is ready.
pub fn is_ready(post: Post, instance: &Instance, pid: i32) -> bool {
    written(&post.file(instance)) == Some((pid, true))
}

/// The process that has a post, if there is one.
pub fn holder(post: Post, instance: &Instance) -> Option<Pid> {
    let path = post.file(instance);
    let file = File::open(&path).ok()?;
    // Whoever holds the lock lives; the number of one that does not may be another's.
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => written(&path).and_then(|(pid, _)| Pid::from_raw(pid)),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// Ends the process that has a post, unless it is this one; gives its process id if there was one.
///
/// # Errors
/// [`PostError::Endless`].
pub fn stop(post: Post, instance: &Instance) -> Result<Option<i32>, PostError> {
    let Some(pid) = holder(post, instance) else {
        forget(post, instance);
        return Ok(None);
    };
    for signal in [Signal::TERM, Signal::KILL] {
        // One that has just ended by itself is as good.
        let _ = kill_process(pid, signal);
        let end = Instant::now() + post.grace();
        while Instant::now() < end {
            if holder(post, instance).is_none() {
                forget(post, instance);
                return Ok(Some(pid.as_raw_nonzero().get()));
            }
            thread::sleep(POLL);
        }
    }
    Err(PostError::Endless {
        post,
        instance: instance.clone(),
    })
}

fn forget(post: Post, instance: &Instance) {
    // Of a process that is not there any longer; what cannot be removed says nothing.
    let _ = fs::remove_file(post.file(instance));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_counts_only_where_it_is_whole() {
        let path = std::env::temp_dir().join(format!("mape-post-{}", std::process::id()));
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
