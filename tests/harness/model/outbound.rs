//! LAN to WAN: a session is found or opened, its use noted, the source translated.

use super::{
    Answer, Class, Model, Refused, Sight,
    life::{self, End, Flow, Hold, Mapping, Permission, Phase, Session},
    packet::{self, Packet, Stop},
    policy::{Filtering, Transport},
    ports::Choice,
    rewrite,
    tcp::{self, From},
};
use crate::table::world::SHARED;

/// How long after a refusal another one is the second, seconds.
const REPEATED: u32 = 8;

impl Model {
    /// What becomes of a frame from the LAN.
    pub(super) fn outbound(&mut self, frame: &[u8], sight: &Sight<'_>) -> Result<Answer, String> {
        let packet = match packet::from_lan(frame) {
            Ok(packet) => packet,
            Err(Stop::Pass) => return Ok(Answer::Pass),
            Err(Stop::Message) => return Ok(self.error_out(frame)),
            Err(Stop::Piece | Stop::Tunnel) => return self.piece_out(frame, sight),
            // Whose packet it is is asked where sessions are opened, after room was made for one.
            Err(Stop::Drop(class)) => {
                self.make_room();
                return Ok(Answer::Drop(class));
            }
            Err(Stop::Elsewhere) => {
                self.make_room();
                return Ok(Answer::Pass);
            }
        };
        let flow = Flow {
            transport: packet.transport,
            inside: packet.source,
            remote: packet.remote_end(),
        };
        if flow.remote.0 == SHARED.octets() && self.policy.has(packet.destination.1) {
            if self.is_at_device() {
                return Ok(Answer::Drop(Class::Hairpin));
            }
            return self.turn(frame, &packet, &flow, sight);
        }
        Ok(match self.settle_out(&packet, &flow, sight)? {
            Ok(at) => self.forward_out(frame, &packet, at, None),
            Err(answer) => answer,
        })
    }

    /// Looks after the session of a packet that does not go to a LAN host, or opens one; what becomes of the packet else.
    pub(super) fn settle_out(
        &mut self,
        packet: &Packet,
        flow: &Flow,
        sight: &Sight<'_>,
    ) -> Result<Result<usize, Answer>, String> {
        if let Some(at) = self.sessions.iter().position(|s| s.flow == *flow)
            && self.is_settled(at, From::Lan, packet.flags)
        {
            self.used(at, From::Lan);
            return Ok(Ok(at));
        }
        self.make_room();
        let is_own = flow.remote.0 == SHARED.octets();
        let is_elsewhere = !is_own && !packet::is_tunnelled(flow.remote.0);
        if let Some(at) = self.session_of(flow) {
            if is_elsewhere {
                return Ok(Err(Answer::Pass));
            }
            let phase = Self::next_phase(self.sessions[at].phase, From::Lan, packet.flags);
            if !self.note(at, phase, From::Lan) {
                return Ok(Err(Answer::Drop(Class::Unmapped)));
            }
            return Ok(Ok(at));
        }
        if is_elsewhere {
            return Ok(Err(Answer::Pass));
        }
        // A reset or an answer has nothing to open.
        if packet.flags & tcp::RST != 0 {
            return Ok(Err(Answer::Drop(Class::Reset)));
        }
        if packet.transport == Transport::Icmp && !packet.is_query {
            return Ok(Err(Answer::Drop(Class::NoSession)));
        }
        // RFC 3704: it must have come from where the way back leads.
        if !packet::is_lan(flow.inside.0) {
            return Ok(Err(Answer::Pass));
        }
        Ok(self.open(flow, packet.flags, sight)?.map_err(Answer::Refuse))
    }

    /// The packet leaves by the session; as part of one that leaves in fragments with that identification.
    pub(super) fn forward_out(&self, frame: &[u8], packet: &Packet, at: usize, identification: Option<u16>) -> Answer {
        if packet.total > self.tunnel_mtu() {
            return Answer::TooBig;
        }
        let external = (SHARED.octets(), self.sessions[at].port);
        Answer::Forward {
            expected: rewrite::into_tunnel(
                frame,
                packet,
                external,
                self.mss(),
                self.policy.copy_dscp,
                identification,
            ),
            session: at,
        }
    }

