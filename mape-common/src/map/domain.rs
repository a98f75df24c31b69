//! What a customer edge is, given its end-user prefix and its basic mapping rule (RFC 7597 §5.2).

use core::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    map::{
        address::map_address,
        prefix::{Ipv4Prefix, Ipv6Prefix},
        psid::{PortSet, Psid},
        rule::Rule,
        spec::{RuleError, RuleSpec},
    },
    wire::port::Port,
};

/// A PSID that was given beside the rule, for example by DHCPv6 (RFC 7598 §4.5) or by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenPsid {
    /// Bits of the PSID.
    pub psid_len: Option<u8>,
    /// The PSID, right-aligned.
    pub psid: Option<u16>,
}

/// A provisioned customer edge: what is its own in the MAP domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    rule: Rule,
    end_user_prefix: Ipv6Prefix,
    ipv4: Ipv4Prefix,
    port_set: PortSet,
    ce_address: Ipv6Addr,
}

impl Domain {
    /// Computes a customer edge.
    ///
    /// The end-user prefix may be longer than the rule defines it: of a /56, a line without prefix delegation shows one /64.
    ///
    /// # Errors
    /// [`DomainError`].
    pub fn new(end_user_prefix: Ipv6Prefix, rule: &Rule, given: GivenPsid) -> Result<Self, DomainError> {
        let plain = RuleSpec::from(rule);
        if !plain.ipv6.covers(&end_user_prefix) && !end_user_prefix.covers(&plain.ipv6) {
            return Err(DomainError::NotInRule {
                end_user_prefix,
                rule_prefix: plain.ipv6,
            });
        }
        if end_user_prefix.len() < rule.end_user_len() {
            return Err(DomainError::TooShort {
                end_user_prefix,
                rule_prefix: plain.ipv6,
                ea_len: rule.ea_len(),
                needed: rule.end_user_len(),
            });
        }
        let is_embedded = rule.psid_len() > 0 && rule.explicit_psid().is_none();
        let rule = Rule::new(&RuleSpec {
            psid_len: given.psid_len.or(plain.psid_len),
            psid: if is_embedded { None } else { given.psid.or(plain.psid) },
            ..plain
        })?;
        let (owned, embedded) = decode(&rule, end_user_prefix.address());
        let psid = rule.explicit_psid().unwrap_or(embedded);
        if let Some(given) = given.psid.filter(|given| is_embedded && *given != psid.0) {
            return Err(DomainError::PsidMismatch {
                given,
                embedded: psid.0,
                end_user_prefix,
            });
        }
        let not_in_rule = DomainError::NotInRule {
            end_user_prefix,
            rule_prefix: plain.ipv6,
        };
        let port_set = rule.port_set(psid).ok_or(not_in_rule)?;
        let some_port = port_set.port(0).unwrap_or(Port(0));
        let ce_address = map_address(&rule, owned, some_port).ok_or(not_in_rule)?.into();
        let ipv4 = Ipv4Prefix::truncated(owned.into(), rule.customer_ipv4_len());
        Ok(Self {
            rule,
            end_user_prefix,
            ipv4,
            port_set,
            ce_address,
        })
    }

    /// The basic mapping rule, with the PSID where that was given beside it.
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The end-user prefix as given.
    pub const fn end_user_prefix(&self) -> Ipv6Prefix {
        self.end_user_prefix
    }

    /// The part of the end-user prefix that the rule defines.
    pub fn rule_defined_prefix(&self) -> Ipv6Prefix {
        Ipv6Prefix::truncated(self.end_user_prefix.address(), self.rule.end_user_len())
    }

    /// The customer edge's IPv4 prefix; /32 where it is one address, shared or not.
    pub const fn ipv4(&self) -> Ipv4Prefix {
        self.ipv4
    }

    /// The customer edge's IPv4 address, the first where it has a prefix.
    pub const fn ipv4_address(&self) -> Ipv4Addr {
        self.ipv4.address()
    }

    /// The customer edge's ports.
    pub const fn port_set(&self) -> PortSet {
        self.port_set
    }

    /// The MAP IPv6 address.
    pub const fn ce_address(&self) -> Ipv6Addr {
        self.ce_address
    }

