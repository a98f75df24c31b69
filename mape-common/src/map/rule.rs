//! A mapping rule (RFC 7597 §5): IPv6 prefix, IPv4 prefix, EA bits, port parameters. Its bytes stand in a BPF map.
#![cfg_attr(feature = "user", expect(unsafe_code, reason = "aya::Pod is a promise about bytes, asserted here"))]

use super::psid::{PortSet, PortSetError, Psid};

/// Where IPv4 address and PSID stand in a MAP address's last 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct InterfaceId(u8);

impl InterfaceId {
    /// RFC 7597 §6: 16 zero bits, address, PSID.
    pub const RFC7597: Self = Self(0);
    /// draft-ietf-softwire-map-03 §6, as the Japanese services use it: 8 zero bits, address, PSID, 8 zero bits.
    pub const DRAFT03: Self = Self(1);

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DRAFT03 => "draft-03",
            _ => "rfc7597",
        }
    }
}

/// What a rule is made of, as it comes from configuration or provisioning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Rule IPv6 prefix.
    pub ipv6: [u8; 16],
    /// Its length, bits.
    pub ipv6_len: u8,
    /// Rule IPv4 prefix.
    pub ipv4: [u8; 4],
    /// Its length r, bits.
    pub ipv4_len: u8,
    /// EA-bits length o.
    pub ea_len: u8,
    /// PSID offset a.
    pub offset: u8,
    /// PSID length and PSID, where they are given apart from the EA bits (RFC 7598 §4.5).
    pub psid: Option<(u8, u16)>,
    /// Layout of the interface identifier.
    pub format: InterfaceId,
    /// Whether customer edges send to each other by this rule (a forwarding mapping rule).
    pub fmr: bool,
}

/// Why there is no such rule. What is shown says what is wrong and what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages below say what each means")]
pub enum RuleError {
    Ipv6Length { len: u8 },
    Ipv4Length { len: u8 },
    EaTooLong { ea_len: u8 },
    Ipv6HostBits { prefix: [u8; 16], len: u8 },
    Ipv4HostBits { prefix: [u8; 4], len: u8 },
    EndUserPrefixTooLong { ipv6_len: u8, ea_len: u8 },
    PsidLenContradicts { given: u8, ea_len: u8, ipv4_len: u8, derived: u8 },
    PsidContradictsEa { ea_len: u8 },
    PsidForPrefix { ipv4_len: u8, ea_len: u8 },
    PortSet(PortSetError),
}

impl From<PortSetError> for RuleError {
    fn from(error: PortSetError) -> Self {
        Self::PortSet(error)
    }
}

