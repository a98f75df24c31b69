//! Which ports a new endpoint or session may get: found by looking at every record, each time.
//!
//! What has expired but not been swept still holds its port (it is gone within a second). A session that shares its port
//! may take the place of one that has expired, but need not find it.

use super::{
    Model,
    life::{End, Flow, Hold},
    policy::Transport,
};

/// What holds a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nobody.
    Free,
    /// One endpoint alone.
    Alone,
    /// Sessions that differ in their destination.
    Shared,
    /// It is kept from translation.
    Reserved,
}

/// Ports to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Any of these is right.
    pub ports: Vec<u16>,
    /// Whether refusing would be right as well.
    pub or_none: bool,
}

/// Free ports that a search passes over at most, in the hope of one that is shared already.
const PASSED_OVER: usize = 64;

impl Model {
    /// What holds a port of the set.
    pub fn holder(&self, transport: Transport, port: u16) -> Held {
        if self.policy.reserved.contains(&port) {
            return Held::Reserved;
        }
        if self.mappings.iter().any(|m| m.transport == transport && m.port == port) {
            return Held::Alone;
        }
        let shared =
            |s: &super::life::Session| s.flow.transport == transport && s.port == port && s.hold == Hold::Share;
        if self.sessions.iter().any(shared) {
            Held::Shared
        } else {
            Held::Free
        }
    }

    fn is_free(&self, transport: Transport, port: u16) -> bool {
        self.policy.has(port) && self.holder(transport, port) == Held::Free
    }

    /// Ports for an endpoint alone: its own number if that can be had, else any free one.
    pub(super) fn free_ports(&self, transport: Transport, inside: End) -> Vec<u16> {
        if self.is_free(transport, inside.1) {
            return vec![inside.1];
        }
        let ports = self.policy.ports.iter().copied();
        ports
            .filter(|port| self.policy.is_dynamic(*port) && self.is_free(transport, *port))
            .collect()
    }

    /// Ports for a session that shares: no other session of that port may have its destination (RFC 7857 §3).
    pub(super) fn shared_ports(&self, flow: &Flow) -> Choice {
        if self.is_free(flow.transport, flow.inside.1) {
            return Choice {
                ports: vec![flow.inside.1],
                or_none: false,
            };
        }
        let (mut usable, mut free, mut reclaimable) = (Vec::new(), Vec::new(), Vec::new());
        for port in self.policy.ports.iter().copied().filter(|p| self.policy.is_dynamic(*p)) {
            let held = self.holder(flow.transport, port);
            if matches!(held, Held::Alone | Held::Reserved) {
                continue;
            }
            let there = self.sessions.iter().find(|s| {
                s.hold == Hold::Share
                    && (s.flow.transport, s.port, s.flow.remote) == (flow.transport, port, flow.remote)
            });
            match there {
                Some(session) if self.is_live(session) => {}
                Some(_) => reclaimable.push(port),
                None if held == Held::Free => free.push(port),
                None => usable.push(port),
            }
        }
        if usable.is_empty() && free.is_empty() {
            return Choice {
                ports: reclaimable,
                or_none: true,
            };
        }
        // Endpoints that need a port alone shall find one: free ports are spared as long as another will do.
        let spared = self.policy.maps(flow.transport) && !usable.is_empty() && free.len() < PASSED_OVER;
        if !spared {
            usable.extend(free);
        }
        Choice {
            ports: usable,
            or_none: false,
        }
    }
}
