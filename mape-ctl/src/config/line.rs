//! The `[map]` section: which rules there are, which one is the line's own, and where the border relay is.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::map::{
    domain::{Domain, GivenPsid},
    prefix::{Ipv4Prefix, Ipv6Prefix},
    rule::{InterfaceId, Rule},
    select::{Overlap, SelectError, check_overlap, select_bmr},
    spec::RuleSpec,
};

use super::{
    check::{is_on, number, prefix, tunnel_end},
    low::{Given, LowMap, LowRule, Origin},
    problem::{Mistake, Problem},
};
use crate::{
    gateway::Role,
    service::{self, Service, ServiceRule},
};

/// What the section means.
pub(super) struct Line {
    /// A customer edge's.
    pub(super) domain: Option<Domain>,
    /// The border relay's address.
    pub(super) relay: Ipv6Addr,
    /// Rules to forward by.
    pub(super) rules: Vec<Rule>,
    /// What goes into the tunnel where nobody says.
    pub(super) default_routes: Vec<Ipv4Prefix>,
    /// What is allowed but unwise.
    pub(super) warnings: Vec<String>,
}

/// Checks the section.
pub(super) fn line(role: Role, low: &LowMap) -> Result<Line, Mistake> {
    match role {
        Role::CustomerEdge => customer_edge(low),
        Role::BorderRelay => border_relay(low),
    }
}

fn border_relay(low: &LowMap) -> Result<Line, Mistake> {
    let only_ce = [
        (low.prefix.as_ref().map(|given| given.origin), "prefix"),
        (low.service.as_ref().map(|given| given.origin), "service"),
        (low.unconfirmed.as_ref().map(|given| given.origin), "unconfirmed"),
        (low.psid.as_ref().map(|given| given.origin), "psid"),
        (low.psid_len.as_ref().map(|given| given.origin), "psid-len"),
    ];
    for (origin, key) in only_ce {
        if let Some(origin) = origin {
            let hint = "leave it out: a border relay has rules and its own address, no line";
            return Err(Mistake::at(
                origin,
                Problem::Contradiction {
                    key,
                    with: "role br",
                    hint,
                },
            ));
        }
    }
    let rules = rules(low)?;
    if rules.is_empty() {
        return Err(Mistake::missing(
            "map.rule",
            "a border relay needs at least one rule: [[map.rule]], or --rule",
        ));
    }
    let relay = tunnel_end("br", &low.br)?.ok_or_else(|| {
        Mistake::missing(
            "br",
            "give the border relay's own IPv6 address: br = \"2001:db8::1\" in [map], or --br",
        )
    })?;
    let default_routes = rules.iter().map(|rule| RuleSpec::from(rule).ipv4).collect();
    Ok(Line {
        domain: None,
        relay,
        rules,
        default_routes,
        warnings: Vec::new(),
    })
}

