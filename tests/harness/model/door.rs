//! The slow path: what differs where a packet is translated at the tunnel device, the stack having routed it there.
//!
//! Sessions, ports, fragments and bytes are the same. The stack has lowered the TTL and cut what was too large; nobody is told of
//! a refusal, nothing is turned round, and outwards nothing passes untranslated.

use super::{Answer, Model, Sight, packet, rewrite::Expected};
use crate::table::world::{Outcome, Program};

/// Where a packet is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// At the NIC that it comes in by.
    Nic,
    /// At the tunnel device.
    Device,
}

impl Model {
    /// Whether the packet at hand is translated at the tunnel device.
    pub(super) fn is_at_device(&self) -> bool {
        self.door == Door::Device
    }

    /// Says whether what became of a packet at the device is right. What leaves it is seen without headers in front.
    pub(super) fn judge_at_device(
        &self,
        program: Program,
        answer: &Answer,
        outcome: &Outcome,
        sight: &Sight<'_>,
    ) -> Result<(), String> {
        let front = match program {
            Program::Lan => packet::TUNNELLED,
            Program::Wan => packet::ETHERNET,
        };
        match (answer, outcome) {
            (Answer::Forward { expected, .. }, Outcome::Forwarded(bytes)) => {
                let packet = Expected {
                    bytes: expected.bytes.get(front..).unwrap_or(&[]).to_vec(),
                    wrong: expected.wrong.iter().map(|at| at - front).collect(),
                    is_tunnelled: false,
                };
                Self::compare_bytes(&packet, bytes.clone())
            }
            (Answer::Drop(class) | Answer::Refuse(class), Outcome::Dropped) if sight.class == Some(*class) => Ok(()),
            // What is not ours is the stack's only where it comes out of the tunnel.
            (Answer::Pass, Outcome::Passed(_)) if program == Program::Wan && !self.is_open => Ok(()),
            (Answer::Pass, Outcome::Dropped) if program == Program::Lan || self.is_open => Ok(()),
            (Answer::Forward { session, .. }, _) => {
                let session = &self.sessions[*session];
                Err(format!(
                    "{} at the device, but it has a session: {session:?}",
                    sight.label
                ))
            }
            (answer, _) => Err(format!("{} at the device, but it should be {answer:?}", sight.label)),
        }
    }
}
