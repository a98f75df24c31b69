//! What two processors do to one gateway at once, in the kernel: a new flow that comes by both, different flows that meet an
//! expired session, the sweeper and the flush between them. Judged by packets: whoever's packet left by an external port
//! gets the answer that comes to that port right afterwards; and by what is left in the maps at the end.

use std::{
    env,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, Stack};
use mape_common::{
    layout::{Gauge, PermissionKey, SessionRef, SweepOrder, Transport, maps, programs},
    nat::{
        index::{Bucket, WORDS},
        mapping,
        session::{Facts, Hold, State},
    },
    time::Tick,
};
use mape_tests::{
    netns::Netns,
    process::stay_on,
    table::{
        frame::{Frame, Outer, tcp, udp},
        kernel::{KernelWorld, furnish},
        runner::{Records, Runner},
        world::{CE, HOST_MAC, LAN_MAC, RELAY, ROUTER_MAC, SERVER, SHARED, WAN_MAC},
    },
};

/// Time for each of the two tests; MAPE_RACES_SECONDS asks for more.
const SECONDS: u64 = 8;
/// Few, so that slots and table elements change hands all the time.
const SESSIONS: u32 = 1024;
const SYN: u8 = 2;

struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

/// Runs a test in a namespace with a gateway, or says why it was skipped.
fn with_gateway(name: &str, test: impl FnOnce(&mut KernelWorld) -> Result<()> + Send) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("SKIPPED: one processor has nobody to race with");
        return;
    }
    let room = Room(Netns::create(&format!("mape-{name}-{}", std::process::id())).expect("a namespace"));
    furnish(&room.0).expect("devices");
    let run = room
        .0
        .enter(|| test(&mut KernelWorld::new(mape_ctl::object::object(), SESSIONS)?));
    run.expect("the test");
}

fn seconds() -> Duration {
    let asked = env::var("MAPE_RACES_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(SECONDS))
}

/// A flow of a LAN host towards [`SERVER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    transport: Transport,
    /// The last byte of the LAN host's address.
    host: u8,
    port: u16,
    remote_port: u16,
}

/// One processor's end of the gateway: programs to run and frames to give them, written over for each packet.
struct Processor {
    lan: Runner,
    wan: Runner,
    up: [Vec<u8>; 2],
    down: [Vec<u8>; 2],
}

fn which(transport: Transport) -> usize {
    usize::from(transport == Transport::Tcp)
}

/// Checksums are not brought up to date: what is asked here is whose a packet is, and the programs only adjust them.
fn put(frame: &mut [u8], at: usize, port: u16) {
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
}

