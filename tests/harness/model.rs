//! A plain, slow model of what the customer edge's NAT must do, written from the RFCs (7597 §8 to §10, 4787, 5382, 5508,
//! 6888, 7857) and the project's policy, with lists instead of hash tables and loops instead of indices.
//!
//! The model cannot know which port chance chooses. It is told (the oracle), says whether that choice is right, and goes on
//! with it. Everything else, verdict, class of refusal and every byte, it says itself.

pub mod answer;
pub mod life;
pub mod packet;
pub mod policy;
pub mod ports;
pub mod rewrite;
pub mod tcp;

mod hairpin;
mod inbound;
mod invariants;
mod outbound;

use std::collections::BTreeMap;

use self::{
    life::{End, Flow, Mapping, Permission, Session},
    policy::{Policy, Transport},
    rewrite::Expected,
};
use crate::table::world::{Outcome, Program};

/// Records that are looked at for one that makes room.
const LOOKS: usize = 24;

/// Kinds of refusal. Reasons of one kind differ in detail only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Lengths contradict each other.
    Malformed,
    /// Nobody has opened this.
    NoSession,
    /// The port is open, but not for this sender.
    Filtered,
    /// For another address or port set.
    Foreign,
    /// RFC 7597 §8.1.
    Spoofed,
    /// No port, or none a moment ago.
    Ports,
    /// No record.
    Slots,
    /// RFC 6040.
    Congestion,
    /// No ports to share.
    Unsupported,
    /// To the shared address itself.
    Hairpin,
    /// The LAN host has as much as it may have.
    Quota,
    /// A LAN host answers what a remote host has opened, but the mapping has expired meanwhile; its next packet opens another.
    Unmapped,
    /// A later fragment without its first.
    Fragment,
    /// A later fragment that ends beyond the longest packet.
    LongFragment,
}

impl Class {
    /// The kind of a reason, by its label; none for what may not happen when packets come one after the other.
    pub fn of(label: &str) -> Option<Self> {
        Some(match label {
            "bad-length" => Self::Malformed,
            "no-session" | "reset-without-session" => Self::NoSession,
            "filtered" => Self::Filtered,
            "not-my-address" | "foreign-port" => Self::Foreign,
            "security-invalid-v4" | "security-invalid-v6" => Self::Spoofed,
            "ports-exhausted" | "recently-refused" => Self::Ports,
            "sessions-exhausted" => Self::Slots,
            "ecn-invalid" => Self::Congestion,
            "unsupported-protocol" => Self::Unsupported,
            "hairpin" => Self::Hairpin,
            "host-sessions" => Self::Quota,
            "contended" => Self::Unmapped,
            "fragment-first-missing" => Self::Fragment,
            "fragment-too-long" => Self::LongFragment,
            _ => return None,
        })
    }
}

/// What the model says of a frame.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It leaves, by this session.
    Forward {
        /// As these bytes.
        expected: Expected,
        /// Which of the sessions.
        session: usize,
    },
    /// The stack gets it as it came.
    Pass,
    /// It is dropped, for one of these.
    Drop(Vec<Class>),
    /// It is an ICMP message that is no echo and quotes no packet of a session: passed or dropped, but never used.
    Message,
}

/// What was seen of the implementation: how it refused, if it did, and the oracle.
pub struct Sight<'a> {
    /// The kind of refusal.
    pub class: Option<Class>,
    /// Its label.
    pub label: &'a str,
    /// The external port of a flow's session, if there is one.
    pub port_of: &'a dyn Fn(&Flow) -> Option<u16>,
}

/// A host that was refused a destination.
#[derive(Clone, Copy, Debug)]
struct Refused {
    key: (Transport, [u8; 4], End),
    when: u32,
}

/// The model's state.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it was told; may change between packets.
    pub policy: Policy,
    /// Whether forwarding is switched on.
    pub is_open: bool,
    /// The clock, ticks.
    pub now: u32,
    /// Sessions, those included that have expired and not been swept.
    pub sessions: Vec<Session>,
    /// Mappings, likewise.
    pub mappings: Vec<Mapping>,
    /// By mapping and remote host.
    pub permissions: BTreeMap<(u64, [u8; 4]), Permission>,
    /// Whether the clock is the implementation's; if not, a refusal may be remembered for as long as the model lives.
    pub is_exact: bool,
    /// When a protocol was last short of something.
    pub pressed: BTreeMap<Transport, u32>,
    /// Ports that stay unused, and until when.
    pub quarantined: BTreeMap<(Transport, u16), u32>,
    /// What is supposed to have ended, because records are short, before the packet is looked at.
    supposed: Vec<life::Record>,
    refused: Vec<Refused>,
    last_id: u64,
}

impl Model {
    /// Nothing open, at that time.
    pub const fn new(policy: Policy, now: u32) -> Self {
        Self {
            policy,
            is_open: true,
            now,
            sessions: Vec::new(),
            mappings: Vec::new(),
            permissions: BTreeMap::new(),
            is_exact: true,
            pressed: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            supposed: Vec::new(),
            refused: Vec::new(),
            last_id: 0,
        }
    }

    /// Records in use.
    pub fn records(&self) -> usize {
        self.sessions.len() + self.mappings.len()
    }

