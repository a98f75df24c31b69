//! What can be wrong with a configuration: each message says what is wrong and what to write instead.

use std::net::{AddrParseError, Ipv4Addr, Ipv6Addr};

use mape_common::map::{
    domain::DomainError,
    prefix::{Ipv4Prefix, PrefixError},
    select::{Overlap, SelectError},
    spec::{FormatError, RuleError},
};

use super::low::Origin;
use crate::{forward::ForwardError, service::UnknownService};

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is no TOML, or a value is of another kind.
    #[error("{0}")]
    Syntax(String),
    /// A key that there is not.
    #[error("there is no key `{key}`{}; the keys here are {}", meant(nearest.as_deref()), known.join(", "))]
    UnknownKey {
        /// The key typed.
        key: String,
        /// The one probably meant.
        nearest: Option<String>,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Something that must be there is not.
    #[error("{key} is missing; {hint}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What to write.
        hint: &'static str,
    },
    /// Something that must not be there.
    #[error("{key} does not go with {with}; {hint}")]
    Contradiction {
        /// The key.
        key: &'static str,
        /// What it contradicts.
        with: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A number out of its range.
    #[error("{key} is {value}, and must be {least} to {most}")]
    Range {
        /// The key.
        key: &'static str,
        /// The number typed.
        value: i64,
        /// The smallest that there is.
        least: i64,
        /// The largest.
        most: i64,
    },
    /// A word that is none of those that there are.
    #[error("{key} is {value:?}{}; it is one of: {}", meant(nearest(value, words)), words.join(", "))]
    Word {
        /// The key.
        key: &'static str,
        /// The word typed.
        value: String,
        /// Those that there are.
        words: &'static [&'static str],
    },
    /// No interface name.
    #[error(
        "{key} is {value:?}, which no interface can be named: 1 to 15 characters, no '/', ':' or space; see: ip link"
    )]
    Interface {
        /// The key.
        key: &'static str,
        /// What was typed.
        value: String,
    },
    /// An interface named twice.
    #[error("interface {0} stands twice in lan; name each once")]
    Twice(String),
    /// No address.
    #[error("{key} is {value:?}, which is no {family} address, like {example}")]
    Address {
        /// The key.
        key: &'static str,
        /// What was typed.
        value: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// One.
        example: &'static str,
        /// Why.
        source: AddrParseError,
    },
    /// An address that cannot be a tunnel's end.
    #[error("{key} is {value}, which no router can have; give the unicast IPv6 address that the provider named")]
    NotUnicast {
        /// The key.
        key: &'static str,
        /// The address.
        value: Ipv6Addr,
    },
    /// No prefix.
    #[error("{key} is {value:?}: {reason}")]
    Prefix {
        /// The key.
        key: &'static str,
        /// What was typed.
        value: String,
        /// Why.
        reason: PrefixError,
    },
    /// A rule in one word that is none.
    #[error(
        "{value:?} is no rule; write IPv6 prefix, IPv4 prefix, EA length, PSID offset: 2001:db8::/40,192.0.2.0/24,16,6 or the same with ,fmr"
    )]
    RuleWord {
        /// What was typed.
        value: String,
    },
    /// A rule that contradicts itself.
    #[error(transparent)]
    Rule(RuleError),
    /// Two rules that cannot stand side by side.
    #[error(transparent)]
    Overlap(Box<Overlap>),
    /// No rule for the prefix.
    #[error("{source}{hint}")]
    NoRule {
        /// What was looked for.
        source: SelectError,
        /// What to try.
        hint: String,
    },
    /// The prefix and its rule make no customer edge.
    #[error(transparent)]
    Domain(DomainError),
    /// A word for the interface identifier that there is not.
    #[error("format is {value:?}; {reason}")]
    Format {
        /// What was typed.
        value: String,
        /// Why.
        reason: FormatError,
    },
    /// A service that is not in the table.
    #[error(transparent)]
    Service(UnknownService),
    /// A forward in one word that is none.
    #[error(
        "{value:?} is no forward; write protocol, ports and LAN host: tcp,1232,192.168.10.5:80 or both,1232-1235,192.168.10.5"
    )]
    ForwardWord {
        /// What was typed.
        value: String,
    },
    /// A value that cannot be read.
    #[error("{key} is {value:?}; {hint}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was typed.
        value: String,
        /// What to write.
        hint: String,
    },
    /// A forward that cannot be.
    #[error(transparent)]
    Forward(ForwardError),
    /// A port that is not the line's.
    #[error("{key} has port {port}, which is not of this line; it has {allowed}")]
    ForeignPort {
        /// The key.
        key: &'static str,
        /// The port.
        port: u16,
        /// Those that the line has.
        allowed: String,
    },
    /// Too many of something.
    #[error("{key} has {count} entries, at most {most} are possible; leave some out")]
    TooMany {
        /// The key.
        key: &'static str,
        /// How many.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// An external address that is not the line's.
    #[error(
        "external-address {address} is not in {prefix}, which is what this line has; leave it out to use its first address"
    )]
    Foreign {
        /// The address.
        address: Ipv4Addr,
        /// What the line has.
        prefix: Ipv4Prefix,
    },
}

