//! A transport identifier: TCP or UDP port, or ICMP query identifier.

/// A TCP or UDP port or an ICMP query identifier (RFC 5508 §3.1 treats them alike), in host order.
///
/// On the wire it is two bytes in network order; [`Port::from_bytes`] and [`Port::to_bytes`] are the only way across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Port(pub u16);

impl Port {
    /// Reads two bytes in network order.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(bytes))
    }

    /// Gives two bytes in network order.
    #[inline(always)]
    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}
