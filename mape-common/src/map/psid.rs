//! Port sets (RFC 7597 §5.1): which ports belong to a PSID, and the n-th of them.
//!
//! A port is `A | PSID | j`: `a` high bits of which zero is left out (where a > 0), `k` bits of PSID, `m = 16 − a − k` low
//! bits. So a set is 2^a − 1 ranges (one where a = 0) of 2^m ports.

use crate::wire::port::Port;

/// A port-set identifier: the low `k` bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Psid(pub u16);

/// Why there is no such port set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSetError {
    /// PSID offset above 15: RFC 7598 §4.5 allows 0 to 15.
    OffsetTooLong {
        /// The offset given, bits.
        offset: u8,
    },
    /// Offset and PSID together are longer than a port.
    NoBitsLeft {
        /// The offset given, bits.
        offset: u8,
        /// The PSID length given, bits.
        psid_len: u8,
    },
    /// The PSID needs more bits than it has.
    PsidTooLarge {
        /// The PSID given.
        psid: u16,
        /// The PSID length given, bits.
        psid_len: u8,
    },
}

impl core::fmt::Display for PortSetError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OffsetTooLong { offset } => write!(f, "PSID offset {offset} is longer than 15 bits"),
            Self::NoBitsLeft { offset, psid_len } => {
                write!(f, "PSID offset {offset} and PSID length {psid_len} together are longer than the 16 bits of a port")
            }
            Self::PsidTooLarge { psid, psid_len } => write!(f, "PSID {psid} does not fit in {psid_len} bits"),
        }
    }
}

impl core::error::Error for PortSetError {}

/// A port set. `a + k ≤ 16` holds for every value of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortSet {
    psid: u16,
    offset: u8,
    psid_len: u8,
}

/// What a port says of the set it is in, for one choice of a and k. `m` and the shifts are masked to 31 for the compiler:
/// they are at most 16.
#[derive(Clone, Copy)]
struct Split {
    /// Bits below the PSID.
    m: u32,
    /// Bits below A.
    below_a: u32,
    /// Ones in the PSID's place, moved to the low end.
    psid_mask: u32,
}

impl Split {
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_lossless, reason = "widening, in a const function")]
    const fn new(offset: u8, psid_len: u8) -> Self {
        let below_a = 16u32.wrapping_sub(offset as u32) & 31;
        let m = below_a.wrapping_sub(psid_len as u32) & 31;
        Self { m, below_a, psid_mask: (1u32 << (psid_len & 31)).wrapping_sub(1) }
    }

    /// The PSID of a port, or nothing for a port that is in no set (A = 0 where a > 0).
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_lossless, clippy::cast_possible_truncation, reason = "16 bits in, 16 out")]
    const fn psid(self, offset: u8, port: Port) -> Option<Psid> {
        let port = port.0 as u32;
        if offset != 0 && port >> self.below_a == 0 {
            return None;
        }
        Some(Psid(((port >> self.m) & self.psid_mask) as u16))
    }
}

impl PortSet {
    /// The set of a PSID of `psid_len` bits (k) behind `offset` bits (a).
    ///
    /// # Errors
    /// [`PortSetError`].
    pub const fn new(offset: u8, psid_len: u8, psid: u16) -> Result<Self, PortSetError> {
        if offset > 15 {
            return Err(PortSetError::OffsetTooLong { offset });
        }
        if psid_len > 16 || offset.saturating_add(psid_len) > 16 {
            return Err(PortSetError::NoBitsLeft { offset, psid_len });
        }
        if psid_len < 16 && psid >> psid_len != 0 {
            return Err(PortSetError::PsidTooLarge { psid, psid_len });
        }
        Ok(Self { psid, offset, psid_len })
    }

    /// PSID offset a, bits.
    pub const fn offset(&self) -> u8 {
        self.offset
    }

    /// PSID length k, bits.
    pub const fn psid_len(&self) -> u8 {
        self.psid_len
    }

    /// The PSID.
    pub const fn psid(&self) -> Psid {
        Psid(self.psid)
    }

    /// Number of ports, 1 to 65,536.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "no port set is empty")]
    pub const fn len(&self) -> u32 {
        self.blocks() << Split::new(self.offset, self.psid_len).m
    }

    /// Number of ranges of adjacent PSID blocks.
    #[inline(always)]
    const fn blocks(&self) -> u32 {
        match self.offset {
            0 => 1,
            a => (1u32 << (a & 15)).wrapping_sub(1),
        }
    }

    /// Whether a port is in the set.
    #[inline(always)]
    pub const fn contains(&self, port: Port) -> bool {
        match Split::new(self.offset, self.psid_len).psid(self.offset, port) {
            Some(psid) => psid.0 == self.psid,
            None => false,
        }
    }

