//! State in host memory: what the maps are to the programs, this is to tests, fuzzers and explanations.

mod whole;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use crate::{
    env::{Env, Noted, Route, Rules, Search, Side},
    hop::{Hop, Link, Mac, NextHop},
    layout::{
        Config, FRAGMENTS, Gauge, HostUse, LAN_HOSTS, NATIVE_WORDS, NEXT_HOPS, OVERLAP_CELLS, PermissionKey, REFUSALS,
        RuleRef, Timeouts, Transport,
    },
    map::{psid::PortSet, rule::Rule},
    nat::{
        fragment,
        index::{self, Bucket},
        session::Session,
    },
    time::Tick,
    wire::port::Port,
    word::Word,
};

/// A gateway's state. Time, routes and chance are the test's to set.
pub struct HostEnv {
    /// What the gateway is; none = not configured.
    pub config: Option<Config>,
    /// Whether forwarding is switched on.
    pub gate: Cell<bool>,
    /// The clock.
    pub now: Cell<Tick>,
    /// NICs by interface index.
    pub links: Vec<Link>,
    /// Rules.
    pub rules: Vec<Rule>,
    /// IPv4 prefix, length, rule: for forwarding.
    pub rules_v4: Vec<([u8; 4], u8, RuleRef)>,
    /// IPv6 prefix, length, rule: for checking sources.
    pub rules_v6: Vec<([u8; 16], u8, RuleRef)>,
    /// Destination prefix, length, route; the longest counts.
    pub routes: RefCell<Vec<([u8; 4], u8, Route)>>,
    /// The same of IPv6.
    pub routes6: RefCell<Vec<([u8; 16], u8, Route)>>,
    /// Records.
    pub sessions: Vec<Session>,
    hops: Vec<NextHop>,
    flows: Vec<Bucket>,
    free: RefCell<Vec<u32>>,
    ports: Vec<Word>,
    overlap: Vec<Word>,
    refused: Vec<Word>,
    fragments: Vec<fragment::Record>,
    permissions: RefCell<HashMap<PermissionKey, Tick>>,
    host_uses: Vec<HostUse>,
    gauges: Vec<Word>,
    native: Vec<Word>,
    random: Cell<u64>,
    led: Cell<Option<Led>>,
}

/// What the tunnel device was told of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The far end.
    pub far_end: [u8; 16],
    /// The outer traffic class.
    pub traffic_class: u8,
    /// The flow label.
    pub label: u32,
}

/// Whether the first `len` bits are the prefix's.
fn starts_with(address: &[u8], prefix: &[u8], len: u8) -> bool {
    let len = usize::from(len);
    address.iter().zip(prefix).enumerate().all(|(i, (a, p))| {
        let bits = len.saturating_sub(i.saturating_mul(8)).min(8);
        let mask = u8::try_from(0xff00_u16 >> bits & 0xff).unwrap_or(0);
        (a ^ p) & mask == 0
    })
}

fn percent(of: u32, percent: u32) -> u32 {
    of.saturating_mul(percent).checked_div(100).unwrap_or(0)
}

fn words(count: u32) -> Vec<Word> {
    (0..count).map(|_| Word::new(0)).collect()
}

/// Cells of the overlap table that the configuration leads to: a row of ports for every number that the mask lets through.
fn overlap_cells(config: &Config) -> u32 {
    let rows = config.overlap_row_mask.saturating_add(1);
    rows.saturating_mul(config.ports).min(OVERLAP_CELLS)
}

impl HostEnv {
    /// A configured gateway with its gate open and `config.sessions` free records.
    pub fn new(config: Config) -> Self {
        let mut hops = Vec::new();
        hops.resize_with(usize::try_from(NEXT_HOPS).unwrap_or(0), NextHop::default);
        let mut sessions = Vec::new();
        sessions.resize_with(usize::try_from(config.sessions).unwrap_or(0), Session::default);
        Self {
            gate: Cell::new(true),
            now: Cell::new(Tick(1_000)),
            links: Vec::new(),
            rules: Vec::new(),
            rules_v4: Vec::new(),
            rules_v6: Vec::new(),
            routes: RefCell::default(),
            routes6: RefCell::default(),
            sessions,
            hops,
            flows: (0..index::buckets_of_both(config.sessions))
                .map(|_| Bucket::default())
                .collect(),
            free: RefCell::new((0..config.sessions).rev().collect()),
            ports: words(config.ports.saturating_mul(3)),
            overlap: words(overlap_cells(&config)),
            refused: words(REFUSALS),
            fragments: (0..FRAGMENTS).map(|_| fragment::Record::default()).collect(),
            permissions: RefCell::default(),
            host_uses: (0..LAN_HOSTS).map(|_| HostUse::default()).collect(),
            gauges: words(Gauge::COUNT),
            native: words(NATIVE_WORDS),
            random: Cell::new(0x1234_5678_9abc_def1),
            led: Cell::new(None),
            config: Some(config),
        }
    }

