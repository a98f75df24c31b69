//! An [`Env`] that tells what the core asks another one and what it is answered: an explanation's steps come from here alone,
//! so that they are what the core did and not what somebody thinks it does.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use mape_common::{
    env::{Env, InsertError, Noted, Route, Rules, Search, Side},
    hop::{Link, Mac, NextHop},
    layout::{Config, FlowKey, Gauge, HostUse, PermissionKey, RuleRef, STATIC_HOPS, SessionRef, Transport},
    map::rule::Rule,
    nat::{
        allocate, fragment,
        index::Bucket,
        part::{Done, Part},
        port::PortState,
        session::{Facts, Hold, Phase, Session, State},
        table::{self, Draft, Ending},
    },
    step::native::Lease,
    time::Tick,
    wire::port::Port,
    word::Word,
};

use super::story::Story;
use crate::view::snapshot::is_border_relay;

/// No port, in what a search for one gives.
const NONE: u32 = u32::MAX;

/// What a search has looked at; told as one line.
#[derive(Clone, Copy, Default)]
struct Looks {
    ports: u32,
    cells: u32,
    entries: u32,
}

/// Tells what the core asks the [`Env`] within.
pub struct Observer<E> {
    inner: E,
    names: BTreeMap<u32, String>,
    story: RefCell<Story>,
    /// Within a search: counted, not told.
    quiet: Cell<bool>,
    looks: Cell<Looks>,
}

impl<E: Env> Observer<E> {
    /// Around another one; names are those of interfaces by index.
    pub fn new(inner: E, names: BTreeMap<u32, String>) -> Self {
        Self {
            inner,
            names,
            story: RefCell::default(),
            quiet: Cell::new(false),
            looks: Cell::default(),
        }
    }

    /// The one within.
    pub const fn inner(&self) -> &E {
        &self.inner
    }

    /// An interface's name, or its number where it has none here.
    pub fn name(&self, ifindex: u32) -> String {
        self.names
            .get(&ifindex)
            .cloned()
            .unwrap_or_else(|| format!("interface {ifindex}"))
    }

    /// Begins a part of the story.
    pub fn begin(&self, program: &str, meaning: &str) {
        self.story.borrow_mut().begin(program, meaning);
    }

    /// Ends it because another goes on.
    pub fn go_on(&self, program: &str, reason: &str) {
        self.story.borrow_mut().go_on(program, reason);
    }

    /// What has been told since the last time.
    pub fn take(&self) -> Story {
        self.story.take()
    }

    fn say(&self, text: impl Into<String>) {
        if !self.quiet.get() {
            self.story.borrow_mut().say(text.into());
        }
    }

    fn look(&self, count: impl FnOnce(&mut Looks)) {
        let mut looks = self.looks.get();
        count(&mut looks);
        self.looks.set(looks);
    }

    fn seconds_ago(&self, then: Tick) -> u32 {
        self.inner.now().since(then).seconds()
    }

