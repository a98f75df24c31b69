//! UDP (RFC 768): 8 bytes.

use super::port::Port;

/// A UDP header, copied out of a frame: one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(u64);

/// Bytes of the header.
pub const LEN: usize = 8;
/// Where the checksum is.
pub const CHECKSUM: usize = 6;

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "fields are cut out of it"
)]
impl Header {
    /// From the bytes after the IP header.
    #[inline(always)]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Source port.
    #[inline(always)]
    pub const fn source(&self) -> Port {
        Port((self.0 >> 48) as u16)
    }

    /// Destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Port {
        Port((self.0 >> 32) as u16)
    }

    /// Bytes of header and data.
    #[inline(always)]
    pub const fn length(&self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Checksum; zero means none.
    #[inline(always)]
    pub const fn checksum(&self) -> u16 {
        self.0 as u16
    }
}
