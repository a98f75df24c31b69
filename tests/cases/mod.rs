//! The step tables: one row a behaviour. The same rows run on the host and in the kernel.

mod forward;
mod fragment;
mod inbound;
pub(crate) mod native;
mod outbound;

use std::net::Ipv4Addr;

use mape_common::layout::PortOrder;
use mape_tests::table::{
    frame::{Frame, Payload, Seen},
    talk::down_frame,
    world::{Forwarded, HOST, HOST_MAC, LAN_MAC, Outcome, Program, SERVER, World},
};

/// One behaviour.
pub(crate) struct Case {
    /// A sentence.
    pub name: &'static str,
    /// Frames given before, and what each must be counted by.
    pub before: Vec<(Program, Frame)>,
    /// To which program.
    pub program: Program,
    /// The frame.
    pub given: Vec<u8>,
    /// "forwarded", or the reason's label.
    pub counted: &'static str,
    /// What the frame must be when it is forwarded.
    pub check: fn(&Seen),
}

/// All rows, each with the forwards that the gateway has.
pub(crate) fn all() -> Vec<(Vec<Forwarded>, Case)> {
    let plain = [outbound::cases(), inbound::cases(), fragment::cases()];
    let plain = plain.into_iter().flatten();
    plain.map(|case| (Vec::new(), case)).chain(forward::cases()).collect()
}

/// Makes a gateway's forwards.
pub(crate) fn prepare(world: &mut dyn World, forwards: &[Forwarded]) {
    for forward in forwards {
        let outcome = world.order(forward.order(PortOrder::FORWARD));
        assert_eq!(outcome, PortOrder::DONE, "{forward:?}");
    }
}

impl Case {
    /// Runs the row in a fresh world and gives the frame that came out, if one did.
    pub(crate) fn run(&self, world: &mut dyn World) -> Option<Vec<u8>> {
        for (program, frame) in &self.before {
            let (_, label) = world.give(*program, &frame.bytes());
            assert_eq!(label, "forwarded", "{}: a frame before it", self.name);
        }
        let (outcome, label) = world.give(self.program, &self.given);
        assert_eq!(label, self.counted, "{}", self.name);
        match outcome {
            Outcome::Forwarded(frame) => {
                assert_eq!(label, "forwarded", "{}", self.name);
                let seen = std::panic::catch_unwind(|| Seen::of(&frame));
                let seen =
                    seen.unwrap_or_else(|_| panic!("{}: the frame that came out is bad: {frame:02x?}", self.name));
                (self.check)(&seen);
                Some(frame)
            }
            Outcome::Answered(frame) => {
                (self.check)(&Seen::of(&frame));
                Some(frame)
            }
            Outcome::Passed(frame) => {
                assert_eq!(frame, self.given, "{}: what is passed is as it came", self.name);
                None
            }
            Outcome::Dropped => None,
        }
    }
}

/// A row without frames before it, for which only the counter matters.
fn refused(name: &'static str, program: Program, given: Vec<u8>, counted: &'static str) -> Case {
    Case {
        name,
        before: Vec::new(),
        program,
        given,
        counted,
        check: |_| {},
    }
}

/// A frame from the LAN host to a server.
fn up(payload: Payload) -> Frame {
    up_to(SERVER, payload)
}

/// A frame from the LAN host.
fn up_to(to: Ipv4Addr, payload: Payload) -> Frame {
    Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        ..Frame::new(HOST, to, payload)
    }
}

/// A tunnelled frame from a server, through the border relay.
fn down(payload: Payload) -> Frame {
    down_from(SERVER, payload)
}

/// A tunnelled frame from the Internet, through the border relay.
fn down_from(from: Ipv4Addr, payload: Payload) -> Frame {
    down_frame(from, payload)
}
