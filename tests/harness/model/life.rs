//! The model's records and when their time is over.
//!
//! The data path writes a record's stamp once a second, not with each packet. The model keeps both: the `stamp`, which
//! says when the record expires, and the time of last `use`, by which it checks that nothing expires before its time.

use super::{
    Model, Sight,
    policy::{Filtering, Timeouts, Transport},
};

/// Nanoseconds of a tick of the data path's clock.
const TICK: u64 = 1 << 28;
/// A stamp is written anew when it is this old, ticks: about a second.
pub const STALE: u32 = 4;

/// The stamp of what shall be over.
pub const LONG_AGO: u32 = 0;

/// What a session's idle time depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A UDP session.
    Udp,
    /// A UDP session with a query port.
    Query,
    /// An ICMP echo session.
    Icmp,
    /// The LAN host has opened.
    Opening,
    /// Both have spoken.
    Established,
    /// The LAN host has sent FIN.
    LanClosed,
    /// The remote host has sent FIN.
    RemoteClosed,
    /// Both have.
    Closing,
    /// One has reset the connection, if it was one of them.
    Reset,
    /// The remote host has opened.
    Unanswered,
    /// The remote host has opened a UDP session.
    UdpUnanswered,
}

impl Phase {
    /// Its idle time, seconds.
    pub const fn seconds(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Udp => timeouts.udp,
            Self::Query | Self::UdpUnanswered => timeouts.query,
            Self::Icmp => timeouts.icmp,
            Self::Opening | Self::Unanswered => timeouts.opening,
            Self::Closing | Self::Reset => timeouts.closing,
            Self::Established | Self::LanClosed | Self::RemoteClosed => timeouts.established,
        }
    }

    /// Whether the LAN host has had its part in it: else it keeps no mapping alive (RFC 7857 §7).
    pub const fn is_answered(self) -> bool {
        !matches!(self, Self::Unanswered | Self::UdpUnanswered)
    }
}

/// How long a shortage is remembered, seconds.
const PRESSURE: u32 = 8;

/// Ticks that a stamp may be old before the record is over.
///
/// Whole ticks for the seconds, one because a stamp says only in which tick something happened, and what a stamp may lag
/// behind the last packet.
///
/// # Panics
/// For more seconds than a clock of ticks has.
pub fn limit(seconds: u32) -> u32 {
    ticks(seconds) + STALE - 1
}

/// Ticks that are no less than so many seconds, whenever in its tick something happened.
pub(super) fn ticks(seconds: u32) -> u32 {
    let ticks = (u64::from(seconds) * 1_000_000_000).div_ceil(TICK);
    u32::try_from(ticks).expect("a timeout is a few hours") + 1
}

/// One end: address and port or identifier.
pub type End = ([u8; 4], u16);

/// A flow as the LAN sees it: the remote port is zero for ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Protocol.
    pub transport: Transport,
    /// LAN end.
    pub inside: End,
    /// Remote end.
    pub remote: End,
}

/// How a session holds its external port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// By the mapping with this number.
    Member(u64),
    /// By itself; others may be on the port with other destinations.
    Share,
}

/// A session: five-tuple and external port.
#[derive(Clone, Debug)]
pub struct Session {
    /// Counts sessions and mappings.
    pub id: u64,
    /// Who talks to whom.
    pub flow: Flow,
    /// The external port.
    pub port: u16,
    /// How it is held.
    pub hold: Hold,
    /// What the idle time depends on.
    pub phase: Phase,
    /// When its use was last noted.
    pub stamp: u32,
    /// When it was last used.
    pub used: u32,
    /// The outer flow label of its packets, once seen (RFC 6438: the same for all).
    pub label: Option<u32>,
}

/// An endpoint-independent mapping.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Counts sessions and mappings.
    pub id: u64,
    /// Protocol.
    pub transport: Transport,
    /// LAN endpoint.
    pub inside: End,
    /// Its external port.
    pub port: u16,
    /// When a use was last noted.
    pub stamp: u32,
    /// When it was last used.
    pub used: u32,
    /// Whether an operator has made it: a forward, which never expires.
    pub is_static: bool,
}

impl Mapping {
    /// The flow that stands for all of its.
    pub const fn endpoint(&self) -> Flow {
        Flow {
            transport: self.transport,
            inside: self.inside,
            remote: ([0; 4], 0),
        }
    }
}

/// A record, by what tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// A session.
    Session(Flow),
    /// A mapping, by its number.
    Mapping(u64),
}

/// When a mapping sent to a host.
#[derive(Clone, Copy, Debug)]
pub struct Permission {
    /// When that was last noted.
    pub stamp: u32,
    /// When it last did.
    pub used: u32,
}

/// The phase whose idle time a mapping has.
pub const fn mapping_phase(transport: Transport) -> Phase {
    match transport {
        Transport::Udp => Phase::Udp,
        Transport::Tcp => Phase::Established,
        Transport::Icmp => Phase::Icmp,
    }
}

impl Model {
    fn is_over(&self, phase: Phase, stamp: u32) -> bool {
        self.now.saturating_sub(stamp) > limit(phase.seconds(&self.policy.timeouts))
    }

