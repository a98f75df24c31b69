//! Owns following a packet through nft's rules as far as they can be read: some matches are known to hold or not, others are not.

use std::{collections::BTreeSet, net::Ipv6Addr};

use serde_json::Value;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// `filter`, `nat` or `route`, of a base chain.
    pub(super) kind: Option<String>,
    pub(super) hook: Option<String>,
    pub(super) priority: i64,
    pub(super) drops: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    family: String,
    table: String,
    chain: String,
    handle: u64,
    expressions: Vec<Value>,
}

/// All rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ruleset {
    chains: Vec<Chain>,
    rules: Vec<Rule>,
}

/// A packet, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet<'a> {
    /// Interfaces that it may come in by.
    pub(super) from: &'a [String],
    /// Interfaces that it may leave by; none = it stays.
    pub(super) to: &'a [String],
    /// IPv6.
    pub(super) is_ipv6: bool,
    /// It is a tunnel's.
    pub(super) is_tunnelled: bool,
    /// Its IPv6 addresses, where they are known.
    pub(super) source: Option<Ipv6Addr>,
    pub(super) destination: Option<Ipv6Addr>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Let through, as far as can be told.
    Accepted,
    /// Dropped by the rule with this handle, or by the chain's policy.
    Dropped(Option<u64>),
}

/// A statement that translates addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) statement: String,
    pub(super) family: String,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) handle: u64,
}

impl Ruleset {
    /// What `nft -j list ruleset` prints.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let all: Value = serde_json::from_str(text).ok()?;
        let mut rules = Self::default();
        for object in all.get("nftables")?.as_array()? {
            let word = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).map(str::to_owned);
            if let Some(chain) = object.get("chain") {
                rules.chains.push(Chain {
                    family: word(chain, "family")?,
                    table: word(chain, "table")?,
                    name: word(chain, "name")?,
                    kind: word(chain, "type"),
                    hook: word(chain, "hook"),
                    priority: chain.get("prio").and_then(Value::as_i64).unwrap_or(0),
                    drops: chain.get("policy").and_then(Value::as_str) == Some("drop"),
                });
            }
            if let Some(rule) = object.get("rule") {
                rules.rules.push(Rule {
                    family: word(rule, "family")?,
                    table: word(rule, "table")?,
                    chain: word(rule, "chain")?,
                    handle: rule.get("handle").and_then(Value::as_u64).unwrap_or(0),
                    expressions: rule.get("expr").and_then(Value::as_array).cloned().unwrap_or_default(),
                });
            }
        }
        rules.chains.sort_by_key(|chain| chain.priority);
        Some(rules)
    }

    /// Base chains at a hook that see IPv4 or IPv6.
    pub(super) fn base(&self, kind: &str, hook: &str, is_ipv6: bool) -> impl Iterator<Item = &Chain> {
        let family = if is_ipv6 { "ip6" } else { "ip" };
        self.chains.iter().filter(move |chain| {
            chain.kind.as_deref() == Some(kind)
                && chain.hook.as_deref() == Some(hook)
                && (chain.family == family || chain.family == "inet")
        })
    }

    /// How many rules a chain has.
    pub(super) fn length(&self, chain: &Chain) -> usize {
        self.of(&chain.family, &chain.table, &chain.name).count()
    }

    fn of(&self, family: &str, table: &str, chain: &str) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.family == family && rule.table == table && rule.chain == chain)
    }

    /// What a base chain does with a packet that opens a flow.
    pub(super) fn fate(&self, chain: &Chain, packet: &Packet<'_>) -> Fate {
        let mut walk = Walk::new(self, packet);
        match walk.chain(&chain.family, &chain.table, &chain.name) {
            Some(fate) => fate,
            None if chain.drops => Fate::Dropped(None),
            None => Fate::Accepted,
        }
    }

    /// Statements of a base chain that would translate a packet, as far as can be told.
    pub(super) fn translations(&self, chain: &Chain, packet: &Packet<'_>) -> Vec<Translation> {
        let mut walk = Walk::new(self, packet);
        walk.chain(&chain.family, &chain.table, &chain.name);
        walk.translations
    }
}

