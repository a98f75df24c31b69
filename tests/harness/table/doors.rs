//! A gateway in host memory whose packets come now by the NICs, now by the stack and the tunnel device: one NAT, two doors.

use mape_common::{
    layout::PortOrder,
    packet::VecPacket,
    step::slow,
    verdict::{Action, Direction, Failure, Reason},
};

use super::{
    host::HostWorld,
    world::{Outcome, Program, RELAY, World},
};

/// Bytes of an Ethernet header, and of one with IPv6's behind it.
const ETHERNET: usize = 14;
const TUNNELLED: usize = 54;

/// A world that asks, for each packet, which door it takes.
pub struct Doors {
    /// The gateway.
    pub world: HostWorld,
    /// True for the slow path; called with the packet's number.
    pub is_slow: fn(u32) -> bool,
    number: u32,
}

impl Doors {
    /// A gateway with room for that many sessions.
    pub fn new(sessions: u32, is_slow: fn(u32) -> bool) -> Self {
        Self {
            world: HostWorld::new(sessions),
            is_slow,
            number: 0,
        }
    }

    /// What the stack does around the translation is left out: no TTL is lowered, no outer header put on. What comes out is framed
    /// as IPv4, for reading.
    fn slow(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        let (direction, front) = match program {
            Program::Lan => (Direction::Outbound, ETHERNET),
            Program::Wan => (Direction::Inbound, TUNNELLED),
        };
        let mut packet = VecPacket(frame[front..].to_vec());
        match slow::all(&mut packet, &self.world.env, direction, &RELAY.octets()) {
            Ok(_) => {
                let mut framed = vec![0; ETHERNET - 2];
                framed.extend([8, 0]);
                framed.extend(packet.0);
                (Outcome::Forwarded(framed), "translated")
            }
            Err(Failure::Refused(reason)) => {
                assert_eq!(packet.0, frame[front..], "a refusal leaves the packet as it came");
                (Outcome::Dropped, reason.label())
            }
            Err(broken @ Failure::Broken(_)) => (Outcome::Dropped, broken.reason().label()),
        }
    }
}

/// Whether what is passed for that reason goes on to the tunnel device.
fn is_for_the_slow_path(label: &str) -> bool {
    Reason::ALL
        .iter()
        .any(|reason| reason.label() == label && matches!(reason.action(), Action::PassSlow))
}

impl World for Doors {
    fn forward_native(&mut self, on: bool) {
        self.world.forward_native(on);
    }

    fn order(&mut self, order: PortOrder) -> u32 {
        self.world.order(order)
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        self.number += 1;
        if (self.is_slow)(self.number) {
            return self.slow(program, frame);
        }
        match self.world.give(program, frame) {
            (Outcome::Passed(frame), label) if is_for_the_slow_path(label) => self.slow(program, &frame),
            ended => ended,
        }
    }
}