    /// What the tunnel device has been told since this was last asked.
    pub fn take_led(&self) -> Option<Led> {
        self.led.take()
    }

    /// A customer edge's configuration with the RFCs' timeouts and the project's policy.
    pub fn customer_edge(
        tunnel: [u8; 16],
        relay: [u8; 16],
        external: [u8; 4],
        port_set: PortSet,
        sessions: u32,
    ) -> Config {
        let ports = port_set.len();
        let system = (0..ports)
            .take_while(|o| port_set.port(*o).is_some_and(|p| p.0 < 1024))
            .count();
        let system = u32::try_from(system).unwrap_or(0);
        Config {
            tunnel_address: tunnel,
            relay_address: relay,
            hash_key: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            flow_keys: [0x1357_9bdf_0246_8ace, 0x8ace_0246_9bdf_1357, 0x9e37_79b9_7f4a_7c15],
            timeouts: Timeouts::DEFAULT,
            pressed: Timeouts::PRESSED,
            external_address: external,
            external_mask: u32::MAX,
            tunnel_ifindex: 100,
            ports,
            first_dynamic: if system < ports { system } else { 0 },
            overlap_row_mask: Config::overlap_rows(ports).saturating_sub(1),
            overlap_ports: [
                Port(53),
                Port(123),
                Port(443),
                Port(0),
                Port(0),
                Port(0),
                Port(0),
                Port(0),
            ],
            port_set,
            tunnel_mtu: 1460,
            mss: 1420,
            flags: Config::mapping(Transport::Udp) | Config::mapping(Transport::Icmp) | Config::COPY_DSCP,
            sessions,
            flow_shift: Config::flow_shift(sessions),
            sessions_high: percent(sessions, 80),
            ports_high: percent(ports, 80),
            host_sessions: 0,
            host_ports: 0,
            mapping_permissions: 1_024,
            quarantine: Tick::at_least_seconds(120),
            fragment_timeout: Tick::at_least_seconds(30),
        }
    }

    /// Sets the next hop towards a far end of the tunnel.
    ///
    /// # Panics
    /// Where there is no such index.
    pub fn set_far_hop(&self, index: u16, hop: &Hop) {
        let record = self
            .hops
            .get(usize::from(index))
            .unwrap_or_else(|| unreachable!("index of a static hop"));
        assert!(
            record.assign(NextHop::FAR_END, hop, self.now.get()),
            "nobody else writes"
        );
    }

    /// Adds a NIC with a program that runs; its index is given.
    pub fn add_link(&mut self, mac: Mac, mtu: u16) -> u32 {
        self.add_link_with(mac, mtu, [0; 4])
    }

    /// The same for one that has an address.
    pub fn add_link_with(&mut self, mac: Mac, mtu: u16, address: [u8; 4]) -> u32 {
        if self.links.is_empty() {
            self.links.push(Link::default());
        }
        let [first, _] = Link::words(mac, mtu);
        let link = Link::from_words([first, Link::with_address(0, address)]);
        link.set_alive();
        self.links.push(link);
        u32::try_from(self.links.len()).unwrap_or(0).saturating_sub(1)
    }

    /// Lets time pass.
    pub fn pass_seconds(&self, seconds: u32) {
        self.now
            .set(Tick(self.now.get().0.saturating_add(Tick::at_least_seconds(seconds).0)));
    }

    /// What a gauge shows.
    pub fn read(&self, gauge: Gauge) -> u64 {
        self.gauge(gauge).map_or(0, Word::load)
    }

    /// Records that are alive.
    pub fn live(&self) -> usize {
        self.sessions.iter().filter(|s| s.state().phase.is_live()).count()
    }

    /// Who may send to which mapping, and since when; a mapping may have ended since.
    pub fn permissions(&self) -> Vec<(PermissionKey, Tick)> {
        self.permissions
            .borrow()
            .iter()
            .map(|(key, tick)| (*key, *tick))
            .collect()
    }
}

