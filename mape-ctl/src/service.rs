//! Owns the built-in table of MAP-E services: which rules a line's prefix may be under, and how far to trust each.

use std::{fmt, net::Ipv6Addr, sync::LazyLock};

use mape_common::map::{
    prefix::{Ipv4Prefix, Ipv6Prefix},
    rule::{InterfaceId, Rule},
    spec::RuleSpec,
};

const TABLE: &str = include_str!("../data/services.csv");

/// A service that gives lines their IPv4 by MAP-E.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// The name to type.
    pub short: &'static str,
    /// The name to show.
    pub display: &'static str,
    /// The prefixes that its lines' prefixes begin with.
    pub blocks: &'static [&'static str],
}

static SERVICES: [Service; 4] = [
    Service {
        short: "v6plus",
        display: "JPNE v6plus",
        blocks: &["240b:10::/30", "240b:250::/30"],
    },
    Service {
        short: "biglobe",
        display: "BIGLOBE IPv6 option",
        blocks: &["2404:7a80::/29"],
    },
    Service {
        short: "ocn",
        display: "OCN Virtual Connect",
        blocks: &["2400:4050::/30", "2400:4150::/30"],
    },
    Service {
        short: "nuro",
        display: "NURO",
        blocks: &["240d:f::/32", "240d:10::/32"],
    },
];

/// How far to trust a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Sources that do not copy each other agree.
    Confirmed,
    /// One source.
    SingleSource,
    /// It looks extrapolated: only for who asks for it.
    Unconfirmed,
}

impl Status {
    const ALL: [Self; 3] = [Self::Confirmed, Self::SingleSource, Self::Unconfirmed];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::SingleSource => "single-source",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule of a service.
#[derive(Clone, Copy, Debug)]
pub struct ServiceRule {
    /// Whose.
    pub service: &'static Service,
    /// The rule, in the service's format.
    pub rule: Rule,
    /// The border relay of the lines under this rule.
    pub br: Ipv6Addr,
    /// How far to trust it.
    pub status: Status,
    /// Where it is from; the table's head explains the words.
    pub sources: &'static str,
}

/// There is no such service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no service is named {name:?}; there are {}", names())]
pub struct UnknownService {
    /// The name given.
    pub name: String,
}

/// Why the table cannot be read; it is part of the program, so a test sees this before anybody else.
#[derive(Debug, thiserror::Error)]
#[error("data/services.csv: {line}: {reason}")]
struct TableError {
    line: &'static str,
    reason: String,
}

static RULES: LazyLock<Vec<ServiceRule>> =
    LazyLock::new(|| read(TABLE).expect("the table is part of the program, and a test reads it"));

/// All services, in the order of the table.
pub fn services() -> &'static [Service] {
    &SERVICES
}

/// The names of all services, for messages.
pub fn names() -> String {
    let named: Vec<_> = SERVICES
        .iter()
        .map(|service| format!("{} ({})", service.short, service.display))
        .collect();
    named.join(", ")
}

/// The service of this name, short or as shown, in small letters or large.
///
/// # Errors
/// [`UnknownService`], which lists all.
pub fn find(name: &str) -> Result<&'static Service, UnknownService> {
    let wanted = name.trim();
    SERVICES
        .iter()
        .find(|service| {
            [service.short, service.display]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(wanted))
        })
        .ok_or_else(|| UnknownService { name: name.to_owned() })
}

/// The rules of one service or of all, without the unconfirmed ones unless they are asked for.
///
/// # Errors
/// [`UnknownService`].
pub fn rules_for(service: Option<&str>, unconfirmed: bool) -> Result<Vec<ServiceRule>, UnknownService> {
    let service = service.map(find).transpose()?;
    let wanted = |row: &&ServiceRule| {
        service.is_none_or(|service| service == row.service) && (unconfirmed || row.status != Status::Unconfirmed)
    };
    Ok(RULES.iter().filter(wanted).copied().collect())
}

fn read(table: &'static str) -> Result<Vec<ServiceRule>, TableError> {
    let rows = table.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|line| row(line).map_err(|reason| TableError { line, reason }))
        .collect()
}

fn row(line: &'static str) -> Result<ServiceRule, String> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[service, ipv6, ipv4, ea_len, offset, format, br, status, sources] = fields.as_slice() else {
        return Err(format!("{} fields instead of 9", fields.len()));
    };
    let service = find(service).map_err(|error| error.to_string())?;
    let ipv6: Ipv6Prefix = parse(ipv6)?;
    let ipv4: Ipv4Prefix = parse(ipv4)?;
    let format: InterfaceId = parse(format)?;
    let spec = RuleSpec {
        format,
        ..RuleSpec::new(ipv6, ipv4, parse(ea_len)?, parse(offset)?)
    };
    let rule = Rule::new(&spec).map_err(|error| error.to_string())?;
    let status = Status::ALL
        .into_iter()
        .find(|known| known.name() == status)
        .ok_or("status")?;
    Ok(ServiceRule {
        service,
        rule,
        br: parse(br)?,
        status,
        sources,
    })
}

fn parse<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

/// What a prefix is that belongs to no MAP-E service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A service that gives IPv4 by DS-Lite: no rules, translation is the provider's.
    DsLite {
        /// The service.
        name: &'static str,
        /// The name of its tunnel end, an AFTR.
        aftr: &'static str,
    },
    /// The closed network of NTT East or West: no provider is reached yet.
    Flets {
        /// East or West.
        side: &'static str,
    },
}

