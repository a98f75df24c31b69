//! Ethernet: 14 bytes, destination and source MAC address and the type of what follows.

use crate::{hop::Mac, packet::Packet, verdict::Truncated};

/// An EtherType, of a type of its own so that it cannot be compared with an IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtherType(pub [u8; 2]);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self([0x08, 0x00]);
    /// IPv6.
    pub const IPV6: Self = Self([0x86, 0xdd]);
    /// 802.1Q: one tag follows.
    pub const VLAN: Self = Self([0x81, 0x00]);
    /// 802.1ad: the outer of two tags follows.
    pub const SERVICE_VLAN: Self = Self([0x88, 0xa8]);
}

/// An Ethernet header: its first eight bytes and the four after them, as numbers, and the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    first: u64,
    second: u32,
    ether_type: EtherType,
}

/// Bytes of an Ethernet header.
pub const LEN: usize = 14;
/// Where the type is.
pub const TYPE: usize = 12;

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "widening, and the low half"
)]
impl Header {
    /// From the frame's first bytes.
    ///
    /// # Errors
    /// [`Truncated`].
    #[inline(always)]
    pub fn read<P: Packet>(frame: &P) -> Result<Self, Truncated> {
        // Two looks of eight bytes each, which overlap.
        let last = u64::from_be_bytes(frame.read(LEN - 8)?);
        Ok(Self {
            first: u64::from_be_bytes(frame.read(0)?),
            second: (last >> 16) as u32,
            ether_type: EtherType((last as u16).to_be_bytes()),
        })
    }

    /// A header of these fields.
    #[inline(always)]
    pub const fn new(destination: Mac, source: Mac, ether_type: EtherType) -> Self {
        Self {
            first: destination.to_bits() << 16 | source.to_bits() >> 32,
            second: source.to_bits() as u32,
            ether_type,
        }
    }

    /// The bytes.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; LEN] {
        let [a, b, c, d, e, f, g, h] = self.first.to_be_bytes();
        let [i, j, k, l] = self.second.to_be_bytes();
        let [m, n] = self.ether_type.0;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n]
    }

    /// Whom the frame is for: the address in the low 48 bits.
    #[inline(always)]
    pub const fn destination(&self) -> u64 {
        self.first >> 16
    }

    /// Who sent it on this link.
    #[inline(always)]
    pub const fn source(&self) -> Mac {
        Mac::from_bits(self.first << 32 | self.second as u64)
    }

    /// What follows.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        self.ether_type
    }
}
