//! Owns looking after the process that carries the tunnel's packets (`mape-ctl tunnel`): one that dies is started again.
//!
//! It is a process of its own and outlives this one: forwarding does not end with `run`.

use std::{future::pending, io, os::fd::OwnedFd, time::Instant};

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use tokio::io::{Interest, unix::AsyncFd};

use super::{pace::Pace, say, warn};
use crate::{
    datapath::load::Done,
    instance::Instance,
    post::{self, Post},
    tunnel::{process, socket},
};

/// The tunnel's process, if there is one to be looked after.
pub(super) struct Carrier {
    instance: Instance,
    /// Whether one shall run.
    is_wanted: bool,
    pid: Option<Pid>,
    starts: Pace,
}

impl Carrier {
    pub(super) const fn new(instance: Instance) -> Self {
        Self {
            instance,
            is_wanted: false,
            pid: None,
            starts: Pace::NEVER,
        }
    }

    /// Sees to the process as a gateway that has just been loaded wants it.
    pub(super) fn take_over(&mut self, is_wanted: bool, done: &mut Done) {
        self.is_wanted = is_wanted && done.carried.is_some();
        process::see_to(&self.instance, is_wanted, done);
        self.pid = self.running();
    }

    fn running(&self) -> Option<Pid> {
        post::holder(Post::Tunnel, &self.instance).filter(|_| self.is_wanted)
    }

    /// When one that has ended may be started again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.starts.next().filter(|_| self.is_wanted && self.pid.is_none())
    }

    /// Waits until the process has ended; for ever where there is none.
    pub(super) async fn ended(&self) {
        if let Some(watched) = self.pid.and_then(|pid| watch(pid).ok()) {
            // What cannot be waited for is looked at when there is something else to do.
            if watched.readable().await.is_ok() {
                return;
            }
        }
        pending::<()>().await;
    }

    /// Starts the process where it should run and does not.
    pub(super) fn look(&mut self) {
        if !self.is_wanted {
            return;
        }
        if let Some(pid) = self.pid {
            // One that this process has started is its child, and stays in the table of processes until it is asked about.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            self.pid = self.running();
            if self.pid == Some(pid) {
                return;
            }
            warn(&[format!(
                "`mape-ctl tunnel` (process {}) has ended",
                pid.as_raw_nonzero()
            )]);
        }
        if self.pid.is_some() || !self.starts.may_begin(Instant::now()) {
            return;
        }
        match process::ensure(&self.instance) {
            Ok((pid, _)) => {
                self.pid = Pid::from_raw(pid);
                say(&[format!("started `mape-ctl tunnel` (process {pid})")]);
            }
            Err(error) => super::complain("packets that XDP does not take are lost", &error),
        }
    }
}

fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    socket::watch(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}
