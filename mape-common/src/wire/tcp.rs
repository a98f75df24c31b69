//! TCP (RFC 9293): the 20 bytes without options.

use super::port::Port;
use crate::{packet::Packet, verdict::Truncated};

/// What matters of a TCP header, copied out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Both ports, as a number.
    ports: u32,
    /// The last eight bytes but options, as a number: data offset, control bits, window, checksum, urgent pointer.
    rest: u64,
}

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

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "fields are cut out of it"
)]
impl Header {
    /// From the bytes after the IP header, which begin at `at`.
    ///
    /// # Errors
    /// [`Truncated`].
    #[inline(always)]
    pub fn read<P: Packet>(frame: &P, at: usize) -> Result<Self, Truncated> {
        // The end of it first: then all of it is there.
        let rest = u64::from_be_bytes(frame.read(at.wrapping_add(12))?);
        Ok(Self {
            ports: u32::from_be_bytes(frame.read(at)?),
            rest,
        })
    }

    /// Source port.
    #[inline(always)]
    pub const fn source(&self) -> Port {
        Port((self.ports >> 16) as u16)
    }

    /// Destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Port {
        Port(self.ports as u16)
    }

    /// Bytes of the header, options included; a multiple of four from 0 to 60.
    #[inline(always)]
    pub const fn header_len(&self) -> u8 {
        (self.rest >> 60 << 2) as u8
    }

    /// The control bits.
    #[inline(always)]
    pub const fn flags(&self) -> Flags {
        Flags((self.rest >> 48) as u8)
    }

    /// Checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        (self.rest >> 16) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::VecPacket;

    #[test]
    fn the_fields_of_a_syn() {
        let frame = VecPacket(vec![
            0x9c, 0x40, 0x01, 0xbb, 1, 2, 3, 4, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0x12, 0x34, 0, 0,
        ]);
        let header = Header::read(&frame, 0).unwrap();
        assert_eq!(Header::read(&frame, 1), Err(Truncated));
        assert_eq!((header.source(), header.destination()), (Port(40_000), Port(443)));
        assert_eq!((header.header_len(), header.checksum()), (40, 0x1234));
        assert!(header.flags().is_open() && !header.flags().has(Flags::RST | Flags::FIN));
    }
}
