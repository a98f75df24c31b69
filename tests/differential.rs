//! Random sequences given to the core on the host and to the programs in the kernel, each judged by a model of its own.
//!
//! Each has its own model because chance chooses the ports: what one has chosen says nothing about the other. The model is
//! told the choice and says whether it was right. Chance itself stays as it is: what is tested is what is shipped.
//!
//! `MAPE_SEQUENCES` is the number of sequences in each scene (else as many as fit into 5 s), `MAPE_SEED` where they start. A
//! failure prints both, and the shortest sequence found that still fails.

mod sequence;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mape_common::{
    env::{Env, Search, Side},
    host::HostEnv,
    layout::{Config, Filtering as FilteringOf, FlowKey, Gauge, SweepOrder, Timeouts as IdleTimes},
    map::psid::PortSet,
    nat::{port::PortState, session::Hold as HeldBy, sweep::Sweep},
    time::Tick,
    wire::port::Port,
};
use mape_tests::{
    model::{
        Model,
        life::{self, Flow, Hold, Phase},
        policy::{Behaviour, Filtering, Mapping, Policy, Quota, Set, Timeouts, Transport},
    },
    netns::Netns,
    table::{
        host::{HostWorld, TUNNEL},
        kernel::{KernelWorld, furnish},
        world::{Outcome, Program, World, config},
    },
};
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use sequence::{Change, Flush, Kind, Step, Wait, down, steps, up};

/// Steps of a sequence, at most.
const LONGEST: usize = 300;
/// Sequences between two looks at the clock.
const BATCH: u32 = 8;
/// How long a scene is explored, if no number of sequences is wanted.
const SHARE: Duration = Duration::from_secs(5);

/// Where the clock starts, ticks: longer after zero than anything lives.
const START: u32 = 1_000_000;

/// What a sequence runs on.
#[derive(Clone, Copy, Debug)]
struct Scene {
    name: &'static str,
    set: Set,
    slots: u32,
    reserved: Option<u16>,
}

/// The set of the step tables, and sets that are soon full, with few records too.
const SCENES: [Scene; 4] = [
    Scene {
        name: "252 ports",
        set: Set {
            offset: 6,
            length: 8,
            psid: 0x34,
        },
        slots: 64,
        reserved: None,
    },
    Scene {
        name: "4 ports",
        set: Set {
            offset: 1,
            length: 13,
            psid: 5,
        },
        slots: 24,
        reserved: None,
    },
    Scene {
        name: "8 ports, port 0 among them",
        set: Set {
            offset: 0,
            length: 13,
            psid: 0,
        },
        slots: 48,
        reserved: Some(0),
    },
    Scene {
        name: "6 ports and 7 records",
        set: Set {
            offset: 2,
            length: 13,
            psid: 77,
        },
        slots: 7,
        reserved: None,
    },
];

impl Scene {
    fn config(&self, tunnel: u32) -> Config {
        let narrow = |n: u32| u8::try_from(n).expect("at most 16");
        let port_set = PortSet::new(narrow(self.set.offset), narrow(self.set.length), self.set.psid).expect("a set");
        let plain = config(tunnel, self.slots);
        Config {
            tunnel_ifindex: tunnel,
            ..HostEnv::customer_edge(
                plain.tunnel_address,
                plain.relay_address,
                plain.external_address,
                port_set,
                self.slots,
            )
        }
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy::new(self.set, usize::try_from(self.slots).expect("small"));
        policy.reserved.extend(self.reserved);
        policy
    }
}

/// What runs the packets.
trait Subject {
    /// Ticks that its clock may differ from the model's.
    fn slack(&self) -> u32 {
        0
    }
    /// Whether so much time has really passed that the model knows nothing certain.
    fn is_stalled(&self) -> bool {
        false
    }
    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str);
    /// The oracle.
    fn port_of(&mut self, flow: &Flow) -> Option<u16>;
    fn wait(&mut self, ticks: u32);
    fn sweep(&mut self);
    fn flush(&mut self, order: &SweepOrder);
    fn configure(&mut self, policy: &Policy, is_open: bool);
    /// What is left although everything has expired.
    fn check_empty(&mut self) -> Result<(), String>;
    /// What is wrong with its state.
    fn check(&mut self, model: &mut Model) -> Result<(), String>;
}

fn key(flow: &Flow) -> FlowKey {
    FlowKey::new(
        transport(flow.transport),
        flow.inside.0,
        Port(flow.inside.1),
        flow.remote.0,
        Port(flow.remote.1),
    )
}

