//! Owns network namespaces: making, entering and deleting them, and running programs inside.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{self, Background, CleanUp, Finished};

/// Where iproute2 keeps the names.
const FOLDER: &str = "/var/run/netns";
/// Far more than any `ip` or `ethtool` call needs.
const TOOL: Duration = Duration::from_secs(20);

/// A named network namespace.
///
/// Programs are started from a thread that has entered it, not by `ip netns exec`: that one mounts a new /sys, and the
/// BPF file system below it disappears.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with `lo` up, IPv6 addresses usable at once, and no reverse-path filter.
    ///
    /// # Errors
    /// When the name is taken or the privilege is missing.
    pub fn create(name: &str) -> Result<Self> {
        process::run(Command::new("ip").args(["netns", "add", name]), TOOL)?.success()?;
        let netns = Self { name: name.to_owned() };
        netns.prepare().inspect_err(|_| netns.delete())?;
        Ok(netns)
    }

    /// A namespace that is there already.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(name: &str) -> Result<Self> {
        let netns = Self { name: name.to_owned() };
        netns.file()?;
        Ok(netns)
    }

    /// Removes the name; the namespace ends with the last process inside.
    pub fn delete(&self) {
        let _clean_up = CleanUp::begin();
        // Already deleted is as good.
        let _ = process::run(Command::new("ip").args(["netns", "delete", &self.name]), TOOL);
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of all namespaces that begin with `prefix`.
    pub fn names(prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Does `work` in a thread inside the namespace: sockets it opens and programs it starts stay there.
    ///
    /// # Errors
    /// What `work` says, or that the namespace is gone.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.file()?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("cannot enter the network namespace")?;
                work()
            });
            inside
                .join()
                .map_err(|_| anyhow!("a thread inside {} panicked", self.name))?
        })
    }

    /// Moves the calling thread into the namespace for good.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn enter_here(&self) -> Result<()> {
        move_into_link_name_space(self.file()?.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", self.name))
    }

    /// As [`Self::enter`], but beside the caller.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.file()?;
        Ok(thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the network namespace")?;
            work()
        }))
    }

    /// Runs a program inside to its end.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn run(&self, words: &[&str], limit: Duration) -> Result<Finished> {
        self.enter(|| process::run(&mut command(words)?, limit))
            .with_context(|| format!("in {}", self.name))
    }

    /// Starts a program inside that runs until it is stopped.
    ///
    /// # Errors
    /// As [`Background::start`].
    pub fn start(&self, words: &[&str]) -> Result<Background> {
        self.enter(|| Background::start(&mut command(words)?))
            .with_context(|| format!("in {}", self.name))
    }

    /// Runs an iproute2 or ethtool command that must succeed; `line` is split at spaces.
    ///
    /// # Errors
    /// When it fails.
    pub fn tool(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let finished = self
            .run(&words, TOOL)?
            .success()
            .with_context(|| format!("in {}", self.name))?;
        Ok(finished.stdout)
    }

    /// Writes a value below /proc/sys/net.
    ///
    /// # Errors
    /// When this kernel has no such setting or refuses the value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{setting}");
        self.enter(|| fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}")))
    }

    /// The process ids of all that runs inside.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let finished = process::run(Command::new("ip").args(["netns", "pids", &self.name]), TOOL)?.success()?;
        Ok(finished
            .stdout
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect())
    }

    fn prepare(&self) -> Result<()> {
        for (setting, value) in [
            // Addresses are ours alone; waiting a second for duplicates would only make the lab slow.
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ] {
            self.sysctl(setting, value)?;
        }
        self.tool("ip link set lo up")?;
        Ok(())
    }

    fn file(&self) -> Result<File> {
        let path = PathBuf::from(FOLDER).join(&self.name);
        File::open(&path).with_context(|| format!("there is no network namespace {}", self.name))
    }
}

fn command(words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("no program named")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}
