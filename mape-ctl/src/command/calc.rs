//! Owns `mape-ctl calc`: what a line's prefix gives it, for people and as a stable JSON object. Touches nothing.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
    num::ParseIntError,
    str::FromStr,
};

use mape_common::map::{
    domain::{Domain, GivenPsid},
    prefix::{Ipv4Prefix, Ipv6Prefix, PrefixError},
    rule::{InterfaceId, Rule},
    select::{SelectError, check_overlap, select_bmr},
    spec::{RuleError, RuleSpec},
};
use serde::Serialize;

use crate::service::{self, Service, ServiceRule, Status};

const RANGES_PER_LINE: usize = 6;
const NOTE_WIDTH: usize = 80;

/// Computes IPv4 address, ports and CE address of a line.
#[derive(Debug, clap::Args)]
pub struct CalcArgs {
    /// The line's end-user IPv6 prefix, for example 2001:db8:12:3400::/56
    #[arg(long, value_name = "PREFIX/LEN")]
    pub prefix: Ipv6Prefix,
    /// A mapping rule: IPv6 prefix, IPv4 prefix, EA-bits length, PSID offset. May be given often; the longest match counts.
    /// Without, the built-in table is used
    #[arg(long = "rule", value_name = "V6PREFIX,V4PREFIX,EALEN,OFFSET", conflicts_with_all = ["service", "unconfirmed"])]
    pub rules: Vec<RuleText>,
    /// Layout of the CE address: rfc7597 or draft-03. Default: as the table says; rfc7597 with --rule
    #[arg(long)]
    pub format: Option<InterfaceId>,
    /// The PSID, where it is given apart from the prefix (decimal, or hexadecimal with 0x)
    #[arg(long, value_name = "N", value_parser = psid, requires = "psid_len")]
    pub psid: Option<u16>,
    /// Length of the PSID in bits
    #[arg(long, value_name = "K")]
    pub psid_len: Option<u8>,
    /// The border relay's address. Default: as the table says
    #[arg(long, value_name = "ADDRESS")]
    pub br: Option<Ipv6Addr>,
    /// Look only in the rules of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Use the table's unconfirmed rules too
    #[arg(long)]
    pub unconfirmed: bool,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// A rule as it is typed: `V6PREFIX,V4PREFIX,EALEN,OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleText {
    ipv6: Ipv6Prefix,
    ipv4: Ipv4Prefix,
    ea_len: u8,
    psid_offset: u8,
}