    fn mac(mac: Mac) -> String {
        mac.0.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// What a look-up came to.
    fn say_found(&self, side: Side, key: &FlowKey, found: Option<SessionRef>) {
        self.look(|looks| looks.entries = looks.entries.saturating_add(1));
        let text = key_text(side, key);
        match found.and_then(|found| self.record(found.slot, found.generation)) {
            Some(record) => self.say(format!("{text}: found, {record}")),
            None => self.say(format!("{text}: not there")),
        }
    }

    /// A record, and how it stands.
    fn record(&self, slot: u32, generation: u32) -> Option<String> {
        let (state, facts) = self.inner.session(slot)?.read(generation)?;
        if state.phase == Phase::Static {
            return Some(format!("static forward, {}", ends(&facts)));
        }
        let config = self.inner.config()?;
        let timeouts = mape_common::nat::pressure::timeouts(&self.inner, config, facts.transport, self.inner.now());
        let expired = state.is_expired(timeouts, self.inner.now());
        let idle = self.seconds_ago(state.used);
        let how = if expired { "its time is over, " } else { "" };
        Some(format!(
            "{}, {}, {how}last used {idle} s ago",
            ends(&facts),
            state.phase.name()
        ))
    }

    /// Free ports of a protocol.
    fn free_ports(&self, transport: Transport) -> usize {
        let Some(config) = self.inner.config() else { return 0 };
        let now = self.inner.now();
        (config.first_dynamic..config.ports)
            .filter_map(|ordinal| self.inner.port(transport, ordinal))
            .filter(|word| PortState::at(word.load(), now) == PortState::Free)
            .count()
    }

    fn port_at(&self, ordinal: u32) -> Option<Port> {
        self.inner.config()?.port_set.port(ordinal)
    }

    fn facts_of(&self, draft: Draft) -> Option<Facts> {
        Some(self.inner.session(draft.reference().slot)?.facts())
    }

    /// What a part came to.
    fn tell_part(&self, part: Part, draft: Draft, free: usize, done: Done) {
        let Some(facts) = self.facts_of(draft) else { return };
        let looks = self.looks.get();
        let ports = self.inner.config().map_or(0, |config| config.ports);
        match part {
            Part::FindUsable if done.0 == allocate::UNCLEAR => {}
            Part::FindUsable | Part::FindUnclear => {
                let found = match self.port_at(done.0) {
                    Some(found) if done.0 != NONE => format!("took {}, one of them by chance", found.0),
                    _ => "none can be shared".to_owned(),
                };
                self.say(format!(
                    "looked at {} of {ports} ports for one that has no session with {}: {found}",
                    looks.cells,
                    remote(&facts)
                ));
            }
            Part::FindOver => {
                let found = match self.port_at(done.0) {
                    Some(found) if done.0 != NONE => format!("the one on port {} is", found.0),
                    _ => "none is".to_owned(),
                };
                self.say(format!(
                    "looked at {} sessions with {} for one that is over in all but name: {found}",
                    looks.entries,
                    remote(&facts)
                ));
            }
            Part::Map if done.result().is_ok() => {
                let taken = facts.external_port;
                let how = if taken == facts.inside_port {
                    "its own number is in the port set and free".to_owned()
                } else {
                    format!("by chance, one of {free} free ports: another packet gets another one")
                };
                self.say(format!(
                    "the endpoint {}:{} gets port {} for itself ({how})",
                    Ipv4Addr::from(facts.inside),
                    facts.inside_port.0,
                    taken.0
                ));
            }
            Part::Map => self.say(format!(
                "no port can be had for the endpoint alone: {free} of {ports} are free, or the host's quota of ports is used up"
            )),
            Part::Share if done.result().is_ok() => {
                let taken = facts.external_port;
                let how = if taken == facts.inside_port {
                    ", its own number"
                } else {
                    ""
                };
                self.say(format!("shares port {}{how}: no other session there is with {}", taken.0, remote(&facts)));
            }
            Part::Share => self.say(format!("no port of {ports} can be shared towards {}", remote(&facts))),
            Part::EndOver | Part::Claim | Part::EnterOutside | Part::EnterInside | Part::Finish => {}
        }
    }
}

/// A record's three ends.
fn ends(facts: &Facts) -> String {
    let inside = endpoint(facts.inside, facts.inside_port);
    let external = endpoint(facts.external, facts.external_port);
    let name = facts.transport.name();
    match facts.hold {
        Hold::Mapping => format!("mapping {name} {inside} = {external}"),
        Hold::Member | Hold::Overlap => format!("session {name} {inside} = {external} with {}", remote(facts)),
    }
}

fn endpoint(address: [u8; 4], port: Port) -> String {
    format!("{}:{}", Ipv4Addr::from(address), port.0)
}

/// The remote end, without a port where it has none.
fn remote(facts: &Facts) -> String {
    if facts.transport == Transport::Icmp {
        Ipv4Addr::from(facts.remote).to_string()
    } else {
        endpoint(facts.remote, facts.remote_port)
    }
}

fn key_text(side: Side, key: &FlowKey) -> String {
    let table = match side {
        Side::Inside => "INSIDE",
        Side::Outside => "OUTSIDE",
    };
    let transport = u8::try_from(key.protocol).ok().and_then(Transport::from_protocol);
    let name = transport.map_or("?", Transport::name);
    let local = endpoint(key.local, Port::from_bytes(key.local_port));
    if key.remote == [0; 4] {
        format!("{table}: mapping of {name} {local}")
    } else if transport == Some(Transport::Icmp) {
        format!("{table}: {name} {local} with {}", Ipv4Addr::from(key.remote))
    } else {
        format!(
            "{table}: {name} {local} with {}",
            endpoint(key.remote, Port::from_bytes(key.remote_port))
        )
    }
}

impl<E: Env> Rules for Observer<E> {
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef> {
        let found = self.inner.rule_by_ipv4(address);
        let is_relay = self.inner.config().is_some_and(is_border_relay);
        let address = Ipv4Addr::from(address);
        match found.and_then(|found| Some((found, self.inner.rule(found.rule)?))) {
            Some((found, rule)) => self.say(format!(
                "rules: {address} is in rule {} ({}/{})",
                found.rule,
                Ipv4Addr::from(rule.ipv4()),
                rule.ipv4_len()
            )),
            None if is_relay => self.say(format!("rules: no rule holds {address}: it is not of the domain")),
            None => self.say(format!(
                "rules: no forwarding rule holds {address}: by the border relay"
            )),
        }
        found
    }

    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef> {
        let found = self.inner.rule_by_ipv6(address);
        let address = Ipv6Addr::from(address);
        match found.and_then(|found| Some((found, self.inner.rule(found.rule)?))) {
            Some((found, rule)) => self.say(format!(
                "rules: the outer source {address} is in rule {} ({}/{}); the inner source must be what that gives it",
                found.rule,
                Ipv6Addr::from(rule.ipv6()),
                rule.ipv6_len()
            )),
            None => self.say(format!("rules: no rule holds the outer source {address}")),
        }
        found
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.inner.rule(index)
    }
}

impl<E: Env> Env for Observer<E> {
    fn config(&self) -> Option<&Config> {
        self.inner.config()
    }