    /// The idle times of a protocol's sessions at the moment.
    fn timeouts(&self, transport: Transport) -> &Timeouts {
        let is_short = |then: &u32| self.now - then <= ticks(PRESSURE);
        if self.pressed.get(&transport).is_some_and(is_short) {
            &self.policy.pressed
        } else {
            &self.policy.timeouts
        }
    }

    /// Whether a session is there, to packets.
    pub(super) fn is_live(&self, session: &Session) -> bool {
        let seconds = session.phase.seconds(self.timeouts(session.flow.transport));
        self.now.saturating_sub(session.stamp) <= limit(seconds)
    }

    /// Whether a session may end because something is short: both sides have closed it, or it has been idle for a while.
    pub(super) fn is_over_in_all_but_name(&self, session: &Session) -> bool {
        let limit = limit(session.phase.seconds(&self.policy.pressed));
        session.phase == Phase::Closing || self.now.saturating_sub(session.stamp) > limit
    }

    /// Notes that a protocol is short of something.
    pub(super) fn press(&mut self, transport: Transport) {
        self.pressed.insert(transport, self.now);
    }

    /// Where hardly a record is free every protocol is short of records, and the one that is supposed to have ended ends.
    pub(super) fn make_room(&mut self) {
        // There it is done once, before the packet is looked at.
        if !self.is_at_device() {
            self.really_make_room();
        }
    }

    /// The same, wherever the packet is.
    pub(super) fn really_make_room(&mut self) {
        if self.records() + 2 <= self.policy.slots {
            return;
        }
        for transport in Transport::ALL {
            self.press(transport);
        }
        let first = (!self.supposed.is_empty()).then(|| self.supposed.remove(0));
        match first {
            Some(Record::Session(flow)) => self.end_sessions(|_, s| s.flow == flow),
            Some(Record::Mapping(id)) => self.end_mappings(&[id]),
            None => {}
        }
    }

    /// The records of which one may end before the next packet is looked at, those first that are no longer seen. None may end
    /// where only some of many were looked at; two, for a packet that needs two sessions.
    pub(super) fn may_end(&self, sight: &Sight<'_>) -> Vec<Vec<Record>> {
        if self.records() + 2 <= self.policy.slots {
            return vec![Vec::new()];
        }
        let over = |phase: Phase, stamp| self.now.saturating_sub(stamp) > limit(phase.seconds(&self.policy.pressed));
        let sessions = self.sessions.iter().filter(|s| over(s.phase, s.stamp));
        let sessions = sessions.map(|s| (Record::Session(s.flow), s.flow, s.port));
        let mappings = self
            .mappings
            .iter()
            .filter(|m| !m.is_static && over(mapping_phase(m.transport), m.stamp));
        let mappings = mappings.map(|m| (Record::Mapping(m.id), m.endpoint(), m.port));
        let mut found: Vec<_> = sessions
            .chain(mappings)
            .map(|(record, flow, port)| ((sight.port_of)(&flow) == Some(port), record))
            .collect();
        found.sort_by_key(|(is_seen, _)| *is_seen);
        let unseen = found.partition_point(|(is_seen, _)| !is_seen);
        let found: Vec<Record> = found.into_iter().map(|(_, record)| record).collect();
        let mut records: Vec<_> = found.iter().map(|record| vec![*record]).collect();
        if records.is_empty() || self.policy.slots > super::LOOKS {
            records.insert(unseen, Vec::new());
        }
        for first in &found {
            records.extend(found.iter().filter(|r| *r != first).map(|second| vec![*first, *second]));
        }
        records
    }

    /// Notes after a session was opened from the LAN whether more is in use than the high water mark.
    pub(super) fn measure(&mut self, transport: Transport) {
        let used = self.policy.ports.iter().filter(|port| {
            matches!(
                self.holder(transport, **port),
                super::ports::Held::Alone | super::ports::Held::Shared
            )
        });
        let (ports, records) = self.policy.high;
        if (self.policy.maps(transport) && used.count() >= ports) || self.records() >= records {
            self.press(transport);
        }
    }

    /// Whether a port is kept unused for what may still be sent to its last owner.
    pub(super) fn is_quarantined(&self, transport: Transport, port: u16) -> bool {
        self.quarantined
            .get(&(transport, port))
            .is_some_and(|until| *until > self.now)
    }

    /// Whether a mapping is.
    pub(super) fn is_mapped(&self, mapping: &Mapping) -> bool {
        mapping.is_static || !self.is_over(mapping_phase(mapping.transport), mapping.stamp)
    }

    /// Whether a mapping has sent to a host within its idle time.
    pub(super) fn is_permitted(&self, mapping: &Mapping, host: [u8; 4]) -> bool {
        let phase = mapping_phase(mapping.transport);
        self.permissions
            .get(&(mapping.id, host))
            .is_some_and(|permission| !self.is_over(phase, permission.stamp))
    }

