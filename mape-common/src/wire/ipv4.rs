//! IPv4 (RFC 791): the 20 bytes without options.

use crate::{checksum::Delta, packet::Packet, verdict::Truncated};

/// An IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// IPv4 in IP.
    pub const IPV4: Self = Self(4);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// ICMPv6.
    pub const ICMPV6: Self = Self(58);
    /// UDP.
    pub const UDP: Self = Self(17);
}

/// An IPv4 header without options, copied out of a frame.
///
/// In parts each of which goes through a BPF program in one register: bytes that are taken out of one and put together again are an
/// instruction or two each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The first two rows of RFC 791's picture as a number: version, header length, type of service, total length; identification, flags,
    /// offset.
    start: u64,
    /// The third row: TTL, protocol, checksum.
    third: u32,
    source: [u8; 4],
    destination: [u8; 4],
}

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Where the type-of-service byte is.
pub const TOS: usize = 1;
/// Where the identification is.
pub const IDENTIFICATION: usize = 4;
/// Where TTL and protocol are.
pub const TTL: usize = 8;
/// Where the checksum is.
pub const CHECKSUM: usize = 10;
/// Where the source address is.
pub const SOURCE: usize = 12;
/// Where the destination address is.
pub const DESTINATION: usize = 16;

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "fields are cut out of their row, and widened"
)]
impl Header {
    /// From the bytes at the start of the packet.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, destination @ ..] = bytes;
        Self::from_parts([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p], destination)
    }

    /// From the packet that begins at `at`.
    ///
    /// In parts of which each fits a register: all at once they are put aside and taken apart again byte by byte.
    ///
    /// # Errors
    /// [`Truncated`].
    #[inline(always)]
    pub fn read<P: Packet>(frame: &P, at: usize) -> Result<Self, Truncated> {
        let destination = frame.read(at.wrapping_add(DESTINATION))?;
        Ok(Self::from_parts(
            frame.read(at)?,
            frame.read(at.wrapping_add(TTL))?,
            destination,
        ))
    }

    #[inline(always)]
    const fn from_parts(first: [u8; 8], second: [u8; 8], destination: [u8; 4]) -> Self {
        let [i, j, k, l, source @ ..] = second;
        Self {
            start: u64::from_be_bytes(first),
            third: u32::from_be_bytes([i, j, k, l]),
            source,
            destination,
        }
    }

    /// Whether it is IPv4 at all.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.start >> 60 == 4
    }

    /// Whether the header is longer than these 20 bytes.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.words() > 5
    }

    /// Whether the header claims to be shorter than it can be.
    #[inline(always)]
    pub const fn is_short(&self) -> bool {
        self.words() < 5
    }

    /// Bytes of the options.
    #[inline(always)]
    pub const fn options_len(&self) -> usize {
        (self.header_len() as usize).saturating_sub(LEN)
    }

    /// Bytes of the header, options included: 0 to 60, a multiple of four.
    #[inline(always)]
    pub const fn header_len(&self) -> u8 {
        self.words() << 2
    }

    /// Words of four bytes of the header.
    #[inline(always)]
    const fn words(&self) -> u8 {
        (self.start >> 56) as u8 & 15
    }

    /// Whether the packet is a part, and not the first one, of another.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.start & 0x1fff != 0
    }

    /// Whether routers may not fragment it.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.start & 0x4000 != 0
    }

    /// The header with another source address, its checksum right.
    #[inline(always)]
    #[must_use]
    pub const fn with_source(&self, address: [u8; 4]) -> Self {
        let mut header = self.with_checksum(Delta::ZERO.words(self.source, address));
        header.source = address;
        header
    }

    /// The header with another destination address, its checksum right.
    #[inline(always)]
    #[must_use]
    pub const fn with_destination(&self, address: [u8; 4]) -> Self {
        let mut header = self.with_checksum(Delta::ZERO.words(self.destination, address));
        header.destination = address;
        header
    }

    /// The header with the checksum after a change.
    #[inline(always)]
    const fn with_checksum(&self, change: Delta) -> Self {
        let mut header = *self;
        header.third = self.third & 0xffff_0000 | change.apply(self.checksum()) as u32;
        header
    }

    /// The twenty bytes.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; LEN] {
        let [a, b, c, d, e, f, g, h] = self.start.to_be_bytes();
        let [i, j, k, l] = self.third.to_be_bytes();
        let ([m, n, o, p], [q, r, s, t]) = (self.source, self.destination);
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn tos(&self) -> u8 {
        (self.start >> 48) as u8
    }

    /// Bytes of the packet, header included.
    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        (self.start >> 32) as u16
    }

    /// Bytes after the header; none where the length is less than the header's.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        self.total_len().saturating_sub(20)
    }

    /// Whether this is a part of a packet, the first or another.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.start & 0x3fff != 0
    }

    /// What the fragments of one packet have in common.
    #[inline(always)]
    pub const fn identification(&self) -> u16 {
        (self.start >> 16) as u16
    }

    /// Where in the packet's payload this fragment's stands, bytes.
    #[inline(always)]
    pub const fn offset(&self) -> u16 {
        (self.start as u16 & 0x1fff) << 3
    }

    /// Whether fragments follow this one.
    #[inline(always)]
    pub const fn has_more(&self) -> bool {
        self.start & 0x2000 != 0
    }

    /// Hops left.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        (self.third >> 24) as u8
    }

    /// What follows.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        Protocol((self.third >> 16) as u8)
    }

    /// The third row, TTL to checksum, of this header with another TTL and checksum: a number.
    #[inline(always)]
    pub const fn third_row(&self, ttl: u8, checksum: u16) -> u32 {
        (ttl as u32) << 24 | self.third & 0xff_0000 | checksum as u32
    }

    /// The first two rows of this header with another type of service: a number.
    #[inline(always)]
    pub const fn first_rows(&self, tos: u8) -> u64 {
        self.start & !(0xff << 48) | (tos as u64) << 48
    }

    /// The header's checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        self.third as u16
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> [u8; 4] {
        self.source
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> [u8; 4] {
        self.destination
    }
}

