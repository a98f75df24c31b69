//! The rules that hold between packets, and what breaks them: for tests, which ask after every step.

use std::collections::{BTreeSet, HashMap};

use super::{HostEnv, overlap_cells, words};
use crate::{
    env::{Env as _, Side},
    layout::{Gauge, HostUse, Transport},
    nat::{
        index::Bucket,
        overlap::{self, Fingerprint},
        port::PortState,
        quota,
        session::{Hold, Phase, Session},
        table,
    },
    word::Word,
};

impl HostEnv {
    /// What breaks the rules that hold between packets; empty when all is well.
    ///
    /// Both table entries of every live record and none of any other; every port held by who says so; nothing lost.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut expected = 0usize;
        for (slot, record) in self.sessions.iter().enumerate() {
            let state = record.state();
            if matches!(state.phase, Phase::Building | Phase::Dead) {
                found.push(format!("slot {slot} was left in {:?}", state.phase));
            }
            if !state.phase.is_live() {
                continue;
            }
            expected = expected.saturating_add(1);
            let facts = record.facts();
            let has_entry = |side, key| {
                let found = table::find(self, side, &key);
                found.is_some_and(|(reference, _)| usize::try_from(reference.slot) == Ok(slot))
            };
            if !has_entry(Side::Inside, facts.inside_key()) {
                found.push(format!("slot {slot}: no entry in INSIDE"));
            }
            if !has_entry(Side::Outside, facts.outside_key()) {
                found.push(format!("slot {slot}: no entry in OUTSIDE"));
            }
        }
        found.extend(self.unbalanced());
        let entries = self.flows.iter().map(Bucket::len).fold(0, usize::saturating_add);
        if entries != expected.saturating_mul(2) {
            found.push(format!("{expected} live records, {entries} entries"));
        }
        if self.free.borrow().len().saturating_add(expected) != self.sessions.len() {
            found.push(format!(
                "{} free and {expected} live of {} slots",
                self.free.borrow().len(),
                self.sessions.len()
            ));
        }
        self.orphaned(&mut found);
        self.miscounted(&mut found);
        found
    }

    /// Members that have outlived their mapping. One that nobody on the LAN has answered may: it keeps no mapping alive.
    fn orphaned(&self, found: &mut Vec<String>) {
        let Some(config) = &self.config else { return };
        for (slot, record) in self.sessions.iter().enumerate() {
            let (state, facts) = (record.state(), record.facts());
            if !state.phase.is_live()
                || !matches!(facts.hold, Hold::Member)
                || !state.phase.is_answered()
                || state.is_expired(&config.timeouts, self.now.get())
            {
                continue;
            }
            let of = self.session(facts.mapping.slot);
            let of = of.and_then(|of| of.read(facts.mapping.generation));
            if of.is_none_or(|(_, of)| of.external_port != facts.external_port) {
                found.push(format!("slot {slot}: a member without its mapping"));
            }
        }
    }

    /// Gauges that do not show what there is, and permissions that will stay for ever.
    fn miscounted(&self, found: &mut Vec<String>) {
        let mut counts: HashMap<u32, u64> = HashMap::new();
        let mut count = |gauge: Gauge, more: u64| {
            let entry = counts.entry(gauge.index()).or_default();
            *entry = entry.saturating_add(more);
        };
        for transport in Transport::ALL {
            for gauge in [
                Gauge::Sessions(transport),
                Gauge::Mappings(transport),
                Gauge::Exclusive(transport),
                Gauge::Shared(transport),
            ] {
                count(gauge, 0);
            }
            for ordinal in 0..self.config.map_or(0, |config| config.ports) {
                match PortState::from_word(self.port(transport, ordinal).map_or(0, Word::load)) {
                    PortState::Exclusive => count(Gauge::Exclusive(transport), 1),
                    PortState::Shared(_) => count(Gauge::Shared(transport), 1),
                    PortState::Free | PortState::Reserved | PortState::Static | PortState::Quarantined(_) => {}
                }
            }
        }
        for record in self.sessions.iter().filter(|r| r.state().phase.is_live()) {
            let facts = record.facts();
            match facts.hold {
                Hold::Mapping if record.state().phase == Phase::Static => {}
                Hold::Mapping => count(Gauge::Mappings(facts.transport), 1),
                Hold::Member | Hold::Overlap => count(Gauge::Sessions(facts.transport), 1),
            }
        }
        let permissions = self.permissions.borrow();
        count(Gauge::Permissions, u64::try_from(permissions.len()).unwrap_or(u64::MAX));
        for (index, expected) in &counts {
            let shown = self
                .gauges
                .get(usize::try_from(*index).unwrap_or(0))
                .map_or(0, Word::load);
            if shown != *expected {
                found.push(format!("gauge {index} shows {shown}, not {expected}"));
            }
        }
        for key in permissions.keys() {
            let mut live = self
                .sessions
                .iter()
                .filter(|r| r.state().phase.is_live())
                .map(Session::facts);
            if !live.any(|f| matches!(f.hold, Hold::Member) && (f.mapping, f.remote) == (key.mapping, key.remote)) {
                found.push(format!("a permission that no member will end: {:?}", key.remote));
            }
        }
    }

    /// Cells of the overlap table that do not say what the records say. Slow: the table is large.
    pub fn overlap_violations(&self) -> Vec<String> {
        let Some(config) = &self.config else { return Vec::new() };
        let cells = words(overlap_cells(config));
        let sharing = self.sessions.iter().filter(|r| r.state().phase.is_live());
        for facts in sharing.map(Session::facts).filter(|f| matches!(f.hold, Hold::Overlap)) {
            let destination = Fingerprint::new(config, facts.transport, facts.remote, facts.remote_port);
            let index = destination.row(config).saturating_add(u32::from(facts.ordinal));
            if let Some(cell) = usize::try_from(index).ok().and_then(|i| cells.get(i)) {
                overlap::add(cell, destination);
            }
        }
        let differing = cells
            .iter()
            .zip(&self.overlap)
            .enumerate()
            .filter(|(_, (a, b))| a.load() != b.load());
        differing
            .map(|(index, (expected, cell))| format!("overlap cell {index}: {cell:?}, not {expected:?}"))
            .collect()
    }
}

