//! ICMP (RFC 792): the 8 bytes that all of its messages begin with.

use super::port::Port;

/// The first bytes of an ICMP message, copied out of a frame: one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(u64);

/// Bytes of a message's header; an error quotes the packet that it is about after them.
pub const LEN: usize = 8;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Code of UNREACHABLE: no such host, for now.
pub const HOST: u8 = 1;
/// Code of UNREACHABLE: larger than the next link, and not to be fragmented (RFC 1191).
pub const TOO_BIG: u8 = 4;
/// The TTL has ended.
pub const TIME_EXCEEDED: u8 = 11;
/// Where the checksum is.
pub const CHECKSUM: usize = 2;
/// Where an echo message's identifier is.
pub const IDENTIFIER: usize = 4;

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "fields are cut out of it"
)]
impl Header {
    /// From the bytes after the IP header.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    #[inline(always)]
    const fn kind(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// An error about a packet, which it quotes: destination unreachable, time exceeded, parameter problem. Source quench is
    /// obsolete (RFC 6633), and a redirect says something about one link only.
    #[inline(always)]
    pub const fn is_error(&self) -> bool {
        matches!(self.kind(), UNREACHABLE | TIME_EXCEEDED | 12)
    }

    /// A query.
    #[inline(always)]
    pub const fn is_echo_request(&self) -> bool {
        self.kind() == 8
    }

    /// An answer.
    #[inline(always)]
    pub const fn is_echo_reply(&self) -> bool {
        self.kind() == 0
    }

    /// Checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// An echo message's identifier.
    #[inline(always)]
    pub const fn identifier(&self) -> Port {
        Port((self.0 >> 16) as u16)
    }
}
