//! A plain, slow model of what the customer edge's NAT must do, written from the RFCs (7597 §8 to §10, 4787, 5382, 5508,
//! 6888, 7857) and the project's policy, with lists instead of hash tables and loops instead of indices.
//!
//! The model cannot know which port chance chooses. It is told (the oracle), says whether that choice is right, and goes on
//! with it. Everything else, verdict, class of refusal and every byte, it says itself.

pub mod answer;
pub mod door;
pub mod forward;
pub mod life;
pub mod packet;
pub mod policy;
pub mod ports;
pub mod rewrite;
pub mod tcp;

mod error;
mod fragment;
mod hairpin;
mod inbound;
mod invariants;
mod outbound;
mod tunnel;

use std::collections::BTreeMap;

use self::{
    door::Door,
    life::{End, Flow, Mapping, Permission, Session},
    policy::{Policy, Transport},
    rewrite::Expected,
};
use crate::table::world::{Outcome, Program};

/// Records that are looked at for one that makes room.
const LOOKS: usize = 24;

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Lengths contradict each other.
    Malformed,
    /// Nobody has opened this.
    NoSession,
    /// A reset of nothing.
    Reset,
    /// The port is open, but not for this sender.
    Filtered,
    /// For another address.
    NotMine,
    /// For another port set.
    Foreign,
    /// From an inner source that its outer source may not use (RFC 7597 §8.1).
    Spoofed,
    /// From an outer source that is nobody's (RFC 7597 §8.1).
    Stranger,
    /// No port.
    Ports,
    /// None a moment ago.
    Recently,
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
    /// Fragments beyond the longest packet.
    LongFragment,
    /// A first fragment without the whole transport header.
    Tiny,
    /// A fragment over the first one.
    Overlap,
    /// No room for another packet in fragments.
    Pieces,
    /// An error about what nobody has sent.
    Unsolicited,
    /// An error that quotes too little, or what cannot be.
    Unusable,
    /// An error about the tunnel that nobody is told of.
    Noted,
    /// Forwarded to an address that is not on the LAN.
    Unrouted,
}

