//! Port sets: which ports a customer edge owns, and the order they are counted in (RFC 7597 §5.1).
//!
//! A port's sixteen bits are A (`a` bits, the offset), the PSID (`k` bits) and j (the other `m` bits). Where `a` is over zero,
//! A = 0 belongs to nobody: it keeps the system ports out of every set.

use core::fmt;

use crate::wire::port::Port;

/// A port-set identifier, right-aligned, in host order (RFC 7597 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Psid(pub u16);

impl Psid {
    /// The PSID of a port, where ports begin with `offset` bits before it and it has `psid_len` bits; zero where it has none.
    #[inline(always)]
    pub const fn of(offset: u8, psid_len: u8, port: Port) -> Self {
        let before = shl(wide(port.0), offset) & 0xffff;
        Self(low_half(shr(before, 16_u8.wrapping_sub(psid_len))))
    }
}

/// The ports of one customer edge: offset `a`, PSID length `k` and PSID.
///
/// Any bytes are a harmless value: nothing panics, the numbers are then just wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PortSet {
    psid: Psid,
    offset: u8,
    psid_len: u8,
}

const _: () = assert!(size_of::<PortSet>() == 4);

impl PortSet {
    /// Every port: an address that is not shared.
    pub const ALL: Self = Self {
        psid: Psid(0),
        offset: 0,
        psid_len: 0,
    };

    /// Ports whose PSID, `psid_len` bits long and `offset` bits into the port, is `psid`.
    ///
    /// # Errors
    /// [`PortSetError`], where such ports cannot exist.
    pub const fn new(offset: u8, psid_len: u8, psid: u16) -> Result<Self, PortSetError> {
        if offset > 15 {
            return Err(PortSetError::OffsetTooLong { offset });
        }
        if offset.saturating_add(psid_len) > 16 {
            return Err(PortSetError::TooLong { offset, psid_len });
        }
        if shr(wide(psid), psid_len) != 0 {
            return Err(PortSetError::PsidTooLarge { psid, psid_len });
        }
        Ok(Self {
            psid: Psid(psid),
            offset,
            psid_len,
        })
    }

    /// Bits of a port before the PSID: `a`, 0 to 15.
    #[inline(always)]
    pub const fn offset(&self) -> u8 {
        self.offset
    }

    /// Bits of the PSID: `k`, 0 to 16.
    #[inline(always)]
    pub const fn psid_len(&self) -> u8 {
        self.psid_len
    }

    /// The PSID.
    #[inline(always)]
    pub const fn psid(&self) -> Psid {
        self.psid
    }

    /// Number of ports, 1 to 65536.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "no port set is empty")]
    pub const fn len(&self) -> u32 {
        shl(shl(1, self.offset).wrapping_sub(self.first_a()), self.m())
    }

    /// Whether the port is in the set.
    #[inline(always)]
    pub const fn contains(&self, port: Port) -> bool {
        self.psid_of(port).0 == self.psid.0 && self.a_of(port) >= self.first_a()
    }

    /// The port at this place in ascending order, counted from zero.
    #[inline(always)]
    pub const fn port(&self, ordinal: u32) -> Option<Port> {
        if ordinal >= self.len() {
            return None;
        }
        let a = shr(ordinal, self.m()).wrapping_add(self.first_a());
        let high = shl(a, 16_u8.wrapping_sub(self.offset));
        Some(Port(low_half(
            high | shl(wide(self.psid.0), self.m()) | (ordinal & self.j_mask()),
        )))
    }

    /// The place of a port in ascending order, counted from zero: the inverse of [`Self::port`].
    #[inline(always)]
    pub const fn ordinal(&self, port: Port) -> Option<u32> {
        if !self.contains(port) {
            return None;
        }
        let block = self.a_of(port).wrapping_sub(self.first_a());
        Some(shl(block, self.m()) | (wide(port.0) & self.j_mask()))
    }

    /// The PSID of any port, by this set's offset and PSID length.
    #[inline(always)]
    pub const fn psid_of(&self, port: Port) -> Psid {
        Psid::of(self.offset, self.psid_len, port)
    }

    /// The ports as ascending inclusive ranges; neighbours are one range.
    pub fn ranges(&self) -> impl Iterator<Item = (Port, Port)> + use<> {
        let set = *self;
        // Without a PSID the blocks touch.
        let size = if set.psid_len == 0 { set.len() } else { shl(1, set.m()) };
        let blocks = if set.psid_len == 0 { 1 } else { shr(set.len(), set.m()) };
        (0..blocks).filter_map(move |block| {
            let first = block.wrapping_mul(size);
            Some((set.port(first)?, set.port(first.wrapping_add(size).wrapping_sub(1))?))
        })
    }