fn meant(nearest: Option<&str>) -> String {
    nearest
        .map(|nearest| format!(", probably meant: `{nearest}`"))
        .unwrap_or_default()
}

/// The known word that looks most like the one typed.
pub(super) fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('_', "-");
    let like = |word: &&'a str| strsim::jaro_winkler(&typed, word);
    known
        .iter()
        .copied()
        .filter(|word| like(word) > 0.75)
        .max_by(|a, b| like(a).total_cmp(&like(b)))
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A mistake in the file.
    #[error("{file}:{line}: {problem}")]
    InFile {
        /// The file.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// What is wrong.
        problem: Box<Problem>,
    },
    /// A mistake in a flag.
    #[error("{flag}: {problem}")]
    InFlag {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        problem: Box<Problem>,
    },
    /// File and flags together do not make a gateway.
    #[error("{}{problem}", file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default())]
    Whole {
        /// The file, where there is one.
        file: Option<String>,
        /// What is wrong.
        problem: Box<Problem>,
    },
}

impl ConfigError {
    /// Whether the command line alone is to blame.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::InFlag { .. } | Self::Whole { file: None, .. })
    }
}

/// A problem and where it is: what the checks give.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) origin: Origin,
    pub(super) problem: Box<Problem>,
}

impl Mistake {
    pub(super) fn at(origin: Origin, problem: Problem) -> Self {
        Self {
            origin,
            problem: Box::new(problem),
        }
    }

    pub(super) fn missing(key: &'static str, hint: &'static str) -> Self {
        Self::at(Origin::Whole, Problem::Missing { key, hint })
    }

    /// The error to show.
    pub(super) fn locate(self, file: Option<(&str, &str)>) -> ConfigError {
        let Self { origin, problem } = self;
        match (origin, file) {
            (Origin::Flag(flag), _) => ConfigError::InFlag { flag, problem },
            (Origin::File(at), Some((file, text))) => ConfigError::InFile {
                file: file.to_owned(),
                line: line_of(text, at),
                problem,
            },
            (Origin::File(_) | Origin::Whole, file) => ConfigError::Whole {
                file: file.map(|(name, _)| name.to_owned()),
                problem,
            },
        }
    }
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// What the TOML reader says, as a mistake.
pub(super) fn from_toml(error: &toml::de::Error) -> Mistake {
    let origin = error.span().map_or(Origin::Whole, |span| Origin::File(span.start));
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let problem = match quoted.as_slice() {
        [key, known @ ..] if message.starts_with("unknown field") => Problem::UnknownKey {
            key: (*key).to_owned(),
            nearest: nearest(key, known).map(ToOwned::to_owned),
            known: known.iter().map(|&word| word.to_owned()).collect(),
        },
        _ => Problem::Syntax(format!(
            "{}; see docs/config.md",
            message.trim_end().replace('\n', "; ")
        )),
    };
    Mistake::at(origin, problem)
}