impl Rules for HostEnv {
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef> {
        let matching = self
            .rules_v4
            .iter()
            .filter(|(prefix, len, _)| starts_with(&address, prefix, *len));
        matching.max_by_key(|(_, len, _)| *len).map(|(_, _, found)| *found)
    }

    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef> {
        let matching = self
            .rules_v6
            .iter()
            .filter(|(prefix, len, _)| starts_with(&address, prefix, *len));
        matching.max_by_key(|(_, len, _)| *len).map(|(_, _, found)| *found)
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(index).ok()?)
    }
}

impl Env for HostEnv {
    fn lead(&self, far_end: &[u8; 16], traffic_class: u8, label: u32) -> bool {
        self.led.set(Some(Led {
            far_end: *far_end,
            traffic_class,
            label,
        }));
        true
    }

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn is_gate_open(&self) -> bool {
        self.gate.get()
    }

    fn now(&self) -> Tick {
        self.now.get()
    }

    fn random(&self) -> u32 {
        // xorshift: chance that a test can repeat
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        u32::try_from(x >> 32).unwrap_or(0)
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(usize::try_from(ifindex).ok()?)
    }

    fn hop(&self, index: u16) -> Option<&NextHop> {
        self.hops.get(usize::from(index))
    }

    fn route(&self, _: u32, _: [u8; 4], destination: [u8; 4]) -> Route {
        let routes = self.routes.borrow();
        let matching = routes
            .iter()
            .filter(|(prefix, len, _)| starts_with(&destination, prefix, *len));
        matching
            .max_by_key(|(_, len, _)| *len)
            .map_or(Route::Other, |(_, _, route)| *route)
    }

    fn route6(&self, _: u32, _: &[u8; 16], destination: &[u8; 16]) -> Route {
        let routes = self.routes6.borrow();
        let matching = routes
            .iter()
            .filter(|(prefix, len, _)| starts_with(destination, prefix, *len));
        matching
            .max_by_key(|(_, len, _)| *len)
            .map_or(Route::Other, |(_, _, route)| *route)
    }

    fn native(&self, index: u32) -> Option<&Word> {
        self.native.get(usize::try_from(index).ok()?)
    }

    fn bucket(&self, side: Side, index: u32) -> Option<&Bucket> {
        self.flows.get(usize::try_from(index::number(side, index)).ok()?)
    }

    fn session(&self, slot: u32) -> Option<&Session> {
        self.sessions.get(usize::try_from(slot).ok()?)
    }

    fn take_slot(&self) -> Option<u32> {
        self.free.borrow_mut().pop()
    }

    fn give_slot(&self, slot: u32) {
        self.free.borrow_mut().push(slot);
    }

    fn port(&self, transport: Transport, ordinal: u32) -> Option<&Word> {
        let ports = self.config?.ports;
        self.ports
            .get(usize::try_from(transport.index().saturating_mul(ports).saturating_add(ordinal)).ok()?)
    }

    fn overlap(&self, cell: u32) -> Option<&Word> {
        self.overlap.get(usize::try_from(cell).ok()?)
    }

    fn refusal(&self, index: u32) -> Option<&Word> {
        self.refused.get(usize::try_from(index).ok()?)
    }

    fn fragment(&self, index: u32) -> Option<&fragment::Record> {
        self.fragments.get(usize::try_from(index).ok()?)
    }

    fn permission(&self, key: &PermissionKey) -> Option<Tick> {
        self.permissions.borrow().get(key).copied()
    }

    fn permit(&self, key: &PermissionKey, now: Tick) -> Noted {
        match self.permissions.borrow_mut().insert(*key, now) {
            Some(_) => Noted::Again,
            None => Noted::Anew,
        }
    }

    fn forbid(&self, key: &PermissionKey) -> bool {
        self.permissions.borrow_mut().remove(key).is_some()
    }

    fn host_use(&self, place: u32) -> Option<&HostUse> {
        self.host_uses.get(usize::try_from(place).ok()?)
    }

    fn gauge(&self, gauge: Gauge) -> Option<&Word> {
        self.gauges.get(usize::try_from(gauge.index()).ok()?)
    }

    fn search<S: Search>(&self, steps: u32, search: &mut S) {
        for index in 0..steps {
            if !search.step(index) {
                break;
            }
        }
    }
}