    /// Bits after the PSID: `m`.
    #[inline(always)]
    const fn m(self) -> u8 {
        16_u8.wrapping_sub(self.offset).wrapping_sub(self.psid_len)
    }

    #[inline(always)]
    const fn j_mask(self) -> u32 {
        shl(1, self.m()).wrapping_sub(1)
    }

    /// The smallest A of a port in the set.
    #[inline(always)]
    const fn first_a(self) -> u32 {
        if self.offset == 0 { 0 } else { 1 }
    }

    #[inline(always)]
    const fn a_of(self, port: Port) -> u32 {
        shr(wide(port.0), 16_u8.wrapping_sub(self.offset))
    }
}

/// Why a port set cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSetError {
    /// The offset is over 15.
    OffsetTooLong {
        /// Bits.
        offset: u8,
    },
    /// Offset and PSID do not fit into a port.
    TooLong {
        /// Bits.
        offset: u8,
        /// Bits.
        psid_len: u8,
    },
    /// The PSID needs more bits than it has.
    PsidTooLarge {
        /// The PSID.
        psid: u16,
        /// Bits it has.
        psid_len: u8,
    },
}

impl core::error::Error for PortSetError {}

impl fmt::Display for PortSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffsetTooLong { offset } => {
                write!(f, "PSID offset {offset} is over 15, the most there is (RFC 7598 §4.5)")
            }
            Self::TooLong { offset, psid_len } => write!(
                f,
                "PSID offset {offset} and PSID length {psid_len} need {} bits, a port has 16: with this PSID length the offset is \
                 at most {}",
                offset.saturating_add(*psid_len),
                16_u8.saturating_sub(*psid_len),
            ),
            Self::PsidTooLarge { psid, psid_len } => write!(
                f,
                "PSID {psid} does not fit into {psid_len} bits: the largest is {}",
                shl(1, *psid_len).wrapping_sub(1)
            ),
        }
    }
}

/// `value << bits`; bits up to 31.
#[inline(always)]
const fn shl(value: u32, bits: u8) -> u32 {
    value.wrapping_shl(u32::from_be_bytes([0, 0, 0, bits]))
}

/// `value >> bits`; bits up to 31.
#[inline(always)]
const fn shr(value: u32, bits: u8) -> u32 {
    value.wrapping_shr(u32::from_be_bytes([0, 0, 0, bits]))
}

/// As `u32::from`, which is not const.
#[inline(always)]
const fn wide(value: u16) -> u32 {
    let [high, low] = value.to_be_bytes();
    u32::from_be_bytes([0, 0, high, low])
}

