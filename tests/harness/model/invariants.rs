//! What holds between packets, whatever they were.

use std::collections::BTreeSet;

use super::{Model, life::Hold};

impl Model {
    /// What does not hold; empty when all is well.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
        for session in &self.sessions {
            let flow = session.flow;
            if !self.policy.has(session.port) || self.policy.reserved.contains(&session.port) {
                found.push(format!("not a port to use: {session:?}"));
            }
            if !inside.insert(flow) || !outside.insert((flow.transport, session.port, flow.remote)) {
                found.push(format!("two of one key: {session:?}"));
            }
            let alone = self
                .mappings
                .iter()
                .find(|m| (m.transport, m.port) == (flow.transport, session.port));
            match session.hold {
                Hold::Share if alone.is_some() => found.push(format!("shares a port that is {alone:?}'s: {session:?}")),
                Hold::Member(id) if self.is_live(session) && session.phase.is_answered() => {
                    let of = self.mappings.iter().find(|m| m.id == id);
                    if of.is_none_or(|m| m.port != session.port || m.inside != flow.inside || !self.is_mapped(m)) {
                        found.push(format!("outlives its mapping {of:?}: {session:?}"));
                    }
                }
                Hold::Share | Hold::Member(_) => {}
            }
        }
        let mut held = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        for mapping in &self.mappings {
            if !held.insert((mapping.transport, mapping.port)) || !endpoints.insert((mapping.transport, mapping.inside))
            {
                found.push(format!(
                    "a port of two endpoints or an endpoint of two ports: {mapping:?}"
                ));
            }
        }
        if self.records() > self.policy.slots {
            found.push(format!("{} records of {}", self.records(), self.policy.slots));
        }
        found
    }
}
