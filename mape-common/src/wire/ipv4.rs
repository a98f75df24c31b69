//! IPv4 (RFC 791): the 20 bytes without options.

use crate::checksum::Delta;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u8; LEN]);

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

impl Header {
    /// From the bytes at the start of the packet.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// Whether it is IPv4 at all.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.0[0] >> 4 == 4
    }

    /// Whether the header is longer than these 20 bytes.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.0[0] & 15 > 5
    }

    /// Whether the header claims to be shorter than it can be.
    #[inline(always)]
    pub const fn is_short(&self) -> bool {
        self.0[0] & 15 < 5
    }

    /// Bytes of the options.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "widening, and From is not const")]
    pub const fn options_len(&self) -> usize {
        (self.header_len() as usize).saturating_sub(LEN)
    }

    /// Bytes of the header, options included: 0 to 60, a multiple of four.
    #[inline(always)]
    pub const fn header_len(&self) -> u8 {
        (self.0[0] & 15) << 2
    }

    /// Whether the packet is a part, and not the first one, of another.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x1fff != 0
    }

    /// Whether routers may not fragment it.
    #[inline(always)]
    pub const fn dont_fragment(&self) -> bool {
        self.0[6] & 0x40 != 0
    }

    /// The header with another source address, its checksum right.
    #[inline(always)]
    #[must_use]
    pub const fn with_source(&self, address: [u8; 4]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, _, _, _, _, _, _, k, l, m, n] = self.0;
        let [x, y] = Delta::ZERO
            .words(self.source(), address)
            .apply(self.checksum())
            .to_be_bytes();
        let [s, t, u, v] = address;
        Self([a, b, c, d, e, f, g, h, i, j, x, y, s, t, u, v, k, l, m, n])
    }

    /// The header with another destination address, its checksum right.
    #[inline(always)]
    #[must_use]
    pub const fn with_destination(&self, address: [u8; 4]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, _, _, k, l, m, n, _, _, _, _] = self.0;
        let [x, y] = Delta::ZERO
            .words(self.destination(), address)
            .apply(self.checksum())
            .to_be_bytes();
        let [s, t, u, v] = address;
        Self([a, b, c, d, e, f, g, h, i, j, x, y, k, l, m, n, s, t, u, v])
    }

    /// The twenty bytes.
    #[inline(always)]
    pub const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn tos(&self) -> u8 {
        self.0[TOS]
    }

    /// Bytes of the packet, header included.
    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Bytes after the header; none where the length is less than the header's.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        self.total_len().saturating_sub(20)
    }

    /// Whether this is a part of a packet, the first or another.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }

    /// What the fragments of one packet have in common.
    #[inline(always)]
    pub const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.0[IDENTIFICATION], self.0[5]])
    }

    /// Where in the packet's payload this fragment's stands, bytes.
    #[inline(always)]
    pub const fn offset(&self) -> u16 {
        (u16::from_be_bytes([self.0[6], self.0[7]]) & 0x1fff) << 3
    }

    /// Whether fragments follow this one.
    #[inline(always)]
    pub const fn has_more(&self) -> bool {
        self.0[6] & 0x20 != 0
    }

    /// Hops left.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        self.0[TTL]
    }

    /// What follows.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        Protocol(self.0[9])
    }

    /// The header's checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[CHECKSUM], self.0[11]])
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> [u8; 4] {
        [self.0[16], self.0[17], self.0[18], self.0[19]]
    }
}

/// Whether a packet can be sent to this address through a router: no multicast, broadcast, loopback or "this network".
#[inline(always)]
pub const fn is_routable(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..=255)
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