fn customer_edge(low: &LowMap) -> Result<Line, Mistake> {
    let typed = low.prefix.as_ref().ok_or_else(|| {
        Mistake::missing(
            "prefix",
            "give the IPv6 prefix that the provider gave this line: prefix = \"…/56\" in [map], or --prefix",
        )
    })?;
    let end_user: Ipv6Prefix = prefix("prefix", typed)?;
    let given = GivenPsid {
        psid_len: number(&low.psid_len, "psid-len", 0, 16_u8)?,
        psid: number(&low.psid, "psid", 0, u16::MAX)?,
    };
    let own = rules(low)?;
    let br = tunnel_end("br", &low.br)?;
    let (bmr, from_table, forwarding) = if own.is_empty() {
        let row = row_for(low, typed, end_user)?;
        (reformat(&row.rule, low)?, Some(row), Vec::new())
    } else {
        let only_table = [
            (low.service.as_ref().map(|g| g.origin), "service"),
            (low.unconfirmed.as_ref().map(|g| g.origin), "unconfirmed"),
        ];
        for (origin, key) in only_table {
            if let Some(origin) = origin {
                let hint = "leave one out: the built-in table is looked in where no rule is given";
                return Err(Mistake::at(
                    origin,
                    Problem::Contradiction {
                        key,
                        with: "map.rule",
                        hint,
                    },
                ));
            }
        }
        let bmr = *select_bmr(&own, end_user).map_err(|source| {
            let hint = "; give the rule that this prefix is under".to_owned();
            Mistake::at(typed.origin, Problem::NoRule { source, hint })
        })?;
        (bmr, None, own.into_iter().filter(Rule::is_fmr).collect())
    };
    let domain =
        Domain::new(end_user, &bmr, given).map_err(|error| Mistake::at(typed.origin, Problem::Domain(error)))?;
    let relay = br.or(from_table.map(|row| row.br)).ok_or_else(|| {
        Mistake::missing(
            "br",
            "own rules come without a border relay; give its IPv6 address: br = \"2001:db8::1\" in [map], or --br",
        )
    })?;
    let mut warnings: Vec<String> = domain.note().map(|note| note.to_string()).into_iter().collect();
    if let Some(row) = from_table.filter(|row| row.status == service::Status::Unconfirmed) {
        warnings.push(format!(
            "the rule {} of {} is unconfirmed: nobody has reported that it works",
            row.rule, row.service.display
        ));
    }
    let default_routes = Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0).into_iter().collect();
    Ok(Line {
        domain: Some(domain),
        relay,
        rules: forwarding,
        default_routes,
        warnings,
    })
}

/// The row of the built-in table that a prefix is under.
fn row_for(low: &LowMap, typed: &Given<String>, end_user: Ipv6Prefix) -> Result<ServiceRule, Mistake> {
    let name = low.service.as_ref();
    let rows = service::rules_for(name.map(|given| given.value.as_str()), is_on(&low.unconfirmed, false)).map_err(
        |error| {
            Mistake::at(
                name.map_or(Origin::Whole, |given| given.origin),
                Problem::Service(error),
            )
        },
    )?;
    let rules: Vec<Rule> = rows.iter().map(|row| row.rule).collect();
    let no_rule = |source| {
        Mistake::at(
            typed.origin,
            Problem::NoRule {
                source,
                hint: advice(low, &end_user),
            },
        )
    };
    let bmr = select_bmr(&rules, end_user).map_err(no_rule)?;
    let unfound = SelectError::NoRule {
        end_user_prefix: end_user,
    };
    rows.iter()
        .find(|row| row.rule == *bmr)
        .copied()
        .ok_or_else(|| no_rule(unfound))
}

/// What to try where the table has no rule.
fn advice(low: &LowMap, end_user: &Ipv6Prefix) -> String {
    let own = "give the rule yourself ([[map.rule]] and br, or --rule and --br)";
    if let Some(foreign) = service::foreign(end_user) {
        return format!("; {}", foreign.advice());
    }
    match service::by_block(end_user) {
        Some(found) if asked_for_another(low, found) => {
            format!(
                "; it looks like one of {}: ask for that service, or {own}",
                found.display
            )
        }
        Some(found) => format!(
            "; it is one of {}, but no rule in the table has it; try unconfirmed rules (unconfirmed = true, --unconfirmed), or {own}",
            found.display
        ),
        None => format!("; looked in the rules of {}; {own}", service::names()),
    }
}

fn asked_for_another(low: &LowMap, found: &Service) -> bool {
    low.service
        .as_ref()
        .is_some_and(|given| service::find(&given.value) != Ok(found))
}

/// The rule in the format that was asked for.
fn reformat(rule: &Rule, low: &LowMap) -> Result<Rule, Mistake> {
    match (format(low)?, &low.format) {
        (Some(format), Some(given)) => Rule::new(&RuleSpec {
            format,
            ..RuleSpec::from(rule)
        })
        .map_err(|error| Mistake::at(given.origin, Problem::Rule(error))),
        _ => Ok(*rule),
    }
}