    /// The phase after a packet: only TCP's changes.
    pub(super) fn next_phase(phase: Phase, from: From, flags: u8) -> Phase {
        match (phase, from) {
            (Phase::UdpUnanswered, From::Lan) => Phase::Udp,
            (Phase::Udp | Phase::Query | Phase::Icmp | Phase::UdpUnanswered, _) => phase,
            (
                Phase::Opening
                | Phase::Established
                | Phase::LanClosed
                | Phase::RemoteClosed
                | Phase::Closing
                | Phase::Reset
                | Phase::Unanswered,
                _,
            ) => tcp::after(phase, from, flags),
        }
    }

    /// Opens a session for a LAN host's packet; the classes of refusal that are right where there is none.
    pub(super) fn open(&mut self, flow: &Flow, flags: u8, sight: &Sight<'_>) -> Result<Result<usize, Class>, String> {
        let phase = match flow.transport {
            Transport::Udp if matches!(flow.remote.1, 53 | 123) => Phase::Query,
            Transport::Udp => Phase::Udp,
            // The rest of a connection that is over.
            Transport::Tcp if flags & tcp::FIN != 0 && !tcp::opens(flags) => Phase::Closing,
            Transport::Tcp => Phase::Opening,
            Transport::Icmp => Phase::Icmp,
        };
        let mapped = self
            .mappings
            .iter()
            .find(|m| (m.transport, m.inside) == (flow.transport, flow.inside) && self.is_mapped(m));
        let mapped = mapped
            .filter(|_| self.policy.maps(flow.transport) || self.has_forwards(flow.transport))
            .map(|m| (m.id, m.port));
        let key = (flow.transport, flow.inside.0, flow.remote);
        let recent = self
            .refused
            .iter()
            .any(|r| r.key == key && (!self.is_exact || self.now - r.when < life::STALE));
        if recent && sight.label == "recently-refused" {
            return Ok(Err(Class::Recently));
        }
        if self.records() >= self.policy.slots {
            return Ok(Err(Class::Slots));
        }
        if !self.is_within_quota(flow.inside.0) {
            self.refuse(key);
            return Ok(Err(Class::Quota));
        }
        let client_server = flow.transport == Transport::Udp && self.policy.client_server.contains(&flow.remote.1);
        let alone = if mapped.is_none() && self.policy.maps(flow.transport) && !client_server {
            self.ports_alone(flow)
        } else {
            Vec::new()
        };
        let choice = match mapped {
            Some((_, port)) => Choice {
                ports: vec![port],
                or_none: false,
            },
            None if alone.is_empty() => self.shared_ports(flow),
            None => Choice {
                ports: alone.clone(),
                or_none: false,
            },
        };
        // A mapping is a record, too.
        if !alone.is_empty() && self.records() + 2 > self.policy.slots {
            return Ok(Err(Class::Slots));
        }
        if choice.ports.is_empty() || (choice.or_none && sight.class == Some(Class::Ports)) {
            self.refuse(key);
            return Ok(Err(Class::Ports));
        }
        let Some(port) = (sight.port_of)(flow) else {
            return Err(format!(
                "{}: no session for {flow:?}, which may have one of {choice:?}",
                sight.label
            ));
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
        self.measure(flow.transport);
        Ok(Ok(at))
    }

    /// Remembers a refusal.
    fn refuse(&mut self, key: (Transport, [u8; 4], End)) {
        let before = self.refused.iter().find(|r| r.key == key);
        let again = before.is_some_and(|r| self.now - r.when <= life::ticks(REPEATED));
        self.refused.retain(|r| r.key != key);
        self.refused.push(Refused {
            key,
            when: self.now,
            again,
        });
    }

    /// Whether a host may have another session.
    pub(super) fn is_within_quota(&self, host: [u8; 4]) -> bool {
        let has = self.sessions.iter().filter(|s| s.flow.inside.0 == host).count();
        self.policy.quota.sessions.is_none_or(|limit| has < limit)
    }

    /// Ports that a new endpoint may have alone; none left is a shortage, a host's quota is not.
    fn ports_alone(&mut self, flow: &Flow) -> Vec<u16> {
        let (transport, host) = (flow.transport, flow.inside.0);
        let has = self
            .mappings
            .iter()
            .filter(|m| (m.transport, m.inside.0) == (transport, host) && !m.is_static)
            .count();
        if self.policy.quota.ports.is_some_and(|limit| has >= limit) {
            return Vec::new();
        }
        let ports = self.free_ports(transport, flow.inside);
        if ports.is_empty() {
            self.press(transport);
        }
        ports
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
            is_static: false,
        });
        self.last_id
    }

    /// Makes a session; what has expired under one of its two keys ends.
    pub(super) fn enter(&mut self, flow: &Flow, port: u16, hold: Hold, phase: Phase, from: From) -> usize {
        let (flow, now) = (*flow, self.now);
        self.end_sessions(|_, s| {
            s.flow == flow || (s.flow.transport, s.port, s.flow.remote) == (flow.transport, port, flow.remote)
        });
        self.last_id += 1;
        self.sessions.push(Session {
            id: self.last_id,
            flow,
            port,
            hold,
            phase,
            stamp: now,
            used: now,
            label: None,
        });
        let at = self.sessions.len() - 1;
        self.stamp(hold, flow.remote.0, from, phase);
        self.used(at, from);
        at
    }

    /// Whether a packet changes nothing: the phase is the same and the stamp is new.
    pub(super) fn is_settled(&self, at: usize, from: From, flags: u8) -> bool {
        let session = &self.sessions[at];
        Self::next_phase(session.phase, from, flags) == session.phase
            && self.now.saturating_sub(session.stamp) < life::STALE
    }

    /// Notes the use of a session by a packet that changes its phase or finds its stamp old; false where its mapping is gone,
    /// and with it the session.
    pub(super) fn note(&mut self, at: usize, phase: Phase, from: From) -> bool {
        if self.is_settled_as(at, phase) {
            self.used(at, from);
            return true;
        }
        let session = &self.sessions[at];
        let (hold, remote) = (session.hold, session.flow.remote.0);
        if let Hold::Member(id) = hold
            && !self.mappings.iter().any(|m| m.id == id && self.is_mapped(m))
        {
            self.sessions[at].stamp = life::LONG_AGO;
            return false;
        }
        let session = &mut self.sessions[at];
        session.phase = phase;
        session.stamp = self.now;
        self.stamp(hold, remote, from, phase);
        self.used(at, from);
        true
    }

    fn is_settled_as(&self, at: usize, phase: Phase) -> bool {
        let session = &self.sessions[at];
        session.phase == phase && self.now.saturating_sub(session.stamp) < life::STALE
    }

    /// Writes the stamps of what a session's use keeps alive: its mapping, if the LAN host has its part in it, and the remote's
    /// permission, which the LAN host's packets make and any packet of such a session renews.
    fn stamp(&mut self, hold: Hold, remote: [u8; 4], from: From, phase: Phase) {
        let Hold::Member(id) = hold else { return };
        let (now, mut transport) = (self.now, None);
        let is_permitted = self.mappings.iter().any(|m| m.id == id && self.is_permitted(m, remote));
        for mapping in self.mappings.iter_mut().filter(|m| m.id == id) {
            transport = (!mapping.is_static).then_some(mapping.transport);
            if from == From::Lan || phase.is_answered() {
                mapping.stamp = now;
            }
        }
        let is_by_address = transport.is_some_and(|t| self.policy.of(t).filtering == Filtering::AddressDependent);
        let is_known = self.permissions.contains_key(&(id, remote));
        let has_room = self.permissions.keys().filter(|(of, _)| *of == id).count() < self.policy.permissions;
        if from == From::Lan && is_by_address && (is_known || has_room) {
            self.permissions
                .insert((id, remote), Permission { stamp: now, used: now });
        } else if is_by_address
            && is_permitted
            && phase.is_answered()
            && let Some(permission) = self.permissions.get_mut(&(id, remote))
        {
            permission.stamp = now;
        }
    }

    /// The exact time of use.
    pub(super) fn used(&mut self, at: usize, from: From) {
        let now = self.now;
        let session = &mut self.sessions[at];
        session.used = now;
        let (hold, remote, phase) = (session.hold, session.flow.remote.0, session.phase);
        let is_noted = session.stamp > self.filtered_since;
        let is_by_address = self.policy.of(session.flow.transport).filtering == Filtering::AddressDependent;
        let Hold::Member(id) = hold else { return };
        for mapping in self.mappings.iter_mut().filter(|m| m.id == id) {
            if from == From::Lan || phase.is_answered() {
                mapping.used = now;
            }
        }
        if from == From::Lan
            && is_by_address
            && is_noted
            && let Some(permission) = self.permissions.get_mut(&(id, remote))
        {
            permission.used = now;
        }
    }
}