struct Walk<'a> {
    rules: &'a Ruleset,
    packet: &'a Packet<'a>,
    seen: BTreeSet<String>,
    translations: Vec<Translation>,
}

impl<'a> Walk<'a> {
    fn new(rules: &'a Ruleset, packet: &'a Packet<'a>) -> Self {
        Self {
            rules,
            packet,
            seen: BTreeSet::new(),
            translations: Vec::new(),
        }
    }

    /// None where the chain comes to no end of its own.
    fn chain(&mut self, family: &str, table: &str, name: &str) -> Option<Fate> {
        // Each once is enough, and loops end.
        if !self.seen.insert(format!("{family} {table} {name}")) {
            return None;
        }
        let rules = self.rules;
        for rule in rules.of(family, table, name) {
            match self.rule(rule) {
                Step::Next => {}
                Step::Return => return None,
                Step::End(fate) => return Some(fate),
            }
        }
        None
    }

    fn rule(&mut self, rule: &Rule) -> Step {
        let mut is_certain = true;
        let mut by_mark = false;
        for expression in &rule.expressions {
            if let Some(found) = expression.get("match") {
                by_mark |= is_about_mark(found);
                match self.holds(found) {
                    Some(true) => {}
                    Some(false) => return Step::Next,
                    None => is_certain = false,
                }
                continue;
            }
            let verdict = match expression.get("vmap") {
                Some(map) => match self.mapped(map) {
                    Some(verdict) => verdict,
                    None => continue,
                },
                None => expression,
            };
            let step = self.statement(rule, verdict, is_certain, by_mark);
            if step != Step::Next {
                return step;
            }
        }
        Step::Next
    }

    fn statement(&mut self, rule: &Rule, statement: &Value, is_certain: bool, by_mark: bool) -> Step {
        let has = |name: &str| statement.get(name).is_some();
        if let Some(name) = translation(statement) {
            self.translations.push(Translation {
                statement: name,
                family: rule.family.clone(),
                table: rule.table.clone(),
                chain: rule.chain.clone(),
                handle: rule.handle,
            });
            return if is_certain {
                Step::End(Fate::Accepted)
            } else {
                Step::Next
            };
        }
        if let Some(target) = ["jump", "goto"]
            .iter()
            .find_map(|word| statement.get(word)?.get("target")?.as_str())
        {
            let ended = self.chain(&rule.family, &rule.table, target);
            return match ended {
                Some(fate) if is_certain => Step::End(fate),
                None if is_certain && has("goto") => Step::Return,
                _ => Step::Next,
            };
        }
        // A mark is the operator's own sign that these packets are known.
        if has("accept") && (is_certain || by_mark) {
            return Step::End(Fate::Accepted);
        }
        if (has("drop") || has("reject")) && is_certain {
            return Step::End(Fate::Dropped(Some(rule.handle)));
        }
        if has("return") && is_certain {
            return Step::Return;
        }
        Step::Next
    }

    /// Whether a match holds for the packet; none where that cannot be told.
    fn holds(&self, found: &Value) -> Option<bool> {
        let (left, right) = (found.get("left")?, found.get("right")?);
        let equal = self.equals(left, right)?;
        match found.get("op").and_then(Value::as_str) {
            Some("==" | "in") => Some(equal),
            Some("!=") => Some(!equal),
            _ => None,
        }
    }

    fn equals(&self, left: &Value, right: &Value) -> Option<bool> {
        if let Some(key) = left.pointer("/meta/key").and_then(Value::as_str) {
            return match key {
                "iif" | "iifname" => names(right, self.packet.from),
                "oif" | "oifname" => names(right, self.packet.to),
                "nfproto" => {
                    Some(values(right)?.contains(&if self.packet.is_ipv6 { "ipv6" } else { "ipv4" }.to_owned()))
                }
                "l4proto" if self.packet.is_tunnelled => Some(is_tunnel(right)?),
                _ => None,
            };
        }
        if left.pointer("/ct/key").and_then(Value::as_str) == Some("state") {
            return Some(values(right)?.contains(&"new".to_owned()));
        }
        let protocol = left.pointer("/payload/protocol").and_then(Value::as_str)?;
        match (protocol, left.pointer("/payload/field").and_then(Value::as_str)) {
            ("ip6", _) if !self.packet.is_ipv6 => Some(false),
            ("ip", _) if self.packet.is_ipv6 => Some(false),
            ("ip6", Some("nexthdr")) if self.packet.is_tunnelled => is_tunnel(right),
            ("ip6", Some("saddr")) => is_among(right, self.packet.source?),
            ("ip6", Some("daddr")) => is_among(right, self.packet.destination?),
            ("tcp" | "udp" | "icmp" | "icmpv6", _) if self.packet.is_tunnelled => Some(false),
            _ => None,
        }
    }

