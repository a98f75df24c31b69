//! LAN to WAN: a session is found or opened, its use noted, the source translated.

use super::{
    Answer, Class, Model, Refused, Sight,
    life::{self, Flow, Hold, Mapping, Permission, Phase, Session},
    packet::{self, Packet, Stop},
    policy::Transport,
    rewrite,
    tcp::{self, From},
};
use crate::table::world::SHARED;

impl Model {
    /// What becomes of a frame from the LAN.
    pub(super) fn outbound(&mut self, frame: &[u8], sight: &Sight<'_>) -> Result<Answer, String> {
        let packet = match packet::from_lan(frame) {
            Ok(packet) => packet,
            Err(Stop::Pass) => return Ok(Answer::Pass),
            Err(Stop::Drop(class)) => return Ok(Answer::Drop(vec![class])),
        };
        let flow = Flow {
            transport: packet.transport,
            inside: packet.source,
            remote: match packet.transport {
                Transport::Icmp => (packet.destination.0, 0),
                Transport::Udp | Transport::Tcp => packet.destination,
            },
        };
        if let Some(at) = self.session_of(&flow) {
            let phase = self.next_phase(self.sessions[at].phase, From::Lan, packet.flags);
            self.note(at, phase, From::Lan);
            return Ok(self.forward_out(frame, &packet, at));
        }
        let is_own = flow.remote.0 == SHARED.octets();
        if !is_own && !packet::is_tunnelled(flow.remote.0) {
            return Ok(Answer::Pass);
        }
        if is_own && self.policy.has(packet.destination.1) {
            return Ok(Answer::Drop(vec![Class::Hairpin]));
        }
        // A reset or an answer has nothing to open.
        if packet.flags & tcp::RST != 0 || (packet.transport == Transport::Icmp && !packet.is_query) {
            return Ok(Answer::Drop(vec![Class::NoSession]));
        }
        // RFC 3704: it must have come from where the way back leads.
        if !packet::is_lan(flow.inside.0) {
            return Ok(Answer::Pass);
        }
        match self.open(&flow, packet.flags, sight)? {
            Ok(at) => Ok(self.forward_out(frame, &packet, at)),
            Err(classes) => Ok(Answer::Drop(classes)),
        }
    }

    fn forward_out(&self, frame: &[u8], packet: &Packet, at: usize) -> Answer {
        if packet.total > self.policy.tunnel_mtu {
            return Answer::Pass;
        }
        let external = (SHARED.octets(), self.sessions[at].port);
        Answer::Forward {
            expected: rewrite::into_tunnel(frame, packet, external, self.policy.mss, self.policy.copy_dscp),
            session: at,
        }
    }

    /// The phase after a packet: only TCP's changes.
    pub(super) fn next_phase(&self, phase: Phase, from: From, flags: u8) -> Phase {
        if matches!(phase, Phase::Udp | Phase::Query | Phase::Icmp) {
            phase
        } else {
            tcp::after(phase, from, flags, self.policy.reset)
        }
    }

