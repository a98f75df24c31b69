//! IPv6 and IPv4 prefixes as people write them; host bits are refused with the prefix that was probably meant.

use core::{
    fmt,
    net::{AddrParseError, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv6 prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    address: Ipv6Addr,
    len: u8,
}

impl Ipv6Prefix {
    /// A prefix of `len` bits.
    ///
    /// # Errors
    /// [`PrefixError::LenTooLong`] and [`PrefixError::HostBits`].
    pub fn new(address: Ipv6Addr, len: u8) -> Result<Self, PrefixError> {
        if len > 128 {
            return Err(PrefixError::LenTooLong { len, most: 128 });
        }
        let meant = Self::truncated(address, len);
        if meant.address != address {
            return Err(PrefixError::HostBits(Corrected::V6(meant)));
        }
        Ok(meant)
    }

    /// The prefix of `len` bits (128 at most) that an address is in.
    pub fn truncated(address: Ipv6Addr, len: u8) -> Self {
        let len = len.min(128);
        Self {
            address: Ipv6Addr::from_bits(address.to_bits() & mask128(len)),
            len,
        }
    }

    /// The first address.
    pub const fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Length, bits.
    #[expect(clippy::len_without_is_empty, reason = "a length in bits, not a count of elements")]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether an address is in the prefix.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        Self::truncated(address, self.len) == *self
    }

    /// Whether all of another prefix is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

/// An IPv4 prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    len: u8,
}

impl Ipv4Prefix {
    /// A prefix of `len` bits.
    ///
    /// # Errors
    /// [`PrefixError::LenTooLong`] and [`PrefixError::HostBits`].
    pub fn new(address: Ipv4Addr, len: u8) -> Result<Self, PrefixError> {
        if len > 32 {
            return Err(PrefixError::LenTooLong { len, most: 32 });
        }
        let meant = Self::truncated(address, len);
        if meant.address != address {
            return Err(PrefixError::HostBits(Corrected::V4(meant)));
        }
        Ok(meant)
    }

    /// The prefix of `len` bits (32 at most) that an address is in.
    pub fn truncated(address: Ipv4Addr, len: u8) -> Self {
        let len = len.min(32);
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(len.into())).unwrap_or(0);
        Self {
            address: Ipv4Addr::from_bits(address.to_bits() & mask),
            len,
        }
    }

    /// The first address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Length, bits.
    #[expect(clippy::len_without_is_empty, reason = "a length in bits, not a count of elements")]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether an address is in the prefix.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        Self::truncated(address, self.len) == *self
    }

    /// Whether all of another prefix is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Ipv6Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = split(text, 128)?;
        Self::new(
            address
                .parse()
                .map_err(|source| PrefixError::Address { wanted: "IPv6", source })?,
            len,
        )
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, len) = split(text, 32)?;
        Self::new(
            address
                .parse()
                .map_err(|source| PrefixError::Address { wanted: "IPv4", source })?,
            len,
        )
    }
}

/// Address and length.
fn split(text: &str, most: u8) -> Result<(&str, u8), PrefixError> {
    let (address, len) = text.trim().split_once('/').ok_or(PrefixError::NoLen { most })?;
    // `parse` would take a plus sign.
    let digits = !len.is_empty() && len.bytes().all(|byte| byte.is_ascii_digit());
    let len: u8 = if digits {
        len.parse().unwrap_or(u8::MAX)
    } else {
        return Err(PrefixError::NoLen { most });
    };
    Ok((address, len))
}

fn mask128(len: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(len.into())).unwrap_or(0)
}

/// A prefix of either family, as it was probably meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrected {
    /// IPv6.
    V6(Ipv6Prefix),
    /// IPv4.
    V4(Ipv4Prefix),
}

impl fmt::Display for Corrected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V6(prefix) => prefix.fmt(f),
            Self::V4(prefix) => prefix.fmt(f),
        }
    }
}

