//! WAN to LAN: a session is found, or a mapping admits one (RFC 4787 §5); the destination is translated.

use super::{
    Answer, Class, Model,
    life::{Flow, Hold, Phase, Session},
    packet::{self, Packet, Stop},
    policy::{Filtering, Transport},
    rewrite,
    tcp::{self, From},
};
use crate::table::world::SHARED;

impl Model {
    /// What becomes of a frame from the WAN.
    pub(super) fn inbound(&mut self, frame: &[u8]) -> Answer {
        let packet = match packet::from_wan(frame, &self.policy) {
            Ok(packet) => packet,
            Err(Stop::Pass | Stop::Elsewhere) => return Answer::Pass,
            Err(Stop::Message) => return Answer::Message,
            Err(Stop::Drop(class) | Stop::Later(class)) => return Answer::Drop(vec![class]),
        };
        let remote = match packet.transport {
            Transport::Icmp => (packet.source.0, 0),
            Transport::Udp | Transport::Tcp => packet.source,
        };
        let port = packet.destination.1;
        // From a LAN host of ours, it says, but out of the tunnel.
        let is_turned = self.is_turned(packet.transport, remote);
        let is_its = |s: &Session| (s.flow.transport, s.port, s.flow.remote) == (packet.transport, port, remote);
        if let Some(at) = self.sessions.iter().position(is_its)
            && self.is_settled(at, From::Remote, packet.flags)
        {
            if is_turned {
                return Answer::Drop(vec![Class::Spoofed]);
            }
            self.used(at, From::Remote);
            return self.forward_in(frame, &packet, at);
        }
        self.make_room();
        if let Some(at) = self.sessions.iter().position(|s| is_its(s) && self.is_live(s)) {
            let phase = Self::next_phase(self.sessions[at].phase, From::Remote, packet.flags);
            if !self.note(at, phase, From::Remote) {
                return Answer::Drop(vec![Class::NoSession]);
            }
            if is_turned {
                return Answer::Drop(vec![Class::Spoofed]);
            }
            return self.forward_in(frame, &packet, at);
        }
        if remote.0 == SHARED.octets() && self.policy.has(remote.1) {
            return Answer::Drop(vec![Class::Spoofed]);
        }
        match self.admit(&packet, remote) {
            Ok(at) => self.forward_in(frame, &packet, at),
            Err(classes) => Answer::Drop(classes),
        }
    }

    fn forward_in(&self, frame: &[u8], packet: &Packet, at: usize) -> Answer {
        if packet.total > self.policy.lan_mtu || packet.ttl <= 1 {
            return Answer::Pass;
        }
        match rewrite::onto_lan(frame, packet, self.sessions[at].flow.inside, self.policy.mss) {
            Some(expected) => Answer::Forward { expected, session: at },
            None => Answer::Drop(vec![Class::Congestion]),
        }
    }

    /// Opens the session of a remote host that may send to a mapping.
    pub(super) fn admit(&mut self, packet: &Packet, remote: ([u8; 4], u16)) -> Result<usize, Vec<Class>> {
        let transport = packet.transport;
        // A ping, a reset or an answer to what nobody asked opens nothing.
        let phase = match transport {
            Transport::Udp => Phase::UdpUnanswered,
            Transport::Tcp if packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN && packet.flags & tcp::RST == 0 => {
                Phase::Unanswered
            }
            Transport::Tcp | Transport::Icmp => return Err(vec![Class::NoSession]),
        };
        let mapping = self
            .mappings
            .iter()
            .find(|m| (m.transport, m.port) == (transport, packet.destination.1) && self.is_mapped(m));
        let Some(mapping) = mapping else {
            return Err(vec![Class::NoSession]);
        };
        let may_send = match self.policy.of(transport).filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.is_permitted(mapping, remote.0),
            Filtering::AddressAndPortDependent => false,
        };
        if !may_send {
            return Err(vec![Class::Filtered]);
        }
        let flow = Flow {
            transport,
            inside: mapping.inside,
            remote,
        };
        let (id, port) = (mapping.id, mapping.port);
        // The LAN host has sent to this end by a port that it shares, before it had a mapping. It answers by that port only.
        if self.session_of(&flow).is_some() {
            return Err(vec![Class::Filtered]);
        }
        if self.records() >= self.policy.slots {
            return Err(vec![Class::Slots]);
        }
        if !self.is_within_quota(flow.inside.0) {
            return Err(vec![Class::Quota]);
        }
        Ok(self.enter(&flow, port, Hold::Member(id), phase, From::Remote))
    }
}
