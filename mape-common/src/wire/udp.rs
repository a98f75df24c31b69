//! UDP (RFC 768): 8 bytes.

use super::port::Port;

/// A UDP header, copied out of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u8; LEN]);

/// Bytes of the header.
pub const LEN: usize = 8;
/// Where the checksum is.
pub const CHECKSUM: usize = 6;

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

    /// Bytes of header and data.
    #[inline(always)]
    pub const fn length(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Checksum; zero means none.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
}