    fn is_gate_open(&self) -> bool {
        let open = self.inner.is_gate_open();
        if !open {
            self.say("the gate is closed: forwarding is switched off");
        }
        open
    }

    fn now(&self) -> Tick {
        self.inner.now()
    }

    fn random(&self) -> u32 {
        self.inner.random()
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.inner.link(ifindex)
    }

    fn hop(&self, index: u16) -> Option<&NextHop> {
        let hop = self.inner.hop(index)?;
        if u32::from(index) < STATIC_HOPS {
            match hop.get(NextHop::FAR_END) {
                Some(found) => {
                    let path = hop
                        .path_mtu(self.inner.now())
                        .map_or_else(String::new, |mtu| format!(", learned path MTU {mtu}"));
                    self.say(format!(
                        "next hop {index} towards the far end: {} on {}, MTU {}{path}",
                        Self::mac(found.destination),
                        self.name(found.ifindex),
                        found.mtu
                    ));
                }
                None => self.say(format!("next hop {index} towards the far end: not known")),
            }
        }
        Some(hop)
    }

    fn route(&self, ifindex: u32, source: [u8; 4], destination: [u8; 4]) -> Route {
        let route = self.inner.route(ifindex, source, destination);
        let tunnel = self.inner.config().map_or(0, |config| config.tunnel_ifindex);
        let to = Ipv4Addr::from(destination);
        let way = match route {
            Route::Resolved(hop) => format!("{}, neighbour {}", self.name(hop.ifindex), Self::mac(hop.destination)),
            Route::Unresolved { ifindex } if ifindex == tunnel => {
                format!("{}, which is the tunnel", self.name(ifindex))
            }
            Route::Unresolved { ifindex } => {
                format!(
                    "{}, whose neighbour there is not in the kernel's table",
                    self.name(ifindex)
                )
            }
            Route::Other => "nowhere by a NIC (this machine itself, or no route)".to_owned(),
        };
        let asked = if ifindex == tunnel { "the way back to " } else { "" };
        self.say(format!("routing table: {asked}{to} goes to {way}"));
        route
    }

    fn route6(&self, ifindex: u32, source: &[u8; 16], destination: &[u8; 16]) -> Route {
        let route = self.inner.route6(ifindex, source, destination);
        let to = Ipv6Addr::from(*destination);
        let way = match route {
            Route::Resolved(hop) => format!(
                "{}, neighbour {}, MTU {}",
                self.name(hop.ifindex),
                Self::mac(hop.destination),
                hop.mtu
            ),
            Route::Unresolved { ifindex } => {
                format!(
                    "{}, whose neighbour there is not in the kernel's table",
                    self.name(ifindex)
                )
            }
            Route::Other => {
                "nowhere by a NIC (this machine itself, no route, or the kernel does not forward IPv6)".to_owned()
            }
        };
        self.say(format!("routing table: {to} goes to {way}"));
        route
    }

    fn native(&self, index: u32) -> Option<&Word> {
        let word = self.inner.native(index)?;
        if index == Lease::INDEX {
            let is_on = Lease(word.load()).is_on(self.inner.now());
            self.say(format!(
                "forwarding of native IPv6 is switched {}",
                if is_on { "on" } else { "off" }
            ));
        }
        Some(word)
    }

    fn bucket(&self, side: Side, index: u32) -> Option<&Bucket> {
        self.inner.bucket(side, index)
    }

    fn glance(&self, config: &Config, side: Side, key: &FlowKey) -> Option<(SessionRef, State, Facts)> {
        let found = self.inner.glance(config, side, key);
        self.say_found(side, key, found.map(|(reference, _, _)| reference));
        found
    }

