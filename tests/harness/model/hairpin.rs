//! From one LAN host to another by the shared address (RFC 4787 REQ-9, RFC 5382 REQ-8): as if the packet had gone out and come
//! back. The sender's session translates its source, the receiver's its destination; each is the other's remote end.

use super::{
    Answer, Class, Model, Sight,
    life::{End, Flow},
    packet::{self, Packet},
    policy::Transport,
    rewrite,
    tcp::{self, From},
};
use crate::table::world::SHARED;

impl Model {
    /// Whether a remote end is a LAN host's, seen from outside.
    pub(super) fn is_turned(&self, transport: Transport, remote: End) -> bool {
        transport != Transport::Icmp && remote.0 == SHARED.octets() && self.policy.has(remote.1)
    }

    /// What becomes of a LAN host's packet to the shared address and a port of the set.
    pub(super) fn turn(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        flow: &Flow,
        sight: &Sight<'_>,
    ) -> Result<Answer, String> {
        let known = self.sessions.iter().position(|s| s.flow == *flow);
        if !known.is_some_and(|at| self.is_settled(at, From::Lan, packet.flags)) {
            self.make_room();
        }
        // Nobody can be meant by an identifier.
        if packet.transport == Transport::Icmp {
            return Ok(if packet.is_query {
                Answer::Echo
            } else {
                Answer::Drop(Class::Hairpin)
            });
        }
        self.make_room();
        let sender = match self.leave(packet, flow, sight)? {
            Ok(port) => (SHARED.octets(), port),
            Err(answer) => return Ok(answer),
        };
        let receiver = match self.arrive(packet, sender) {
            Ok(end) => end,
            Err(class) => return Ok(Answer::Drop(class)),
        };
        if packet.total > self.policy.lan_mtu {
            return Ok(Answer::Pass);
        }
        let Some(session) = self.session_of(flow) else {
            return Err(format!("the sender's session is gone: {flow:?}"));
        };
        Ok(Answer::Forward {
            expected: rewrite::turned(frame, packet, sender, receiver),
            session,
        })
    }

    /// The sender's session; gives its external port.
    fn leave(&mut self, packet: &Packet, flow: &Flow, sight: &Sight<'_>) -> Result<Result<u16, Answer>, String> {
        if let Some(at) = self.session_of(flow) {
            let phase = Self::next_phase(self.sessions[at].phase, From::Lan, packet.flags);
            if !self.note(at, phase, From::Lan) {
                return Ok(Err(Answer::Drop(Class::Unmapped)));
            }
            return Ok(Ok(self.sessions[at].port));
        }
        if packet.flags & tcp::RST != 0 {
            return Ok(Err(Answer::Drop(Class::Reset)));
        }
        if !packet::is_lan(flow.inside.0) {
            return Ok(Err(Answer::Pass));
        }
        Ok(match self.open(flow, packet.flags, sight)? {
            Ok(at) => Ok(self.sessions[at].port),
            Err(class) => Err(Answer::Refuse(class)),
        })
    }

    /// The receiver's session; gives its LAN end.
    fn arrive(&mut self, packet: &Packet, sender: End) -> Result<End, Class> {
        let (transport, port) = (packet.transport, packet.destination.1);
        let found = self
            .sessions
            .iter()
            .position(|s| (s.flow.transport, s.port, s.flow.remote) == (transport, port, sender) && self.is_live(s));
        if let Some(at) = found {
            let phase = Self::next_phase(self.sessions[at].phase, From::Remote, packet.flags);
            if !self.note(at, phase, From::Remote) {
                return Err(Class::NoSession);
            }
            return Ok(self.sessions[at].flow.inside);
        }
        let at = self.admit(packet, sender)?;
        Ok(self.sessions[at].flow.inside)
    }
}
