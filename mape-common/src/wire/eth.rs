//! Ethernet: 14 bytes, destination and source MAC address and the type of what follows.

use crate::hop::Mac;

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

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u8; LEN]);

/// Bytes of an Ethernet header.
pub const LEN: usize = 14;
/// Where the type is.
pub const TYPE: usize = 12;

impl Header {
    /// From the frame's first bytes.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// A header of these fields.
    #[inline(always)]
    pub const fn new(destination: Mac, source: Mac, ether_type: EtherType) -> Self {
        let [a, b, c, d, e, f] = destination.0;
        let [g, h, i, j, k, l] = source.0;
        let [m, n] = ether_type.0;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n])
    }

    /// The bytes.
    #[inline(always)]
    pub const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Whom the frame is for.
    #[inline(always)]
    pub const fn destination(&self) -> Mac {
        Mac([self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5]])
    }

    /// Who sent it on this link.
    #[inline(always)]
    pub const fn source(&self) -> Mac {
        Mac([self.0[6], self.0[7], self.0[8], self.0[9], self.0[10], self.0[11]])
    }

    /// What follows.
    #[inline(always)]
    pub const fn ether_type(&self) -> EtherType {
        EtherType([self.0[12], self.0[13]])
    }
}