#[inline(always)]
const fn low_half(value: u32) -> u16 {
    let [_, _, high, low] = value.to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::{PortSet, PortSetError, Psid};
    use crate::wire::port::Port;

    fn set(offset: u8, psid_len: u8, psid: u16) -> PortSet {
        PortSet::new(offset, psid_len, psid).unwrap()
    }

    fn ranges(set: PortSet) -> Vec<(u16, u16)> {
        set.ranges().map(|(first, last)| (first.0, last.0)).collect()
    }

    /// Every legal pair of offset and PSID length.
    fn shapes() -> impl Iterator<Item = (u8, u8)> {
        (0..=15).flat_map(|offset| (0..=16 - offset).map(move |psid_len| (offset, psid_len)))
    }

    /// The first PSID, the last and one between; each has all its ports looked at.
    fn psids(psid_len: u8) -> Vec<u16> {
        let most = u16::try_from((1_u32 << psid_len) - 1).unwrap();
        let mut chosen = vec![0, most / 3, most];
        chosen.dedup();
        chosen
    }

    /// The definition, digit by digit: A, PSID and j as binary text.
    fn digits(offset: u8, psid_len: u8, port: u16) -> (String, String) {
        let text = format!("{port:016b}");
        let (a, rest) = text.split_at(offset.into());
        (a.to_owned(), rest[..psid_len.into()].to_owned())
    }

    #[test]
    fn a_port_is_in_the_set_that_its_binary_digits_name() {
        for (offset, psid_len) in shapes() {
            for psid in psids(psid_len) {
                let set = set(offset, psid_len, psid);
                let wanted = if psid_len == 0 {
                    String::new()
                } else {
                    format!("{psid:0width$b}", width = psid_len.into())
                };
                for port in 0..=u16::MAX {
                    let (a, found) = digits_fast(offset, psid_len, port);
                    let expected = found == psid.into() && (offset == 0 || a != 0);
                    assert_eq!(set.contains(Port(port)), expected, "{set:?} {port}");
                    if port % 4099 == 0 {
                        let (a, found) = digits(offset, psid_len, port);
                        assert_eq!(
                            set.contains(Port(port)),
                            found == wanted && (offset == 0 || a.contains('1'))
                        );
                    }
                }
            }
        }
    }

    /// As [`digits`], by arithmetic; quick enough for all ports.
    fn digits_fast(offset: u8, psid_len: u8, port: u16) -> (u32, u32) {
        let port = u32::from(port);
        let block = 1 << (16 - offset);
        let size = 1 << (16 - offset - psid_len);
        (port / block, port % block / size)
    }

    #[test]
    fn ordinals_count_the_ports_upwards_and_lead_back_to_them() {
        for (offset, psid_len) in shapes() {
            for psid in psids(psid_len) {
                let set = set(offset, psid_len, psid);
                let mut count = 0;
                for port in (0..=u16::MAX).map(Port) {
                    assert_eq!(set.psid_of(port), Psid::of(offset, psid_len, port));
                    if set.contains(port) {
                        assert_eq!(set.ordinal(port), Some(count), "{set:?} {port:?}");
                        assert_eq!(set.port(count), Some(port), "{set:?} {count}");
                        count += 1;
                    } else {
                        assert_eq!(set.ordinal(port), None, "{set:?} {port:?}");
                    }
                }
                assert_eq!(set.len(), count, "{set:?}");
                assert_eq!(set.port(count), None);
                assert_eq!(set.port(u32::MAX), None);
            }
        }
    }

    #[test]
    fn ranges_hold_the_ports_of_the_set_and_never_touch() {
        for (offset, psid_len) in shapes() {
            for psid in psids(psid_len) {
                let set = set(offset, psid_len, psid);
                let mut next_allowed = 0;
                let mut count = 0;
                for (first, last) in set.ranges() {
                    assert!(u32::from(first.0) >= next_allowed && first <= last, "{set:?}");
                    next_allowed = u32::from(last.0) + 2;
                    for port in first.0..=last.0 {
                        assert!(set.contains(Port(port)), "{set:?} {port}");
                        count += 1;
                    }
                }
                assert_eq!(count, set.len(), "{set:?}");
            }
        }
    }

    #[test]
    fn a_set_without_a_psid_is_one_range() {
        assert_eq!(ranges(set(6, 0, 0)), [(1024, 65535)]);
        assert_eq!(ranges(set(4, 0, 0)), [(4096, 65535)]);
        assert_eq!(ranges(set(0, 0, 0)), [(0, 65535)]);
        assert_eq!(set(0, 0, 0).len(), 65536);
        assert_eq!(set(0, 0, 0), PortSet::ALL);
    }

    #[test]
    fn the_sets_of_rfc_7597_appendix_b_are_those_it_prints() {
        let one = ranges(set(6, 8, 0));
        assert_eq!(
            (one[0], one[1], one[61], one[62]),
            ((1024, 1027), (2048, 2051), (63488, 63491), (64512, 64515))
        );
        assert_eq!(one.len(), 63);
        assert_eq!(ranges(set(0, 6, 0)), [(0, 1023)]);
        let five = ranges(set(4, 8, 5));
        assert_eq!(
            (five[0], five[1], five[14]),
            ((4176, 4191), (8272, 8287), (61520, 61535))
        );
        assert_eq!((five.len(), set(4, 8, 5).len()), (15, 240));
    }

    #[test]
    fn the_psid_of_a_port_is_the_one_that_softwire_tests_expect() {
        assert_eq!(Psid::of(6, 8, Port(1232)), Psid(52));
        assert_eq!(Psid::of(6, 8, Port(6232)), Psid(22));
        assert_eq!(Psid::of(0, 16, Port(0xabcd)), Psid(0xabcd));
        assert_eq!(Psid::of(6, 0, Port(1232)), Psid(0));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_could() {
        let refusal = |offset, psid_len, psid| PortSet::new(offset, psid_len, psid).unwrap_err().to_string();
        assert_eq!(PortSet::new(16, 0, 0), Err(PortSetError::OffsetTooLong { offset: 16 }));
        assert!(refusal(10, 8, 0).ends_with("the offset is at most 8"));
        assert!(refusal(6, 8, 256).ends_with("the largest is 255"));
        assert!(refusal(6, 0, 1).ends_with("the largest is 0"));
        assert!(PortSet::new(255, 255, 0).is_err());
        assert!(PortSet::new(0, 16, 65535).is_ok());
        assert!(PortSet::new(15, 1, 1).is_ok());
    }
}
