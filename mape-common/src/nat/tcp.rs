//! What a TCP packet does to its session: RFC 7857 §2 and RFC 6146 §3.5.2, kept as small as the idle times need.

use super::session::Phase;
use crate::{verdict::Direction, wire::tcp::Flags};

/// The phase after a packet with these flags, going this way.
///
/// A reset leads to the short idle time but ends nothing (RFC 7857 §2.2: it may be forged). RFC 6146 §3.5.2.2 has any packet
/// after it establish the connection again; data that was on its way when a host really reset would then hold a port for two
/// hours. So it takes a packet of the LAN host and then an answer, as at the beginning. An answer of any kind to an opening
/// establishes. FIN both ways closes. A SYN on a session that has ended opens a new connection in its place.
#[inline(always)]
pub const fn next(phase: Phase, direction: Direction, flags: Flags) -> Phase {
    let over = matches!(phase, Phase::TcpClosing | Phase::TcpReset);
    if flags.has(Flags::RST) {
        return if over { phase } else { Phase::TcpReset };
    }
    if flags.is_open() {
        return match (phase, direction) {
            (Phase::TcpEstablished, _)
            | (Phase::TcpOpening, Direction::Inbound)
            | (Phase::TcpUnanswered, Direction::Outbound) => Phase::TcpEstablished,
            (_, Direction::Outbound) => Phase::TcpOpening,
            (_, Direction::Inbound) if over => Phase::TcpUnanswered,
            (_, Direction::Inbound) => phase,
        };
    }
    let phase = match (phase, direction) {
        (Phase::TcpOpening, Direction::Inbound) | (Phase::TcpUnanswered, Direction::Outbound) => Phase::TcpEstablished,
        (Phase::TcpReset, Direction::Outbound) => Phase::TcpOpening,
        _ => phase,
    };
    if !flags.has(Flags::FIN) {
        return phase;
    }
    match (phase, direction) {
        (Phase::TcpEstablished | Phase::TcpOpening, Direction::Outbound) => Phase::TcpFinOutbound,
        (Phase::TcpEstablished, Direction::Inbound) => Phase::TcpFinInbound,
        (Phase::TcpFinOutbound, Direction::Inbound) | (Phase::TcpFinInbound, Direction::Outbound) => Phase::TcpClosing,
        _ => phase,
    }
}

/// The phase of a session that a LAN host's packet opens; a reset opens none, and a SYN opens whatever else it says.
///
/// A FIN without a session comes again, or late, after the connection's port went to another one. It is forwarded, for the remote
/// host's reset to end what is left of the connection in the LAN host; it does not hold a port for what is over.
#[inline(always)]
pub const fn first(flags: Flags) -> Phase {
    if flags.has(Flags::FIN) && !flags.is_open() {
        Phase::TcpClosing
    } else {
        Phase::TcpOpening
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};

    const SYN: u8 = Flags::SYN;
    const ACK: u8 = Flags::ACK;
    const FIN: u8 = Flags::FIN | Flags::ACK;
    const RST: u8 = Flags::RST;

    fn after(packets: &[(Direction, u8)]) -> Phase {
        packets.iter().fold(Phase::TcpOpening, |phase, (direction, flags)| {
            next(phase, *direction, Flags(*flags))
        })
    }

    #[test]
    fn a_connections_life() {
        for (packets, phase) in [
            (&[(Outbound, SYN)][..], Phase::TcpOpening),
            (&[(Outbound, SYN), (Outbound, SYN)], Phase::TcpOpening),
            (&[(Outbound, SYN), (Inbound, SYN | ACK)], Phase::TcpEstablished),
            (&[(Outbound, SYN), (Inbound, SYN)], Phase::TcpEstablished), // simultaneous open
            (
                &[(Outbound, SYN), (Inbound, SYN | ACK), (Outbound, FIN)],
                Phase::TcpFinOutbound,
            ),
            (
                &[(Outbound, SYN), (Inbound, SYN | ACK), (Inbound, FIN)],
                Phase::TcpFinInbound,
            ),
            (
                &[(Outbound, SYN), (Inbound, SYN | ACK), (Inbound, FIN), (Outbound, ACK)],
                Phase::TcpFinInbound,
            ),
            (
                &[(Outbound, SYN), (Inbound, SYN | ACK), (Inbound, FIN), (Outbound, FIN)],
                Phase::TcpClosing,
            ),
            (
                &[
                    (Outbound, SYN),
                    (Inbound, SYN | ACK),
                    (Outbound, FIN),
                    (Inbound, FIN),
                    (Outbound, ACK),
                ],
                Phase::TcpClosing,
            ),
            (&[(Outbound, SYN), (Inbound, RST | ACK)], Phase::TcpReset),
            (
                &[(Outbound, SYN), (Inbound, SYN | ACK), (Outbound, RST)],
                Phase::TcpReset,
            ),
            // Data that was on its way when the LAN host reset.
            (
                &[(Outbound, SYN), (Inbound, SYN | ACK), (Outbound, RST), (Inbound, ACK)],
                Phase::TcpReset,
            ),
            // A forged reset: both sides go on.
            (
                &[
                    (Outbound, SYN),
                    (Inbound, SYN | ACK),
                    (Inbound, RST),
                    (Outbound, ACK),
                    (Inbound, ACK),
                ],
                Phase::TcpEstablished,
            ),
            // Both have closed; a late reset, then the remote host opens anew from the same port, and is answered.
            (
                &[(Outbound, SYN), (Inbound, FIN), (Outbound, FIN), (Inbound, RST)],
                Phase::TcpClosing,
            ),
            (
                &[(Outbound, SYN), (Inbound, FIN), (Outbound, FIN), (Inbound, SYN)],
                Phase::TcpUnanswered,
            ),
            (
                &[
                    (Outbound, SYN),
                    (Inbound, FIN),
                    (Outbound, FIN),
                    (Inbound, SYN),
                    (Outbound, SYN | ACK),
                ],
                Phase::TcpEstablished,
            ),
            (
                &[(Outbound, SYN), (Inbound, RST | ACK), (Outbound, SYN)],
                Phase::TcpOpening,
            ),
            (&[(Outbound, ACK), (Inbound, ACK)], Phase::TcpEstablished), // picked up in its middle
        ] {
            assert_eq!(after(packets), phase, "{packets:?}");
        }
    }

    #[test]
    fn the_packet_that_opens_changes_nothing_more() {
        for flags in (0..64).map(Flags) {
            let opened = first(flags);
            if !flags.has(Flags::RST) {
                assert_eq!(next(opened, Outbound, flags), opened, "{flags:?}");
            }
        }
    }

    #[test]
    fn the_same_packet_again_changes_nothing_more() {
        // A packet is looked at twice when its session has to be looked after in between.
        for flags in (0..32).map(Flags).filter(|flags| !flags.has(RST)) {
            assert_eq!(next(first(flags), Outbound, flags), first(flags), "{flags:?}");
        }
        for phase in Phase::ALL.into_iter().filter(|p| *p >= Phase::TcpOpening) {
            for direction in Direction::ALL {
                for flags in 0..32 {
                    let once = next(phase, direction, Flags(flags));
                    assert_eq!(
                        next(once, direction, Flags(flags)),
                        once,
                        "{phase:?} {direction:?} {flags:#x}"
                    );
                }
            }
        }
    }
}