fn format(low: &LowMap) -> Result<Option<InterfaceId>, Mistake> {
    let read = |given: &Given<String>| {
        let Given { value, origin } = given;
        value.parse().map_err(|reason| {
            Mistake::at(
                *origin,
                Problem::Format {
                    value: value.clone(),
                    reason,
                },
            )
        })
    };
    low.format.as_ref().map(read).transpose()
}

/// The rules given, each checked, and all together.
fn rules(low: &LowMap) -> Result<Vec<Rule>, Mistake> {
    let format = format(low)?.unwrap_or(InterfaceId::Rfc7597);
    let given = low.rule.as_deref().unwrap_or_default();
    let mut rules = Vec::new();
    for one in given {
        let spec = RuleSpec { format, ..spec(one)? };
        rules.push(Rule::new(&spec).map_err(|error| Mistake::at(one.origin, Problem::Rule(error)))?);
    }
    check_overlap(&rules).map_err(|overlap| {
        let (Overlap::Ipv6 { second, .. } | Overlap::Ipv4 { second, .. }) = overlap;
        let place = rules
            .iter()
            .rposition(|rule| *rule == second)
            .and_then(|place| given.get(place));
        Mistake::at(
            place.map_or(Origin::Whole, |one| one.origin),
            Problem::Overlap(Box::new(overlap)),
        )
    })?;
    Ok(rules)
}

fn spec(given: &Given<LowRule>) -> Result<RuleSpec, Mistake> {
    let Given { value: low, origin } = given;
    if let Some(typed) = &low.typed {
        return spec_from_word(typed, *origin);
    }
    let missing = |key| {
        let hint = "a rule has ipv6, ipv4, ea-len and psid-offset";
        Mistake::at(*origin, Problem::Missing { key, hint })
    };
    let ipv6 = prefix("ipv6", low.ipv6.as_ref().ok_or_else(|| missing("ipv6"))?)?;
    let ipv4 = prefix("ipv4", low.ipv4.as_ref().ok_or_else(|| missing("ipv4"))?)?;
    let ea_len = number(&low.ea_len, "ea-len", 0, 48_u8)?.ok_or_else(|| missing("ea-len"))?;
    let psid_offset = number(&low.psid_offset, "psid-offset", 0, 15_u8)?.ok_or_else(|| missing("psid-offset"))?;
    Ok(RuleSpec {
        fmr: is_on(&low.fmr, false),
        ..RuleSpec::new(ipv6, ipv4, ea_len, psid_offset)
    })
}

/// `V6,V4,EA,OFFSET[,fmr]`.
fn spec_from_word(typed: &str, origin: Origin) -> Result<RuleSpec, Mistake> {
    let wrong = || {
        Mistake::at(
            origin,
            Problem::RuleWord {
                value: typed.to_owned(),
            },
        )
    };
    let fields: Vec<&str> = typed.split(',').map(str::trim).collect();
    let (ipv6, ipv4, ea_len, offset, fmr) = match *fields.as_slice() {
        [ipv6, ipv4, ea_len, offset] => (ipv6, ipv4, ea_len, offset, false),
        [ipv6, ipv4, ea_len, offset, "fmr"] => (ipv6, ipv4, ea_len, offset, true),
        _ => return Err(wrong()),
    };
    let part = |text: &str| Given {
        value: text.to_owned(),
        origin,
    };
    let (ea_len, offset) = (
        ea_len.parse().map_err(|_| wrong())?,
        offset.parse().map_err(|_| wrong())?,
    );
    let spec = RuleSpec::new(
        prefix("the rule's IPv6 prefix", &part(ipv6))?,
        prefix("the rule's IPv4 prefix", &part(ipv4))?,
        ea_len,
        offset,
    );
    Ok(RuleSpec { fmr, ..spec })
}