/// Why a text is no rule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleTextError {
    /// Too few parts or too many.
    #[error(
        "a rule has 4 parts, V6PREFIX,V4PREFIX,EALEN,OFFSET, for example 2001:db8::/40,192.0.2.0/24,16,6; this has {0}"
    )]
    Parts(usize),
    /// A prefix is none.
    #[error("{text}: {source}")]
    Prefix {
        /// What was given.
        text: String,
        /// Why.
        source: PrefixError,
    },
    /// A length is none.
    #[error("the {what} is a number of bits, not {text:?}")]
    Number {
        /// Which.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// The parts contradict each other.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

impl FromStr for RuleText {
    type Err = RuleTextError;

    fn from_str(text: &str) -> Result<Self, RuleTextError> {
        fn prefix<T: FromStr<Err = PrefixError>>(text: &str) -> Result<T, RuleTextError> {
            text.parse().map_err(|source| RuleTextError::Prefix {
                text: text.to_owned(),
                source,
            })
        }
        fn bits(what: &'static str, text: &str) -> Result<u8, RuleTextError> {
            text.parse().map_err(|_| RuleTextError::Number {
                what,
                text: text.to_owned(),
            })
        }
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let &[ipv6, ipv4, ea_len, offset] = parts.as_slice() else {
            return Err(RuleTextError::Parts(parts.len()));
        };
        let rule = Self {
            ipv6: prefix(ipv6)?,
            ipv4: prefix(ipv4)?,
            ea_len: bits("EA-bits length", ea_len)?,
            psid_offset: bits("PSID offset", offset)?,
        };
        Rule::new(&rule.spec(InterfaceId::Rfc7597))?;
        Ok(rule)
    }
}

impl RuleText {
    fn spec(&self, format: InterfaceId) -> RuleSpec {
        RuleSpec {
            format,
            ..RuleSpec::new(self.ipv6, self.ipv4, self.ea_len, self.psid_offset)
        }
    }
}

fn psid(text: &str) -> Result<u16, ParseIntError> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// What was found; the fields and their order are the JSON object, which scripts rely on.
#[derive(Debug, Serialize)]
struct Answer {
    service: Option<&'static str>,
    rule: RuleAnswer,
    ipv4: Ipv4Addr,
    ipv4_prefix_len: u8,
    psid: u16,
    psid_len: u8,
    psid_offset: u8,
    ce_address: Ipv6Addr,
    br: Option<Ipv6Addr>,
    ports: u32,
    port_ranges: Vec<(u16, u16)>,
    #[serde(skip)]
    known: Option<ServiceRule>,
    #[serde(skip)]
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct RuleAnswer {
    ipv6: String,
    ipv4: String,
    ea_len: u8,
    psid_offset: u8,
    psid_len: u8,
    format: &'static str,
    fmr: bool,
}

/// Computes and prints.
///
/// # Errors
/// No rule for the prefix, a rule or PSID that contradicts it, a name that no service has.
pub fn run(args: &CalcArgs) -> anyhow::Result<()> {
    let answer = answer(args)?;
    if !args.json {
        io::stdout().write_all(answer.for_people()?.as_bytes())?;
        return Ok(());
    }
    // The object has no place for it, and a person may look all the same.
    if let Some(note) = &answer.note {
        writeln!(io::stderr(), "mape-ctl: note: {note}")?;
    }
    writeln!(io::stdout(), "{}", serde_json::to_string(&answer)?)?;
    Ok(())
}

fn answer(args: &CalcArgs) -> anyhow::Result<Answer> {
    let (rule, known) = rule(args)?;
    let domain = Domain::new(
        args.prefix,
        &rule,
        GivenPsid {
            psid_len: args.psid_len,
            psid: args.psid,
        },
    )?;
    let rule = domain.rule();
    let spec = RuleSpec::from(rule);
    let ports = domain.port_set();
    Ok(Answer {
        service: known.map(|row| row.service.short),
        rule: RuleAnswer {
            ipv6: spec.ipv6.to_string(),
            ipv4: spec.ipv4.to_string(),
            ea_len: rule.ea_len(),
            psid_offset: spec.psid_offset,
            psid_len: rule.psid_len(),
            format: rule.format().name(),
            fmr: rule.is_fmr(),
        },
        ipv4: domain.ipv4_address(),
        ipv4_prefix_len: domain.ipv4().len(),
        psid: ports.psid().0,
        psid_len: ports.psid_len(),
        psid_offset: spec.psid_offset,
        ce_address: domain.ce_address(),
        br: args.br.or(known.map(|row| row.br)),
        ports: ports.len(),
        port_ranges: ports.ranges().map(|(first, last)| (first.0, last.0)).collect(),
        known,
        note: domain.note().map(|note| note.to_string()),
    })
}

/// The rule of the prefix, and its line of the table where it is from there.
fn rule(args: &CalcArgs) -> anyhow::Result<(Rule, Option<ServiceRule>)> {
    if !args.rules.is_empty() {
        let format = args.format.unwrap_or(InterfaceId::Rfc7597);
        let rules = args
            .rules
            .iter()
            .map(|text| Rule::new(&text.spec(format)))
            .collect::<Result<Vec<_>, _>>()?;
        let best = *select_bmr(&rules, args.prefix)?;
        check_overlap(&rules)?;
        return Ok((best, None));
    }
    let name = args.service.as_deref();
    let table = service::rules_for(name, args.unconfirmed)?;
    let rules: Vec<Rule> = table.iter().map(|row| row.rule).collect();
    let best = select_bmr(&rules, args.prefix).map_err(|error| match error {
        SelectError::NoRule { .. } => anyhow::Error::from(NoMatch::new(args)),
        SelectError::TooShort { .. } | SelectError::Ambiguous { .. } => error.into(),
    })?;
    let known = table.iter().find(|row| row.rule == *best).copied();
    let rule = match args.format {
        None => *best,
        Some(format) => Rule::new(&RuleSpec {
            format,
            ..RuleSpec::from(best)
        })?,
    };
    Ok((rule, known))
}

/// The prefix is under no rule of the table.
#[derive(Debug, thiserror::Error)]
#[error("{prefix} is under no rule of {looked_in}\nhint: {advice}")]
struct NoMatch {
    prefix: Ipv6Prefix,
    looked_in: String,
    advice: String,
}

impl NoMatch {
    fn new(args: &CalcArgs) -> Self {
        let prefix = args.prefix;
        let one = args.service.as_deref().and_then(|name| service::find(name).ok());
        let looked_in = match one {
            Some(service) => place(service),
            None => service::services().iter().map(place).collect::<Vec<_>>().join(", "),
        };
        Self {
            prefix,
            looked_in,
            advice: advice(&prefix, one),
        }
    }
}

/// A service and where its lines are.
fn place(service: &Service) -> String {
    format!("{} ({})", service.short, service.blocks.join(", "))
}

/// What may be wrong, and what to try.
fn advice(prefix: &Ipv6Prefix, looked_in: Option<&Service>) -> String {
    let everywhere = service::rules_for(None, true).unwrap_or_default();
    let other = everywhere
        .iter()
        .find(|row| RuleSpec::from(&row.rule).ipv6.covers(prefix));
    if let Some(row) = other {
        let unconfirmed = if row.status == Status::Unconfirmed {
            ", which looks extrapolated: try --unconfirmed, and"
        } else {
            ":"
        };
        let name = row.service.short;
        let what = match looked_in {
            Some(service) if service != row.service => format!("name that service (--service {name}) or none"),
            _ => "compare with what the line's own router shows".to_owned(),
        };
        return format!("{} has a rule for it{unconfirmed} {what}", row.service.display);
    }
    if let Some(foreign) = service::foreign(prefix) {
        return foreign.advice();
    }
    let give =
        "give the rule that the provider states: --rule V6PREFIX,V4PREFIX,EALEN,OFFSET --format draft-03 --br ADDRESS";
    match service::by_block(prefix) {
        Some(service) => format!(
            "{} has lines there, but this part is under no rule known here: the provider may have added rules since, or the line may \
             have another kind of contract. If it is MAP-E, {give}",
            service.display
        ),
        None => format!(
            "check that this is the prefix the provider gave the line (router advertisement or DHCPv6 prefix delegation), not one \
             behind a VPN or of another line; if it is, {give}"
        ),
    }
}

impl Answer {
    /// Aligned text.
    fn for_people(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        if let Some(ServiceRule {
            service,
            status,
            sources,
            ..
        }) = self.known
        {
            writeln!(
                out,
                "Service       {} (rule {status}, from {})",
                service.display,
                sources.replace(';', ", ")
            )?;
        }
        let RuleAnswer {
            ipv6,
            ipv4,
            ea_len,
            psid_offset,
            format,
            ..
        } = &self.rule;
        writeln!(
            out,
            "Rule          {ipv6} - {ipv4}, {ea_len} EA bits, PSID offset {psid_offset}, {format}"
        )?;
        if self.ipv4_prefix_len < 32 {
            writeln!(out, "IPv4 prefix   {}/{}", self.ipv4, self.ipv4_prefix_len)?;
        } else {
            let shared = if self.psid_len > 0 {
                "shared with other lines"
            } else {
                "not shared"
            };
            writeln!(out, "IPv4 address  {}, {shared}", self.ipv4)?;
        }
        if self.psid_len > 0 {
            writeln!(
                out,
                "PSID          {} (0x{:x}) of {} bits",
                self.psid, self.psid, self.psid_len
            )?;
        }
        writeln!(out, "CE address    {}", self.ce_address)?;
        match self.br {
            Some(br) => writeln!(out, "Border relay  {br}")?,
            None => writeln!(out, "Border relay  not known (--br)")?,
        }
        match self.port_ranges.len() {
            1 => writeln!(out, "Ports         {} in one range", self.ports)?,
            count => writeln!(out, "Ports         {} in {count} ranges", self.ports)?,
        }
        for line in self.port_ranges.chunks(RANGES_PER_LINE) {
            let ranges: Vec<_> = line
                .iter()
                .map(|(first, last)| format!("{:<11}", format!("{first}-{last}")))
                .collect();
            writeln!(out, "              {}", ranges.join("  ").trim_end())?;
        }
        if let Some(note) = &self.note {
            for (place, line) in wrapped(note, NOTE_WIDTH).iter().enumerate() {
                writeln!(out, "{:<14}{line}", if place == 0 { "Note" } else { "" })?;
            }
        }
        Ok(out)
    }
}

/// The text in lines of at most `width` characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
