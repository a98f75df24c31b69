//! A border relay: frames of both sides, in any order; it keeps no sessions, and changes nothing in a packet but what it must.

use std::net::{Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use mape_common::{
    env::{Env as _, Rules as _},
    host::HostEnv,
    map::address::map_address,
    packet::VecPacket,
    step::relay,
    time::Tick,
    verdict::{Direction, Failure, Verdict},
    wire::port::Port,
};

use super::{
    cut::{Cut, word},
    passage,
    scene::{MOST, Scene, program},
};
use crate::table::{
    domain::border_relay,
    frame::Frame,
    host::{LAN, WAN},
    world::{Program, RELAY, SERVER, SERVER_2},
};

/// Addresses of the domain's customer edges, and one that is in no rule.
const CUSTOMERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 18, 0, 12),
    Ipv4Addr::new(192, 0, 2, 18),
    Ipv4Addr::new(198, 18, 0, 77),
    Ipv4Addr::new(203, 0, 113, 9),
];
/// Ports of customer edges, and ports that nobody has.
const PORTS: [u16; 8] = [16_606, 1_232, 1_236, 2_256, 1_023, 65_535, 16_862, 0];

/// Plays the bytes.
///
/// # Panics
/// Where something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(policy) = input.arbitrary::<u8>() else { return };
    let mut env = border_relay();
    if let Some(config) = &mut env.config {
        config.mss = if policy & 1 == 0 { 0 } else { 1_400 };
        config.tunnel_mtu = if policy & 2 == 0 { 1_460 } else { 1_280 };
    }
    let mut relay = Relay {
        env,
        scene: Scene {
            ports: PORTS.to_vec(),
            ..Scene::default()
        },
    };
    for _ in 0..MOST {
        if input.is_empty() || relay.step(&mut input).is_err() {
            break;
        }
        assert_eq!((relay.env.live(), relay.env.violations()), (0, Vec::new()));
    }
}

struct Relay {
    env: HostEnv,
    scene: Scene,
}

