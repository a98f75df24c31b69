//! A customer edge: frames, time, sweeps and orders in any order; after each, everything that must hold is asked.

use std::net::Ipv6Addr;

use arbitrary::{Result, Unstructured};
use mape_common::{
    host::HostEnv,
    layout::{Config, Filtering, Gauge, PortOrder, Timeouts, Transport},
    map::psid::PortSet,
    time::Tick,
    wire::port::Port,
};

use super::{
    cut::Cut,
    passage,
    scene::{HOSTS, MOST, Scene, program},
};
use crate::table::{
    frame::Seen,
    host::{HostWorld, TUNNEL},
    talk::sweep,
    world::{
        CE, Forwarded, HOST_MAC, HOST6, LAN_MAC, Outcome, Program, RELAY, ROUTER_MAC, SERVER, SERVER6, SHARED, WAN_MAC,
        World as _, config,
    },
};

/// Longer after zero than anything lives.
const START: Tick = Tick(1_000_000);
/// Longer than anything lives, ticks.
const AGES: u32 = 60_000;
/// Offset, PSID length, PSID and records: the set of the step tables, and sets and tables that are soon full.
const SIZES: [(u8, u8, u16, u32); 5] = [
    (6, 8, 0x34, 64),
    (1, 13, 5, 24),
    (0, 13, 0, 48),
    (2, 13, 77, 7),
    (4, 12, 0x123, 16),
];
/// Rows of the overlap table: few, so that destinations meet in them.
const ROWS: u32 = 16;

/// Plays the bytes.
///
/// # Panics
/// Where something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(mut edge) = Edge::new(&mut input) else { return };
    for _ in 0..MOST {
        if input.is_empty() || edge.step(&mut input).is_err() {
            break;
        }
        edge.check();
    }
    edge.end();
}

struct Edge {
    world: HostWorld,
    set: PortSet,
    scene: Scene,
    forwards: Vec<Forwarded>,
}