impl Foreign {
    /// What to know and to try.
    pub fn advice(self) -> String {
        match self {
            Self::DsLite { name, aftr } => format!(
                "this looks like {name}, which gives IPv4 by DS-Lite, not MAP-E: there is no rule and no port set to compute. Use an \
                 IPv4-in-IPv6 tunnel (ip6tnl) to {aftr} instead"
            ),
            Self::Flets { side } => format!(
                "this looks like a prefix of the closed network of FLET'S ({side}), not of an Internet provider: IPoE is not active on \
                 this line yet. Ask the provider, or restart the router once it is, and use the prefix that comes then"
            ),
        }
    }
}

const FOREIGN: [(&str, Foreign); 11] = [
    (
        "2404:8e00::/32",
        Foreign::DsLite {
            name: "transix",
            aftr: "gw.transix.jp",
        },
    ),
    (
        "2404:8e01::/32",
        Foreign::DsLite {
            name: "transix",
            aftr: "gw.transix.jp",
        },
    ),
    (
        "2409::/16",
        Foreign::DsLite {
            name: "transix",
            aftr: "gw.transix.jp",
        },
    ),
    (
        "2001:f60::/28",
        Foreign::DsLite {
            name: "Xpass",
            aftr: "dgw.xpass.jp",
        },
    ),
    (
        "2001:f70::/29",
        Foreign::DsLite {
            name: "Xpass",
            aftr: "dgw.xpass.jp",
        },
    ),
    (
        "2405:6580::/29",
        Foreign::DsLite {
            name: "v6 connect",
            aftr: "dslite.v6connect.net",
        },
    ),
    ("2001:c90::/32", Foreign::Flets { side: "East" }),
    ("2404:1a8::/32", Foreign::Flets { side: "East" }),
    ("2408::/22", Foreign::Flets { side: "East" }),
    ("2001:d70::/30", Foreign::Flets { side: "West" }),
    ("2001:a000::/21", Foreign::Flets { side: "West" }),
];

/// Whether a prefix is one that people try although it is no MAP-E line's.
pub fn foreign(prefix: &Ipv6Prefix) -> Option<Foreign> {
    FOREIGN
        .iter()
        .find(|(block, _)| covers(block, prefix))
        .map(|(_, foreign)| *foreign)
}

/// The service in whose blocks a prefix is, whether or not a rule has it.
pub fn by_block(prefix: &Ipv6Prefix) -> Option<&'static Service> {
    SERVICES
        .iter()
        .find(|service| service.blocks.iter().any(|block| covers(block, prefix)))
}

fn covers(block: &str, prefix: &Ipv6Prefix) -> bool {
    block.parse::<Ipv6Prefix>().is_ok_and(|block| block.covers(prefix))
}

#[cfg(test)]
mod tests {
    use mape_common::map::spec::RuleSpec;

    use super::*;

    #[test]
    fn the_table_has_every_rule_of_every_service() {
        let counts = |unconfirmed| {
            services()
                .iter()
                .map(move |s| rules_for(Some(s.short), unconfirmed).unwrap().len())
                .collect::<Vec<_>>()
        };
        assert_eq!(read(TABLE).unwrap().len(), 444);
        assert_eq!(counts(false), [8, 258, 160, 4]);
        assert_eq!(counts(true), [8, 258, 160, 18]);
        let single = RULES
            .iter()
            .filter(|row| row.service.short == "ocn" && row.status == Status::SingleSource);
        assert_eq!(single.count(), 44);
    }

    #[test]
    fn no_rule_overlaps_another_and_all_make_a_56() {
        let specs: Vec<_> = RULES.iter().map(|row| RuleSpec::from(&row.rule)).collect();
        for (place, one) in specs.iter().enumerate() {
            assert_eq!(one.ipv6.len() + one.ea_len, 56, "{one}");
            for other in &specs[place + 1..] {
                assert!(
                    !one.ipv6.covers(&other.ipv6) && !other.ipv6.covers(&one.ipv6),
                    "{one} {other}"
                );
                assert!(
                    !one.ipv4.covers(&other.ipv4) && !other.ipv4.covers(&one.ipv4),
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn every_rule_is_in_its_services_blocks_and_shares_addresses_as_the_service_does() {
        for row in RULES.iter() {
            let spec = RuleSpec::from(&row.rule);
            assert_eq!(by_block(&spec.ipv6), Some(row.service), "{spec}");
            assert_eq!(foreign(&spec.ipv6), None, "{spec}");
            let (offset, psid_len) = if row.service.short == "ocn" { (6, 6) } else { (4, 8) };
            assert_eq!((spec.psid_offset, row.rule.psid_len()), (offset, psid_len), "{spec}");
            assert_eq!(row.rule.format(), InterfaceId::Draft03);
            assert!(!row.sources.is_empty());
        }
    }

    #[test]
    fn services_are_found_by_either_name() {
        assert_eq!(find("V6Plus").unwrap().short, "v6plus");
        assert_eq!(find("ocn virtual connect").unwrap().short, "ocn");
        let error = rules_for(Some("transix"), false).unwrap_err().to_string();
        assert_eq!(
            error,
            "no service is named \"transix\"; there are v6plus (JPNE v6plus), biglobe (BIGLOBE IPv6 option), \
             ocn (OCN Virtual Connect), nuro (NURO)"
        );
    }

    #[test]
    fn lines_of_other_kinds_are_recognised() {
        for (block, _) in FOREIGN {
            assert!(block.parse::<Ipv6Prefix>().is_ok(), "{block}");
        }
        let said = |prefix: &str| {
            foreign(&prefix.parse().unwrap())
                .map(Foreign::advice)
                .unwrap_or_default()
        };
        assert!(said("2404:8e00:1234:5600::/56").contains("transix"));
        assert!(said("2408:210:1234:5600::/56").contains("closed network of FLET'S (East)"));
        assert_eq!(said("2001:db8::/32"), "");
    }
}
