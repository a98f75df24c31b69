//! ICMP errors (RFC 5508 §4): the quoted packet tells the session; they are translated as it was, and change nothing.

use super::{
    Answer, Class, Model,
    life::{End, Flow},
    packet::{self, Stop},
    policy::Transport,
    rewrite,
};
use crate::table::world::{RELAY, SHARED};

/// What an error says of the packet that it is about.
pub(super) struct Quoted {
    pub(super) transport: Transport,
    pub(super) source: End,
    pub(super) destination: End,
    pub(super) has_options: bool,
    pub(super) may_be_fragmented: bool,
}

impl Quoted {
    /// An end as a session knows the remote one.
    const fn remote(&self, end: End) -> End {
        match self.transport {
            Transport::Icmp => (end.0, 0),
            Transport::Udp | Transport::Tcp => end,
        }
    }

    pub(super) const fn remote_source(&self) -> End {
        self.remote(self.source)
    }

    pub(super) const fn remote_destination(&self) -> End {
        self.remote(self.destination)
    }
}

/// Reads the packet that is quoted at `at`, of which `room` bytes are there.
pub(super) fn quoted(frame: &[u8], at: usize, room: usize) -> Result<Quoted, Stop> {
    const UNUSABLE: Stop = Stop::Drop(Class::Unusable);
    let header = frame.get(at..at + 20).ok_or(UNUSABLE)?;
    let len = usize::from(header[0] & 15) * 4;
    let place = packet::word(header, 6).ok_or(UNUSABLE)?;
    if header[0] >> 4 != 4 || len < 20 || place & 0x1fff != 0 {
        return Err(UNUSABLE);
    }
    let transport = match header[9] {
        1 => Transport::Icmp,
        6 => Transport::Tcp,
        17 => Transport::Udp,
        // Of what has no ports the stack knows more.
        _ => return Err(Stop::Pass),
    };
    // RFC 792: the header and eight bytes.
    if room < len + 8 {
        return Err(UNUSABLE);
    }
    let body = frame.get(at + len..at + len + 8).ok_or(UNUSABLE)?;
    let ports = match transport {
        Transport::Udp | Transport::Tcp => (packet::word(body, 0), packet::word(body, 2)),
        Transport::Icmp if matches!(body[0], 0 | 8) => (packet::word(body, 4), packet::word(body, 4)),
        // No error about an error (RFC 1122 §3.2.2).
        Transport::Icmp => return Err(UNUSABLE),
    };
    Ok(Quoted {
        transport,
        source: (packet::address(header, 12).ok_or(UNUSABLE)?, ports.0.ok_or(UNUSABLE)?),
        destination: (packet::address(header, 16).ok_or(UNUSABLE)?, ports.1.ok_or(UNUSABLE)?),
        has_options: len > 20,
        may_be_fragmented: place & 0x4000 == 0,
    })
}

/// The error at `at`: its length, its two addresses, and the packet in it.
fn message(frame: &[u8], at: usize) -> Result<(usize, [u8; 4], [u8; 4], Quoted), Stop> {
    let total = usize::from(packet::word(frame, at + 2).ok_or(Stop::Pass)?);
    // Redirects, source quench (RFC 6633) and what else there is are not for translation.
    if !matches!(frame[at + 20], 3 | 11 | 12) {
        return Err(Stop::Pass);
    }
    let quoted = quoted(frame, at + 28, total - 28)?;
    let address = |offset| packet::address(frame, at + offset).ok_or(Stop::Pass);
    Ok((total, address(12)?, address(16)?, quoted))
}

impl Model {
    /// An ICMP message from the LAN that is no echo.
    pub(super) fn error_out(&self, frame: &[u8]) -> Answer {
        match self.report(frame) {
            Ok(answer) => answer,
            Err(Stop::Drop(class)) => match packet::unless_elsewhere(frame, class) {
                Stop::Drop(class) => Answer::Drop(class),
                Stop::Pass | Stop::Message | Stop::Piece | Stop::Tunnel | Stop::Elsewhere => Answer::Pass,
            },
            Err(_) => Answer::Pass,
        }
    }

