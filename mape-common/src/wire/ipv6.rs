//! IPv6 (RFC 8200): the 40 bytes of the fixed header.

use super::ipv4::Protocol;

/// An IPv6 header, copied out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u8; LEN]);

/// Bytes of the fixed header.
pub const LEN: usize = 40;
/// Where the hop limit is.
pub const HOP_LIMIT: usize = 7;

impl Header {
    /// From the bytes at the start of the packet.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// Whether it is IPv6 at all.
    #[inline(always)]
    pub const fn is_ipv6(&self) -> bool {
        self.0[0] >> 4 == 6
    }

    /// Traffic class: DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (self.0[0] << 4) | (self.0[1] >> 4)
    }

    /// Bytes after this header.
    #[inline(always)]
    pub const fn payload_len(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// How many routers it may still pass.
    #[inline(always)]
    pub const fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// What follows.
    #[inline(always)]
    pub const fn next_header(&self) -> Protocol {
        Protocol(self.0[6])
    }

    /// Whether what follows is an extension header: hop-by-hop, routing, fragment or destination options.
    #[inline(always)]
    pub const fn has_extension(&self) -> bool {
        matches!(self.0[6], 0 | 43 | 44 | 60)
    }

    /// Source address.
    #[inline(always)]
    pub const fn source(&self) -> [u8; 16] {
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
            ..,
        ] = self.0;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Destination address.
    #[inline(always)]
    pub const fn destination(&self) -> [u8; 16] {
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

/// The first eight bytes of a header: version, traffic class, flow label (20 bits), payload length, next header, hop limit.
#[inline(always)]
pub const fn start(
    traffic_class: u8,
    flow_label: u32,
    payload_len: u16,
    next_header: Protocol,
    hop_limit: u8,
) -> [u8; 8] {
    let [_, a, b, c] = flow_label.to_be_bytes();
    let [d, e] = payload_len.to_be_bytes();
    [
        0x60 | (traffic_class >> 4),
        (traffic_class << 4) | (a & 15),
        b,
        c,
        d,
        e,
        next_header.0,
        hop_limit,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_start_writes_the_header_reads() {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&start(0xb9, 0xf_edcb, 1234, Protocol::IPV4, 64));
        bytes[8..24].copy_from_slice(&[1; 16]);
        bytes[24..].copy_from_slice(&[2; 16]);
        let header = Header::from_bytes(bytes);
        assert!(header.is_ipv6() && !header.has_extension());
        assert_eq!(
            (header.traffic_class(), header.payload_len(), header.next_header()),
            (0xb9, 1234, Protocol::IPV4)
        );
        assert_eq!((header.source(), header.destination()), ([1; 16], [2; 16]));
        assert_eq!(&bytes[..4], &[0x6b, 0x9f, 0xed, 0xcb]);
        assert_eq!(bytes[7], 64);
    }
}