impl Relay {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.arbitrary::<u8>()? % 12 {
            number @ 0..2 => {
                let frame = Scene::raw(input)?;
                self.give(program(number), &frame);
            }
            2 | 3 => {
                let frame = self.inwards(input)?;
                self.give(Program::Lan, &frame.bytes());
            }
            4 | 5 => {
                let frame = self.outwards(input)?;
                self.give(Program::Wan, &frame.bytes());
            }
            number @ 6..8 => {
                let frame = self.scene.mutated(input)?;
                self.give(program(number), &frame);
            }
            8 => {
                let frame = self.inwards(input)?;
                for frame in Scene::fragments(input, &frame)? {
                    self.give(Program::Lan, &frame);
                }
            }
            9 => {
                let frame = self.outwards(input)?;
                for frame in Scene::fragments(input, &frame)? {
                    self.give(Program::Wan, &frame);
                }
            }
            10 => self.error(input)?,
            _ => {
                let now = self.env.now.get();
                self.env
                    .now
                    .set(Tick(now.0.wrapping_add(input.arbitrary::<u16>()?.into())));
            }
        }
        Ok(())
    }

    fn customer(input: &mut Unstructured<'_>) -> Result<Ipv4Addr> {
        Ok(CUSTOMERS[usize::from(input.arbitrary::<u8>()? % 4)])
    }

    fn inwards(&self, input: &mut Unstructured<'_>) -> Result<Frame> {
        let to = Self::customer(input)?;
        let ports = (self.scene.port(input)?, self.scene.port(input)?);
        let payload = Scene::payload(input, ports.0, ports.1)?;
        Scene::plain(input, SERVER, to, payload)
    }

    /// From a customer edge to the Internet or another customer edge; mostly from who has address and port.
    fn outwards(&self, input: &mut Unstructured<'_>) -> Result<Frame> {
        let from = Self::customer(input)?;
        let to = match input.arbitrary::<u8>()? {
            0..128 => SERVER_2,
            _ => Self::customer(input)?,
        };
        let ports = (self.scene.port(input)?, self.scene.port(input)?);
        let payload = Scene::payload(input, ports.0, ports.1)?;
        let outer = self.owner(from, ports.0);
        Scene::tunnelled(input, (outer, RELAY), (from, to), payload)
    }

    /// The customer edge that has an address and port, or somebody.
    fn owner(&self, address: Ipv4Addr, port: u16) -> Ipv6Addr {
        let found = self
            .env
            .rule_by_ipv4(address.octets())
            .and_then(|found| self.env.rule(found.rule));
        let owner = found.and_then(|rule| map_address(rule, address.octets(), Port(port)));
        owner.map_or(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1), Ipv6Addr::from)
    }

    /// An error about a packet that went into the domain, from its customer edge, or about one that came out, from the Internet.
    fn error(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let is_about_inbound = input.arbitrary::<u8>()? & 1 == 0;
        let Some(talk) = self.scene.talk(input, !is_about_inbound)?.cloned() else {
            return Ok(());
        };
        let Some(sent) = Cut::of(&talk.after) else {
            return Ok(());
        };
        let (ours, theirs) = (Ipv4Addr::from(sent.destination()), Ipv4Addr::from(sent.source()));
        let Some(payload) = self.scene.error(input, !is_about_inbound)? else {
            return Ok(());
        };
        let frame = if is_about_inbound {
            Scene::plain(input, ours, theirs, payload)?
        } else {
            let outer = self.owner(ours, sent.ports().map_or(0, |ports| ports.1));
            Scene::tunnelled(input, (outer, RELAY), (ours, theirs), payload)?
        };
        let program = if is_about_inbound { Program::Lan } else { Program::Wan };
        self.give(program, &frame.bytes());
        Ok(())
    }

    fn give(&mut self, program: Program, before: &[u8]) {
        let mut packet = VecPacket(before.to_vec());
        let outcome = match program {
            Program::Lan => relay::all(&mut packet, &self.env, LAN, Direction::Outbound),
            Program::Wan => relay::all(&mut packet, &self.env, WAN, Direction::Inbound),
        };
        match outcome {
            Ok(Verdict::Forward { ifindex }) => {
                self.forwarded(program, before, &packet.0);
                let is_inside = Cut::of(&packet.0).is_some_and(|left| left.outer.is_some());
                assert_eq!(ifindex, if is_inside { WAN } else { LAN });
                self.scene.note(program == Program::Lan, &packet.0);
            }
            Ok(Verdict::Deliver) => {
                assert_eq!(program, Program::Wan);
                self.forwarded(program, before, &packet.0);
            }
            Ok(Verdict::Native { .. }) => panic!("a border relay forwards the tunnel's packets only"),
            Ok(Verdict::Answer(_)) => passage::told(before, &packet.0),
            Err(Failure::Refused(reason)) => {
                assert_eq!(
                    packet.0,
                    before,
                    "a refusal leaves the frame as it came ({})",
                    reason.label()
                );
            }
            Err(Failure::Broken(broken)) => panic!("{} cannot happen here", broken.0.label()),
        }
        self.scene.last = before.to_vec();
    }

    /// A relay translates nothing.
    fn forwarded(&self, program: Program, before: &[u8], after: &[u8]) {
        let (came, left) = passage::forwarded(before, after);
        assert_eq!(came.packet[2..8], left.packet[2..8], "length, identification, fragment");
        assert_eq!(came.packet[12..20], left.packet[12..20], "addresses");
        if came.protocol() != 6 {
            assert_eq!(came.body(), left.body(), "what it carries");
        }
        assert_eq!(came.ports(), left.ports());
        if let Some(outer) = left.outer {
            assert_eq!(outer[8..24], RELAY.octets(), "outer source");
            let (is_error, is_plain) = (came.protocol() == 1, matches!(came.protocol(), 6 | 17));
            if is_plain && !came.is_later_fragment() {
                let port = word(left.body(), 2).unwrap_or(0);
                let owner = self.owner(left.destination().into(), port);
                assert_eq!(outer[24..40], owner.octets(), "the customer edge that has the port");
            }
            let mtu = self.env.config().map_or(0, |config| config.tunnel_mtu);
            assert!(is_error || left.packet.len() <= usize::from(mtu), "into the tunnel");
        }
        if program == Program::Wan && matches!(came.protocol(), 6 | 17) && !came.is_later_fragment() {
            let port = word(came.body(), 0).unwrap_or(0);
            let owner = self.owner(came.source().into(), port);
            let outer = came.outer.expect("from the domain");
            assert_eq!(outer[8..24], owner.octets(), "who may send by that port");
        }
    }
}

/// The bytes that play `frames`, each given to a program.
pub fn script(frames: &[(Program, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0];
    for (program, frame) in frames {
        bytes.push(u8::from(*program == Program::Wan));
        bytes.extend(u16::try_from(frame.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// Ordinary packets both ways, whole and in fragments, and errors about them.
pub fn examples() -> Vec<Vec<u8>> {
    let kinds = 0..8_u8;
    kinds
        .map(|kind| {
            let to = [2, 0, 6, 0, 5, kind, 0, 255];
            let from = [4, 0, 7, 0, 6, 5, kind, 0, 255];
            let across = [4, 0, 200, 1, 0, 1, 5, kind, 0, 255];
            let errors = [10, 0, 0, 0, 1, 90, 255, 10, 1, 0, 0, 1, 90, 255];
            let pieces = [8, 0, 6, 0, 240, 44, 1, kind, 0, 255, 3, 3, 0, 1, 2, 3];
            [&[kind & 3][..], &to, &from, &across, &errors, &pieces].concat()
        })
        .collect()
}