fn port_at(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

impl Processor {
    fn new(world: &mut KernelWorld) -> Result<Self> {
        let host = Ipv4Addr::new(192, 168, 10, 10);
        let up = |payload| {
            Frame {
                to_mac: LAN_MAC.0,
                from_mac: HOST_MAC.0,
                ..Frame::new(host, SERVER, payload)
            }
            .bytes()
        };
        let outer = || {
            Some(Outer {
                from: RELAY,
                to: CE,
                class: 0,
                extension: None,
            })
        };
        let down = |payload| {
            Frame {
                to_mac: WAN_MAC.0,
                from_mac: ROUTER_MAC.0,
                outer: outer(),
                ..Frame::new(SERVER, SHARED, payload)
            }
            .bytes()
        };
        Ok(Self {
            lan: runner(world, programs::LAN, KernelWorld::index("lan0")?)?,
            wan: runner(world, programs::WAN, KernelWorld::index("wan0")?)?,
            up: [up(udp(1, 1)), up(tcp(1, 1, SYN))],
            // A SYN, which asks for nothing from whoever has opened already, and keeps an opening session an open one.
            down: [down(udp(1, 1)), down(tcp(1, 1, SYN))],
        })
    }

    /// The LAN host's packet: the external port it leaves by.
    fn send(&mut self, flow: Flow) -> Result<Option<u16>> {
        let frame = &mut self.up[which(flow.transport)];
        frame[29] = flow.host;
        put(frame, 34, flow.port);
        put(frame, 36, flow.remote_port);
        let out = self.lan.run(frame)?;
        Ok(out.map(|frame| port_at(frame, 74)))
    }

    /// The server's packet: the LAN host and port that it reaches.
    fn answer(&mut self, transport: Transport, external: u16, remote_port: u16) -> Result<Option<(u8, u16)>> {
        let frame = &mut self.down[which(transport)];
        put(frame, 74, remote_port);
        put(frame, 76, external);
        let out = self.wan.run(frame)?;
        Ok(out.map(|frame| (frame[33], port_at(frame, 36))))
    }
}

fn runner(world: &mut KernelWorld, name: &str, ingress: u32) -> Result<Runner> {
    let program = world.ebpf().program(name).with_context(|| format!("program {name}"))?;
    Runner::new(program.fd()?.as_fd(), ingress)
}

/// A copy of a map's handle, for a thread of its own.
fn map(world: &mut KernelWorld, name: &str) -> Result<MapData> {
    let map = world.ebpf().map(name).with_context(|| format!("map {name}"))?;
    let (Map::Array(data) | Map::HashMap(data) | Map::Stack(data)) = map else {
        anyhow::bail!("{name} is of another kind");
    };
    Ok(MapData::from_id(data.info()?.id())?)
}

/// The sweeper, called from user space.
struct Sweeper {
    program: Runner,
    order: Array<MapData, SweepOrder>,
}

impl Sweeper {
    fn new(world: &mut KernelWorld) -> Result<Self> {
        Ok(Self {
            program: runner(world, programs::SWEEP, 0)?,
            order: Array::try_from(Map::Array(map(world, maps::SWEEP_ORDER)?))?,
        })
    }

    /// A pass over the whole table.
    fn pass(&mut self, flush: bool) -> Result<()> {
        let mut order = SweepOrder {
            flush: u8::from(flush),
            ..SweepOrder::default()
        };
        while order.next_slot < SESSIONS {
            self.order.set(0, order, 0)?;
            self.program.run(&[0; 64])?;
            order = self.order.get(&0, 0)?;
        }
        Ok(())
    }
}

/// Flushes, then fails where anything is left or has been lost.
fn assert_empty(world: &mut KernelWorld) -> Result<()> {
    world.flush()?;
    for gauge in [Gauge::Permissions, Gauge::PermissionsLost] {
        ensure!(world.read(gauge)? == 0, "{gauge:?}: {}", world.read(gauge)?);
    }
    for transport in Transport::ALL {
        for gauge in [
            Gauge::Sessions(transport),
            Gauge::Mappings(transport),
            Gauge::Exclusive(transport),
            Gauge::Shared(transport),
        ] {
            let value = world.read(gauge)?;
            ensure!(value == 0, "{gauge:?}: {value}");
        }
    }
    let flows: Array<_, [u64; WORDS]> = Array::try_from(Map::Array(map(world, maps::FLOWS)?))?;
    for bucket in flows.iter() {
        ensure!(
            Bucket::from_words(bucket?).is_empty(),
            "the tables of flows have entries left"
        );
    }
    let permissions: HashMap<_, PermissionKey, u64> = HashMap::try_from(Map::HashMap(map(world, maps::PERMISSIONS)?))?;
    ensure!(permissions.keys().count() == 0, "permissions are left");
    for name in [maps::PORTS, maps::OVERLAP] {
        let words: Array<_, u64> = Array::try_from(Map::Array(map(world, name)?))?;
        for word in words.iter() {
            ensure!(word? == 0, "{name} has a word that is not zero");
        }
    }
    let mut slots: Stack<_, u32> = Stack::try_from(Map::Stack(map(world, maps::FREE_SLOTS)?))?;
    let mut free = Vec::new();
    while let Ok(slot) = slots.pop(0) {
        free.push(slot);
    }
    free.sort_unstable();
    ensure!(free.into_iter().eq(0..SESSIONS), "every slot is on the free list once");
    Ok(())
}

/// Two threads that wait for each other by spinning: they leave at the same moment.
#[derive(Default)]
struct Start {
    arrived: AtomicU64,
    over: AtomicBool,
}

impl Start {
    /// False where the other one has given up.
    fn together(&self, round: u64) -> bool {
        self.arrived.fetch_add(1, SeqCst);
        while self.arrived.load(SeqCst) < 2 * (round + 1) {
            if self.over.load(SeqCst) {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }
}

/// The new flow of a round: another host's and port's each time, in turn TCP and UDP.
fn flow_of(round: u64) -> Flow {
    let number = u16::try_from(round % 50_000).expect("below 65,536");
    Flow {
        transport: if round.is_multiple_of(2) {
            Transport::Tcp
        } else {
            Transport::Udp
        },
        host: 10 + u8::try_from(round / 50_000 % 200).expect("below 200"),
        port: 10_000 + number,
        remote_port: 4_000 + number % 1_000,
    }
}

/// What one side of a round saw.
type Seen = AtomicU64;
const NOTHING: u64 = u64::MAX;

fn meet(world: &mut KernelWorld, time: Duration) -> Result<()> {
    let mut sweeper = Sweeper::new(world)?;
    let mut processors = [Processor::new(world)?, Processor::new(world)?];
    let [first, second] = &mut processors;
    let (start, seen) = (Start::default(), [Seen::new(NOTHING), Seen::new(NOTHING)]);
    let until = Instant::now() + time;
    let (mut refused, mut both_refused) = (0_u64, 0_u64);
    let side = |index: usize, processor: &mut Processor, between: &mut dyn FnMut(u64) -> Result<bool>| -> Result<u64> {
        stay_on(index)?;
        let mut round = 0;
        // Three meetings a round: begin, both have sent, both have been judged.
        while start.together(3 * round) {
            let flow = flow_of(round);
            let port = processor.send(flow)?;
            seen[index].store(port.map_or(NOTHING, u64::from), SeqCst);
            if let Some(port) = port {
                let reached = processor.answer(flow.transport, port, flow.remote_port)?;
                ensure!(
                    reached == Some((flow.host, flow.port)),
                    "round {round}: {flow:?} left by port {port}, its answer reached {reached:?}"
                );
            }
            if !start.together(3 * round + 1) || !between(round)? || !start.together(3 * round + 2) {
                break;
            }
            round += 1;
        }
        Ok(round)
    };
    let mut judge = |round: u64| -> Result<bool> {
        let ports = [0, 1].map(|i| seen[i].load(SeqCst));
        match ports {
            // Each has met the other's entry, and the one that stays has waited in vain for the other one to go.
            [NOTHING, NOTHING] => both_refused += 1,
            [NOTHING, _] | [_, NOTHING] => refused += 1,
            [a, b] => ensure!(a == b, "round {round}: one flow left by two ports, {a} and {b}"),
        }
        // Half of the flows hold a port alone; there are 252.
        if round % 200 == 199 {
            sweeper.pass(true)?;
        }
        Ok(Instant::now() < until)
    };
    let guard = |outcome: Result<u64>| {
        start.over.store(true, SeqCst);
        outcome
    };
    let rounds = thread::scope(|scope| {
        let other = scope.spawn(|| guard(side(1, second, &mut |_| Ok(true))));
        let mine = guard(side(0, first, &mut judge));
        let other = other.join().expect("the other processor's thread");
        mine.and_then(|rounds| other.map(|_| rounds))
    })?;
    println!(
        "{rounds} new flows, each from both processors; in {refused} of them one packet came too early and was refused, in \
         {both_refused} both"
    );
    ensure!(rounds > 1_000, "only {rounds} rounds");
    // Seen: five in 10,000, where two processors meet as closely as they can be made to; more where one is held up by others.
    ensure!(
        both_refused * 100 <= rounds,
        "in {both_refused} of {rounds} rounds neither packet was forwarded"
    );
    assert_empty(world)
}

#[test]
fn a_new_flow_from_both_processors_is_one_session() {
    with_gateway("meet", |world| meet(world, seconds()));
}

/// What a processor has lately sent, for the other one to judge by: a ring of flows and how often it has let something end.
struct Log {
    flows: Vec<AtomicU64>,
    sent: AtomicU64,
    /// Twice the number of endings; odd while it is at one.
    endings: AtomicU64,
}

impl Log {
    const LEN: u64 = 4_096;

    fn new() -> Self {
        Self {
            flows: (0..Self::LEN).map(|_| AtomicU64::new(0)).collect(),
            sent: AtomicU64::new(0),
            endings: AtomicU64::new(0),
        }
    }

    fn cell(&self, number: u64) -> &AtomicU64 {
        &self.flows[usize::try_from(number % Self::LEN).expect("small")]
    }

    fn note(&self, host: u8, port: u16) {
        let number = self.sent.load(SeqCst);
        self.cell(number).store(u64::from(host) << 16 | u64::from(port), SeqCst);
        self.sent.store(number + 1, SeqCst);
    }

    /// Does something that ends records, or makes them end.
    fn end<T>(&self, work: impl FnOnce() -> T) -> T {
        self.endings.fetch_add(1, SeqCst);
        let done = work();
        self.endings.fetch_add(1, SeqCst);
        done
    }

    /// Whether the endpoint was on its way at some time since `before`, the value of `sent` then.
    fn has(&self, host: u8, port: u16, before: u64) -> bool {
        let wanted = u64::from(host) << 16 | u64::from(port);
        let now = self.sent.load(SeqCst);
        (before.saturating_sub(1).max(now.saturating_sub(Self::LEN))..now).any(|n| self.cell(n).load(SeqCst) == wanted)
    }
}

/// Destinations that the flows fight for, by remote port; an inside port's remainder tells which one it talks to.
const DESTINATIONS: u16 = 4;

/// Endpoints of each LAN host: all together nearly as many as there is room for.
const ENDPOINTS: u64 = 96;

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % limit
    }
}

/// One processor's part: flows of its own towards destinations that both want, and records that grow old under them.
struct Fighter<'a> {
    processor: &'a mut Processor,
    records: &'a Records,
    logs: &'a [Log; 2],
    index: usize,
    chance: Chance,
    now: Tick,
}

