//! TCP (RFC 9293): the 20 bytes without options.

use super::port::Port;

/// A TCP header without options, copied out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u8; LEN]);

/// Bytes of a header without options.
pub const LEN: usize = 20;
/// Where the checksum is.
pub const CHECKSUM: usize = 16;

/// The control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 16;

    /// Whether any of the bits is set.
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// The first packet of a connection: SYN and no ACK.
    #[inline(always)]
    pub const fn is_open(self) -> bool {
        self.has(Self::SYN) && !self.has(Self::ACK)
    }
}

impl Header {
    /// From the bytes after the IP header.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// Source port.
    #[inline(always)]
    pub const fn source(&self) -> Port {
        Port::from_bytes([self.0[0], self.0[1]])
    }

    /// Destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Port {
        Port::from_bytes([self.0[2], self.0[3]])
    }

    /// Bytes of the header, options included; a multiple of four from 0 to 60.
    #[inline(always)]
    pub const fn header_len(&self) -> u8 {
        (self.0[12] >> 4) << 2
    }

    /// The control bits.
    #[inline(always)]
    pub const fn flags(&self) -> Flags {
        Flags(self.0[13])
    }

    /// Checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[16], self.0[17]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_syn() {
        let header = Header::from_bytes([
            0x9c, 0x40, 0x01, 0xbb, 1, 2, 3, 4, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0x12, 0x34, 0, 0,
        ]);
        assert_eq!((header.source(), header.destination()), (Port(40_000), Port(443)));
        assert_eq!((header.header_len(), header.checksum()), (40, 0x1234));
        assert!(header.flags().is_open() && !header.flags().has(Flags::RST | Flags::FIN));
    }
}