    /// The verdict that a map of verdicts has for the packet.
    fn mapped<'v>(&self, map: &'v Value) -> Option<&'v Value> {
        let entries = map.pointer("/data/set")?.as_array()?;
        let key = map.get("key")?;
        let found = entries.iter().filter_map(Value::as_array).find(|entry| {
            let value = entry.first();
            value.is_some_and(|value| self.equals(key, value) == Some(true))
        });
        found?.get(1)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Next,
    Return,
    End(Fate),
}

fn is_about_mark(found: &Value) -> bool {
    let left = found.get("left");
    // With a mask the mark stands inside an operation.
    left.is_some_and(|left| {
        let inner = left.pointer("/&/0").unwrap_or(left);
        ["/meta/key", "/ct/key"]
            .iter()
            .any(|path| inner.pointer(path).and_then(Value::as_str) == Some("mark"))
    })
}

/// The name of a statement that translates a source address.
fn translation(statement: &Value) -> Option<String> {
    let own = ["masquerade", "snat"]
        .iter()
        .find(|name| statement.get(**name).is_some());
    // Rules of iptables-nft that nft does not know in words of its own.
    let foreign = statement.pointer("/xt/name").and_then(Value::as_str);
    own.map(|name| (*name).to_owned()).or_else(|| {
        foreign
            .filter(|name| ["MASQUERADE", "SNAT"].contains(name))
            .map(str::to_lowercase)
    })
}

/// A value, or the values of a set.
fn elements(right: &Value) -> &[Value] {
    let inner = right.get("set").unwrap_or(right);
    inner.as_array().map_or(std::slice::from_ref(inner), Vec::as_slice)
}

/// The same as words; none where it is a set that has a name, or a range.
fn values(right: &Value) -> Option<Vec<String>> {
    let word = |value: &Value| {
        let text = value.as_str().filter(|text| !text.starts_with('@')).map(str::to_owned);
        text.or_else(|| value.as_number().map(ToString::to_string))
    };
    elements(right).iter().map(word).collect()
}

/// Whether an address is the one, in the prefix, or in the set of those; none where that has other things.
fn is_among(right: &Value, address: Ipv6Addr) -> Option<bool> {
    let one = |value: &Value| -> Option<bool> {
        if let Some(prefix) = value.get("prefix") {
            let network: Ipv6Addr = prefix.get("addr")?.as_str()?.parse().ok()?;
            let rest = 128_u32.checked_sub(u32::try_from(prefix.get("len")?.as_u64()?).ok()?)?;
            return Some((network.to_bits() ^ address.to_bits()).checked_shr(rest).unwrap_or(0) == 0);
        }
        Some(value.as_str()?.parse::<Ipv6Addr>().ok()? == address)
    };
    elements(right)
        .iter()
        .try_fold(false, |found, value| Some(found || one(value)?))
}

fn names(right: &Value, candidates: &[String]) -> Option<bool> {
    let patterns = values(right)?;
    Some(
        candidates
            .iter()
            .any(|name| patterns.iter().any(|pattern| is_named(pattern, name))),
    )
}

fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => pattern == name,
    }
}

fn is_tunnel(right: &Value) -> Option<bool> {
    let all = values(right)?;
    Some(
        all.iter()
            .any(|value| ["4", "ipencap", "ipip", "ip-encap", "IP-ENCAP", "ipv4"].contains(&value.as_str())),
    )
}