const fn transport(of: Transport) -> mape_common::layout::Transport {
    match of {
        Transport::Udp => mape_common::layout::Transport::Udp,
        Transport::Tcp => mape_common::layout::Transport::Tcp,
        Transport::Icmp => mape_common::layout::Transport::Icmp,
    }
}

/// Puts what changes while a gateway runs into its configuration.
fn apply(config: &mut Config, policy: &Policy) {
    let wanted = |flag, on| if on { flag } else { 0 };
    config.flags = Config::COPY_DSCP
        | Transport::ALL.into_iter().fold(0, |flags, of| {
            let filtering = match policy.of(of).filtering {
                Filtering::EndpointIndependent => FilteringOf::EndpointIndependent,
                Filtering::AddressDependent => FilteringOf::Address,
                Filtering::AddressAndPortDependent => FilteringOf::AddressAndPort,
            };
            flags | Config::filter(transport(of), filtering) | wanted(Config::mapping(transport(of)), policy.maps(of))
        });
    for (place, port) in config.overlap_ports.iter_mut().zip([53, 123, 443]) {
        *place = Port(if policy.client_server.contains(&port) { port } else { 0 });
    }
    config.timeouts = idle_times(policy.timeouts);
    config.pressed = idle_times(policy.pressed);
    let narrow = |n: usize| u32::try_from(n).expect("small");
    (config.ports_high, config.sessions_high) = (narrow(policy.high.0), narrow(policy.high.1));
    config.host_ports = narrow(policy.quota.ports.unwrap_or(0));
    config.host_sessions = narrow(policy.quota.sessions.unwrap_or(0));
    config.mapping_permissions = narrow(policy.permissions);
    config.quarantine = Tick::at_least_seconds(policy.quarantine);
}

const fn idle_times(of: Timeouts) -> IdleTimes {
    IdleTimes {
        icmp: Tick::at_least_seconds(of.icmp),
        udp: Tick::at_least_seconds(of.udp),
        udp_query: Tick::at_least_seconds(of.query),
        tcp_opening: Tick::at_least_seconds(of.opening),
        tcp_closing: Tick::at_least_seconds(of.closing),
        tcp_established: Tick::at_least_seconds(of.established),
    }
}

/// The core on the host.
struct Host(HostWorld);

impl Host {
    fn new(scene: &Scene) -> Self {
        let mut config = scene.config(TUNNEL);
        apply(&mut config, &scene.policy());
        let world = HostWorld::of(config);
        world.env.now.set(Tick(START));
        let config = world.env.config.expect("configured");
        if let Some(ordinal) = scene.reserved.and_then(|port| config.port_set.ordinal(Port(port))) {
            for transport in mape_common::layout::Transport::ALL {
                let state = world.env.port(transport, ordinal).expect("a port of the set");
                state.store(PortState::Reserved.to_word());
            }
        }
        Self(world)
    }

    fn sweep_for(&mut self, order: Option<&SweepOrder>) {
        let env = &self.0.env;
        let config = env.config().expect("configured");
        let mut sweep = Sweep {
            env,
            config,
            order,
            first: 0,
            now: env.now(),
            ended: 0,
        };
        for index in 0..config.sessions {
            sweep.step(index);
        }
    }
}

/// A record, in words that the core and the model have in common: protocol, kind of hold, LAN end, external port, remote
/// end, phase, stamp.
type Row = (u8, &'static str, life::End, u16, life::End, &'static str, u32);

fn rows_of_core(env: &HostEnv) -> Vec<Row> {
    let live = env.sessions.iter().filter(|record| record.state().phase.is_live());
    let mut rows: Vec<Row> = live
        .map(|record| {
            let (state, facts) = (record.state(), record.facts());
            let (hold, phase) = match facts.hold {
                HeldBy::Mapping => ("mapping", ""),
                HeldBy::Member => ("member", state.phase.name()),
                HeldBy::Overlap => ("share", state.phase.name()),
            };
            (
                facts.transport.protocol(),
                hold,
                (facts.inside, facts.inside_port.0),
                facts.external_port.0,
                (facts.remote, facts.remote_port.0),
                phase,
                if START.wrapping_sub(state.used.0) < u32::MAX / 2 && state.used.0 != START {
                    life::LONG_AGO
                } else {
                    state.used.0
                },
            )
        })
        .collect();
    rows.sort_unstable();
    rows
}

