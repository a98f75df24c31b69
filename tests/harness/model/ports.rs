//! Which ports a new endpoint or session may get: found by looking at every record, each time.
//!
//! What has expired but not been swept still holds its port (it is gone within a second). Where nothing else is left, a
//! session that shares its port takes the place of one that is over in all but name.

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
    /// It is kept from translation, or forwarded.
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
/// Ports that are looked at for a session that is over in all but name.
const RECLAIM_LOOKS: usize = 24;

impl Model {
    /// What holds a port of the set.
    pub fn holder(&self, transport: Transport, port: u16) -> Held {
        if self.policy.reserved.contains(&port) || self.is_quarantined(transport, port) {
            return Held::Reserved;
        }
        if let Some(mapping) = self
            .mappings
            .iter()
            .find(|m| m.transport == transport && m.port == port)
        {
            return if mapping.is_static { Held::Reserved } else { Held::Alone };
        }
        if self.shares(transport, port) {
            Held::Shared
        } else {
            Held::Free
        }
    }

    /// Whether sessions share a port.
    pub(super) fn shares(&self, transport: Transport, port: u16) -> bool {
        let shared =
            |s: &super::life::Session| s.flow.transport == transport && s.port == port && s.hold == Hold::Share;
        self.sessions.iter().any(shared)
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

    /// Of the ports whose session with the destination is over in all but name, those where it was used longest ago. Of a large
    /// set only a part is looked at.
    fn reclaimable(&self, found: &[(u32, u16)]) -> Choice {
        let all = self.policy.ports.iter().filter(|p| self.policy.is_dynamic(**p)).count() <= RECLAIM_LOOKS;
        let oldest = found.iter().map(|(stamp, _)| *stamp).min();
        let chosen = found.iter().filter(|(stamp, _)| !all || Some(*stamp) == oldest);
        Choice {
            ports: chosen.map(|(_, port)| *port).collect(),
            or_none: !all,
        }
    }

    /// Ports for a session that shares: no other session of that port may have its destination (RFC 7857 §3).
    pub(super) fn shared_ports(&mut self, flow: &Flow) -> Choice {
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
                Some(session) if self.is_over_in_all_but_name(session) => reclaimable.push((session.stamp, port)),
                Some(_) => {}
                None if held == Held::Free => free.push(port),
                None => usable.push(port),
            }
        }
        if usable.is_empty() && free.is_empty() {
            self.press(flow.transport);
            return self.reclaimable(&reclaimable);
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