    fn session_of(&self, flow: &Flow) -> Option<usize> {
        self.sessions.iter().position(|s| s.flow == *flow && self.is_live(s))
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// Where something is over before its time.
    pub fn pass(&mut self, ticks: u32) -> Result<(), String> {
        self.now += ticks;
        self.check_promises()
    }

    /// Ends what an operator means.
    pub fn flush(&mut self, meant: impl Fn(Transport, End, u16, Option<End>) -> bool) {
        let is_meant = |s: &Session| meant(s.flow.transport, s.flow.inside, s.port, Some(s.flow.remote));
        for session in self.sessions.iter().filter(|s| is_meant(s)) {
            if let life::Hold::Member(id) = session.hold {
                self.permissions.remove(&(id, session.flow.remote.0));
            }
        }
        self.end_sessions(|_, s| is_meant(s));
        let ended: Vec<u64> = self
            .mappings
            .iter()
            .filter(|m| meant(m.transport, m.inside, m.port, None))
            .map(|m| m.id)
            .collect();
        self.end_mappings(&ended);
    }

    /// Says whether what became of a frame is right, and goes on with it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(
        &mut self,
        program: Program,
        frame: &[u8],
        (outcome, label): (&Outcome, &str),
        port_of: &dyn Fn(&Flow) -> Option<u16>,
        agrees: &dyn Fn(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let sight = Sight {
            class: match outcome {
                Outcome::Dropped | Outcome::Answered(_) => Class::of(label),
                Outcome::Forwarded(_) | Outcome::Passed(_) => None,
            },
            label,
            port_of,
        };
        // Where chance decides which record makes room, it has to have been one with which all the rest is right.
        let (mut wrong, all) = (None, self.may_end(&sight));
        let is_certain = all.len() == 1;
        for supposed in all {
            let mut next = Self {
                supposed,
                ..self.clone()
            };
            let judged = next.judge_as(program, frame, outcome, &sight);
            next.supposed.clear();
            match judged.and_then(|()| if is_certain { Ok(()) } else { agrees(&mut next) }) {
                Ok(()) => {
                    *self = next;
                    return Ok(());
                }
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        Err(wrong.unwrap_or_else(|| "no record has made room".to_owned()))
    }

    fn judge_as(&mut self, program: Program, frame: &[u8], outcome: &Outcome, sight: &Sight<'_>) -> Result<(), String> {
        let label = sight.label;
        let answer = match program {
            _ if !self.is_open => Answer::Pass,
            Program::Lan => self.outbound(frame, sight)?,
            Program::Wan => self.inbound(frame),
        };
        match (&answer, outcome) {
            (Answer::Forward { expected, session }, Outcome::Forwarded(bytes)) => {
                self.compare(expected, *session, bytes)
            }
            (Answer::Pass, Outcome::Passed(bytes)) if bytes == frame => Ok(()),
            (Answer::Drop(classes), Outcome::Dropped) if sight.class.is_some_and(|c| classes.contains(&c)) => Ok(()),
            (Answer::Drop(classes), Outcome::Answered(bytes)) if sight.class.is_some_and(|c| classes.contains(&c)) => {
                self.compare_answer(frame, sight.class, bytes)
            }
            (Answer::Pass, Outcome::Answered(bytes)) if label == "too-big" => self.compare_answer(frame, None, bytes),
            (Answer::Message, Outcome::Passed(bytes)) if bytes == frame => Ok(()),
            (Answer::Message, Outcome::Dropped) if label.starts_with("error-") => Ok(()),
            (Answer::Forward { session, .. }, _) => {
                Err(format!("{label}, but it has a session: {:?}", self.sessions[*session]))
            }
            (answer, _) => Err(format!("{label}, but it should be {answer:?}")),
        }
    }

    fn compare_answer(&self, frame: &[u8], class: Option<Class>, bytes: &[u8]) -> Result<(), String> {
        let right = answer::to(frame, class, self.policy.tunnel_mtu)?;
        if right.iter().any(|right| right == bytes) {
            return Ok(());
        }
        Err(format!(
            "an answer that is none of these:\n  came   {bytes:02x?}\n  wanted {right:02x?}"
        ))
    }

    /// Compares every byte; of the flow label, that it is one for all of a session's packets.
    fn compare(&mut self, expected: &Expected, session: usize, bytes: &[u8]) -> Result<(), String> {
        let mut seen = bytes.to_vec();
        if expected.is_tunnelled && seen.len() > 18 {
            let label = u32::from_be_bytes([0, seen[15] & 15, seen[16], seen[17]]);
            seen[15] &= 0xf0;
            seen[16..18].fill(0);
            let known = *self.sessions[session].label.get_or_insert(label);
            if known != label {
                return Err(format!(
                    "flow label {label:#x} after {known:#x}: {:?}",
                    self.sessions[session]
                ));
            }
        }
        let mut wanted = expected.bytes.clone();
        for at in &expected.wrong {
            for bytes in [&mut seen, &mut wanted] {
                if bytes.get(*at..at + 2) == Some(&[0xff, 0xff]) {
                    bytes[*at..at + 2].fill(0);
                }
            }
        }
        if seen == wanted {
            return Ok(());
        }
        let at = seen.iter().zip(&wanted).position(|(a, b)| a != b);
        Err(format!(
            "bytes differ from {at:?} on (lengths {} and {}):\n  came   {seen:02x?}\n  wanted {wanted:02x?}",
            seen.len(),
            wanted.len()
        ))
    }
}