    /// That what is over has really been idle for the time that was promised.
    pub(super) fn check_promises(&self) -> Result<(), String> {
        // The last use may have been at the end of its tick, and this tick may have just begun.
        let idle = |used: u32| u64::from(self.now.saturating_sub(used).saturating_sub(1)) * TICK;
        let is_enough = |used: u32, seconds: u32| idle(used) >= u64::from(seconds) * 1_000_000_000;
        let kept = |phase: Phase, stamp: u32, used: u32| {
            !self.is_over(phase, stamp) || is_enough(used, phase.seconds(&self.policy.timeouts))
        };
        for session in &self.sessions {
            let seconds = session.phase.seconds(self.timeouts(session.flow.transport));
            if !self.is_live(session) && session.stamp != LONG_AGO && !is_enough(session.used, seconds) {
                return Err(format!("over before its time at {}: {session:?}", self.now));
            }
        }
        for mapping in &self.mappings {
            if !mapping.is_static && !kept(mapping_phase(mapping.transport), mapping.stamp, mapping.used) {
                return Err(format!("over before its time at {}: {mapping:?}", self.now));
            }
        }
        for ((id, host), permission) in &self.permissions {
            if let Some(mapping) = self.mappings.iter().find(|m| m.id == *id)
                && !kept(mapping_phase(mapping.transport), permission.stamp, permission.used)
            {
                return Err(format!(
                    "{host:?} not permitted, at {}: {permission:?}, {mapping:?}",
                    self.now
                ));
            }
        }
        Ok(())
    }

    /// Whether, so many ticks from here, something will be within `slack` ticks of its end.
    pub fn is_near(&self, ticks: u32, slack: u32) -> bool {
        let then = self.now + ticks;
        let near = |phase: Phase, stamp: u32| {
            let is_near = |times: &Timeouts| (then - stamp).abs_diff(limit(phase.seconds(times))) <= slack;
            is_near(&self.policy.timeouts) || is_near(&self.policy.pressed)
        };
        let memory = self::ticks(PRESSURE);
        if self.pressed.values().any(|p| (then - p).abs_diff(memory) <= slack)
            || self.quarantined.values().any(|until| then.abs_diff(*until) <= slack)
        {
            return true;
        }
        let phases = |id: u64| {
            let of = self.mappings.iter().find(move |m| m.id == id);
            of.map(|m| mapping_phase(m.transport))
        };
        self.sessions.iter().any(|s| near(s.phase, s.stamp))
            || self
                .mappings
                .iter()
                .any(|m| !m.is_static && near(mapping_phase(m.transport), m.stamp))
            || self.is_piece_near(then, slack)
            || self.is_path_near(then, slack)
            || self
                .permissions
                .iter()
                .any(|((id, _), p)| phases(*id).is_some_and(|phase| near(phase, p.stamp)))
    }

    /// Takes away of what is over what is meant: where it is in somebody's way it ends before the sweeper comes.
    pub fn reclaim(&mut self, is_meant: impl Fn(&Flow, u16, Option<Hold>) -> bool) {
        self.end_sessions(|model, s| !model.is_live(s) && is_meant(&s.flow, s.port, Some(s.hold)));
        let over: Vec<u64> = self
            .mappings
            .iter()
            .filter(|m| !self.is_mapped(m))
            .filter(|m| is_meant(&m.endpoint(), m.port, None))
            .map(|m| m.id)
            .collect();
        self.end_mappings(&over);
    }

    /// Takes away what is over: the sweeper has been around.
    pub fn sweep(&mut self) {
        let gone = |model: &Self, session: &Session| !model.is_live(session);
        self.end_sessions(gone);
        let over: Vec<u64> = self
            .mappings
            .iter()
            .filter(|m| !self.is_mapped(m))
            .map(|m| m.id)
            .collect();
        self.end_mappings(&over);
    }

    /// Ends the sessions that are meant.
    pub(super) fn end_sessions(&mut self, meant: impl Fn(&Self, &Session) -> bool) {
        let (ended, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sessions)
            .into_iter()
            .partition(|session| meant(self, session));
        self.sessions = kept;
        for session in ended {
            // The member that renewed a permission last takes it along; who renewed it a moment earlier may, too.
            if let Hold::Member(id) = session.hold {
                let key = (id, session.flow.remote.0);
                if self
                    .permissions
                    .get(&key)
                    .is_some_and(|p| p.stamp < session.stamp + STALE || session.stamp == LONG_AGO)
                {
                    self.permissions.remove(&key);
                }
            }
        }
    }

    /// Ends mappings, and with them what they permit.
    pub(super) fn end_mappings(&mut self, ids: &[u64]) {
        for mapping in self.mappings.iter().filter(|m| ids.contains(&m.id)) {
            let was_open =
                mapping.is_static || self.policy.of(mapping.transport).filtering == Filtering::EndpointIndependent;
            if was_open && self.policy.quarantine > 0 {
                let until = self.now + ticks(self.policy.quarantine);
                self.quarantined.insert((mapping.transport, mapping.port), until);
            }
        }
        self.mappings.retain(|m| !ids.contains(&m.id));
        self.permissions.retain(|(id, _), _| !ids.contains(id));
    }
}