impl Edge {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let (size, policy): (u8, u8) = (input.arbitrary()?, input.arbitrary()?);
        let (offset, length, psid, slots) = SIZES[usize::from(size) % SIZES.len()];
        let set = PortSet::new(offset, length, psid).expect("a port set");
        let plain = config(TUNNEL, slots);
        let mut config = HostEnv::customer_edge(
            plain.tunnel_address,
            plain.relay_address,
            plain.external_address,
            set,
            slots,
        );
        config.tunnel_ifindex = TUNNEL;
        config.overlap_row_mask = config.overlap_row_mask.min(ROWS - 1);
        behave(&mut config, policy);
        let mut world = HostWorld::of(config);
        world.env.now.set(START);
        world.forward_native(true);
        let ports = (0..set.len().min(12)).filter_map(|ordinal| set.port(ordinal));
        let scene = Scene {
            ports: ports.map(|port| port.0).collect(),
            ..Scene::default()
        };
        Ok(Self {
            world,
            set,
            scene,
            forwards: Vec::new(),
        })
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.arbitrary::<u8>()? % 20 {
            number @ 0..2 => {
                let frame = Scene::raw(input)?;
                self.give(program(number), frame);
            }
            2..6 => {
                let frame = self.scene.up(input)?;
                self.give(Program::Lan, frame.bytes());
            }
            6..9 => {
                if let Some(frame) = self.scene.answer(input)? {
                    self.give(Program::Wan, frame.bytes());
                }
            }
            9 => {
                let frame = self.scene.down(input)?;
                self.give(Program::Wan, frame.bytes());
            }
            number @ 10..12 => {
                let frame = self.scene.mutated(input)?;
                self.give(program(number), frame);
            }
            12 => {
                let ticks = match input.arbitrary::<u8>()? {
                    ticks @ 0..128 => u32::from(ticks),
                    _ => u32::from(input.arbitrary::<u16>()?),
                };
                self.pass(ticks);
            }
            13 => drop(sweep(&self.world.env)),
            14 => self.order(input)?,
            15 => self.error(input)?,
            16 => {
                let frame = self.scene.up(input)?;
                for frame in Scene::fragments(input, &frame)? {
                    self.give(Program::Lan, frame);
                }
            }
            17 => {
                if let Some(frame) = self.scene.answer(input)? {
                    for frame in Scene::fragments(input, &frame)? {
                        self.give(Program::Wan, frame);
                    }
                }
            }
            18 => self.across(input)?,
            _ => {
                let policy = input.arbitrary()?;
                if let Some(config) = &mut self.world.env.config {
                    behave(config, policy);
                }
            }
        }
        Ok(())
    }

    fn pass(&self, ticks: u32) {
        let now = self.world.env.now.get();
        self.world.env.now.set(Tick(now.0.saturating_add(ticks)));
    }

    /// A static forward is made or ended, a port reserved or released.
    fn order(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let choice: u8 = input.arbitrary()?;
        let forwarded = Forwarded {
            transport: [Transport::Udp, Transport::Tcp, Transport::Icmp][usize::from(choice >> 2) % 3],
            external: self.scene.port(input)?,
            inside: (HOSTS[usize::from(choice >> 6)], self.scene.port(input)?),
        };
        let action = [
            PortOrder::FORWARD,
            PortOrder::UNFORWARD,
            PortOrder::RESERVE,
            PortOrder::RELEASE,
        ][usize::from(choice & 3)];
        let outcome = self.world.order(forwarded.order(action));
        if action == PortOrder::FORWARD && outcome == PortOrder::DONE {
            self.forwards.push(forwarded);
        }
        Ok(())
    }

    /// An ICMP error about a packet that was forwarded: from the Internet, from the LAN, or about the tunnel.
    fn error(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.arbitrary::<u8>()? % 3 {
            0 => {
                if let Some(payload) = self.scene.error(input, true)? {
                    let frame = Scene::tunnelled(input, (RELAY, CE), (SERVER, SHARED), payload)?;
                    self.give(Program::Wan, frame.bytes());
                }
            }
            1 => {
                let host = HOSTS[usize::from(input.arbitrary::<u8>()? % 4)];
                let to = self
                    .scene
                    .talk(input, false)?
                    .and_then(|talk| Some(Cut::of(&talk.after)?.source()));
                if let (Some(payload), Some(to)) = (self.scene.error(input, false)?, to) {
                    let frame = Scene::plain(input, host, to.into(), payload)?;
                    self.give(Program::Lan, frame.bytes());
                }
            }
            _ => {
                if let Some(frame) = self.scene.tunnel_error(input)? {
                    self.give(Program::Wan, frame);
                }
            }
        }
        Ok(())
    }

    /// A LAN host's packet to a port that another has opened, or to its own.
    fn across(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let host = HOSTS[usize::from(input.arbitrary::<u8>()? % 4)];
        let talk = self.scene.talk(input, true)?;
        let to = talk
            .and_then(|talk| Some(Cut::of(&talk.after)?.ports()?.0))
            .unwrap_or(0);
        let from = self.scene.port(input)?;
        let payload = Scene::payload(input, from, to)?;
        let frame = Scene::plain(input, host, SHARED, payload)?;
        self.give(Program::Lan, frame.bytes());
        Ok(())
    }

    /// Gives a frame and looks at what comes out.
    fn give(&mut self, program: Program, frame: Vec<u8>) {
        let (outcome, label) = self.world.give(program, &frame);
        assert!(
            !matches!(label, "write-failed" | "no-headroom" | "not-configured" | "delivered"),
            "{label} cannot happen here"
        );
        match outcome {
            Outcome::Forwarded(after) if label == "native" => passage::routed(&frame, &after),
            Outcome::Forwarded(after) if frame.get(12..21).is_some_and(is_icmpv6) => {
                let seen = Seen::of(&after);
                assert_eq!(
                    (after.len(), seen.outer),
                    (70, None),
                    "an ICMP error in the place of an ICMPv6 error"
                );
            }
            Outcome::Forwarded(after) => {
                self.forwarded(program, &frame, &after);
                self.scene.note(program == Program::Lan, &after);
            }
            Outcome::Answered(after) if Cut::of(&after).is_some_and(|left| left.body()[0] == 0) => {
                passage::echoed(&frame, &after);
            }
            Outcome::Answered(after) => passage::told(&frame, &after),
            // That it is untouched has been asked.
            Outcome::Passed(_) | Outcome::Dropped => {}
        }
        self.scene.last = frame;
    }

    /// Whose packet is whose, after translation.
    fn forwarded(&self, program: Program, before: &[u8], after: &[u8]) {
        let (came, left) = passage::forwarded(before, after);
        let shared = SHARED.octets();
        let is_error = came.protocol() == 1 && !came.is_later_fragment() && !matches!(came.body()[0], 0 | 8);
        match (program, left.outer) {
            (Program::Lan, Some(outer)) => {
                assert_eq!(outer[8..24], CE.octets(), "outer source");
                assert_eq!(outer[24..40], RELAY.octets(), "outer destination");
                assert!(left.packet.len() <= 1_460, "into the tunnel");
                assert_eq!((left.source(), left.destination()), (shared, came.destination()));
                if !is_error && !left.is_later_fragment() {
                    let external = external(&left);
                    assert!(self.set.contains(Port(external)), "{external} is no port of the set");
                    let theirs = |cut: &Cut<'_>| cut.ports().filter(|_| cut.protocol() != 1).map(|ports| ports.1);
                    assert_eq!(theirs(&came), theirs(&left), "the remote port");
                }
            }
            (Program::Wan, None) => {
                let outer = came.outer.expect("out of the tunnel");
                assert_eq!(outer[24..40], CE.octets());
                assert_eq!((came.destination(), came.source()), (shared, left.source()));
                assert_eq!(left.destination()[..3], [192, 168, 10], "to a LAN host");
            }
            (Program::Lan, None) => {
                assert_eq!(
                    (came.destination(), left.source()),
                    (shared, shared),
                    "by the shared address"
                );
                assert_eq!(left.destination()[..3], [192, 168, 10], "to a LAN host");
            }
            (Program::Wan, Some(_)) => panic!("from the tunnel into the tunnel"),
        }
    }

    fn check(&self) {
        let found = self.world.env.violations();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    /// Nothing is left when everything has expired.
    fn end(mut self) {
        for forwarded in std::mem::take(&mut self.forwards) {
            self.world.order(forwarded.order(PortOrder::UNFORWARD));
        }
        for _ in 0..2 {
            self.pass(AGES);
            sweep(&self.world.env);
            self.check();
        }
        let env = &self.world.env;
        assert_eq!(
            (env.live(), env.read(Gauge::Permissions)),
            (0, 0),
            "records and permissions left"
        );
        let found = env.overlap_violations();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// The external port of what went out, or the identifier.
fn external(left: &Cut<'_>) -> u16 {
    if left.protocol() == 1 {
        super::cut::word(left.body(), 4).unwrap_or(0)
    } else {
        left.ports().map_or(0, |ports| ports.0)
    }
}

/// From a frame's type on.
fn is_icmpv6(bytes: &[u8]) -> bool {
    bytes[..2] == [0x86, 0xdd] && bytes[8] == 58
}

/// Mapping, filtering and quotas that a byte means; zero is what a gateway does that nobody has told otherwise.
fn behave(config: &mut Config, policy: u8) {
    let is = |bit: u8| policy & bit != 0;
    let filtering = match (is(1), is(2)) {
        (false, _) => Filtering::Address,
        (true, false) => Filtering::AddressAndPort,
        (true, true) => Filtering::EndpointIndependent,
    };
    config.flags =
        Config::COPY_DSCP | Config::filter(Transport::Udp, filtering) | Config::filter(Transport::Tcp, filtering);
    for (transport, bit, usual) in [
        (Transport::Udp, 4, true),
        (Transport::Tcp, 8, false),
        (Transport::Icmp, 16, true),
    ] {
        if is(bit) != usual {
            config.flags |= Config::mapping(transport);
        }
    }
    (config.host_sessions, config.host_ports) = if is(32) { (5, 3) } else { (0, 0) };
    config.mapping_permissions = if is(64) { 2 } else { 1_024 };
    config.timeouts = Timeouts::DEFAULT;
    config.quarantine = Tick::at_least_seconds(if is(128) { 0 } else { 120 });
}

/// The bytes that play `frames`, each given to a program, in a gateway of the step tables.
pub fn script(frames: &[(Program, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    for (program, frame) in frames {
        bytes.push(u8::from(*program == Program::Wan));
        bytes.extend(u16::try_from(frame.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// An ordinary frame for each kind of step, so that the fuzzer need not find them.
pub fn examples() -> Vec<Vec<u8>> {
    // Native IPv6: the first packet to a neighbour is the one that it is asked after by.
    let native = |program, from: Ipv6Addr, to: Ipv6Addr| {
        let macs = match program {
            Program::Lan => [LAN_MAC.0, HOST_MAC.0],
            Program::Wan => [WAN_MAC.0, ROUTER_MAC.0],
        };
        let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64];
        let ends = [from.octets(), to.octets()].concat();
        (
            program,
            [&macs.concat()[..], &head, &ends, &[0, 53, 0, 54, 0, 8, 1, 2]].concat(),
        )
    };
    let up = native(Program::Lan, HOST6, SERVER6);
    let down = native(Program::Wan, SERVER6, HOST6);
    let natives = script(&[up.clone(), up.clone(), down.clone(), down, up]);
    // Which step, then what it reads: see `Edge::step` and `Scene`.
    let up = |kind: u8, remote: u8, from: u8| vec![2, 0, remote, from, 193, 5, kind, 0, 255];
    let answer = [6, 0, 7, 5, 0, 255];
    (0..8_u8)
        .flat_map(|kind| {
            (0..5_u8).map(move |size| {
                let mut bytes = vec![size, kind << 2];
                for (remote, from) in [(0, 0), (1, 0), (0, 1), (3, 2)] {
                    bytes.extend(up(kind, remote, from));
                }
                bytes.extend(answer);
                bytes.extend([
                    18, 1, 0, 3, 5, kind, 0, 255, 15, 0, 0, 1, 90, 255, 15, 2, 0, 2, 5, 0, 255, 255,
                ]);
                bytes.extend([12, 200, 255, 3, 13, 10, 1, 22, 1, 14, 0, 2, 0, 16]);
                bytes.extend([0, 0, 0, 193, 240, 90, 6, 0, 255, 3, 3, 0, 1, 2, 3]);
                bytes
            })
        })
        .chain([natives])
        .collect()
}