impl Class {
    /// The kind of a reason, by its label; none for what may not happen when packets come one after the other.
    pub fn of(label: &str) -> Option<Self> {
        Some(match label {
            "bad-length" => Self::Malformed,
            "no-session" => Self::NoSession,
            "reset-without-session" => Self::Reset,
            "filtered" => Self::Filtered,
            "not-my-address" => Self::NotMine,
            "foreign-port" => Self::Foreign,
            "security-invalid-v4" => Self::Spoofed,
            "security-invalid-v6" => Self::Stranger,
            "ports-exhausted" => Self::Ports,
            "recently-refused" => Self::Recently,
            "sessions-exhausted" => Self::Slots,
            "ecn-invalid" => Self::Congestion,
            "unsupported-protocol" => Self::Unsupported,
            "hairpin" => Self::Hairpin,
            "host-sessions" => Self::Quota,
            "contended" => Self::Unmapped,
            "fragment-first-missing" => Self::Fragment,
            "fragment-too-long" => Self::LongFragment,
            "fragment-tiny" => Self::Tiny,
            "fragment-overlap" => Self::Overlap,
            "fragments-exhausted" => Self::Pieces,
            "error-without-session" => Self::Unsolicited,
            "error-unusable" => Self::Unusable,
            "tunnel-error" => Self::Noted,
            "forward-unrouted" => Self::Unrouted,
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
    /// It is dropped.
    Drop(Class),
    /// It is dropped, and the LAN host may be told (RFC 6888 REQ-11).
    Refuse(Class),
    /// It is larger than the tunnel takes: its sender is told (RFC 1191), or, where it may be fragmented, the stack does that.
    TooBig,
    /// The gateway answers the ping to the shared address itself.
    Echo,
    /// A LAN host is told of an error about the tunnel, if not too much has been told of late.
    Tell(Expected),
}

/// What was seen of the implementation: how it refused, if it did, and the oracle.
pub struct Sight<'a> {
    /// The kind of refusal.
    pub class: Option<Class>,
    /// Its label.
    pub label: &'a str,
    /// The identification that the packet left with, if it did.
    pub identification: Option<u16>,
    /// The external port of a flow's session, if there is one.
    pub port_of: &'a dyn Fn(&Flow) -> Option<u16>,
}

/// A host that was refused a destination.
#[derive(Clone, Copy, Debug)]
struct Refused {
    key: (Transport, [u8; 4], End),
    when: u32,
    /// Some seconds before, too.
    again: bool,
}

/// Answers that are sent in one tick, for all hosts together.
const ANSWERS: u32 = 64;

/// The model's state.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it was told; may change between packets.
    pub policy: Policy,
    /// Whether forwarding is switched on.
    pub is_open: bool,
    /// Where the packet at hand is translated.
    pub door: Door,
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
    /// When the filtering of a protocol last became another.
    pub filtered_since: u32,
    /// Packets in fragments.
    splits: Vec<fragment::Split>,
    /// The largest IPv6 packet of the path to the border relay, as told, and when.
    path: Option<(u16, u32)>,
    /// Answers sent, and in which tick.
    answers: (u32, u32),
}

impl Model {
    /// Nothing open, at that time.
    pub const fn new(policy: Policy, now: u32) -> Self {
        Self {
            policy,
            is_open: true,
            door: Door::Nic,
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
            filtered_since: now,
            splits: Vec::new(),
            path: None,
            answers: (now, 0),
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
            .filter(|m| !m.is_static && meant(m.transport, m.inside, m.port, None))
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
            identification: match outcome {
                Outcome::Forwarded(bytes) => {
                    let at = match program {
                        _ if self.is_at_device() => 0,
                        Program::Lan if bytes.get(12) == Some(&0x86) => packet::TUNNELLED,
                        Program::Lan | Program::Wan => packet::ETHERNET,
                    };
                    packet::word(bytes, at + 4)
                }
                Outcome::Answered(_) | Outcome::Passed(_) | Outcome::Dropped => None,
            },
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
        if self.is_at_device() {
            self.really_make_room();
        }
        let answer = match program {
            _ if !self.is_open => Answer::Pass,
            Program::Lan => self.outbound(frame, sight)?,
            Program::Wan => self.inbound(frame, sight),
        };
        if self.is_at_device() {
            return self.judge_at_device(program, &answer, outcome, sight);
        }
        match (&answer, outcome) {
            (Answer::Forward { expected, session }, Outcome::Forwarded(bytes)) => {
                self.compare(expected, *session, bytes)
            }
            (Answer::Pass, Outcome::Passed(bytes)) if bytes == frame => Ok(()),
            (Answer::Drop(class), Outcome::Dropped) if sight.class == Some(*class) => Ok(()),
            (Answer::Refuse(class), Outcome::Dropped) if sight.class == Some(*class) => self.is_silent(frame, *class),
            (Answer::Refuse(class), Outcome::Answered(bytes)) if sight.class == Some(*class) => {
                if !self.may_tell(frame, *class) {
                    return Err(format!("{label}, and its sender is told at once"));
                }
                self.take_answer()?;
                self.compare_answer(frame, sight.class, bytes)
            }
            (Answer::TooBig, Outcome::Answered(bytes)) if label == "too-big" => {
                self.take_answer()?;
                self.compare_answer(frame, None, bytes)
            }
            (Answer::TooBig, Outcome::Passed(bytes)) if bytes == frame && label == "too-big" => {
                if frame[20] & 0x40 != 0 && self.is_exact && !self.are_answers_used() {
                    return Err("nobody is told what fits".to_owned());
                }
                Ok(())
            }
            (Answer::Echo, Outcome::Answered(bytes)) => self.compare_answer(frame, sight.class, bytes),
            (Answer::Tell(expected), Outcome::Forwarded(bytes)) => {
                self.take_answer()?;
                Self::compare_bytes(expected, bytes.clone())
            }
            (Answer::Tell(_), Outcome::Dropped)
                if label == "tunnel-error" && (!self.is_exact || self.are_answers_used()) =>
            {
                Ok(())
            }
            (Answer::Forward { session, .. }, _) => {
                Err(format!("{label}, but it has a session: {:?}", self.sessions[*session]))
            }
            (answer, _) => Err(format!("{label}, but it should be {answer:?}")),
        }
    }

    fn compare_answer(&self, frame: &[u8], class: Option<Class>, bytes: &[u8]) -> Result<(), String> {
        let right = answer::to(frame, class, self.tunnel_mtu())?;
        if right.iter().any(|right| right == bytes) {
            return Ok(());
        }
        Err(format!(
            "an answer that is none of these:\n  came   {bytes:02x?}\n  wanted {right:02x?}"
        ))
    }

    /// Whether as many answers were sent in this tick as may be.
    const fn are_answers_used(&self) -> bool {
        self.answers.0 == self.now && self.answers.1 >= ANSWERS
    }

    fn take_answer(&mut self) -> Result<(), String> {
        if self.is_exact && self.are_answers_used() {
            return Err("one answer too many in this tick".to_owned());
        }
        let sent = if self.answers.0 == self.now { self.answers.1 } else { 0 };
        self.answers = (self.now, sent + 1);
        Ok(())
    }

    /// Whether the sender of a refused packet is to be told: want of a record lasts; want of a port is told on the second try.
    fn may_tell(&self, frame: &[u8], class: Class) -> bool {
        class == Class::Slots || self.last_refusal(frame).is_some_and(|r| r.again)
    }

    /// Whether it is right that nobody is told. Who was refused since may have taken the memory's place.
    fn is_silent(&self, frame: &[u8], class: Class) -> Result<(), String> {
        let is_last = |r: &Refused| self.refused.last().is_some_and(|last| last.key == r.key);
        let is_remembered = class == Class::Slots || self.last_refusal(frame).is_some_and(|r| r.again && is_last(r));
        if self.is_exact && class != Class::Recently && is_remembered && !self.are_answers_used() {
            return Err(format!("{class:?} again, and its sender is not told"));
        }
        Ok(())
    }

    fn last_refusal(&self, frame: &[u8]) -> Option<&Refused> {
        let packet = packet::from_lan(frame).ok()?;
        let key = (packet.transport, packet.source.0, packet.remote_end());
        self.refused.iter().find(|r| r.key == key)
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
        Self::compare_bytes(expected, seen)
    }

    fn compare_bytes(expected: &Expected, mut seen: Vec<u8>) -> Result<(), String> {
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