    /// What its operator should know.
    pub fn note(&self) -> Option<Note> {
        let subnet = Ipv6Prefix::truncated(self.ce_address, 64);
        let is_outside = !self.end_user_prefix.contains(self.ce_address);
        is_outside.then_some(Note::AddressOutside {
            subnet,
            end_user_prefix: self.end_user_prefix,
        })
    }
}

/// IPv4 address (the first, where the EA bits end before it does) and PSID out of the EA bits.
fn decode(rule: &Rule, end_user: Ipv6Addr) -> ([u8; 4], Psid) {
    let ea_len = u32::from(rule.ea_len());
    let from_ea = end_user.to_bits().checked_shl(rule.ipv6_len().into()).unwrap_or(0);
    let ea = from_ea.checked_shr(128_u32.saturating_sub(ea_len)).unwrap_or(0);
    let known = ea_len.saturating_add(rule.ipv4_len().into());
    let psid_bits = known.saturating_sub(32);
    let suffix = ea.wrapping_shr(psid_bits).wrapping_shl(32_u32.saturating_sub(known));
    let [.., a, b, c, d] = (u128::from(u32::from_be_bytes(rule.ipv4())) | suffix).to_be_bytes();
    let [.., high, low] = (ea & 1_u128.wrapping_shl(psid_bits).wrapping_sub(1)).to_be_bytes();
    ([a, b, c, d], Psid(u16::from_be_bytes([high, low])))
}

/// Something that is no error, but may be why nothing comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The MAP address is not in the given prefix, because the rule puts it into subnet 0 of a shorter one.
    AddressOutside {
        /// The /64 of the MAP address.
        subnet: Ipv6Prefix,
        /// The end-user prefix as given.
        end_user_prefix: Ipv6Prefix,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressOutside {
                subnet,
                end_user_prefix,
            } => write!(
                f,
                "the CE address is in {subnet}, outside of {end_user_prefix}: the rule defines a shorter prefix, and the address is in \
                 its subnet 0 (RFC 7597 §5.2). Packets come back only where the router that owns {subnet} passes that address on \
                 (a route to it, or neighbour discovery proxy)"
            ),
        }
    }
}

/// Why a rule and an end-user prefix make no customer edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// The end-user prefix is not in the rule's IPv6 prefix.
    NotInRule {
        /// The end-user prefix.
        end_user_prefix: Ipv6Prefix,
        /// The rule IPv6 prefix.
        rule_prefix: Ipv6Prefix,
    },
    /// The end-user prefix ends before the EA bits do.
    TooShort {
        /// The end-user prefix.
        end_user_prefix: Ipv6Prefix,
        /// The rule IPv6 prefix.
        rule_prefix: Ipv6Prefix,
        /// EA bits.
        ea_len: u8,
        /// Length that the rule needs, bits.
        needed: u8,
    },
    /// A PSID was given, and the end-user prefix has another.
    PsidMismatch {
        /// The PSID given.
        given: u16,
        /// The PSID in the end-user prefix.
        embedded: u16,
        /// The end-user prefix.
        end_user_prefix: Ipv6Prefix,
    },
    /// The rule with the PSID given is none.
    Rule(RuleError),
}

impl From<RuleError> for DomainError {
    fn from(error: RuleError) -> Self {
        Self::Rule(error)
    }
}

impl core::error::Error for DomainError {}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInRule {
                end_user_prefix,
                rule_prefix,
            } => {
                write!(f, "{end_user_prefix} is not in the rule's IPv6 prefix {rule_prefix}")
            }
            Self::TooShort {
                end_user_prefix,
                rule_prefix,
                ea_len,
                needed,
            } => write!(
                f,
                "{end_user_prefix} is too short: rule prefix {rule_prefix} and {ea_len} EA bits need an end-user prefix of at least \
                 /{needed} (RFC 7597 §5.2); give the one that this line has"
            ),
            Self::PsidMismatch {
                given,
                embedded,
                end_user_prefix,
            } => write!(
                f,
                "PSID {given} contradicts {end_user_prefix}, whose EA bits say {embedded}; leave the PSID out"
            ),
            Self::Rule(error) => error.fmt(f),
        }
    }
}
