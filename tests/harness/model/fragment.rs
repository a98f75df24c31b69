//! Packets that come in fragments (RFC 7597 §8.3.2): the first one's ports say whose the others are.
//!
//! Which packets give way to others is chance, like a port: the gateway remembers so many, found by a hash with a secret. The model
//! knows which of them may have given way.

use super::{
    Answer, Class, Model, Sight,
    door::Door,
    life::{self, Flow},
    packet::{self, Packet, Stop},
    policy::Transport,
    rewrite,
    tcp::From,
};
use crate::table::world::{RELAY, SHARED};

/// Most bytes that follow a packet's header.
const LONGEST: usize = 65_515;
/// Incomplete packets of one sender that are together in one place of the memory.
const SHARE: usize = 4;
/// Packets in one place.
const WAYS: usize = 8;
/// Seconds in which an incomplete packet gives way to nobody else's.
const YOUNG: u32 = 2;

/// What fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    is_out: bool,
    outer: [u8; 16],
    source: [u8; 4],
    destination: [u8; 4],
    identification: u16,
    protocol: u8,
}

/// A packet whose first fragment was let through, or left to the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    key: Key,
    /// Bytes of its first fragment.
    first: usize,
    /// The session that it belongs to; none where the stack has it.
    session: Option<u64>,
    /// What its fragments leave with.
    identification: u16,
    begun: u32,
    seen: usize,
    end: Option<usize>,
    is_complete: bool,
    /// It may have given way to another one.
    is_at_risk: bool,
    /// Its first fragment was translated at the tunnel device.
    is_by_stack: bool,
}

/// The fragment at `at`.
struct Piece {
    key: Key,
    total: usize,
    start: usize,
    len: usize,
    is_last: bool,
}

fn piece(frame: &[u8], at: usize, is_out: bool) -> Piece {
    let word = |offset: usize| packet::word(frame, at + offset).expect("a header");
    let address = |offset: usize| packet::address(frame, at + offset).expect("a header");
    let total = usize::from(word(2));
    Piece {
        key: Key {
            is_out,
            outer: if is_out { [0; 16] } else { packet::outer_source(frame) },
            source: address(12),
            destination: address(16),
            identification: word(4),
            protocol: frame[at + 9],
        },
        total,
        start: usize::from(word(6) & 0x1fff) * 8,
        len: total.saturating_sub(20),
        is_last: word(6) & 0x2000 == 0,
    }
}

impl Piece {
    fn check(&self) -> Result<(), Class> {
        if self.len == 0 || (!self.is_last && !self.len.is_multiple_of(8)) {
            Err(Class::Malformed)
        } else if self.start + self.total > 65_535 {
            Err(Class::LongFragment)
        } else {
            Ok(())
        }
    }
}

impl Split {
    fn count(&mut self, piece: &Piece) -> Result<(), Class> {
        if self.seen + piece.len > LONGEST {
            return Err(Class::LongFragment);
        }
        if piece.is_last && self.end.is_none() {
            self.end = Some(piece.start + piece.len);
        }
        self.seen += piece.len;
        self.is_complete |= self.end.is_some_and(|end| self.seen >= end);
        Ok(())
    }
}

