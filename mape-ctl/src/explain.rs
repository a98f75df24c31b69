//! Explains what a gateway does with a packet: the core itself runs here, over the gateway's maps, and is watched.
//!
//! `loaded.rs` reads the maps, `observer.rs` watches, `story.rs` keeps what was seen, `flow.rs` and `capture.rs` bring frames,
//! `advice.rs` says what an operator can do.

pub mod advice;
pub mod capture;
pub mod chance;
pub mod flow;
pub mod loaded;
pub mod observer;
pub mod report;
pub mod story;

use mape_common::{
    env::Env,
    layout::programs,
    packet::VecPacket,
    step::{edge, relay, stage::Attempt},
    verdict::{Direction, Failure, Verdict},
    wire::eth,
};

use self::{observer::Observer, story::Story};

/// An interface of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// The program that runs there.
    pub program: String,
}

impl Port {
    /// Whether packets into the tunnel come by here.
    pub fn is_lan(&self) -> bool {
        [
            programs::LAN,
            programs::ONE_ARM,
            programs::RELAY_V4,
            programs::RELAY_ONE_ARM,
        ]
        .contains(&self.program.as_str())
    }

    /// Whether packets out of the tunnel come by here.
    pub fn is_wan(&self) -> bool {
        [
            programs::WAN,
            programs::SPREAD,
            programs::ONE_ARM,
            programs::RELAY_V6,
            programs::RELAY_ONE_ARM,
        ]
        .contains(&self.program.as_str())
    }

    fn is_relay(&self) -> bool {
        [programs::RELAY_V4, programs::RELAY_V6, programs::RELAY_ONE_ARM].contains(&self.program.as_str())
    }

    /// Which way a frame goes that comes by here: on one arm its type tells.
    fn direction(&self, frame: &[u8]) -> Direction {
        let is_ipv4 = frame.get(eth::TYPE..eth::LEN) == Some(&[0x08, 0x00]);
        if self.is_lan() && (!self.is_wan() || is_ipv4) {
            Direction::Outbound
        } else {
            Direction::Inbound
        }
    }
}

/// What became of a frame, and how.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Where it came by.
    pub port: Port,
    /// Which way it went.
    pub direction: Direction,
    /// As it came.
    pub before: Vec<u8>,
    /// As it left, or as it was refused.
    pub after: Vec<u8>,
    /// What became of it.
    pub outcome: Result<Verdict, Failure>,
    /// How.
    pub story: Story,
}

/// Runs the core on a frame that comes by `port`; what it changes stays within the observer.
pub fn explain<E: Env>(observer: &Observer<E>, port: &Port, before: &[u8]) -> Explanation {
    let direction = port.direction(before);
    let mut frame = VecPacket(before.to_vec());
    let outcome = through_stages(observer, port, direction, &mut frame);
    Explanation {
        port: port.clone(),
        direction,
        before: before.to_vec(),
        after: frame.0,
        outcome,
        story: observer.take(),
    }
}

/// From stage to stage, as the kernel's tail calls lead.
fn through_stages<E: Env>(
    observer: &Observer<E>,
    port: &Port,
    direction: Direction,
    frame: &mut VecPacket,
) -> Result<Verdict, Failure> {
    observer.begin(
        &port.program,
        if port.is_relay() {
            "Border relay: keeps no state of sessions, goes by the rules"
        } else {
            "Forwards by a session in use, and looks at nothing else"
        },
    );
    let mut attempt: Attempt = match (port.is_relay(), direction) {
        (true, Direction::Outbound) => relay::to_domain(frame, observer, port.ifindex),
        (true, Direction::Inbound) => relay::from_domain(frame, observer, port.ifindex),
        (false, Direction::Outbound) => edge::outbound(frame, observer, port.ifindex),
        (false, Direction::Inbound) => edge::inbound(frame, observer, port.ifindex),
    };
    loop {
        match attempt.outcome() {
            Ok(outcome) => return outcome,
            Err(next) => {
                observer.go_on(next.stage.program(), next.reason.label());
                observer.begin(next.stage.program(), next.stage.meaning());
                attempt = edge::run(next.stage, next.reason, frame, observer, port.ifindex);
            }
        }
    }
}