    fn find(&self, side: Side, key: &FlowKey) -> Option<SessionRef> {
        let found = self.inner.find(side, key);
        self.say_found(side, key, found);
        found
    }

    fn insert(&self, side: Side, slot: u32) -> Result<(), InsertError> {
        let outcome = self.inner.insert(side, slot);
        let Some(record) = self.inner.session(slot) else {
            return outcome;
        };
        match outcome {
            Ok(()) if side == Side::Inside => self.story.borrow_mut().make(slot, ends(&record.facts())),
            Ok(()) => {}
            Err(InsertError::Exists) => self.say(format!(
                "{}: taken by another session",
                key_text(side, &record.key(side))
            )),
            Err(InsertError::Full) => self.say(format!("{}: no room", key_text(side, &record.key(side)))),
        }
        outcome
    }

    fn remove(&self, side: Side, slot: u32) {
        if side == Side::Inside {
            self.story.borrow_mut().unmake(slot);
        }
        self.inner.remove(side, slot);
    }

    fn session(&self, slot: u32) -> Option<&Session> {
        self.inner.session(slot)
    }

    fn take_slot(&self) -> Option<u32> {
        let slot = self.inner.take_slot();
        if slot.is_none() {
            self.say("the session table is full: no record is free");
        }
        slot
    }

    fn give_slot(&self, slot: u32) {
        self.inner.give_slot(slot);
    }

    fn port(&self, transport: Transport, ordinal: u32) -> Option<&Word> {
        self.look(|looks| looks.ports = looks.ports.saturating_add(1));
        self.inner.port(transport, ordinal)
    }

    fn overlap(&self, cell: u32) -> Option<&Word> {
        self.look(|looks| looks.cells = looks.cells.saturating_add(1));
        self.inner.overlap(cell)
    }

    fn fragment(&self, index: u32) -> Option<&fragment::Record> {
        self.inner.fragment(index)
    }

    fn refusal(&self, index: u32) -> Option<&Word> {
        self.inner.refusal(index)
    }

    fn permission(&self, key: &PermissionKey) -> Option<Tick> {
        let then = self.inner.permission(key);
        let remote = Ipv4Addr::from(key.remote);
        match then {
            Some(then) => self.say(format!(
                "permissions: {remote} was last sent to by this mapping {} s ago",
                self.seconds_ago(then)
            )),
            None => self.say(format!("permissions: this mapping has not sent to {remote}")),
        }
        then
    }

    fn permit(&self, key: &PermissionKey, now: Tick) -> Noted {
        let noted = self.inner.permit(key, now);
        let remote = Ipv4Addr::from(key.remote);
        match noted {
            Noted::Anew => self
                .story
                .borrow_mut()
                .make(NONE, format!("permission for {remote} to send to that mapping")),
            Noted::Again => {}
            Noted::NoRoom => self.say(format!("permissions: no room to note {remote}")),
        }
        noted
    }

    fn forbid(&self, key: &PermissionKey) -> bool {
        self.inner.forbid(key)
    }

    fn host_use(&self, place: u32) -> Option<&HostUse> {
        let used = self.inner.host_use(place);
        if let (Some(used), Some(config)) = (used, self.inner.config())
            && config.host_sessions != 0
        {
            self.say(format!(
                "quota: the LAN host has {} of at most {} sessions",
                used.sessions().load(),
                config.host_sessions
            ));
        }
        used
    }

    fn part(&self, part: Part, draft: Draft) -> Done {
        let (was_quiet, looks) = (self.quiet.replace(false), self.looks.take());
        // Before, for afterwards one is taken.
        let free = match (part, self.facts_of(draft)) {
            (Part::Map, Some(facts)) => self.free_ports(facts.transport),
            _ => 0,
        };
        let done = part.run(self, draft);
        self.tell_part(part, draft, free, done);
        self.quiet.set(was_quiet);
        self.looks.set(looks);
        done
    }

    fn end(&self, slot: u32, state: State, ending: Ending) -> bool {
        let facts = self.inner.session(slot).map(Session::facts);
        let ended = table::end(self, slot, state, ending);
        if let (true, Some(facts)) = (ended, facts) {
            self.story
                .borrow_mut()
                .end(format!("{} ({})", ends(&facts), state.phase.name()));
        }
        ended
    }

    fn gauge(&self, gauge: Gauge) -> Option<&Word> {
        self.inner.gauge(gauge)
    }

    fn search<S: Search>(&self, steps: u32, search: &mut S) {
        let was_quiet = self.quiet.replace(true);
        self.inner.search(steps, search);
        self.quiet.set(was_quiet);
    }
}