/// The bytes of the first three rows.
#[inline(always)]
pub const fn three_rows(first: u64, third: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    if let Some((start, rest)) = bytes.split_first_chunk_mut()
        && let Some(end) = rest.first_chunk_mut()
    {
        (*start, *end) = (first.to_be_bytes(), third.to_be_bytes());
    }
    bytes
}

/// Whether a packet can be sent to this address through a router: no multicast, broadcast, loopback or "this network".
#[inline(always)]
pub const fn is_routable(address: [u8; 4]) -> bool {
    matches!(address[0], 1..=126 | 128..=223)
}

/// The first bytes of a header as they would be if it had no options: its length and the packet's are shorter.
#[inline(always)]
pub const fn start_without_options(start: [u8; 4]) -> [u8; 4] {
    let [first, tos, a, b] = start;
    let options = ((first & 15) << 2).saturating_sub(20);
    let [a, b] = u16::from_be_bytes([a, b])
        .saturating_sub(u16::from_be_bytes([0, options]))
        .to_be_bytes();
    [first & 0xf0 | 5, tos, a, b]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ping as captured: 84 bytes, DF, TTL 64.
    const PING: [u8; 20] = [
        0x45, 0x01, 0, 0x54, 0x1c, 0x46, 0x40, 0, 0x40, 1, 0xb1, 0xe6, 192, 168, 1, 10, 198, 51, 100, 7,
    ];

    #[test]
    fn the_fields_of_a_ping() {
        let header = Header::from_bytes(PING);
        assert!(header.is_ipv4() && !header.has_options() && !header.is_short() && !header.is_fragment());
        assert_eq!((header.tos(), header.total_len(), header.ttl()), (1, 84, 64));
        assert_eq!((header.protocol(), header.checksum()), (Protocol::ICMP, 0xb1e6));
        assert_eq!(
            (header.source(), header.destination()),
            ([192, 168, 1, 10], [198, 51, 100, 7])
        );
    }

    #[test]
    fn more_fragments_and_an_offset_are_both_fragments() {
        for (flags, fragment) in [
            (0x4000u16, false),
            (0x2000, true),
            (0x0001, true),
            (0x1fff, true),
            (0x8000, false),
        ] {
            let mut bytes = PING;
            bytes[6..8].copy_from_slice(&flags.to_be_bytes());
            assert_eq!(Header::from_bytes(bytes).is_fragment(), fragment, "{flags:#x}");
        }
        let mut bytes = PING;
        bytes[6..8].copy_from_slice(&0x3fff_u16.to_be_bytes());
        let header = Header::from_bytes(bytes);
        assert_eq!(
            (header.identification(), header.offset(), header.has_more()),
            (0x1c46, 65_528, true)
        );
    }

    #[test]
    fn only_unicast_of_the_internet_or_a_lan_is_routable() {
        for address in [
            [0, 0, 0, 0],
            [127, 0, 0, 1],
            [224, 0, 0, 251],
            [255, 255, 255, 255],
            [240, 0, 0, 1],
        ] {
            assert!(!is_routable(address), "{address:?}");
        }
        assert!(is_routable([10, 0, 0, 1]) && is_routable([223, 255, 255, 1]));
    }
}