impl core::fmt::Display for RuleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use core::net::{Ipv4Addr, Ipv6Addr};
        match *self {
            Self::Ipv6Length { len } => write!(f, "an IPv6 prefix has at most 128 bits, not {len}"),
            Self::Ipv4Length { len } => write!(f, "an IPv4 prefix has at most 32 bits, not {len}"),
            Self::EaTooLong { ea_len } => write!(f, "EA length {ea_len} is longer than 48 bits (RFC 7597 section 5.2)"),
            Self::Ipv6HostBits { prefix, len } => {
                let right = Ipv6Addr::from(masked6(prefix, len));
                write!(f, "IPv6 prefix {}/{len} has bits behind its length; did you mean {right}/{len}?", Ipv6Addr::from(prefix))
            }
            Self::Ipv4HostBits { prefix, len } => {
                let right = Ipv4Addr::from(masked4(prefix, len));
                write!(f, "IPv4 prefix {}/{len} has bits behind its length; did you mean {right}/{len}?", Ipv4Addr::from(prefix))
            }
            Self::EndUserPrefixTooLong { ipv6_len, ea_len } => {
                write!(f, "IPv6 prefix length {ipv6_len} and EA length {ea_len} together are longer than 128 bits")
            }
            Self::PsidLenContradicts { given, ea_len, ipv4_len, derived } => write!(
                f,
                "PSID length {given} contradicts EA length {ea_len} and IPv4 prefix length {ipv4_len}, which leave {derived} bits \
                 (EA length less 32 less IPv4 prefix length); leave the PSID length out or correct the EA length"
            ),
            Self::PsidContradictsEa { ea_len } => {
                write!(f, "the PSID is in the {ea_len} EA bits; give one apart only with EA length 0")
            }
            Self::PsidForPrefix { ipv4_len, ea_len } => write!(
                f,
                "a PSID goes with a whole IPv4 address, but prefix length {ipv4_len} and EA length {ea_len} make a prefix \
                 (RFC 7598 section 4.5)"
            ),
            Self::PortSet(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RuleError {}

/// A mapping rule whose parts agree with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Rule {
    ipv6: [u8; 16],
    ipv4: [u8; 4],
    psid: u16,
    ipv6_len: u8,
    ipv4_len: u8,
    ea_len: u8,
    offset: u8,
    psid_len: u8,
    format: InterfaceId,
    fmr: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<Rule>() == 32);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, integers and byte arrays whose sizes add up to 32 (asserted), so there is no padding and any bytes are valid.
unsafe impl aya::Pod for Rule {}

impl Rule {
    /// Checks the parts and derives the PSID length: k = o − (32 − r), zero where that is negative.
    ///
    /// # Errors
    /// [`RuleError`].
    pub const fn new(spec: &RuleSpec) -> Result<Self, RuleError> {
        let RuleSpec { ipv6, ipv6_len, ipv4, ipv4_len, ea_len, offset, psid, format, fmr } = *spec;
        if ipv6_len > 128 {
            return Err(RuleError::Ipv6Length { len: ipv6_len });
        }
        if ipv4_len > 32 {
            return Err(RuleError::Ipv4Length { len: ipv4_len });
        }
        if ea_len > 48 {
            return Err(RuleError::EaTooLong { ea_len });
        }
        if u128::from_be_bytes(ipv6) != u128::from_be_bytes(masked6(ipv6, ipv6_len)) {
            return Err(RuleError::Ipv6HostBits { prefix: ipv6, len: ipv6_len });
        }
        if u32::from_be_bytes(ipv4) != u32::from_be_bytes(masked4(ipv4, ipv4_len)) {
            return Err(RuleError::Ipv4HostBits { prefix: ipv4, len: ipv4_len });
        }
        if ipv6_len.saturating_add(ea_len) > 128 {
            return Err(RuleError::EndUserPrefixTooLong { ipv6_len, ea_len });
        }
        let suffix = 32u8.saturating_sub(ipv4_len);
        let derived = ea_len.saturating_sub(suffix);
        let (psid_len, psid) = match psid {
            None => (derived, 0),
            Some((given, psid)) if ea_len == 0 => {
                if given > 0 && ipv4_len < 32 {
                    return Err(RuleError::PsidForPrefix { ipv4_len, ea_len });
                }
                (given, psid)
            }
            Some((given, _)) if given != derived => {
                return Err(RuleError::PsidLenContradicts { given, ea_len, ipv4_len, derived });
            }
            Some(_) => return Err(RuleError::PsidContradictsEa { ea_len }),
        };
        if let Err(error) = PortSet::new(offset, psid_len, psid) {
            return Err(RuleError::PortSet(error));
        }
        Ok(Self {
            ipv6,
            ipv4,
            psid,
            ipv6_len,
            ipv4_len,
            ea_len,
            offset,
            psid_len,
            format,
            fmr: if fmr { 1 } else { 0 },
            reserved: [0; 3],
        })
    }

    /// Rule IPv6 prefix.
    #[inline(always)]
    pub const fn ipv6(&self) -> [u8; 16] {
        self.ipv6
    }

    /// Its length n, bits.
    #[inline(always)]
    pub const fn ipv6_len(&self) -> u8 {
        self.ipv6_len
    }

    /// Rule IPv4 prefix.
    #[inline(always)]
    pub const fn ipv4(&self) -> [u8; 4] {
        self.ipv4
    }

    /// Its length r, bits.
    #[inline(always)]
    pub const fn ipv4_len(&self) -> u8 {
        self.ipv4_len
    }

    /// EA-bits length o.
    #[inline(always)]
    pub const fn ea_len(&self) -> u8 {
        self.ea_len
    }

    /// PSID offset a, bits.
    #[inline(always)]
    pub const fn offset(&self) -> u8 {
        self.offset
    }

    /// PSID length k, bits.
    #[inline(always)]
    pub const fn psid_len(&self) -> u8 {
        self.psid_len
    }

    /// The PSID that is given apart from EA bits; none where it is in them, or where the address is not shared.
    #[inline(always)]
    pub const fn explicit_psid(&self) -> Option<Psid> {
        if self.ea_len == 0 && self.psid_len > 0 { Some(Psid(self.psid)) } else { None }
    }

    /// Layout of the interface identifier.
    #[inline(always)]
    pub const fn format(&self) -> InterfaceId {
        self.format
    }

    /// Whether customer edges send to each other by this rule.
    #[inline(always)]
    pub const fn is_fmr(&self) -> bool {
        self.fmr != 0
    }

    /// Length of the end-user IPv6 prefix that the rule makes: n + o.
    #[inline(always)]
    pub const fn end_user_len(&self) -> u8 {
        self.ipv6_len.saturating_add(self.ea_len)
    }

    /// Length of the IPv4 prefix that one customer edge has: r + o, at most 32.
    #[inline(always)]
    pub const fn customer_ipv4_len(&self) -> u8 {
        let len = self.ipv4_len.saturating_add(self.ea_len);
        if len > 32 { 32 } else { len }
    }
}

/// The first `len` bits; the others zero.
pub const fn masked6(address: [u8; 16], len: u8) -> [u8; 16] {
    let bits = u128::from_be_bytes(address);
    let kept = match len {
        0 => 0,
        1..=127 => bits & (u128::MAX << (128u8.wrapping_sub(len) & 127)),
        _ => bits,
    };
    kept.to_be_bytes()
}

/// The first `len` bits; the others zero.
pub const fn masked4(address: [u8; 4], len: u8) -> [u8; 4] {
    let bits = u32::from_be_bytes(address);
    let kept = match len {
        0 => 0,
        1..=31 => bits & (u32::MAX << (32u8.wrapping_sub(len) & 31)),
        _ => bits,
    };
    kept.to_be_bytes()
}