impl Fighter<'_> {
    fn round(&mut self) -> Result<u64> {
        let (mine, theirs) = (&self.logs[self.index], &self.logs[1 - self.index]);
        // Endpoints come back, so that packets also meet sessions that are there.
        let number = u16::try_from(self.chance.below(ENDPOINTS)).expect("small");
        let host = if self.index == 0 { 10 } else { 100 } + u8::try_from(self.chance.below(4)).expect("small");
        let flow = Flow {
            transport: if self.chance.below(4) == 0 {
                Transport::Udp
            } else {
                Transport::Tcp
            },
            host,
            port: 10_000 + number,
            remote_port: 4_000 + number % DESTINATIONS,
        };
        let (sent_before, endings_before) = (theirs.sent.load(SeqCst), theirs.endings.load(SeqCst));
        mine.note(flow.host, flow.port);
        let Some(port) = self.processor.send(flow)? else {
            self.let_end();
            return Ok(0);
        };
        let reached = self.processor.answer(flow.transport, port, flow.remote_port)?;
        let undisturbed = endings_before.is_multiple_of(2) && theirs.endings.load(SeqCst) == endings_before;
        match reached {
            Some(reached) if reached == (flow.host, flow.port) => {}
            // A mapping lets the server's other ports in, so whoever has got the port alone since may be meant.
            Some((host, inside)) => ensure!(
                !undisturbed
                    && (flow.transport == Transport::Udp
                        || inside % DESTINATIONS == flow.port % DESTINATIONS && theirs.has(host, inside, sent_before)),
                "{flow:?} left by port {port}, its answer reached {host}:{inside}, which was not under way to there"
            ),
            None => ensure!(
                !undisturbed,
                "{flow:?} left by port {port}, its answer reached nobody, and nothing had ended"
            ),
        }
        self.let_end();
        Ok(1)
    }

    /// Lets the time of some record be over.
    fn let_end(&mut self) {
        if self.chance.below(3) != 0 {
            return;
        }
        let slot = u32::try_from(self.chance.below(u64::from(SESSIONS))).expect("small");
        let Some((state, facts)) = self.read(slot) else { return };
        let reference = SessionRef {
            slot,
            generation: state.generation,
        };
        if facts.hold != Hold::Mapping {
            self.logs[self.index].end(|| self.age(reference));
        } else if self.has_host(facts.inside) {
            self.logs[self.index].end(|| self.age_with_members(reference));
        }
    }

    /// A live record, whole.
    fn read(&self, slot: u32) -> Option<(State, Facts)> {
        let record = self.records.all().get(usize::try_from(slot).ok()?)?;
        record.read(record.state().generation)
    }

    fn age(&self, session: SessionRef) {
        let record = &self.records.all()[usize::try_from(session.slot).expect("small")];
        // Whoever is faster changes the stamp or the phase; the generation stays as long as the record is the same one.
        while record.is_alive(session.generation) {
            let state = record.state();
            mapping::age_member(record, state, self.now);
            if record.state().used == self.now.long_before() {
                return;
            }
        }
    }

    /// A mapping never is over before its members are: each use of one is a use of the other. Members may be left out only if
    /// they come into being at this moment, so a mapping is aged by its own host's processor, which is here.
    fn age_with_members(&self, mapping: SessionRef) {
        self.age(mapping);
        for slot in 0..SESSIONS {
            if let Some((state, facts)) = self.read(slot)
                && facts.hold == Hold::Member
                && facts.mapping == mapping
            {
                self.age(SessionRef {
                    slot,
                    generation: state.generation,
                });
            }
        }
    }

    fn has_host(&self, host: [u8; 4]) -> bool {
        (host[3] < 100) == (self.index == 0)
    }
}