/// The word for how a port is held; a mapping holds it itself.
const fn hold_name(hold: Option<Hold>) -> &'static str {
    match hold {
        None => "mapping",
        Some(Hold::Member(_)) => "member",
        Some(Hold::Share) => "share",
    }
}

fn rows_of_model(model: &Model) -> Vec<Row> {
    let name = |phase| match phase {
        Phase::Udp | Phase::Icmp => "open",
        Phase::Query => "query",
        Phase::Opening => "opening",
        Phase::Established => "established",
        Phase::LanClosed => "fin-sent",
        Phase::RemoteClosed => "fin-received",
        Phase::Closing => "closing",
        Phase::Reset => "reset",
        Phase::Unanswered | Phase::UdpUnanswered => "unanswered",
    };
    let sessions = model.sessions.iter().map(|s| {
        let hold = hold_name(Some(s.hold));
        let protocol = transport(s.flow.transport).protocol();
        (
            protocol,
            hold,
            s.flow.inside,
            s.port,
            s.flow.remote,
            name(s.phase),
            s.stamp,
        )
    });
    let mappings = model.mappings.iter().map(|m| {
        let protocol = transport(m.transport).protocol();
        (protocol, "mapping", m.inside, m.port, ([0; 4], 0), "", m.stamp)
    });
    let mut rows: Vec<Row> = sessions.chain(mappings).collect();
    rows.sort_unstable();
    rows
}

impl Subject for Host {
    fn check_empty(&mut self) -> Result<(), String> {
        let found = self.0.env.overlap_violations();
        let permissions = self.0.env.read(Gauge::Permissions);
        if found.is_empty() && permissions == 0 && self.0.env.live() == 0 {
            return Ok(());
        }
        Err(format!(
            "left: {permissions} permissions, {} records, {found:?}",
            self.0.env.live()
        ))
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        self.0.give(program, frame)
    }

    fn port_of(&mut self, flow: &Flow) -> Option<u16> {
        let found = self.0.env.find(Side::Inside, &key(flow))?;
        let (_, facts) = self.0.env.session(found.slot)?.read(found.generation)?;
        Some(facts.external_port.0)
    }

    fn wait(&mut self, ticks: u32) {
        let now = &self.0.env.now;
        now.set(Tick(now.get().0 + ticks));
    }

    fn sweep(&mut self) {
        self.sweep_for(None);
    }

    fn flush(&mut self, order: &SweepOrder) {
        self.sweep_for(Some(order));
    }

    fn configure(&mut self, policy: &Policy, is_open: bool) {
        self.0.env.gate.set(is_open);
        apply(self.0.env.config.as_mut().expect("configured"), policy);
    }

    fn check(&mut self, model: &mut Model) -> Result<(), String> {
        let found = self.0.env.violations();
        if !found.is_empty() {
            return Err(found.join("\n"));
        }
        let core = rows_of_core(&self.0.env);
        // What has expired may be gone.
        model.reclaim(|flow, port, hold| {
            let hold = hold_name(hold);
            let protocol = transport(flow.transport).protocol();
            !core
                .iter()
                .any(|row| (row.0, row.1, row.2, row.3, row.4) == (protocol, hold, flow.inside, port, flow.remote))
        });
        let model = rows_of_model(model);
        if core == model {
            return Ok(());
        }
        let missing: Vec<_> = model.iter().filter(|row| !core.contains(row)).collect();
        let surplus: Vec<_> = core.iter().filter(|row| !model.contains(row)).collect();
        Err(format!(
            "records that the core lacks: {missing:?}; that the model lacks: {surplus:?}"
        ))
    }
}

/// The programs in the kernel. One world serves many sequences; each begins with nothing open.
struct Kernel<'a> {
    world: &'a mut KernelWorld,
    since: Instant,
}

/// Ticks that a sequence may lag behind the clock: real time goes on.
const SLACK: u32 = 16;

impl<'a> Kernel<'a> {
    fn new(world: &'a mut KernelWorld, scene: &Scene, secret: u64) -> Self {
        let mut subject = Self {
            world,
            since: Instant::now(),
        };
        subject.configure(&scene.policy(), true);
        subject.world.flush().expect("the sweeper");
        // Quarantines and shortages are over.
        subject.world.age(60_000).expect("a map");
        // Another secret: what was refused a moment ago, in another sequence, is not found.
        let mut config = subject.world.config().expect("a map");
        config.hash_key = [secret, !secret];
        subject.world.configure(config).expect("a map");
        subject
    }
}

