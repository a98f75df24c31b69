//! A small gateway whose shared memory is the model checker's, and packets that are given to it by several processors.

mod whole;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use loom::sync::Mutex;
use mape_common::{
    env::{Env, Noted, Route, Rules, Search, Side},
    hop::{Hop, Link, Mac, NextHop},
    host::HostEnv,
    layout::{Config, FlowKey, Gauge, HostUse, PermissionKey, RuleRef, SessionRef, SweepOrder, Transport},
    map::{psid::PortSet, rule::Rule},
    nat::{
        fragment,
        index::{self, Bucket},
        session::{Facts, Session, State},
        sweep::Sweep,
    },
    packet::VecPacket,
    step::edge,
    time::Tick,
    verdict::{Direction, Failure, Reason, Verdict},
    wire::port::Port,
    word::Word,
};

pub(crate) const HOST: [u8; 4] = [192, 168, 10, 10];
pub(crate) const OTHER_HOST: [u8; 4] = [192, 168, 10, 11];
pub(crate) const SERVER: [u8; 4] = [198, 51, 100, 7];
pub(crate) const OTHER_SERVER: [u8; 4] = [198, 51, 100, 8];
const SHARED: [u8; 4] = [192, 0, 2, 18];
const TUNNEL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const RELAY: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const LAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const WAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const HOST_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);
const LAN_INDEX: u32 = 1;
const WAN_INDEX: u32 = 2;
const TUNNEL_INDEX: u32 = 100;

/// TCP's control bits.
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN_ACK: u8 = 1 | ACK;

/// The first port of the set.
pub(crate) const FIRST: u16 = 1232;
/// The time at which every test begins.
pub(crate) const START: Tick = Tick(1_000);

fn words(count: usize) -> Vec<Word> {
    (0..count).map(|_| Word::new(0)).collect()
}

/// The state that all processors share.
pub(crate) struct Gateway {
    config: Config,
    links: Vec<Link>,
    hops: Vec<NextHop>,
    sessions: Vec<Session>,
    flows: Vec<Bucket>,
    free: Mutex<Vec<u32>>,
    ports: Vec<Word>,
    overlap: Vec<Word>,
    pub(crate) fragments: Vec<fragment::Record>,
    permissions: Mutex<Vec<(PermissionKey, Tick)>>,
    uses: Vec<HostUse>,
    /// Not the model checker's: nothing is decided by a gauge, and sums do not depend on the order of the summands.
    gauges: Vec<AtomicU64>,
}

/// A processor that has read the clock.
#[derive(Clone)]
pub(crate) struct Processor {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) now: Tick,
}

/// A flow as a test names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) transport: Transport,
    pub(crate) host: [u8; 4],
    pub(crate) port: u16,
    pub(crate) remote: [u8; 4],
    pub(crate) remote_port: u16,
}

impl Ends {
    pub(crate) const fn tcp(host: [u8; 4], port: u16) -> Self {
        Self {
            transport: Transport::Tcp,
            host,
            port,
            remote: SERVER,
            remote_port: 443,
        }
    }

    /// The flow's key in INSIDE.
    pub(crate) const fn inside_key(&self) -> FlowKey {
        FlowKey::new(
            self.transport,
            self.host,
            Port(self.port),
            self.remote,
            Port(self.remote_port),
        )
    }

    pub(crate) const fn udp(host: [u8; 4], port: u16, remote_port: u16) -> Self {
        Self {
            transport: Transport::Udp,
            host,
            port,
            remote: SERVER,
            remote_port,
        }
    }
}

impl Gateway {
    /// A gateway with so many ports for each protocol and so many records.
    pub(crate) fn new(ports: u32, sessions: u32) -> Arc<Self> {
        Self::with(ports, sessions, |_| {})
    }