fn fight(world: &mut KernelWorld, time: Duration) -> Result<()> {
    let mut sweeper = Sweeper::new(world)?;
    let records = Records::map(map(world, maps::SESSIONS)?.fd().as_fd(), SESSIONS.try_into()?)?;
    let mut processors = [Processor::new(world)?, Processor::new(world)?];
    let [first, second] = &mut processors;
    let logs = [Log::new(), Log::new()];
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = u64::try_from(uptime.tv_sec)? * 1_000_000_000 + u64::try_from(uptime.tv_nsec)?;
    let now = Tick::from_nanos(nanos);
    // The kernel's own timer sweeps from here on, beside the calls below.
    sweeper.pass(false)?;
    let (over, begin) = (AtomicBool::new(false), Barrier::new(2));
    let until = Instant::now() + time;
    let fighter = |index: usize, processor| Fighter {
        processor,
        records: &records,
        logs: &logs,
        index,
        chance: Chance(0x9e37_79b9_7f4a_7c15 ^ u64::try_from(index).expect("small")),
        now,
    };
    let (mut one, mut other) = (fighter(0, first), fighter(1, second));
    let run = |fighter: &mut Fighter<'_>, after: &mut dyn FnMut(u64) -> Result<()>| -> Result<(u64, u64)> {
        stay_on(fighter.index)?;
        begin.wait();
        let (mut rounds, mut forwarded) = (0, 0);
        while !over.load(SeqCst) {
            forwarded += fighter.round()?;
            rounds += 1;
            after(rounds)?;
        }
        Ok((rounds, forwarded))
    };
    let guard = |outcome: Result<(u64, u64)>| {
        over.store(true, SeqCst);
        outcome
    };
    let totals = thread::scope(|scope| {
        let second = scope.spawn(|| {
            guard(run(&mut other, &mut |rounds| {
                if rounds.is_multiple_of(512) {
                    logs[1].end(|| sweeper.pass(rounds.is_multiple_of(8_192)))?;
                }
                Ok(())
            }))
        });
        let first = guard(run(&mut one, &mut |rounds| {
            if rounds.is_multiple_of(1_024) && Instant::now() >= until {
                over.store(true, SeqCst);
            }
            Ok(())
        }));
        let second = second.join().expect("the other processor's thread");
        first.and_then(|a| second.map(|b| (a.0 + b.0, a.1 + b.1)))
    });
    let (rounds, forwarded) = totals?;
    let ended = world.read(Gauge::Ended)?;
    println!("{rounds} rounds, {forwarded} packets forwarded and answered, {ended} records ended under them");
    ensure!(forwarded > rounds / 4 && ended > rounds / 64, "the test did something");
    assert_empty(world)
}

#[test]
fn flows_that_meet_expired_sessions_and_the_sweeper_never_get_each_others_packets() {
    with_gateway("fight", |world| fight(world, seconds()));
}
