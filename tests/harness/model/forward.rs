//! Static forwards: mappings that an operator makes and ends; they never expire, and anybody may send to them.

use super::{
    Model,
    life::{End, Mapping},
    policy::Transport,
};

/// What an operator wants.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// To make it, or to end it.
    pub is_wanted: bool,
    /// Protocol.
    pub transport: Transport,
    /// Port of the set.
    pub port: u16,
    /// LAN endpoint.
    pub inside: End,
}

/// What becomes of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as wanted.
    Done,
    /// The port, or the endpoint, is in use.
    Busy,
    /// No record is free.
    Full,
    /// There is no such forward.
    Absent,
    /// No port that can be forwarded.
    Invalid,
}

impl Model {
    /// Whether a protocol has any forward.
    pub(super) fn has_forwards(&self, transport: Transport) -> bool {
        self.mappings.iter().any(|m| m.transport == transport && m.is_static)
    }

    /// Carries an order out.
    pub fn order(&mut self, order: &Order) -> Outcome {
        let Order {
            transport,
            port,
            inside,
            ..
        } = *order;
        if !self.policy.has(port) {
            return Outcome::Invalid;
        }
        let found = self
            .mappings
            .iter()
            .find(|m| m.is_static && (m.transport, m.port, m.inside) == (transport, port, inside))
            .map(|m| m.id);
        if !order.is_wanted {
            let Some(id) = found else { return Outcome::Absent };
            self.end_mappings(&[id]);
            return Outcome::Done;
        }
        if transport == Transport::Icmp || port == 0 {
            return Outcome::Invalid;
        }
        if found.is_some() {
            return Outcome::Done;
        }
        if !self.is_unused(transport, port) {
            return Outcome::Busy;
        }
        if self.records() >= self.policy.slots {
            return Outcome::Full;
        }
        let own = |m: &Mapping| (m.transport, m.inside) == (transport, inside);
        if self.mappings.iter().any(|m| own(m) && self.is_mapped(m)) {
            return Outcome::Busy;
        }
        let over: Vec<u64> = self.mappings.iter().filter(|m| own(m)).map(|m| m.id).collect();
        self.end_mappings(&over);
        self.quarantined.remove(&(transport, port));
        self.last_id += 1;
        self.mappings.push(Mapping {
            id: self.last_id,
            transport,
            inside,
            port,
            stamp: self.now,
            used: self.now,
            is_static: true,
        });
        Outcome::Done
    }

    /// Whether nobody has a port, and it is not reserved; one in quarantine is the operator's to use.
    fn is_unused(&self, transport: Transport, port: u16) -> bool {
        !self.policy.reserved.contains(&port)
            && !self.mappings.iter().any(|m| (m.transport, m.port) == (transport, port))
            && !self.shares(transport, port)
    }
}
