//! A mapping rule as it is given, and everything that can be wrong with it (RFC 7597 §5, RFC 7598 §4).

use core::{fmt, str::FromStr};

use crate::map::{
    prefix::{Ipv4Prefix, Ipv6Prefix},
    psid::{PortSet, PortSetError},
    rule::{InterfaceId, Rule},
};

/// The most EA bits there can be (RFC 7597 §5.2): 32 of an address and 16 of a port.
pub const EA_MOST: u8 = 48;

/// What a configuration, a provisioning answer or a table says of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Rule IPv6 prefix.
    pub ipv6: Ipv6Prefix,
    /// Rule IPv4 prefix.
    pub ipv4: Ipv4Prefix,
    /// Number of embedded-address bits.
    pub ea_len: u8,
    /// Bits of a port before the PSID.
    pub psid_offset: u8,
    /// Bits of the PSID. Where the EA bits carry the PSID this may be left out, and must otherwise be what they give.
    pub psid_len: Option<u8>,
    /// A PSID that is not in the EA bits. Ignored with a `psid_len` of zero (RFC 7598 §4.5).
    pub psid: Option<u16>,
    /// Layout of the interface identifier.
    pub format: InterfaceId,
    /// Whether packets may go straight to other customer edges by this rule.
    pub fmr: bool,
}

impl RuleSpec {
    /// A rule with the PSID in its EA bits, RFC 7597's interface identifier, and not for forwarding.
    pub const fn new(ipv6: Ipv6Prefix, ipv4: Ipv4Prefix, ea_len: u8, psid_offset: u8) -> Self {
        Self {
            ipv6,
            ipv4,
            ea_len,
            psid_offset,
            psid_len: None,
            psid: None,
            format: InterfaceId::Rfc7597,
            fmr: false,
        }
    }
}

impl From<&Rule> for RuleSpec {
    fn from(rule: &Rule) -> Self {
        let psid = rule.explicit_psid();
        Self {
            ipv6: Ipv6Prefix::truncated(rule.ipv6_prefix.into(), rule.ipv6_prefix_len),
            ipv4: Ipv4Prefix::truncated(rule.ipv4_prefix.into(), rule.ipv4_prefix_len),
            ea_len: rule.ea_len,
            psid_offset: rule.psid_offset,
            psid_len: psid.map(|_| rule.psid_len),
            psid: psid.map(|psid| psid.0),
            format: rule.format(),
            fmr: rule.is_fmr(),
        }
    }
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ipv6,
            ipv4,
            ea_len,
            psid_offset,
            ..
        } = self;
        write!(f, "{ipv6},{ipv4},{ea_len},{psid_offset}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RuleSpec::from(self).fmt(f)
    }
}

impl Rule {
    /// Checks a rule.
    ///
    /// # Errors
    /// [`RuleError`]: what contradicts what, and what would be right.
    pub fn new(spec: &RuleSpec) -> Result<Self, RuleError> {
        let RuleSpec {
            ipv6,
            ipv4,
            ea_len,
            psid_offset,
            ..
        } = *spec;
        if ea_len > EA_MOST {
            return Err(RuleError::EaTooLong { ea_len });
        }
        let free = 128_u8.saturating_sub(ipv6.len());
        if ea_len > free {
            return Err(RuleError::BeyondAddress { ipv6, ea_len, free });
        }
        let ipv4_bits = 32_u8.saturating_sub(ipv4.len());
        let from_ea = ea_len.saturating_sub(ipv4_bits);
        if from_ea > 16 {
            return Err(RuleError::BeyondPort {
                ea_len,
                ipv4,
                psid_len: from_ea,
                most: ipv4_bits.saturating_add(16),
            });
        }
        let (psid_len, psid) = psid(spec, ipv4_bits, from_ea)?;
        // Also right where the PSID comes with the EA bits: zero fits into any length.
        PortSet::new(psid_offset, psid_len, psid.unwrap_or(0)).map_err(RuleError::PortSet)?;
        Ok(Self {
            ipv6_prefix: ipv6.address().octets(),
            ipv4_prefix: ipv4.address().octets(),
            ipv6_prefix_len: ipv6.len(),
            ipv4_prefix_len: ipv4.len(),
            ea_len,
            psid_offset,
            psid_len,
            format: match spec.format {
                InterfaceId::Rfc7597 => 0,
                InterfaceId::Draft03 => Self::DRAFT_03,
            },
            flags: if spec.fmr { Self::FMR } else { 0 } | if psid.is_some() { Self::EXPLICIT_PSID } else { 0 },
            reserved: 0,
            psid: psid.unwrap_or(0),
            reserved2: [0; 2],
        })
    }
}

/// PSID length, and the PSID where it is not in the EA bits.
fn psid(spec: &RuleSpec, ipv4_bits: u8, from_ea: u8) -> Result<(u8, Option<u16>), RuleError> {
    let RuleSpec { ea_len, ipv4, .. } = *spec;
    match (spec.psid_len, spec.psid) {
        (None, None) => Ok((from_ea, None)),
        (None, Some(psid)) => Err(RuleError::PsidWithoutLen { psid }),
        (Some(given), _) if from_ea > 0 && given != from_ea => Err(RuleError::PsidLenMismatch {
            given,
            derived: from_ea,
            ea_len,
            ipv4,
            ea_right: ipv4_bits.saturating_add(given),
        }),
        (Some(_), Some(psid)) if from_ea > 0 => Err(RuleError::PsidInEa {
            psid,
            psid_len: from_ea,
        }),
        // A length of zero says that there is no PSID, whatever stands beside it.
        (Some(0), _) => Ok((0, None)),
        (Some(_), None) if from_ea > 0 => Ok((from_ea, None)),
        (Some(psid_len), _) if ea_len < ipv4_bits => Err(RuleError::PsidWithPrefix {
            psid_len,
            owned: 32_u8.saturating_sub(ipv4_bits).saturating_add(ea_len),
        }),
        (Some(psid_len), None) => Err(RuleError::LenWithoutPsid {
            psid_len,
            ea_len,
            ea_right: ipv4_bits.saturating_add(psid_len),
        }),
        (Some(psid_len), Some(psid)) => Ok((psid_len, Some(psid))),
    }
}