impl Model {
    /// A fragment from the LAN.
    pub(super) fn piece_out(&mut self, frame: &[u8], sight: &Sight<'_>) -> Result<Answer, String> {
        let piece = piece(frame, packet::ETHERNET, true);
        // What the stack sends elsewhere is not refused.
        let refused = |class| match packet::unless_elsewhere(frame, class) {
            Stop::Drop(class) => Answer::Drop(class),
            Stop::Pass | Stop::Message | Stop::Piece | Stop::Tunnel | Stop::Elsewhere => Answer::Pass,
        };
        if piece.start == 0 {
            let packet = match packet::read_from_lan(frame, true) {
                Ok(packet) => packet,
                Err(Stop::Drop(class)) => return Ok(Answer::Drop(class)),
                Err(_) => return Ok(Answer::Pass),
            };
            return self.first_out(frame, &packet, &piece, sight);
        }
        let (session, identification) = match piece.check().and_then(|()| self.follow(&piece, sight)) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Answer::Pass),
            Err(class) => return Ok(refused(class)),
        };
        let Some(at) = self.sessions.iter().position(|s| s.id == session) else {
            return Ok(refused(Class::NoSession));
        };
        if frame[packet::ETHERNET + 8] <= 1 || piece.total > self.tunnel_mtu() {
            return Ok(Answer::Pass);
        }
        let old = &frame[packet::ETHERNET..packet::ETHERNET + piece.total];
        Ok(Answer::Forward {
            expected: rewrite::piece_into_tunnel(old, SHARED.octets(), identification, self.policy.copy_dscp),
            session: at,
        })
    }

    fn first_out(&mut self, frame: &[u8], packet: &Packet, piece: &Piece, sight: &Sight<'_>) -> Result<Answer, String> {
        let flow = Flow {
            transport: packet.transport,
            inside: packet.source,
            remote: packet.remote_end(),
        };
        // Fragments are not turned round.
        if flow.remote.0 == SHARED.octets() && self.policy.has(packet.destination.1) {
            let known = self.sessions.iter().position(|s| s.flow == flow);
            if !known.is_some_and(|at| self.is_settled(at, From::Lan, packet.flags)) {
                self.make_room();
                if packet.transport != Transport::Icmp {
                    self.make_room();
                }
            }
            return Ok(Answer::Drop(Class::Hairpin));
        }
        let at = match self.settle_out(packet, &flow, sight)? {
            Ok(at) => at,
            // A fragment is answered by nobody.
            Err(Answer::Refuse(class)) => return Ok(Answer::Drop(class)),
            Err(answer) => return Ok(answer),
        };
        if packet.total > self.tunnel_mtu() {
            return Ok(self.leave_piece(piece, sight));
        }
        let chosen = sight.identification;
        Ok(match self.begin(piece, Some(self.sessions[at].id), chosen, sight) {
            Ok(identification) => {
                if !self.policy.has(identification) {
                    return Err(format!("identification {identification} is none of the set's"));
                }
                self.forward_out(frame, packet, at, Some(identification))
            }
            Err(class) => Answer::Drop(class),
        })
    }

    /// A fragment out of the tunnel.
    pub(super) fn piece_in(&mut self, frame: &[u8], sight: &Sight<'_>) -> Answer {
        let piece = piece(frame, packet::TUNNELLED, false);
        if piece.start == 0 {
            let packet = match packet::read_from_wan(frame, &self.policy, true) {
                Ok(packet) => packet,
                Err(Stop::Drop(class)) => return Answer::Drop(class),
                Err(_) => return Answer::Pass,
            };
            let at = match self.settle_in(&packet) {
                Ok(at) => at,
                Err(class) => return Answer::Drop(class),
            };
            if packet.total > self.policy.lan_mtu {
                return self.leave_piece(&piece, sight);
            }
            let own = Some(piece.key.identification);
            return match self.begin(&piece, Some(self.sessions[at].id), own, sight) {
                Ok(_) => self.forward_in(frame, &packet, at),
                Err(class) => Answer::Drop(class),
            };
        }
        let found = piece.check().and_then(|()| {
            if piece.key.destination == SHARED.octets() {
                self.follow(&piece, sight)
            } else {
                Err(Class::NotMine)
            }
        });
        let (session, identification) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Answer::Pass,
            Err(class) => return Answer::Drop(class),
        };
        debug_assert_eq!(piece.key.outer, RELAY.octets(), "only who sent the first is followed");
        let Some(at) = self.sessions.iter().position(|s| s.id == session) else {
            return Answer::Drop(Class::NoSession);
        };
        if frame[packet::TUNNELLED + 8] <= 1 || piece.total > self.policy.lan_mtu {
            return Answer::Pass;
        }
        let old = &frame[packet::TUNNELLED..packet::TUNNELLED + piece.total];
        let inside = self.sessions[at].flow.inside.0;
        match rewrite::piece_onto_lan(old, packet::outer_class(frame), inside, identification) {
            Some(expected) => Answer::Forward { expected, session: at },
            None => Answer::Drop(Class::Congestion),
        }
    }

    fn forget_pieces(&mut self) {
        let (now, limit) = (self.now, life::ticks(self.policy.fragments));
        self.splits.retain(|s| now - s.begun <= limit);
    }

    /// Notes a packet whose first fragment is left to the stack: so are those after it.
    fn leave_piece(&mut self, piece: &Piece, sight: &Sight<'_>) -> Answer {
        match self.begin(piece, None, None, sight) {
            Ok(_) => Answer::Pass,
            Err(class) => Answer::Drop(class),
        }
    }

    /// Notes a packet by its first fragment; gives the identification that its fragments leave with.
    fn begin(
        &mut self,
        piece: &Piece,
        session: Option<u64>,
        chosen: Option<u16>,
        sight: &Sight<'_>,
    ) -> Result<u16, Class> {
        self.forget_pieces();
        let now = self.now;
        if let Some(at) = self.splits.iter().position(|s| s.key == piece.key) {
            let known = &mut self.splits[at];
            let is_twice = !known.is_complete && now - known.begun < life::STALE;
            if is_twice && session.is_none() && known.is_by_stack {
                return Ok(known.identification);
            }
            let is_same = known.session == session && (session.is_none() || known.first == piece.len);
            // Another identification than the first time: it had given way.
            let is_new = known.is_at_risk
                && sight.class.is_none()
                && (!is_same || chosen.is_some_and(|chosen| chosen != known.identification));
            let is_taken_over = known.session.is_none() && session.is_some();
            if is_twice && !is_new && !is_taken_over {
                if !is_same {
                    return Err(Class::Overlap);
                }
                if session.is_some() {
                    known.count(piece)?;
                }
                return Ok(known.identification);
            }
            self.splits.remove(at);
        }
        let incomplete = self.splits.iter().filter(|s| !s.is_complete);
        let (total, own) = incomplete.fold((0, 0), |(total, own), split| {
            (total + 1, own + usize::from(split.key.source == piece.key.source))
        });
        if sight.class == Some(Class::Pieces) && total >= WAYS {
            return Err(Class::Pieces);
        }
        for split in &mut self.splits {
            split.is_at_risk |= split.is_complete
                || (own >= SHARE && split.key.source == piece.key.source)
                || (total >= WAYS && now - split.begun >= life::ticks(YOUNG));
        }
        let identification = chosen.unwrap_or(piece.key.identification);
        self.splits.push(Split {
            key: piece.key,
            first: piece.len,
            session,
            identification,
            begun: now,
            seen: piece.len,
            end: None,
            is_complete: false,
            is_at_risk: false,
            is_by_stack: self.door == Door::Device,
        });
        Ok(identification)
    }

    /// The session that a later fragment belongs to, and the identification; nothing where it is left to the stack.
    fn follow(&mut self, piece: &Piece, sight: &Sight<'_>) -> Result<Option<(u64, u16)>, Class> {
        self.forget_pieces();
        let Some(at) = self.splits.iter().position(|s| s.key == piece.key) else {
            return Err(Class::Fragment);
        };
        let is_at_device = self.is_at_device();
        let split = &mut self.splits[at];
        // What was left to the stack it finds out there by the first.
        if is_at_device && split.session.is_none() {
            return Err(Class::Fragment);
        }
        if split.is_at_risk && sight.class == Some(Class::Fragment) {
            self.splits.remove(at);
            return Err(Class::Fragment);
        }
        let Some(session) = split.session else { return Ok(None) };
        if split.is_by_stack && !is_at_device {
            return Ok(None);
        }
        if piece.start < split.first {
            return Err(Class::Overlap);
        }
        split.count(piece)?;
        Ok(Some((session, split.identification)))
    }

    /// Whether at a time a packet in fragments is about to be forgotten, or to be another's.
    pub(super) fn is_piece_near(&self, then: u32, slack: u32) -> bool {
        self.splits.iter().any(|s| {
            let age = then - s.begun;
            age.abs_diff(life::ticks(self.policy.fragments)) <= slack || age.abs_diff(life::STALE) <= slack
        })
    }
}
