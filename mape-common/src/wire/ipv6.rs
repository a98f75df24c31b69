//! IPv6 (RFC 8200): the 40 bytes of the fixed header.

use super::ipv4::Protocol;
use crate::{packet::Packet, verdict::Truncated};

/// An IPv6 header, copied out of a frame; in parts, as [`super::ipv4::Header`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version, traffic class, flow label; payload length, next header, hop limit: as a number.
    start: u64,
    source: Address,
    destination: Address,
}

/// An address: two words in the order of memory, which a BPF program compares by two instructions and sixteen bytes by forty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address([u64; 2]);

impl Address {
    /// Of its bytes, in network order.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        match bytes.as_chunks() {
            ([a, b], []) => Self([u64::from_ne_bytes(*a), u64::from_ne_bytes(*b)]),
            // Sixteen bytes are two words.
            _ => Self([0; 2]),
        }
    }

    /// Its bytes, in network order.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; 16] {
        let [first, second] = self.0;
        let mut bytes = [0; 16];
        if let Some((a, rest)) = bytes.split_first_chunk_mut()
            && let Some(b) = rest.first_chunk_mut()
        {
            (*a, *b) = (first.to_ne_bytes(), second.to_ne_bytes());
        }
        bytes
    }

    /// Whether it is that one.
    #[inline(always)]
    pub const fn is(self, other: [u8; 16]) -> bool {
        let Self([a, b]) = self;
        let Self([c, d]) = Self::from_bytes(other);
        (a ^ c) | (b ^ d) == 0
    }
}

/// Bytes of the fixed header.
pub const LEN: usize = 40;
/// Where the hop limit is.
pub const HOP_LIMIT: usize = 7;

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "fields are cut out of a number"
)]
impl Header {
    /// From the packet that begins at `at`.
    ///
    /// # Errors
    /// [`Truncated`].
    #[inline(always)]
    pub fn read<P: Packet>(frame: &P, at: usize) -> Result<Self, Truncated> {
        let word = |offset: usize| frame.read(at.wrapping_add(offset)).map(u64::from_ne_bytes);
        // The end of it first: then all of it is there.
        let last = word(32)?;
        Ok(Self {
            start: u64::from_be_bytes(frame.read(at)?),
            source: Address([word(8)?, word(16)?]),
            destination: Address([word(24)?, last]),
        })
    }

    /// The header of a packet from one address to another: traffic class, flow label (20 bits), bytes after the header, what these
    /// are, hop limit.
    #[inline(always)]
    pub const fn new(
        (source, destination): (Address, Address),
        traffic_class: u8,
        flow_label: u32,
        payload_len: u16,
        next_header: Protocol,
        hop_limit: u8,
    ) -> Self {
        let first = 6 << 28 | (traffic_class as u32) << 20 | flow_label & 0xf_ffff;
        let second = (payload_len as u32) << 16 | (next_header.0 as u32) << 8 | hop_limit as u32;
        Self {
            start: (first as u64) << 32 | second as u64,
            source,
            destination,
        }
    }

    /// The forty bytes.
    #[inline(always)]
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        // As wholes, and not byte by byte, which a BPF program would do one at a time.
        if let Some((start, rest)) = bytes.split_first_chunk_mut()
            && let Some((source, rest)) = rest.split_first_chunk_mut()
            && let Some(destination) = rest.first_chunk_mut()
        {
            *start = self.start.to_be_bytes();
            *source = self.source.to_bytes();
            *destination = self.destination.to_bytes();
        }
        bytes
    }

    /// Whether it is IPv6 at all.
    #[inline(always)]
    pub const fn is_ipv6(&self) -> bool {
        self.start >> 60 == 6
    }

    /// Traffic class: DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.start >> 52) as u8
    }

    /// Bytes after this header.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        (self.start >> 16) as u16
    }

    /// How many routers it may still pass.
    #[inline(always)]
    pub const fn hop_limit(&self) -> u8 {
        self.start as u8
    }

    /// What follows.
    #[inline(always)]
    pub const fn next_header(&self) -> Protocol {
        Protocol((self.start >> 8) as u8)
    }

    /// Whether what follows is an extension header: hop-by-hop, routing, fragment or destination options.
    #[inline(always)]
    pub const fn has_extension(&self) -> bool {
        matches!(self.next_header().0, 0 | 43 | 44 | 60)
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> Address {
        self.source
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> Address {
        self.destination
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::VecPacket;

    #[test]
    fn what_is_written_is_read() {
        let ends = (Address::from_bytes([1; 16]), Address::from_bytes([2; 16]));
        let written = Header::new(ends, 0xb9, 0xf_edcb, 1234, Protocol::IPV4, 64);
        let bytes = written.to_bytes();
        let header = Header::read(&VecPacket(bytes.to_vec()), 0).unwrap();
        assert_eq!(header, written);
        assert!(header.source().is([1; 16]) && !header.source().is([2; 16]));
        assert!(header.is_ipv6() && !header.has_extension());
        assert_eq!(
            (header.traffic_class(), header.payload_len(), header.next_header()),
            (0xb9, 1234, Protocol::IPV4)
        );
        assert_eq!(
            (header.source().to_bytes(), header.destination().to_bytes()),
            ([1; 16], [2; 16])
        );
        assert_eq!(&bytes[..4], &[0x6b, 0x9f, 0xed, 0xcb]);
        assert_eq!(bytes[7], 64);
    }
}