    /// Opens a session for a LAN host's packet; the classes of refusal that are right where there is none.
    fn open(&mut self, flow: &Flow, flags: u8, sight: &Sight<'_>) -> Result<Result<usize, Vec<Class>>, String> {
        let phase = match flow.transport {
            Transport::Udp if matches!(flow.remote.1, 53 | 123) => Phase::Query,
            Transport::Udp => Phase::Udp,
            Transport::Tcp => tcp::after(Phase::Opening, From::Lan, flags, self.policy.reset),
            Transport::Icmp => Phase::Icmp,
        };
        let mapped = self
            .mappings
            .iter()
            .find(|m| (m.transport, m.inside) == (flow.transport, flow.inside) && self.is_mapped(m));
        let mapped = mapped
            .filter(|_| self.policy.maps(flow.transport))
            .map(|m| (m.id, m.port));
        let client_server = flow.transport == Transport::Udp && self.policy.client_server.contains(&flow.remote.1);
        let alone = if mapped.is_none() && self.policy.maps(flow.transport) && !client_server {
            self.free_ports(flow.transport, flow.inside)
        } else {
            Vec::new()
        };
        let (choice, needed) = match (mapped, alone.is_empty()) {
            (Some((_, port)), _) => (
                super::ports::Choice {
                    ports: vec![port],
                    or_none: false,
                },
                1,
            ),
            (None, false) => (
                super::ports::Choice {
                    ports: alone.clone(),
                    or_none: false,
                },
                2,
            ),
            (None, true) => (self.shared_ports(flow), 1),
        };
        let has_room = self.records() + needed <= self.policy.slots;
        let key = (flow.transport, flow.inside.0, flow.remote);
        let recent = self
            .refused
            .iter()
            .any(|r| r.key == key && (!self.is_exact || self.now - r.when < life::STALE));
        let mut classes = Vec::new();
        if recent || choice.or_none || choice.ports.is_empty() {
            classes.push(Class::Ports);
        }
        if !has_room {
            classes.push(Class::Slots);
        }
        if let Some(class) = sight.class
            && classes.contains(&class)
        {
            if sight.label == "ports-exhausted" {
                self.refused.retain(|r| r.key != key);
                self.refused.push(Refused { key, when: self.now });
            }
            return Ok(Err(classes));
        }
        if !has_room || choice.ports.is_empty() {
            return Ok(Err(classes));
        }
        let Some(port) = (sight.port_of)(flow) else {
            return Err(format!("no session for {flow:?}, which may have one of {choice:?}"));
        };
        if !choice.ports.contains(&port) {
            return Err(format!("port {port} for {flow:?} is none of {choice:?}"));
        }
        let hold = if let Some((id, _)) = mapped {
            Hold::Member(id)
        } else if !alone.is_empty() {
            Hold::Member(self.map(flow, port))
        } else {
            Hold::Share
        };
        let at = self.enter(flow, port, hold, phase, From::Lan);
        Ok(Ok(at))
    }

    fn map(&mut self, flow: &Flow, port: u16) -> u64 {
        let ended: Vec<u64> = self
            .mappings
            .iter()
            .filter(|m| m.transport == flow.transport && (m.inside == flow.inside || m.port == port))
            .map(|m| m.id)
            .collect();
        self.end_mappings(&ended);
        self.last_id += 1;
        self.mappings.push(Mapping {
            id: self.last_id,
            transport: flow.transport,
            inside: flow.inside,
            port,
            stamp: self.now,
            used: self.now,
        });
        self.last_id
    }

    /// Makes a session; what has expired under one of its two keys ends.
    pub(super) fn enter(&mut self, flow: &Flow, port: u16, hold: Hold, phase: Phase, from: From) -> usize {
        let (flow, now) = (*flow, self.now);
        self.end_sessions(|_, s| {
            s.flow == flow || (s.flow.transport, s.port, s.flow.remote) == (flow.transport, port, flow.remote)
        });
        self.sessions.push(Session {
            flow,
            port,
            hold,
            phase,
            stamp: now,
            used: now,
            label: None,
        });
        let at = self.sessions.len() - 1;
        self.stamp(hold, flow.remote.0, from);
        self.used(at, from);
        at
    }

    /// Notes that a packet of a session changes its phase, or that its stamp is old; and that the session is used.
    pub(super) fn note(&mut self, at: usize, phase: Phase, from: From) {
        let session = &mut self.sessions[at];
        let (member, remote) = (session.hold, session.flow.remote.0);
        if session.phase != phase || self.now - session.stamp >= life::STALE {
            session.phase = phase;
            session.stamp = self.now;
            self.stamp(member, remote, from);
        }
        self.used(at, from);
    }

    /// Writes the stamps of what a session's use keeps alive.
    fn stamp(&mut self, hold: Hold, remote: [u8; 4], from: From) {
        let Hold::Member(id) = hold else { return };
        let now = self.now;
        for mapping in self.mappings.iter_mut().filter(|m| m.id == id) {
            mapping.stamp = now;
        }
        if from == From::Lan {
            self.permissions
                .insert((id, remote), Permission { stamp: now, used: now });
        }
    }

    /// The exact time of use.
    fn used(&mut self, at: usize, from: From) {
        let now = self.now;
        let session = &mut self.sessions[at];
        session.used = now;
        let (hold, remote) = (session.hold, session.flow.remote.0);
        let Hold::Member(id) = hold else { return };
        for mapping in self.mappings.iter_mut().filter(|m| m.id == id) {
            mapping.used = now;
        }
        if from == From::Lan
            && let Some(permission) = self.permissions.get_mut(&(id, remote))
        {
            permission.used = now;
        }
    }
}
