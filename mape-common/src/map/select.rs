//! Which rule is a customer edge's own (RFC 7597 §5), and whether rules can stand side by side.

use core::fmt;

use crate::map::{prefix::Ipv6Prefix, rule::Rule, spec::RuleSpec};

/// The basic mapping rule of an end-user prefix: the one whose IPv6 prefix is its longest match (RFC 7597 §5).
///
/// # Errors
/// [`SelectError`]: none matches, or two match equally well.
pub fn select_bmr(rules: &[Rule], end_user_prefix: Ipv6Prefix) -> Result<&Rule, SelectError> {
    let matching = || rules.iter().filter(|rule| ipv6(rule).covers(&end_user_prefix));
    let Some(best) = matching().max_by_key(|rule| rule.ipv6_len()) else {
        let inside = rules.iter().find(|rule| end_user_prefix.covers(&ipv6(rule)));
        return Err(
            inside.map_or(SelectError::NoRule { end_user_prefix }, |rule| SelectError::TooShort {
                end_user_prefix,
                rule_prefix: ipv6(rule),
                needed: rule.end_user_len(),
            }),
        );
    };
    match matching().filter(|rule| rule.ipv6_len() == best.ipv6_len()).nth(1) {
        Some(_) => Err(SelectError::Ambiguous {
            rule_prefix: ipv6(best),
        }),
        None => Ok(best),
    }
}

/// Checks that no two rules claim the same prefix, so that every address has one longest match.
///
/// Rules for one shared address with different provisioned PSIDs also claim the same IPv4 prefix: forwarding by IPv4
/// address could not tell them apart.
///
/// # Errors
/// [`Overlap`], with the first two that do.
pub fn check_overlap(rules: &[Rule]) -> Result<(), Overlap> {
    for (place, first) in rules.iter().enumerate() {
        for second in rules.iter().skip(place.saturating_add(1)) {
            let (one, other) = (RuleSpec::from(first), RuleSpec::from(second));
            if one.ipv6 == other.ipv6 {
                return Err(Overlap::Ipv6 {
                    first: *first,
                    second: *second,
                });
            }
            if one.ipv4 == other.ipv4 {
                return Err(Overlap::Ipv4 {
                    first: *first,
                    second: *second,
                });
            }
        }
    }
    Ok(())
}

fn ipv6(rule: &Rule) -> Ipv6Prefix {
    Ipv6Prefix::truncated(rule.ipv6().into(), rule.ipv6_len())
}

/// Why there is no basic mapping rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectError {
    /// No rule's IPv6 prefix holds the end-user prefix.
    NoRule {
        /// The end-user prefix.
        end_user_prefix: Ipv6Prefix,
    },
    /// The end-user prefix is so short that a rule's IPv6 prefix is inside it.
    TooShort {
        /// The end-user prefix.
        end_user_prefix: Ipv6Prefix,
        /// The rule IPv6 prefix.
        rule_prefix: Ipv6Prefix,
        /// Length that the rule needs, bits.
        needed: u8,
    },
    /// Two rules have the same IPv6 prefix, and it is the longest match.
    Ambiguous {
        /// The rule IPv6 prefix.
        rule_prefix: Ipv6Prefix,
    },
}

impl core::error::Error for SelectError {}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule { end_user_prefix } => write!(f, "{end_user_prefix} is in no rule's IPv6 prefix"),
            Self::TooShort {
                end_user_prefix,
                rule_prefix,
                needed,
            } => write!(
                f,
                "{end_user_prefix} is shorter than the rule {rule_prefix} inside it; an end-user prefix of this rule has {needed} bits"
            ),
            Self::Ambiguous { rule_prefix } => write!(f, "two rules have the IPv6 prefix {rule_prefix}; keep one"),
        }
    }
}

/// Two rules that claim the same prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The same IPv6 prefix.
    Ipv6 {
        /// The one that came first.
        first: Rule,
        /// The other one.
        second: Rule,
    },
    /// The same IPv4 prefix.
    Ipv4 {
        /// The one that came first.
        first: Rule,
        /// The other one.
        second: Rule,
    },
}

impl core::error::Error for Overlap {}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, first, second) = match self {
            Self::Ipv6 { first, second } => ("IPv6", first, second),
            Self::Ipv4 { first, second } => ("IPv4", first, second),
        };
        write!(
            f,
            "the rules {first} and {second} have the same {family} prefix, which one is meant cannot be told; keep one"
        )
    }
}