impl Subject for Kernel<'_> {
    fn slack(&self) -> u32 {
        SLACK
    }

    fn is_stalled(&self) -> bool {
        self.since.elapsed() > Duration::from_millis(700)
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        self.world.give(program, frame)
    }

    fn port_of(&mut self, flow: &Flow) -> Option<u16> {
        self.world.external_port(&key(flow)).expect("a map")
    }

    fn wait(&mut self, ticks: u32) {
        self.world.age(ticks).expect("a map");
        self.since = Instant::now();
    }

    fn sweep(&mut self) {
        self.world.sweep(SweepOrder::default()).expect("the sweeper");
    }

    fn flush(&mut self, order: &SweepOrder) {
        self.world.sweep(*order).expect("the sweeper");
    }

    fn configure(&mut self, policy: &Policy, is_open: bool) {
        let mut config = self.world.config().expect("a map");
        apply(&mut config, policy);
        self.world.configure(config).expect("a map");
        self.world.set_gate(is_open).expect("a map");
    }

    fn check(&mut self, model: &mut Model) -> Result<(), String> {
        // What has expired may be gone.
        let shared = RefCell::new(&mut *self);
        model.reclaim(|flow, port, _| shared.borrow_mut().port_of(flow) != Some(port));
        let mut records = 0;
        for of in mape_common::layout::Transport::ALL {
            for gauge in [Gauge::Sessions(of), Gauge::Mappings(of)] {
                records += self.world.read(gauge).expect("a map");
            }
        }
        if usize::try_from(records) == Ok(model.records()) {
            return Ok(());
        }
        Err(format!("{records} records, {} in the model", model.records()))
    }

    fn check_empty(&mut self) -> Result<(), String> {
        let mut found = Vec::new();
        for of in mape_common::layout::Transport::ALL {
            for gauge in [
                Gauge::Sessions(of),
                Gauge::Mappings(of),
                Gauge::Exclusive(of),
                Gauge::Shared(of),
                Gauge::Permissions,
            ] {
                match self.world.read(gauge).expect("a map") {
                    0 => {}
                    left => found.push(format!("{gauge:?} shows {left}")),
                }
            }
        }
        if found.is_empty() {
            Ok(())
        } else {
            Err(found.join(", "))
        }
    }
}

/// How often each outcome was seen.
type Tally = RefCell<BTreeMap<&'static str, u64>>;

/// Runs one sequence.
fn run(subject: &mut dyn Subject, scene: &Scene, steps: &[Step], tally: &Tally) -> Result<(), String> {
    let mut model = Model::new(scene.policy(), START);
    model.is_exact = subject.slack() == 0;
    for (number, step) in steps.iter().enumerate() {
        if subject.is_stalled() {
            *tally.borrow_mut().entry("stalled").or_default() += 1;
            return Ok(());
        }
        let label = take(subject, &mut model, step).map_err(|wrong| format!("step {number}, {step:?}: {wrong}"))?;
        if let Some(label) = label {
            *tally.borrow_mut().entry(label).or_default() += 1;
        }
        let mut found = model.violations();
        found.extend(subject.check(&mut model).err());
        if !found.is_empty() {
            return Err(format!("after step {number}, {step:?}: {}", found.join("\n")));
        }
    }
    // Nothing is left after everything has expired.
    for step in [Step::Wait(Wait::Ticks(60_000), true), Step::Sweep] {
        take(subject, &mut model, &step)?;
    }
    if model.records() != 0 {
        return Err(format!("{} records left in the model", model.records()));
    }
    subject.check(&mut model)?;
    subject.check_empty()
}

/// Takes one step; gives the label of a packet's outcome.
fn take(subject: &mut dyn Subject, model: &mut Model, step: &Step) -> Result<Option<&'static str>, String> {
    match step {
        Step::Up(packet) => give(subject, model, Program::Lan, &up(model, packet)).map(Some),
        Step::Down(packet) => give(subject, model, Program::Wan, &down(model, packet)).map(Some),
        Step::Wait(wait, is_swept) => {
            let ticks = match *wait {
                Wait::Ticks(ticks) => u32::from(ticks),
                Wait::Until(number, by) => until(model, number, by),
            };
            let slack = subject.slack();
            if slack > 0 && (ticks <= slack || model.is_near(ticks, slack)) {
                return Ok(None);
            }
            if slack > 0 {
                // The sweeper's timer may come around while records are made older.
                subject.sweep();
                model.sweep();
            }
            subject.wait(ticks);
            model.pass(ticks)?;
            if *is_swept || slack > 0 {
                subject.sweep();
                model.sweep();
            }
            Ok(None)
        }
        Step::Sweep => {
            subject.sweep();
            model.sweep();
            Ok(None)
        }
        Step::Flush(what) => {
            flush(subject, model, *what);
            Ok(None)
        }
        Step::Change(change) => {
            if matches!(change, Change::Hurry(_)) {
                // Longer idle times would bring back to life what has expired.
                subject.sweep();
                model.sweep();
            }
            alter(model, *change);
            subject.configure(&model.policy, model.is_open);
            Ok(None)
        }
    }
}

