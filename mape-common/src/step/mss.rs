//! The TCP MSS clamp: a SYN that asks for larger segments than the tunnel carries is told a smaller size (RFC 4459 §3.2).

use crate::{
    checksum::Delta,
    hop::Hop,
    layout::Config,
    packet::Packet,
    wire::tcp::{self, Flags},
};

use super::inner::Inner;

/// Options looked at before the MSS option is given up; it is the first one in practice.
const MAX_OPTIONS: usize = 12;
/// Bytes of IPv6, IPv4 and TCP headers around a segment.
const HEADERS: u16 = 80;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// A smaller MSS to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Bytes from the start of the TCP header to the value, below 64; zero = nothing to write.
    pub offset: u8,
    /// The value, bytes.
    pub value: u16,
}

impl Clamp {
    /// Nothing to write.
    pub const NONE: Self = Self { offset: 0, value: 0 };
}

/// The largest MSS to let through: what is configured, and what the path takes with all headers. Zero = any.
#[inline(always)]
pub const fn limit(config: &Config, hop: &Hop) -> u16 {
    let path = hop.mtu.saturating_sub(HEADERS);
    if config.mss == 0 || config.mss < path {
        config.mss
    } else {
        path
    }
}

/// Whether this packet can carry the option.
#[inline(always)]
pub const fn is_candidate(inner: &Inner) -> bool {
    // No other header has this flag, or is as long.
    inner.flags.has(Flags::SYN) && inner.header_len > 20
}

/// Looks for an MSS above `limit` in the TCP header at `l4`, and what the checksum changes by.
#[inline(always)]
pub fn plan<P: Packet>(frame: &P, l4: usize, header_len: u8, limit: u16) -> (Clamp, Delta) {
    let mut at = tcp::LEN;
    for _ in 0..MAX_OPTIONS {
        if at.saturating_add(4) > usize::from(header_len) {
            break;
        }
        // The mask changes nothing (a TCP header has at most 60 bytes); it tells the verifier so. Before the comparison it would: an
        // option that claims to end beyond the header would lead back to its beginning.
        at &= 63;
        let Ok([kind, len, high, low]) = frame.read_told::<4>(l4.saturating_add(at)) else {
            break;
        };
        match kind {
            END => break,
            NO_OPERATION => at = at.saturating_add(1),
            MSS if len == 4 => {
                let old = u16::from_be_bytes([high, low]);
                if old <= limit {
                    break;
                }
                let offset = at.saturating_add(2);
                let delta = if offset & 1 == 0 {
                    Delta::ZERO.word(old, limit)
                } else {
                    // The value straddles two words of the sum: as seen there its bytes change places.
                    Delta::ZERO.word(old.swap_bytes(), limit.swap_bytes())
                };
                return (
                    Clamp {
                        offset: u8::try_from(offset).unwrap_or(0),
                        value: limit,
                    },
                    delta,
                );
            }
            _ if len < 2 => break,
            _ => at = at.saturating_add(usize::from(len)),
        }
    }
    (Clamp::NONE, Delta::ZERO)
}