    fn report(&self, frame: &[u8]) -> Result<Answer, Stop> {
        const AT: usize = packet::ETHERNET;
        let (total, _, to, quoted) = message(frame, AT)?;
        let flow = Flow {
            transport: quoted.transport,
            inside: quoted.destination,
            remote: quoted.remote_source(),
        };
        let at = self.session_of(&flow).ok_or(Stop::Drop(Class::Unsolicited))?;
        if quoted.source.0 != to {
            return Err(Stop::Drop(Class::Unusable));
        }
        let packet = &frame[AT..AT + total];
        let external = (SHARED.octets(), self.sessions[at].port);
        if self.is_turned(quoted.transport, flow.remote) {
            if self.is_at_device() {
                return Err(Stop::Drop(Class::Hairpin));
            }
            return Ok(self.report_turned(packet, &quoted, external));
        }
        if frame[AT + 8] <= 1 || total > self.tunnel_mtu() {
            return Err(Stop::Pass);
        }
        Ok(Answer::Forward {
            expected: rewrite::error_into_tunnel(packet, quoted.transport, external, self.policy.copy_dscp),
            session: at,
        })
    }

    /// An error about a packet of another LAN host (RFC 5508 REQ-7): as if it had gone out and come back.
    fn report_turned(&self, packet: &[u8], quoted: &Quoted, receiver: End) -> Answer {
        let sender = self.sessions.iter().position(|s| {
            (s.flow.transport, s.port, s.flow.remote) == (quoted.transport, quoted.source.1, receiver)
                && self.is_live(s)
        });
        let Some(at) = sender else {
            return Answer::Drop(Class::Unsolicited);
        };
        if packet[8] <= 1 || packet.len() > self.policy.lan_mtu {
            return Answer::Pass;
        }
        let inside = self.sessions[at].flow.inside;
        Answer::Forward {
            expected: rewrite::error_turned(packet, quoted.transport, receiver, inside),
            session: at,
        }
    }

    /// An ICMP message out of the tunnel that is no echo.
    pub(super) fn error_in(&self, frame: &[u8]) -> Answer {
        const AT: usize = packet::TUNNELLED;
        let (total, _, to, quoted) = match message(frame, AT) {
            Ok(read) => read,
            Err(Stop::Drop(class)) => return Answer::Drop(class),
            Err(_) => return Answer::Pass,
        };
        if to != SHARED.octets() {
            return Answer::Drop(Class::NotMine);
        }
        if quoted.source.0 != to {
            return Answer::Drop(Class::Unusable);
        }
        if !self.policy.has(quoted.source.1) {
            return Answer::Drop(Class::Foreign);
        }
        if packet::outer_source(frame) != RELAY.octets() {
            return Answer::Drop(Class::Stranger);
        }
        let Some(at) = self.sender_of(&quoted) else {
            return Answer::Drop(Class::Unsolicited);
        };
        if frame[AT + 8] <= 1 || total > self.policy.lan_mtu {
            return Answer::Pass;
        }
        let (packet, class) = (&frame[AT..AT + total], packet::outer_class(frame));
        match rewrite::error_onto_lan(packet, class, quoted.transport, self.sessions[at].flow.inside) {
            Some(expected) => Answer::Forward { expected, session: at },
            None => Answer::Drop(Class::Congestion),
        }
    }

    /// The live session that has sent a packet as it is quoted outside.
    pub(super) fn sender_of(&self, quoted: &Quoted) -> Option<usize> {
        let wanted = (quoted.transport, quoted.source.1, quoted.remote_destination());
        self.sessions
            .iter()
            .position(|s| (s.flow.transport, s.port, s.flow.remote) == wanted && self.is_live(s))
    }
}