fn give(subject: &mut dyn Subject, model: &mut Model, program: Program, frame: &[u8]) -> Result<&'static str, String> {
    let (outcome, label) = subject.give(program, frame);
    let subject = RefCell::new(subject);
    model.judge(
        program,
        frame,
        (&outcome, label),
        &|flow| subject.borrow_mut().port_of(flow),
        &|model| subject.borrow_mut().check(model),
    )?;
    Ok(label)
}

/// Ticks until shortly before or after a record expires.
fn until(model: &Model, number: u16, by: i8) -> u32 {
    let Some(session) = sequence::session(model, number) else {
        return 1;
    };
    let limit = life::limit(session.phase.seconds(&model.policy.timeouts));
    (session.stamp + limit)
        .saturating_add_signed(by.into())
        .saturating_sub(model.now)
}

fn flush(subject: &mut dyn Subject, model: &mut Model, what: Flush) {
    let mut order = SweepOrder {
        flush: 1,
        ..SweepOrder::default()
    };
    match what {
        Flush::All => {}
        Flush::Host(host) => order.inside = sequence::HOSTS[usize::from(host)].octets(),
        Flush::Protocol(protocol) => order.protocol = [17, 6, 1][usize::from(protocol)],
        Flush::Remote(remote) => order.remote = sequence::REMOTES[usize::from(remote)].octets(),
        Flush::Endpoint(number) => {
            if let Some(session) = sequence::session(model, number) {
                order.protocol = transport(session.flow.transport).protocol();
                order.inside = session.flow.inside.0;
                order.inside_port = session.flow.inside.1.to_be_bytes();
            }
        }
    }
    subject.flush(&order);
    // The sweeper ends on its way what has expired.
    model.sweep();
    model.flush(|protocol, inside, _, remote| {
        (order.protocol == 0 || order.protocol == transport(protocol).protocol())
            && (order.inside == [0; 4] || order.inside == inside.0)
            && (order.inside_port == [0; 2] || order.inside_port == inside.1.to_be_bytes())
            && (order.remote == [0; 4] || remote.is_some_and(|r| r.0 == order.remote))
    });
}

fn alter(model: &mut Model, change: Change) {
    let policy = &mut model.policy;
    let mapping = |of: Behaviour, on| Behaviour {
        mapping: if on {
            Mapping::EndpointIndependent
        } else {
            Mapping::Overlapping
        },
        ..of
    };
    match change {
        Change::Gate(open) => model.is_open = open,
        Change::Filtering(of, number) => {
            let filtering = [
                Filtering::EndpointIndependent,
                Filtering::AddressDependent,
                Filtering::AddressAndPortDependent,
            ][usize::from(number % 3)];
            match of {
                Kind::Udp => policy.udp.filtering = filtering,
                Kind::Tcp(_) => policy.tcp.filtering = filtering,
                Kind::Echo(_) => policy.icmp.filtering = filtering,
            }
        }
        Change::Quota(ports, sessions) => {
            let some = |n: u8| (n > 0).then_some(usize::from(n));
            policy.quota = Quota {
                ports: some(ports),
                sessions: some(sessions),
            };
        }
        Change::Permissions(most) => policy.permissions = usize::from(most),
        Change::Mapping(udp, tcp) => {
            policy.udp = mapping(policy.udp, udp);
            policy.tcp = mapping(policy.tcp, tcp);
        }
        Change::ClientServer(on) => {
            policy.client_server.remove(&443);
            policy.client_server.extend(on.then_some(443));
        }
        Change::Hurry(on) => {
            policy.timeouts = if on {
                Timeouts {
                    udp: 120,
                    query: 10,
                    icmp: 61,
                    opening: 30,
                    closing: 20,
                    established: 600,
                }
            } else {
                Timeouts::DEFAULT
            };
            policy.pressed = Timeouts {
                query: 10,
                opening: 30,
                closing: 2,
                ..policy.timeouts
            };
        }
    }
}