    /// The same with a configuration of the test's.
    pub(crate) fn with(ports: u32, sessions: u32, change: impl FnOnce(&mut Config)) -> Arc<Self> {
        let set = PortSet::new(6, 8, 0x34).unwrap();
        let mut config = Config {
            tunnel_ifindex: TUNNEL_INDEX,
            ports,
            first_dynamic: 0,
            overlap_row_mask: 0,
            ..HostEnv::customer_edge(TUNNEL, RELAY, SHARED, set, sessions)
        };
        change(&mut config);
        let link = |mac| {
            let [first, _] = Link::words(mac, 1500);
            Link::from_words([first, Link::ATTACHED | Link::ALIVE])
        };
        let router = Hop {
            ifindex: WAN_INDEX,
            mtu: 1500,
            destination: ROUTER_MAC,
            source: WAN_MAC,
        };
        let mut hops = vec![NextHop::from_words(NextHop::words(NextHop::FAR_END, &router, START))];
        hops.resize_with(4, NextHop::default);
        let slots = usize::try_from(sessions).unwrap();
        let cells = usize::try_from(ports).unwrap();
        let mut records = Vec::new();
        records.resize_with(slots, Session::default);
        Arc::new(Self {
            config,
            links: vec![Link::default(), link(LAN_MAC), link(WAN_MAC)],
            hops,
            sessions: records,
            flows: (0..index::buckets_of_both(sessions))
                .map(|_| Bucket::default())
                .collect(),
            free: Mutex::new((0..sessions).rev().collect()),
            ports: words(3 * cells),
            overlap: words(cells),
            fragments: (0..8).map(|_| fragment::Record::default()).collect(),
            permissions: Mutex::new(Vec::new()),
            uses: (0..2).map(|_| HostUse::default()).collect(),
            gauges: (0..Gauge::COUNT).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// What a gauge shows.
    pub(crate) fn read(&self, gauge: Gauge) -> u64 {
        self.gauges[usize::try_from(gauge.index()).unwrap()].load(SeqCst)
    }

    /// Live records with their facts.
    pub(crate) fn live(&self) -> Vec<(SessionRef, State, Facts)> {
        let live = |(slot, record): (u32, &Session)| {
            let state = record.state();
            let reference = SessionRef {
                slot,
                generation: state.generation,
            };
            state.phase.is_live().then(|| (reference, state, record.facts()))
        };
        (0..).zip(&self.sessions).filter_map(live).collect()
    }
}

impl Processor {
    /// One that has read the clock at the start.
    pub(crate) fn new(gateway: &Arc<Gateway>) -> Self {
        Self::at(gateway, START)
    }

    /// One that has read the clock at `now`, when the router has just been heard of.
    pub(crate) fn at(gateway: &Arc<Gateway>, now: Tick) -> Self {
        if let Some(router) = gateway.hops.first() {
            router.confirm(now);
        }
        Self {
            gateway: Arc::clone(gateway),
            now,
        }
    }

    /// A LAN host's packet; the external port that it leaves by, or why it does not.
    pub(crate) fn send(&self, ends: Ends, flags: u8) -> Result<u16, Reason> {
        let mut frame = VecPacket(frame(
            LAN_MAC,
            HOST_MAC,
            None,
            ends.transport,
            (ends.host, ends.port),
            (ends.remote, ends.remote_port),
            flags,
        ));
        forwarded(edge::all(&mut frame, self, LAN_INDEX, Direction::Outbound))?;
        // Ethernet and IPv6 stand before the IPv4 header.
        assert_eq!(&frame.0[66..70], SHARED, "it leaves from the shared address");
        Ok(port_at(&frame.0, 74))
    }

    /// The server's packet to an external port; the LAN host and port that it reaches.
    pub(crate) fn answer(&self, external: u16, ends: Ends, flags: u8) -> Result<([u8; 4], u16), Reason> {
        let outer = Some((RELAY, TUNNEL));
        let mut frame = VecPacket(frame(
            WAN_MAC,
            ROUTER_MAC,
            outer,
            ends.transport,
            (ends.remote, ends.remote_port),
            (SHARED, external),
            flags,
        ));
        forwarded(edge::all(&mut frame, self, WAN_INDEX, Direction::Inbound))?;
        let [a, b, c, d] = frame.0[30..34] else { panic!("short") };
        Ok(([a, b, c, d], port_at(&frame.0, 36)))
    }

    /// A pass of the sweeper over the whole table.
    pub(crate) fn sweep(&self) -> u32 {
        self.sweep_for(None)
    }

    /// Ends every session.
    pub(crate) fn flush(&self) -> u32 {
        self.sweep_for(Some(&SweepOrder {
            flush: 1,
            ..SweepOrder::default()
        }))
    }

    fn sweep_for(&self, order: Option<&SweepOrder>) -> u32 {
        let mut sweep = Sweep {
            env: self,
            config: &self.gateway.config,
            order,
            first: 0,
            now: self.now,
            ended: 0,
        };
        for index in 0..self.gateway.config.sessions {
            sweep.step(index);
        }
        sweep.ended
    }
}

fn forwarded(outcome: Result<Verdict, Failure>) -> Result<(), Reason> {
    match outcome {
        Ok(Verdict::Forward { .. }) => Ok(()),
        Ok(Verdict::Answer(reason)) => Err(reason),
        Ok(Verdict::Deliver | Verdict::Native { .. }) => panic!("nothing is delivered here"),
        Err(failure) => Err(failure.reason()),
    }
}

fn port_at(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// A packet without data, its checksums left out: what is asked here is whose it is.
fn frame(
    to_mac: Mac,
    from_mac: Mac,
    outer: Option<([u8; 16], [u8; 16])>,
    transport: Transport,
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    flags: u8,
) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    match transport {
        Transport::Tcp => body.extend([0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, flags, 0, 9, 0, 0, 0, 0]),
        Transport::Udp => body.extend([0, 8, 0, 0]),
        Transport::Icmp => unreachable!("no test here sends echoes"),
    }
    let len = u8::try_from(20 + body.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(to_mac.0);
    bytes.extend(from_mac.0);
    if let Some((source, destination)) = outer {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, len, 4, 60]);
        bytes.extend(source);
        bytes.extend(destination);
    } else {
        bytes.extend([8, 0]);
    }
    bytes.extend([0x45, 0, 0, len, 0, 0, 0x40, 0, 64, transport.protocol(), 0, 0]);
    bytes.extend(from.0);
    bytes.extend(to.0);
    bytes.extend(body);
    bytes
}

impl Rules for Processor {
    fn rule_by_ipv4(&self, _: [u8; 4]) -> Option<RuleRef> {
        None
    }

    fn rule_by_ipv6(&self, _: [u8; 16]) -> Option<RuleRef> {
        None
    }

    fn rule(&self, _: u32) -> Option<&Rule> {
        None
    }
}

impl Env for Processor {
    fn config(&self) -> Option<&Config> {
        Some(&self.gateway.config)
    }

    fn is_gate_open(&self) -> bool {
        true
    }

    fn now(&self) -> Tick {
        self.now
    }

    /// The same everywhere: all processors look at the same port first.
    fn random(&self) -> u32 {
        0
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.gateway.links.get(usize::try_from(ifindex).unwrap())
    }

    /// Three records for all LAN hosts are enough, whatever their addresses' hashes.
    fn hop(&self, index: u16) -> Option<&NextHop> {
        let index = if index == 0 { 0 } else { 1 + index % 3 };
        self.gateway.hops.get(usize::from(index))
    }

    fn route(&self, _: u32, _: [u8; 4], destination: [u8; 4]) -> Route {
        if destination.starts_with(&[192, 168, 10]) {
            Route::Resolved(Hop {
                ifindex: LAN_INDEX,
                mtu: 1500,
                destination: HOST_MAC,
                source: LAN_MAC,
            })
        } else {
            Route::Unresolved { ifindex: TUNNEL_INDEX }
        }
    }

    fn bucket(&self, side: Side, index: u32) -> Option<&Bucket> {
        self.gateway
            .flows
            .get(usize::try_from(index::number(side, index)).unwrap())
    }

    fn session(&self, slot: u32) -> Option<&Session> {
        self.gateway.sessions.get(usize::try_from(slot).unwrap())
    }

    fn take_slot(&self) -> Option<u32> {
        self.gateway.free.lock().unwrap().pop()
    }

    fn give_slot(&self, slot: u32) {
        self.gateway.free.lock().unwrap().push(slot);
    }

    fn port(&self, transport: Transport, ordinal: u32) -> Option<&Word> {
        let ports = self.gateway.config.ports;
        let index = usize::try_from(transport.index() * ports + ordinal).unwrap();
        self.gateway.ports.get(index).filter(|_| ordinal < ports)
    }

    fn overlap(&self, cell: u32) -> Option<&Word> {
        self.gateway.overlap.get(usize::try_from(cell).unwrap())
    }

    fn refusal(&self, _: u32) -> Option<&Word> {
        None
    }

    fn fragment(&self, index: u32) -> Option<&fragment::Record> {
        // One set is enough, whatever the hash.
        self.gateway.fragments.get(usize::try_from(index).unwrap() % 8)
    }

    fn permission(&self, key: &PermissionKey) -> Option<Tick> {
        let permissions = self.gateway.permissions.lock().unwrap();
        permissions.iter().find(|(k, _)| k == key).map(|(_, tick)| *tick)
    }

    fn permit(&self, key: &PermissionKey, now: Tick) -> Noted {
        let mut permissions = self.gateway.permissions.lock().unwrap();
        let before = permissions.len();
        permissions.retain(|(k, _)| k != key);
        permissions.push((*key, now));
        if permissions.len() == before {
            Noted::Again
        } else {
            Noted::Anew
        }
    }

    fn forbid(&self, key: &PermissionKey) -> bool {
        let mut permissions = self.gateway.permissions.lock().unwrap();
        let before = permissions.len();
        permissions.retain(|(k, _)| k != key);
        permissions.len() != before
    }

    /// Two places are enough for two hosts.
    fn host_use(&self, place: u32) -> Option<&HostUse> {
        self.gateway.uses.get(usize::try_from(place % 2).unwrap())
    }

    fn gauge(&self, _: Gauge) -> Option<&Word> {
        None
    }

    fn search<S: Search>(&self, steps: u32, search: &mut S) {
        for index in 0..steps {
            if !search.step(index) {
                break;
            }
        }
    }

    fn raise(&self, gauge: Gauge) {
        self.gateway.gauges[usize::try_from(gauge.index()).unwrap()].fetch_add(1, SeqCst);
    }

    fn lower(&self, gauge: Gauge) {
        self.gateway.gauges[usize::try_from(gauge.index()).unwrap()].fetch_sub(1, SeqCst);
    }
}

impl Processor {
    /// A session's record and the facts it had when it was looked at.
    pub(crate) fn session_of(&self, ends: Ends) -> Option<(SessionRef, Facts)> {
        let is = |f: &Facts| f.inside_key() == ends.inside_key();
        let live = self.gateway.live();
        live.iter()
            .find(|(_, _, f)| is(f))
            .map(|(reference, _, f)| (*reference, *f))
    }
}
