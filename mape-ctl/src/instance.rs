//! Owns the name of a gateway and the lock that keeps two mape-ctl from changing the same one at once.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io,
    path::PathBuf,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

/// Where state files and locks are; gone after a reboot, like everything in the kernel that they speak of.
pub const RUN_FOLDER: &str = "/run/mape";
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// The name of one gateway on this kernel: letters, digits, `-` and `_`, at most 32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(String);

/// Why a name cannot be an instance's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an instance name is 1 to 32 letters, digits, '-' or '_' (it becomes a folder of bpffs, which knows no dots)")]
pub struct BadName;

/// Why an instance could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock file cannot be made.
    #[error("cannot make {file}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has held it all the time.
    #[error("another mape-ctl has been changing instance {0} for {seconds} seconds", seconds = LOCK_WAIT.as_secs())]
    Busy(Instance),
}

impl FromStr for Instance {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=32).contains(&name.len()) && name.bytes().all(good) {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadName)
        }
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Instance {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Held as long as the instance is being changed.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct Lock(#[expect(dead_code, reason = "holds the lock by being open")] File);

impl Instance {
    /// Waits until no other mape-ctl changes this instance.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn lock(&self) -> Result<Lock, LockError> {
        let path = PathBuf::from(RUN_FOLDER).join(format!("{self}.lock"));
        let failed = |source| LockError::File {
            file: path.clone(),
            source,
        };
        fs::create_dir_all(RUN_FOLDER).map_err(failed)?;
        let file = File::create(&path).map_err(failed)?;
        let end = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(Duration::from_millis(50)),
                Err(TryLockError::WouldBlock) => return Err(LockError::Busy(self.clone())),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Instance;

    #[test]
    fn names_are_what_bpffs_takes() {
        for good in ["default", "lab-1_ce", "A"] {
            assert_eq!(good.parse::<Instance>().unwrap().as_ref(), good);
        }
        for bad in ["", "a.b", "a/b", "ä", "012345678901234567890123456789012", ".."] {
            assert!(bad.parse::<Instance>().is_err(), "{bad}");
        }
    }
}