impl HostEnv {
    /// Where ports, quotas and gauges do not say what the records say.
    fn unbalanced(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut exclusive: HashMap<(u32, u32), u32> = HashMap::new();
        let mut forwards: HashMap<(u32, u32), u32> = HashMap::new();
        let mut shares: HashMap<(u32, u32), u32> = HashMap::new();
        let mut sessions: HashMap<u32, u64> = HashMap::new();
        let mut ports: HashMap<u32, u64> = HashMap::new();
        let mut used = 0_u64;
        for record in &self.sessions {
            let phase = record.state().phase;
            used = used.saturating_add(u64::from(phase != Phase::Free));
            if !phase.is_live() {
                continue;
            }
            let facts = record.facts();
            let port = (facts.transport.index(), u32::from(facts.ordinal));
            let (count, of, one) = match facts.hold {
                // What an operator gives to a host is none of what the host has taken.
                Hold::Mapping if phase == Phase::Static => {
                    let count = forwards.entry(port).or_default();
                    *count = count.saturating_add(1);
                    continue;
                }
                Hold::Mapping => (
                    exclusive.entry(port).or_default(),
                    ports.entry(quota::place(facts.inside)).or_default(),
                    HostUse::one_port(facts.transport),
                ),
                Hold::Overlap => (
                    shares.entry(port).or_default(),
                    sessions.entry(quota::place(facts.inside)).or_default(),
                    1,
                ),
                Hold::Member => {
                    let of = sessions.entry(quota::place(facts.inside)).or_default();
                    *of = of.saturating_add(1);
                    continue;
                }
            };
            *count = count.saturating_add(1);
            *of = of.saturating_add(one);
        }
        for transport in Transport::ALL {
            for ordinal in 0..self.config.map_or(0, |config| config.ports) {
                let at = (transport.index(), ordinal);
                let state = self
                    .port(transport, ordinal)
                    .map(|word| PortState::at(word.load(), self.now()));
                let right = match state {
                    Some(PortState::Static) => forwards.get(&at) == Some(&1) && !exclusive.contains_key(&at),
                    Some(PortState::Exclusive) => exclusive.get(&at) == Some(&1) && !shares.contains_key(&at),
                    Some(PortState::Shared(count)) => shares.get(&at) == Some(&count) && !exclusive.contains_key(&at),
                    _ => !exclusive.contains_key(&at) && !shares.contains_key(&at) && !forwards.contains_key(&at),
                };
                if !right {
                    found.push(format!(
                        "{} port {ordinal} is {state:?}, held by {:?} mappings and {:?} sessions",
                        transport.name(),
                        exclusive.get(&at),
                        shares.get(&at)
                    ));
                }
            }
        }
        if used != self.read(Gauge::Records) {
            found.push(format!(
                "{used} records in use, the gauge says {}",
                self.read(Gauge::Records)
            ));
        }
        let used = |counted: &HostUse| (counted.sessions().load(), counted.ports().load());
        // Few of the many places are anybody's: what the records say is looked up for those alone.
        let mut places: BTreeSet<u32> = sessions.keys().chain(ports.keys()).copied().collect();
        places.extend(
            (0..)
                .zip(&self.host_uses)
                .filter(|(_, counted)| used(counted) != (0, 0))
                .map(|(place, _)| place),
        );
        for place in places {
            let counted = self.host_use(place).map_or((0, 0), used);
            let right = (
                sessions.get(&place).copied().unwrap_or(0),
                ports.get(&place).copied().unwrap_or(0),
            );
            if counted != right {
                found.push(format!("hosts at {place} have {right:?}, counted are {counted:?}"));
            }
        }
        found
    }
}