/// Why a rule cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// More EA bits than an IPv4 address and a port have.
    EaTooLong {
        /// EA bits.
        ea_len: u8,
    },
    /// Rule IPv6 prefix and EA bits are longer than an IPv6 address.
    BeyondAddress {
        /// The rule IPv6 prefix.
        ipv6: Ipv6Prefix,
        /// EA bits.
        ea_len: u8,
        /// Bits behind the prefix.
        free: u8,
    },
    /// The EA bits leave more bits for the PSID than a port has.
    BeyondPort {
        /// EA bits.
        ea_len: u8,
        /// The rule IPv4 prefix.
        ipv4: Ipv4Prefix,
        /// Bits left for the PSID.
        psid_len: u8,
        /// The most EA bits that this IPv4 prefix allows.
        most: u8,
    },
    /// A PSID length was given, and the EA bits give another.
    PsidLenMismatch {
        /// The length given.
        given: u8,
        /// The length that the EA bits give.
        derived: u8,
        /// EA bits.
        ea_len: u8,
        /// The rule IPv4 prefix.
        ipv4: Ipv4Prefix,
        /// EA bits that would give the length given.
        ea_right: u8,
    },
    /// A PSID was given, although the EA bits carry it.
    PsidInEa {
        /// The PSID given.
        psid: u16,
        /// Bits of the PSID in the EA bits.
        psid_len: u8,
    },
    /// A PSID was given for a rule that gives each customer edge an IPv4 prefix.
    PsidWithPrefix {
        /// PSID length given.
        psid_len: u8,
        /// Length of each customer edge's IPv4 prefix.
        owned: u8,
    },
    /// A PSID was given without its length.
    PsidWithoutLen {
        /// The PSID given.
        psid: u16,
    },
    /// A PSID length was given, and the PSID is nowhere.
    LenWithoutPsid {
        /// PSID length given.
        psid_len: u8,
        /// EA bits.
        ea_len: u8,
        /// EA bits that would give this length.
        ea_right: u8,
    },
    /// Offset, PSID length and PSID make no port set.
    PortSet(PortSetError),
}

impl core::error::Error for RuleError {}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EaTooLong { ea_len } => {
                write!(
                    f,
                    "EA length {ea_len} is over {EA_MOST}, the bits of an IPv4 address and a port (RFC 7597 §5.2)"
                )
            }
            Self::BeyondAddress { ipv6, ea_len, free } => {
                write!(
                    f,
                    "EA length {ea_len} does not fit behind {ipv6}: an IPv6 address has {free} bits left there"
                )
            }
            Self::BeyondPort {
                ea_len,
                ipv4,
                psid_len,
                most,
            } => write!(
                f,
                "EA length {ea_len} with {ipv4} leaves {psid_len} bits for the PSID, and a port has 16: with this IPv4 prefix the \
                 EA length is at most {most}"
            ),
            Self::PsidLenMismatch {
                given,
                derived,
                ea_len,
                ipv4,
                ea_right,
            } => {
                write!(
                    f,
                    "PSID length {given} contradicts the rule: EA length {ea_len} less the {} address bits behind {ipv4} is \
                     {derived} (RFC 7597 §5.2); leave the PSID length out",
                    32_u8.saturating_sub(ipv4.len())
                )?;
                if *ea_right <= EA_MOST {
                    write!(f, ", or the EA length is {ea_right}")
                } else {
                    Ok(())
                }
            }
            Self::PsidInEa { psid, psid_len } => write!(
                f,
                "PSID {psid} is given although the last {psid_len} EA bits carry each customer edge's PSID; leave it out"
            ),
            Self::PsidWithPrefix { psid_len, owned } => write!(
                f,
                "a PSID of {psid_len} bits is given, but the rule gives each customer edge a whole IPv4 prefix, /{owned}: a PSID \
                 is for a shared address only (RFC 7598 §4.5); leave it out"
            ),
            Self::PsidWithoutLen { psid } => {
                write!(f, "PSID {psid} is given without its length; give the PSID length too")
            }
            Self::LenWithoutPsid {
                psid_len,
                ea_len,
                ea_right,
            } => {
                write!(
                    f,
                    "PSID length {psid_len} is given, but the {ea_len} EA bits end with the IPv4 address and carry no PSID; give the \
                     PSID too"
                )?;
                if *ea_right <= EA_MOST {
                    write!(f, ", or the EA length is {ea_right}")
                } else {
                    Ok(())
                }
            }
            Self::PortSet(error) => error.fmt(f),
        }
    }
}

/// The text is no name of an interface identifier's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatError;

impl core::error::Error for FormatError {}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the format is {} or {}",
            InterfaceId::Rfc7597.name(),
            InterfaceId::Draft03.name()
        )
    }
}

impl FromStr for InterfaceId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name().eq_ignore_ascii_case(text))
            .ok_or(FormatError)
    }
}

impl fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
