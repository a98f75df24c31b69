//! Owns the lease by which native IPv6 is forwarded in XDP: renewed every second while nothing is in its way, withdrawn at once when something is.
//!
//! It ends by itself, so that whoever kills this process leaves no firewall bypassed for long.

use std::{
    future, io,
    time::{Duration, Instant},
};

use mape_common::{step::native::Lease, time::Tick};
use tokio::{runtime::Handle, time::sleep_until};

use crate::{
    datapath::{
        maps::{TableError, Tables},
        pin::PinFolder,
    },
    gateway::{Gateway, Ipv6Forward, Role},
    host::state,
    instance::Instance,
    netlink::obstacle::{ChainWatch, Obstacle, obstacles},
};

/// Between two looks; of chains is told before.
const RENEW: Duration = Duration::from_secs(1);
/// Between two looks at least while nothing is forwarded: then there is no hurry.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a lease is ahead; in ticks, a little less than three seconds.
const AHEAD: Tick = Tick(11);

/// Who gives the lease.
pub(super) struct Native {
    runtime: Handle,
    tables: Tables,
    watch: Option<ChainWatch>,
    /// The gateway is one that the lease is for.
    is_wanted: bool,
    /// Why there is none; `None` while there is one.
    why_not: Option<String>,
    is_told: bool,
    looked_at: Instant,
}

impl Native {
    /// For an instance; nothing is given yet.
    pub(super) fn new(instance: &Instance, runtime: Handle) -> Self {
        Self {
            runtime,
            tables: Tables::new(&PinFolder::new(instance)),
            watch: None,
            is_wanted: false,
            why_not: Some(String::new()),
            is_told: false,
            looked_at: Instant::now(),
        }
    }

    /// Begins with what has just been loaded; what is to be said of it.
    pub(super) fn begin(&mut self, gateway: &Gateway) -> Option<String> {
        self.is_wanted = gateway.role == Role::CustomerEdge && gateway.ipv6_forward == Ipv6Forward::Auto;
        // Loading has taken it back.
        self.why_not.get_or_insert_default();
        self.is_told = false;
        self.look()
    }

    /// When to look although nothing is heard of.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_wanted.then(|| self.looked_at + RENEW)
    }

    /// Waits until there may be other chains than before.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let Some(watch) = self.watch.as_mut().filter(|_| self.is_wanted) else {
            return future::pending().await;
        };
        if self.why_not.is_some() {
            sleep_until((self.looked_at + PAUSE).into()).await;
        }
        watch.changed().await
    }

    /// There may be other chains: until it is known which, none is bypassed.
    pub(super) fn look_anew(&mut self) -> Option<String> {
        if self.is_wanted
            && self.why_not.is_none()
            && let Err(error) = self.give(Lease::NONE)
        {
            return self.note(Some(error.to_string()));
        }
        self.look()
    }

    /// Looks what is in the way, and renews or withdraws the lease; what is to be said of it.
    pub(super) fn look(&mut self) -> Option<String> {
        if !self.is_wanted {
            return None;
        }
        self.looked_at = Instant::now();
        let why_not = match self.obstacle() {
            Ok(None) => self
                .give(Lease::until(Tick(state::now().0.wrapping_add(AHEAD.0))))
                .err()
                .map(|error| error.to_string()),
            Ok(Some(obstacle)) => {
                let withdrawn = self.withdraw();
                Some(
                    withdrawn
                        .err()
                        .map_or_else(|| obstacle.to_string(), |error| error.to_string()),
                )
            }
            Err(why) => {
                // What cannot be asked is taken to be there.
                let withdrawn = self.withdraw();
                Some(withdrawn.err().map_or(why, |error| error.to_string()))
            }
        };
        self.note(why_not)
    }

    /// What is in the way first.
    fn obstacle(&mut self) -> Result<Option<Obstacle>, String> {
        // Before it is looked: what changes from here on is heard of.
        if self.watch.is_none() {
            let _inside = self.runtime.enter();
            self.watch = ChainWatch::open().map_err(|error| whole(&error))?;
        }
        let found = obstacles().map_err(|error| whole(&error))?;
        Ok(found.into_iter().next())
    }

    fn note(&mut self, why_not: Option<String>) -> Option<String> {
        let is_news = !self.is_told || self.why_not != why_not;
        self.why_not = why_not;
        self.is_told = true;
        is_news.then(|| match &self.why_not {
            None => "native IPv6: forwarded in XDP".to_owned(),
            Some(why) => format!("native IPv6: left to the kernel; {why}"),
        })
    }

    fn give(&self, lease: Lease) -> Result<(), TableError> {
        self.tables.set_native_lease(lease)
    }

    fn withdraw(&self) -> Result<(), TableError> {
        if self.why_not.is_none() {
            self.give(Lease::NONE)?;
        }
        Ok(())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // Where it cannot be withdrawn, it ends by itself.
        let _ = self.withdraw();
    }
}

fn whole(error: &crate::netlink::NetlinkError) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