/// Cuts steps out of a sequence as long as it fails; gives it and why it does. In the kernel chance may let it pass once.
fn shortest(
    mut steps: Vec<Step>,
    mut why: String,
    mut test: impl FnMut(&[Step]) -> Result<(), String>,
) -> (Vec<Step>, String) {
    loop {
        let before = steps.len();
        for at in (0..before).rev() {
            let mut fewer = steps.clone();
            fewer.remove(at);
            if let Err(other) = test(&fewer) {
                (steps, why) = (fewer, other);
            }
        }
        if steps.len() == before {
            return (steps, why);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Where chance starts.
fn seed() -> u64 {
    let seed = number("MAPE_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        now.as_secs()
    });
    println!("MAPE_SEED={seed}");
    seed
}

/// Runs sequences in a scene until their number is reached or its share of the time is over. `test` runs one.
fn explore(scene: &Scene, seed: u64, tally: &Tally, mut test: impl FnMut(&[Step]) -> Result<(), String>) {
    let wanted = number("MAPE_SEQUENCES");
    let (started, mut sequences, mut batch) = (Instant::now(), 0, seed);
    while wanted.map_or(started.elapsed() < SHARE, |wanted| sequences < wanted) {
        let cases = Cases {
            cases: BATCH,
            failure_persistence: None,
            max_shrink_iters: 2_000,
            max_shrink_time: 20_000,
            ..Cases::default()
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&batch.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(cases, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let shared = RefCell::new(&mut test);
        let outcome = runner.run(&steps(LONGEST), |steps| {
            (shared.borrow_mut())(&steps).map_err(TestCaseError::fail)
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, steps)) => {
                let (steps, why) = shortest(steps, why.to_string(), |steps| shared.borrow_mut()(steps));
                let list: Vec<_> = steps.iter().enumerate().map(|(n, s)| format!("  {n}: {s:?}")).collect();
                let list = list.join("\n");
                panic!(
                    "{}: {why}\n{list}\nagain by MAPE_SEED={batch} MAPE_SEQUENCES=1",
                    scene.name
                );
            }
            Err(TestError::Abort(why)) => panic!("{}: {why}", scene.name),
        }
        sequences += u64::from(BATCH);
        batch += 1;
    }
    println!("{}: {sequences} sequences in {:?}", scene.name, started.elapsed());
    *tally.borrow_mut().entry("sequences").or_default() += sequences;
}

/// Says what was seen. Sequences that only ever forward would find nothing.
fn report(tally: Tally) {
    let mut seen = tally.into_inner();
    let sequences = seen.remove("sequences").unwrap_or(0);
    let packets: u64 = seen.values().sum();
    println!("{sequences} sequences, {packets} packets: {seen:?}");
    let expected = [
        "forwarded",
        "filtered",
        "no-session",
        "ports-exhausted",
        "sessions-exhausted",
        "bad-length",
    ];
    for label in expected.iter().filter(|_| packets > 5_000) {
        assert!(seen.contains_key(label), "no packet was {label}");
    }
}

#[test]
fn the_core_does_what_the_model_says() {
    let (seed, tally) = (seed(), Tally::default());
    for scene in &SCENES {
        explore(scene, seed, &tally, |steps| {
            run(&mut Host::new(scene), scene, steps, &tally)
        });
    }
    report(tally);
}

/// A namespace that goes away with its test, however that ends.
struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

#[test]
fn the_programs_in_the_kernel_do_what_the_model_says() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-random-{}", std::process::id())).expect("a namespace"));
    furnish(&room.0).expect("devices");
    let explored = room.0.enter(|| {
        let (seed, tally, tunnel) = (seed(), Tally::default(), KernelWorld::index("mape0")?);
        for scene in &SCENES {
            let wanted = scene.config(tunnel);
            let mut world = KernelWorld::with(mape_ctl::object::object(), scene.slots, |config| *config = wanted)?;
            if let Some(port) = scene.reserved {
                world.reserve(Port(port))?;
            }
            let mut secret = seed;
            explore(scene, seed, &tally, |steps| {
                secret += 1;
                run(&mut Kernel::new(&mut world, scene, secret), scene, steps, &tally)
            });
        }
        report(tally);
        Ok(())
    });
    explored.expect("the test");
}
