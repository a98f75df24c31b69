//! The model's records and when their time is over.
//!
//! The data path writes a record's stamp once a second, not with each packet. The model keeps both: the `stamp`, which
//! says when the record expires, and the time of last `use`, by which it checks that nothing expires before its time.

use super::{
    Model,
    policy::{Timeouts, Transport},
};

/// Nanoseconds of a tick of the data path's clock.
const TICK: u64 = 1 << 28;
/// A stamp is written anew when it is this old, ticks: about a second.
pub const STALE: u32 = 4;

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
    /// Both have, or one has reset the connection.
    Closing,
    /// One has reset the connection, if it was one of them.
    Doubted,
}

impl Phase {
    /// Its idle time, seconds.
    pub const fn seconds(self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Udp => timeouts.udp,
            Self::Query => timeouts.query,
            Self::Icmp => timeouts.icmp,
            Self::Opening | Self::Closing | Self::Doubted => timeouts.transitory,
            Self::Established | Self::LanClosed | Self::RemoteClosed => timeouts.established,
        }
    }
}

/// Ticks that a stamp may be old before the record is over.
///
/// Whole ticks for the seconds, one because a stamp says only in which tick something happened, and what a stamp may lag
/// behind the last packet.
///
/// # Panics
/// For more seconds than a clock of ticks has.
pub fn limit(seconds: u32) -> u32 {
    let ticks = (u64::from(seconds) * 1_000_000_000).div_ceil(TICK);
    u32::try_from(ticks).expect("a timeout is a few hours") + 1 + super::SLACK
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
    /// Counts mappings.
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
        self.now - stamp > limit(phase.seconds(&self.policy.timeouts))
    }

    /// Whether a session is there, to packets.
    pub(super) fn is_live(&self, session: &Session) -> bool {
        !self.is_over(session.phase, session.stamp)
    }

    /// Whether a mapping is.
    pub(super) fn is_mapped(&self, mapping: &Mapping) -> bool {
        !self.is_over(mapping_phase(mapping.transport), mapping.stamp)
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
        let timeouts = &self.policy.timeouts;
        let kept = |phase: Phase, stamp: u32, used: u32| {
            // The last use may have been at the end of its tick, and this tick may have just begun.
            let idle = u64::from((self.now - used).saturating_sub(1)) * TICK;
            !self.is_over(phase, stamp) || idle >= u64::from(phase.seconds(timeouts)) * 1_000_000_000
        };
        for session in &self.sessions {
            if !kept(session.phase, session.stamp, session.used) {
                return Err(format!("over before its time at {}: {session:?}", self.now));
            }
        }
        for mapping in &self.mappings {
            if !kept(mapping_phase(mapping.transport), mapping.stamp, mapping.used) {
                return Err(format!("over before its time at {}: {mapping:?}", self.now));
            }
        }
        for ((id, host), permission) in &self.permissions {
            if !self.policy.inbound_hides_outbound
                && let Some(mapping) = self.mappings.iter().find(|m| m.id == *id)
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
        let near = |phase: Phase, stamp: u32| {
            let age = self.now + ticks - stamp;
            age.abs_diff(limit(phase.seconds(&self.policy.timeouts))) <= slack
        };
        let phases = |id: u64| {
            let of = self.mappings.iter().find(move |m| m.id == id);
            of.map(|m| mapping_phase(m.transport))
        };
        self.sessions.iter().any(|s| near(s.phase, s.stamp))
            || self.mappings.iter().any(|m| near(mapping_phase(m.transport), m.stamp))
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
            .filter(|m| {
                let flow = Flow {
                    transport: m.transport,
                    inside: m.inside,
                    remote: ([0; 4], 0),
                };
                is_meant(&flow, m.port, None)
            })
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
            // The member that renewed a permission last takes it along.
            if let Hold::Member(id) = session.hold {
                let key = (id, session.flow.remote.0);
                if self.permissions.get(&key).is_some_and(|p| p.stamp <= session.stamp) {
                    self.permissions.remove(&key);
                }
            }
        }
    }

    /// Ends mappings, and with them what they permit.
    pub(super) fn end_mappings(&mut self, ids: &[u64]) {
        self.mappings.retain(|m| !ids.contains(&m.id));
        self.permissions.retain(|(id, _), _| !ids.contains(id));
    }
}