    /// The PSID of a port under this set's a and k, or nothing for a port that is in no set.
    #[inline(always)]
    pub const fn psid_of(offset: u8, psid_len: u8, port: Port) -> Option<Psid> {
        Split::new(offset, psid_len).psid(offset, port)
    }

    /// The port at a position of the ascending order.
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_lossless, clippy::cast_possible_truncation, reason = "16 bits by construction")]
    pub const fn port(&self, ordinal: u32) -> Option<Port> {
        if ordinal >= self.len() {
            return None;
        }
        let split = Split::new(self.offset, self.psid_len);
        let a = match self.offset {
            0 => 0,
            _ => (ordinal >> split.m).wrapping_add(1) << split.below_a,
        };
        let low = ordinal & (1u32 << split.m).wrapping_sub(1);
        Some(Port((a | ((self.psid as u32) << split.m) | low) as u16))
    }

    /// The position of a port in the ascending order; nothing for a port of another set.
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_lossless, reason = "widening, in a const function")]
    pub const fn ordinal(&self, port: Port) -> Option<u32> {
        if !self.contains(port) {
            return None;
        }
        let split = Split::new(self.offset, self.psid_len);
        let port = port.0 as u32;
        let block = match self.offset {
            0 => 0,
            _ => (port >> split.below_a).wrapping_sub(1),
        };
        Some((block << split.m) | (port & (1u32 << split.m).wrapping_sub(1)))
    }

    /// The set as ranges of first and last port, ascending, adjacent ones joined (k = 0: one range).
    #[cfg(any(test, feature = "host"))]
    pub fn ranges(&self) -> Vec<(Port, Port)> {
        let mut ranges: Vec<(Port, Port)> = Vec::new();
        let size = 1u32 << Split::new(self.offset, self.psid_len).m;
        for block in 0..self.blocks() {
            let first = block.saturating_mul(size);
            let (Some(first), Some(last)) = (self.port(first), self.port(first.saturating_add(size).saturating_sub(1))) else {
                break;
            };
            match ranges.last_mut() {
                Some((_, end)) if end.0.checked_add(1) == Some(first.0) => *end = last,
                _ => ranges.push((first, last)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_shape() -> impl Iterator<Item = (u8, u8)> {
        (0..=15u8).flat_map(|a| (0..=16 - a).map(move |k| (a, k)))
    }

    #[test]
    fn ordinal_and_port_are_each_others_inverse_in_every_shape() {
        for (a, k) in every_shape() {
            for psid in [0u16, 1, u16::MAX].map(|p| if k == 16 { p } else { p & ((1u16 << k) - 1) }) {
                let set = PortSet::new(a, k, psid).unwrap();
                let mut last = None;
                for ordinal in 0..set.len() {
                    let port = set.port(ordinal).unwrap();
                    assert_eq!(set.ordinal(port), Some(ordinal), "a {a} k {k} psid {psid}");
                    assert!(last < Some(port), "ascending");
                    last = Some(port);
                }
                assert_eq!(set.port(set.len()), None);
                let contained = (0..=u16::MAX).filter(|p| set.contains(Port(*p))).count();
                assert_eq!(contained, usize::try_from(set.len()).unwrap());
            }
        }
    }

    #[test]
    fn ranges_are_those_of_the_rfc_and_of_the_services() {
        for (a, k, psid, first, last, count) in [
            (6, 8, 0, (1024, 1027), (64512, 64515), 63),
            (0, 6, 0, (0, 1023), (0, 1023), 1),
            (6, 8, 0x34, (1232, 1235), (64720, 64723), 63),
            (4, 8, 5, (4176, 4191), (61520, 61535), 15),
            (6, 6, 22, (1376, 1391), (64864, 64879), 63),
            (0, 0, 0, (0, 65535), (0, 65535), 1),
            (6, 0, 0, (1024, 65535), (1024, 65535), 1),
            (2, 12, 0x342, (19720, 19723), (52488, 52491), 3),
        ] {
            let ranges = PortSet::new(a, k, psid).unwrap().ranges();
            let plain = |(f, l): (Port, Port)| (f.0, l.0);
            assert_eq!(ranges.len(), count, "a {a} k {k}");
            assert_eq!((plain(ranges[0]), plain(*ranges.last().unwrap())), (first, last), "a {a} k {k}");
        }
    }

    #[test]
    fn impossible_sets_are_refused_with_the_reason() {
        assert_eq!(PortSet::new(16, 0, 0), Err(PortSetError::OffsetTooLong { offset: 16 }));
        assert_eq!(PortSet::new(6, 11, 0), Err(PortSetError::NoBitsLeft { offset: 6, psid_len: 11 }));
        assert_eq!(PortSet::new(6, 8, 256), Err(PortSetError::PsidTooLarge { psid: 256, psid_len: 8 }));
    }
}