/// Why a text or a pair of address and length is no prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// No `/` with a number after it.
    NoLen {
        /// The longest length of the family.
        most: u8,
    },
    /// What stands before the `/` is not an address of the family.
    Address {
        /// `IPv6` or `IPv4`.
        wanted: &'static str,
        /// What the parser said.
        source: AddrParseError,
    },
    /// The length is longer than an address.
    LenTooLong {
        /// Bits.
        len: u8,
        /// The longest length of the family.
        most: u8,
    },
    /// Bits beyond the length are set.
    HostBits(Corrected),
}

impl core::error::Error for PrefixError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Address { source, .. } => Some(source),
            Self::NoLen { .. } | Self::LenTooLong { .. } | Self::HostBits(_) => None,
        }
    }
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLen { most } => write!(f, "a prefix is an address, a slash and a length up to {most}"),
            Self::Address { wanted, .. } => write!(f, "what stands before the slash is no {wanted} address"),
            Self::LenTooLong { len: u8::MAX, most } => write!(f, "the prefix length is over {most}"),
            Self::LenTooLong { len, most } => write!(f, "prefix length {len} is over {most}"),
            Self::HostBits(meant) => write!(f, "bits beyond the prefix length are set; probably meant: {meant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ipv4Prefix, Ipv6Prefix, PrefixError};

    fn v6(text: &str) -> Result<Ipv6Prefix, PrefixError> {
        text.parse()
    }

    fn v4(text: &str) -> Result<Ipv4Prefix, PrefixError> {
        text.parse()
    }

    #[test]
    fn prefixes_are_written_as_they_are_read() {
        for text in ["2001:db8:12:3400::/56", "::/0", "2001:db8::1/128"] {
            assert_eq!(v6(text).unwrap().to_string(), text);
        }
        for text in ["192.0.2.0/24", "0.0.0.0/0", "192.0.2.18/32", "198.18.0.0/15"] {
            assert_eq!(v4(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn host_bits_are_refused_and_the_prefix_meant_is_named() {
        assert!(
            v6("2001:db8:12:3456::1/56")
                .unwrap_err()
                .to_string()
                .ends_with("meant: 2001:db8:12:3400::/56")
        );
        assert!(v6("2001:db8::/0").unwrap_err().to_string().ends_with("meant: ::/0"));
        assert!(
            v4("192.0.2.18/24")
                .unwrap_err()
                .to_string()
                .ends_with("meant: 192.0.2.0/24")
        );
        assert!(
            v4("192.0.2.18/0")
                .unwrap_err()
                .to_string()
                .ends_with("meant: 0.0.0.0/0")
        );
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        assert_eq!(v6("2001:db8::"), Err(PrefixError::NoLen { most: 128 }));
        assert_eq!(v6("2001:db8::/"), Err(PrefixError::NoLen { most: 128 }));
        assert_eq!(v6("2001:db8::/+32"), Err(PrefixError::NoLen { most: 128 }));
        assert_eq!(
            v6("2001:db8::/129"),
            Err(PrefixError::LenTooLong { len: 129, most: 128 })
        );
        assert_eq!(
            v6("2001:db8::/4096"),
            Err(PrefixError::LenTooLong { len: 255, most: 128 })
        );
        assert_eq!(v4("192.0.2.0/33"), Err(PrefixError::LenTooLong { len: 33, most: 32 }));
        assert!(matches!(v4("2001:db8::/32"), Err(PrefixError::Address { .. })));
        assert!(matches!(v6("192.0.2.0/24"), Err(PrefixError::Address { .. })));
        assert!(matches!(v6("2001:db8::%eth0/64"), Err(PrefixError::Address { .. })));
    }

    #[test]
    fn a_prefix_covers_what_is_in_it() {
        let outer = v6("2001:db8::/40").unwrap();
        assert!(outer.covers(&v6("2001:db8:12:3400::/56").unwrap()));
        assert!(outer.covers(&outer));
        assert!(!outer.covers(&v6("2001:db8::/39").unwrap()));
        assert!(!outer.covers(&v6("2001:db9::/56").unwrap()));
        assert!(v6("::/0").unwrap().covers(&outer));
        assert!(v4("0.0.0.0/0").unwrap().covers(&v4("192.0.2.18/32").unwrap()));
        assert!(!v4("192.0.2.18/32").unwrap().contains([192, 0, 2, 19].into()));
    }
}
