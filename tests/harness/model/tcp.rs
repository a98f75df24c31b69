//! A TCP connection's life as far as its idle time depends on it (RFC 6146 §3.5.2, RFC 7857 §2).

use super::life::Phase;

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The LAN host.
    Lan,
    /// The remote host.
    Remote,
}

/// No more data.
pub const FIN: u8 = 1;
/// Synchronize.
pub const SYN: u8 = 2;
/// Reset.
pub const RST: u8 = 4;
/// Acknowledgment.
pub const ACK: u8 = 16;

/// Whether a packet asks for a new connection.
pub fn opens(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// The phase after a packet.
///
/// RFC 6146 §3.5.2.2 has any packet after a reset establish the connection again. Here it takes one of the LAN host and then
/// an answer: data still on its way when a host really reset would otherwise hold a port for two hours.
pub fn after(phase: Phase, from: From, flags: u8) -> Phase {
    use self::From::{Lan, Remote};
    use Phase::{Closing, Established, LanClosed, Opening, RemoteClosed, Reset, Unanswered};
    let (fin, opens, rst) = (flags & FIN != 0, opens(flags), flags & RST != 0);
    let is_over = matches!(phase, Closing | Reset);
    match (phase, from) {
        _ if rst && is_over => return phase,
        _ if rst => return Reset,
        // The second of two SYNs that cross, or an old one.
        (Opening, Remote) | (Unanswered, Lan) | (Established, _) if opens => return Established,
        (_, Lan) if opens => return Opening,
        (_, Remote) if opens => return if is_over { Unanswered } else { phase },
        _ => {}
    }
    // The first answer, whatever it is, shows that both sides are there.
    let phase = match (phase, from) {
        (Opening, Remote) | (Unanswered, Lan) => Established,
        (Reset, Lan) => Opening,
        _ => phase,
    };
    match (phase, from) {
        _ if !fin => phase,
        (Established | Opening, Lan) => LanClosed,
        (Established, Remote) => RemoteClosed,
        (LanClosed, Remote) | (RemoteClosed, Lan) => Closing,
        _ => phase,
    }
}
