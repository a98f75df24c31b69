//! What happens to a packet, step by step: each plans on `&frame`, which it cannot write, then applies its plan.
//!
//! * [`admit`]: is the frame for us at all; * [`inner`]: the IPv4 packet and its transport header;
//! * [`translate`]: rewriting one end of it; * [`mss`]: the TCP MSS clamp; * [`tunnel`]: TTL, ECN, MTU and the outer header;
//! * [`path`]: where a new session's packets go; * [`fragment`]: packets that come in fragments; * [`error`]: ICMP errors, and [`quoted`], the packet in them;
//! * [`hairpin`]: from one LAN host to another, and [`hairpin_error`], ICMP errors about that; * [`tunnel_error`]: ICMPv6 errors about the tunnel; * [`answer`]: errors of our own;
//! * [`slow`]: translation at the tunnel device; * [`guard`]: what must not leave without; * [`neighbour`]: what the stack knows of routers;
//! * [`stage`]: the parts that a customer edge is made of; [`edge`]: each of them from end to end, [`outbound`] and [`inbound`] its two directions; * [`relay`]: a border relay's, and [`relay_icmp`], its ICMP;
//! * [`native`]: IPv6 that is none of the tunnel's; * [`spread`]: which processor takes a packet from the tunnel.

pub mod admit;
pub mod answer;
#[cfg(any(test, feature = "host"))]
pub mod carry;
pub mod edge;
pub mod error;
pub mod fragment;
pub mod guard;
pub mod hairpin;
pub mod hairpin_error;
pub mod inbound;
pub mod inner;
pub mod mss;
pub mod native;
pub mod neighbour;
pub mod outbound;
pub mod path;
pub mod quoted;
pub mod relay;
pub mod relay_icmp;
pub mod slow;
pub mod spread;
pub mod stage;
pub mod translate;
pub mod tunnel;
pub mod tunnel_error;

use crate::{
    layout::SessionRef,
    nat::{open::Flow, session::Phase},
    verdict::Reason,
};

/// Why a plan was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The packet is not forwarded.
    Refused(Reason),
    /// Its session is not there, or has to be looked after first.
    Unsettled,
}

impl From<Reason> for Stop {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

/// What a packet needs before it can be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The packet's flow.
    pub flow: Flow,
    /// Phase of its session before the packet; at its start, the same as after.
    pub before: Phase,
    /// Phase of its session after the packet, or at its start.
    pub phase: Phase,
    /// The session to look after; none = one has to be opened.
    pub session: Option<SessionRef>,
    /// It was used a moment ago and the packet changes nothing about it.
    pub is_in_use: bool,
}
