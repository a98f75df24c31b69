//! A TCP connection's life as far as its idle time depends on it (RFC 6146 §3.5.2, RFC 7857 §2).

use super::{life::Phase, policy::Reset};

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

/// The phase after a packet.
pub fn after(phase: Phase, from: From, flags: u8, reset: Reset) -> Phase {
    let (fin, syn, rst, ack) = (flags & FIN != 0, flags & SYN != 0, flags & RST != 0, flags & ACK != 0);
    if rst {
        return match reset {
            Reset::Closes => Phase::Closing,
            Reset::Doubts => Phase::Doubted,
        };
    }
    // What was doubted goes on.
    let phase = if phase == Phase::Doubted {
        Phase::Established
    } else {
        phase
    };
    // The LAN host opens: anew, unless the connection is up (then the SYN is an old one).
    if syn && !ack && from == From::Lan {
        return if phase == Phase::Established {
            Phase::Established
        } else {
            Phase::Opening
        };
    }
    // The first answer, whatever it is, shows that both sides are there.
    let phase = if phase == Phase::Opening && from == From::Remote {
        Phase::Established
    } else {
        phase
    };
    match (fin, phase, from) {
        (true, Phase::Established | Phase::Opening, From::Lan) => Phase::LanClosed,
        (true, Phase::Established, From::Remote) => Phase::RemoteClosed,
        (true, Phase::LanClosed, From::Remote) | (true, Phase::RemoteClosed, From::Lan) => Phase::Closing,
        _ => phase,
    }
}
