//! WAN to LAN: a session is found, or a mapping admits one (RFC 4787 §5); the destination is translated.

use super::{
    Answer, Class, Model, Sight,
    life::{Flow, Hold, Phase, Session},
    packet::{self, Packet, Stop},
    policy::{Filtering, Transport},
    rewrite,
    tcp::{self, From},
};

impl Model {
    /// What becomes of a frame from the WAN.
    pub(super) fn inbound(&mut self, frame: &[u8], sight: &Sight<'_>) -> Answer {
        let packet = match packet::from_wan(frame, &self.policy) {
            Ok(packet) => packet,
            Err(Stop::Pass | Stop::Elsewhere) => return Answer::Pass,
            Err(Stop::Message) => return self.error_in(frame),
            Err(Stop::Piece) => return self.piece_in(frame, sight),
            Err(Stop::Tunnel) => return self.tunnel_error(frame),
            Err(Stop::Drop(class)) => return Answer::Drop(class),
        };
        match self.settle_in(&packet) {
            Ok(at) => self.forward_in(frame, &packet, at),
            Err(class) => Answer::Drop(class),
        }
    }

    /// Looks after the session of a packet from the tunnel, or opens one.
    pub(super) fn settle_in(&mut self, packet: &Packet) -> Result<usize, Class> {
        let remote = packet.remote_source();
        let port = packet.destination.1;
        // From a LAN host of ours, it says, but out of the tunnel.
        let is_turned = self.is_turned(packet.transport, remote);
        let is_its = |s: &Session| (s.flow.transport, s.port, s.flow.remote) == (packet.transport, port, remote);
        if is_turned && self.is_at_device() {
            return Err(Class::Spoofed);
        }
        if let Some(at) = self.sessions.iter().position(is_its)
            && self.is_settled(at, From::Remote, packet.flags)
        {
            if is_turned {
                return Err(Class::Spoofed);
            }
            self.used(at, From::Remote);
            return Ok(at);
        }
        self.make_room();
        if is_turned {
            return Err(Class::Spoofed);
        }
        if let Some(at) = self.sessions.iter().position(|s| is_its(s) && self.is_live(s)) {
            let phase = Self::next_phase(self.sessions[at].phase, From::Remote, packet.flags);
            if !self.note(at, phase, From::Remote) {
                return Err(Class::NoSession);
            }
            return Ok(at);
        }
        self.admit(packet, remote)
    }

    pub(super) fn forward_in(&self, frame: &[u8], packet: &Packet, at: usize) -> Answer {
        if packet.total > self.policy.lan_mtu || packet.ttl <= 1 {
            return Answer::Pass;
        }
        match rewrite::onto_lan(frame, packet, self.sessions[at].flow.inside, self.mss()) {
            Some(expected) => Answer::Forward { expected, session: at },
            None => Answer::Drop(Class::Congestion),
        }
    }

    /// Opens the session of a remote host that may send to a mapping.
    pub(super) fn admit(&mut self, packet: &Packet, remote: ([u8; 4], u16)) -> Result<usize, Class> {
        let transport = packet.transport;
        // A ping, a reset or an answer to what nobody asked opens nothing.
        let phase = match transport {
            Transport::Udp => Phase::UdpUnanswered,
            Transport::Tcp if packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN && packet.flags & tcp::RST == 0 => {
                Phase::Unanswered
            }
            Transport::Tcp | Transport::Icmp => return Err(Class::NoSession),
        };
        let mapping = self
            .mappings
            .iter()
            .find(|m| (m.transport, m.port) == (transport, packet.destination.1) && self.is_mapped(m));
        let Some(mapping) = mapping else {
            return Err(Class::NoSession);
        };
        let may_send = match self.policy.of(transport).filtering {
            _ if mapping.is_static => true,
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.is_permitted(mapping, remote.0),
            Filtering::AddressAndPortDependent => false,
        };
        if !may_send {
            return Err(Class::Filtered);
        }
        let flow = Flow {
            transport,
            inside: mapping.inside,
            remote,
        };
        let (id, port) = (mapping.id, mapping.port);
        let is_elsewhere = mapping.is_static && !packet::is_lan(mapping.inside.0);
        // The LAN host has sent to this end by a port that it shares, before it had a mapping. It answers by that port only.
        if self.session_of(&flow).is_some() {
            return Err(Class::Filtered);
        }
        if self.records() >= self.policy.slots {
            return Err(Class::Slots);
        }
        if is_elsewhere {
            return Err(Class::Unrouted);
        }
        if !self.is_within_quota(flow.inside.0) {
            return Err(Class::Quota);
        }
        Ok(self.enter(&flow, port, Hold::Member(id), phase, From::Remote))
    }
}
