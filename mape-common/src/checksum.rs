//! Internet checksums (RFC 1071) and their update when a few words change (RFC 1624), free of loops.
//!
//! Byte order does not matter to a one's-complement sum as long as all of its words are read the same way (RFC 1071 §2 B);
//! here every 16-bit word is read in network order, so what comes out is written back with `to_be_bytes`. An update needs
//! the old checksum and, for each changed word, its old and new value: `HC' = ~(~HC + ~m + m')` (RFC 1624 eqn. 3). Sums
//! are kept in 32 bits and folded once at the end; some 30,000 words fit before one could overflow.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "one's-complement sums carry by design, and few enough words are added that 32 bits hold them"
)]

/// What must be added to an inverted checksum: a sum of 16-bit words, not yet folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[must_use]
pub struct Delta(u32);

impl Delta {
    /// Nothing changes.
    pub const ZERO: Self = Self(0);

    /// One 16-bit word changes.
    #[inline(always)]
    pub const fn word(self, from: u16, to: u16) -> Self {
        Self(self.0 + (!from as u32) + to as u32)
    }

    /// Two adjacent words change, such as an IPv4 address.
    #[inline(always)]
    pub const fn words(self, from: [u8; 4], to: [u8; 4]) -> Self {
        Self(self.0 + halves(!u32::from_be_bytes(from) as u64 + u32::from_be_bytes(to) as u64))
    }

    /// This change and another.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum folded to sixteen bits.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let sum = (self.0 & 0xffff) + (self.0 >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The checksum after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !Self(self.0 + (!checksum as u32)).folded()
    }

    /// The UDP checksum after the change: zero means "none" (RFC 768) and stays; a computed zero is sent as all ones.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// The sum of the two words of a number, or of a sum of two such numbers.
#[inline(always)]
const fn halves(sum: u64) -> u32 {
    (sum & 0xffff) as u32 + (sum >> 16) as u32
}

/// How a transport header's checksum changes.
///
/// In two parts, because a kernel that leaves the sum to a NIC has only the pseudo-header in the field so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The field as it is.
    pub old: u16,
    /// What changes in the pseudo-header: addresses.
    pub pseudo: Delta,
    /// What changes in the header itself and behind it.
    pub own: Delta,
    /// UDP's zero is no checksum.
    pub is_udp: bool,
}

impl Change {
    /// The field after the change, the sum in it being whole.
    #[inline(always)]
    pub const fn new_value(&self) -> u16 {
        let change = self.pseudo.and(self.own);
        if self.is_udp {
            change.apply_udp(self.old)
        } else {
            change.apply(self.old)
        }
    }
}

/// A checksum over a few constant pieces, for a message that the data path writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[must_use]
pub struct Sum(u32);

impl Sum {
    /// Of nothing.
    pub const ZERO: Self = Self(0);

    /// With one word more.
    #[inline(always)]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u32)
    }

    /// With the four bytes of an address more.
    #[inline(always)]
    pub const fn four(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + halves(u32::from_be_bytes(bytes) as u64))
    }

    /// With eight bytes more.
    #[inline(always)]
    pub const fn eight(self, bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        self.four([a, b, c, d]).four([e, f, g, h])
    }

    /// The checksum.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        Delta(self.0).apply(0xffff)
    }
}

/// The checksum over `bytes`, as it stands in a header whose checksum field is zero while summing.
///
/// For tests and for packets that user space builds; the data path only updates.
#[cfg(any(test, feature = "host"))]
pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u16 {
    let mut sum = 0u64;
    let mut odd = None;
    for byte in parts.into_iter().flatten() {
        match odd.take() {
            None => odd = Some(*byte),
            Some(high) => sum += u64::from(u16::from_be_bytes([high, *byte])),
        }
    }
    if let Some(high) = odd {
        sum += u64::from(u16::from_be_bytes([high, 0]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1624_section_4_example() {
        assert_eq!(Delta::ZERO.word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn an_update_equals_a_new_sum() {
        let mut header = [
            0x45, 0, 0, 0x54, 0x1c, 0x46, 0x40, 0, 0x40, 1, 0, 0, 192, 168, 1, 10, 198, 51, 100, 7,
        ];
        let before = of([&header[..]]);
        let to = [192, 0, 2, 18];
        let after = Delta::ZERO.words([192, 168, 1, 10], to).apply(before);
        header[12..16].copy_from_slice(&to);
        assert_eq!(after, of([&header[..]]));
    }

    #[test]
    fn no_udp_checksum_stays_none_and_a_computed_zero_is_all_ones() {
        assert_eq!(Delta::ZERO.word(1, 2).apply_udp(0), 0);
        // ~HC + ~m + m' folds to 0xffff, so the plain result would be 0
        assert_eq!(Delta::ZERO.word(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn a_sum_of_pieces_is_the_sum_of_all() {
        let bytes = [0x45, 0xc0, 0, 0x38, 0xff, 0xfe, 0x40, 0, 0x40, 1, 192, 168];
        let pieces = Sum::ZERO
            .eight([0x45, 0xc0, 0, 0x38, 0xff, 0xfe, 0x40, 0])
            .four([0x40, 1, 192, 168]);
        assert_eq!(pieces.checksum(), of([&bytes[..]]));
        assert_eq!(Sum::ZERO.checksum(), 0xffff);
    }

    #[test]
    fn an_odd_length_is_padded_with_zero() {
        assert_eq!(of([&[1, 2, 3][..]]), of([&[1, 2, 3, 0][..]]));
        assert_eq!(of([&[1][..], &[2, 3][..]]), of([&[1, 2, 3][..]]));
    }
}
