//! Firewall rules: those that would translate again, those that stop the slow path, and those that the fast path bypasses.

use std::{env, fs, path::PathBuf, process::Command};

use mape_common::layout::MARK;

use crate::{
    gateway::Ipv6Forward,
    netlink::obstacle::{Obstacle, obstacles},
    post::{self, Post},
};

use super::{
    Report, Subject, Trouble, kind,
    ruleset::{Chain, Fate, Packet, Ruleset},
};

/// Why rules are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// There is no program nft.
    NoProgram,
    /// nft failed, or said what cannot be read.
    Failed,
}

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) rules: Result<Ruleset, Unread>,
    /// Tables of iptables-legacy that have been used.
    pub(super) legacy: Vec<String>,
    pub(super) has_conntrack: bool,
    /// What native IPv6 has to pass in the kernel; or why that is not known.
    pub(super) obstacles: Result<Vec<Obstacle>, String>,
    /// `mape-ctl run` has the gateway.
    pub(super) is_looked_after: bool,
}

pub(super) fn gather(subject: &Subject) -> Facts {
    let mut legacy = Vec::new();
    for list in ["ip_tables_names", "ip6_tables_names"] {
        let text = fs::read_to_string(format!("/proc/net/{list}")).unwrap_or_default();
        legacy.extend(text.lines().map(str::to_owned));
    }
    legacy.sort();
    legacy.dedup();
    Facts {
        rules: read(),
        legacy,
        obstacles: obstacles().map_err(|error| error.to_string()),
        is_looked_after: post::holder(Post::Run, &subject.instance).is_some(),
        has_conntrack: fs::exists("/proc/net/nf_conntrack").unwrap_or(false)
            || fs::exists("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or(false),
    }
}

fn read() -> Result<Ruleset, Unread> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Folders of administrators' programs are often not in an ordinary PATH.
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let nft = folders.map(|folder| folder.join("nft")).find(|file| file.is_file());
    let output = Command::new(nft.ok_or(Unread::NoProgram)?)
        .args(["-j", "list", "ruleset"])
        .output()
        .map_err(|_| Unread::Failed)?;
    if !output.status.success() {
        return Err(Unread::Failed);
    }
    Ruleset::parse(&String::from_utf8_lossy(&output.stdout)).ok_or(Unread::Failed)
}

pub(super) fn judge(report: &mut Report, subject: &Subject, facts: &Facts) {
    report.see_all(kind::FIREWALL_READ, "", unread(facts));
    let tracked = facts.has_conntrack.then(|| {
        Trouble::new(
            "connection tracking is in this kernel",
            "nothing: the gateway does not need it and is not disturbed by it",
        )
    });
    report.see(kind::FIREWALL_CONNTRACK, "", tracked);
    report.see(kind::FIREWALL_NATIVE, "", left_to_kernel(subject, facts));
    if let Some(bypassed) = bypassed_by_native(subject, facts) {
        report.see(kind::FIREWALL_BYPASSED, "native IPv6", Some(bypassed));
    }
    let Ok(rules) = &facts.rules else { return };
    let device = std::slice::from_ref(&subject.device);
    let wan = std::slice::from_ref(&subject.wan);
    report.see_all(
        kind::FIREWALL_NAT,
        &subject.device,
        translating(rules, &subject.lan, device),
    );
    let inwards = Packet {
        from: device,
        to: &subject.lan,
        ..Packet::default()
    };
    report.see_all(
        kind::FIREWALL_FORWARD,
        &subject.device,
        dropping(rules, "forward", &inwards, |chain| {
            let name = &subject.device;
            (
                format!("packets out of {name} that open no flow of the kernel's own"),
                insert(chain, &format!("iifname \"{name}\" meta mark {MARK:#x} accept")),
            )
        }),
    );
    let outwards = Packet {
        from: &subject.lan,
        to: device,
        ..Packet::default()
    };
    report.see_all(
        kind::FIREWALL_FORWARD,
        "LAN",
        dropping(rules, "forward", &outwards, |chain| {
            let name = &subject.device;
            (
                format!("packets of the LAN into {name}"),
                insert(chain, &format!("oifname \"{name}\" accept")),
            )
        }),
    );
    let relay = subject.targets.first().map(|(relay, _)| *relay);
    let tunnelled = Packet {
        from: wan,
        is_ipv6: true,
        is_tunnelled: true,
        source: relay,
        destination: Some(subject.near),
        ..Packet::default()
    };
    report.see_all(
        kind::FIREWALL_INPUT,
        &subject.wan,
        dropping(rules, "input", &tunnelled, |chain| {
            let from = relay.map_or_else(String::new, |relay| format!("ip6 saddr {relay} "));
            (
                "the tunnel's packets (IPv6 with next header 4)".to_owned(),
                insert(
                    chain,
                    &format!("iifname \"{}\" {from}meta l4proto 4 accept", subject.wan),
                ),
            )
        }),
    );
    let bypassed: Vec<String> = rules
        .base("filter", "forward", false)
        .filter(|chain| chain.drops || rules.length(chain) > 0)
        .map(|chain| {
            let policy = if chain.drops { ", policy drop" } else { "" };
            format!(
                "{} {} {} ({} rules{policy})",
                chain.family,
                chain.table,
                chain.name,
                rules.length(chain)
            )
        })
        .collect();
    let bypassed = (!bypassed.is_empty()).then(|| {
        Trouble::new(
            format!("packets that XDP forwards do not pass {}", bypassed.join(", ")),
            "nothing for rules that only let answers in: the translation lets nothing else in; what hosts shall not reach \
             has to be refused elsewhere",
        )
    });
    report.see(kind::FIREWALL_BYPASSED, "", bypassed);
}

/// Why native IPv6 is not forwarded in XDP.
fn left_to_kernel(subject: &Subject, facts: &Facts) -> Option<Trouble> {
    let left = |why: &str, mend: &str| Some(Trouble::new(format!("native IPv6 is left to the kernel: {why}"), mend));
    match (subject.ipv6_forward, &facts.obstacles) {
        (Ipv6Forward::Never, _) => left("ipv6.forward is \"never\"", "nothing, where that is meant"),
        (Ipv6Forward::Auto, Err(why)) => left(
            why,
            "nothing; where it may pass all rules by: ipv6.forward = \"always\"",
        ),
        (Ipv6Forward::Auto, Ok(obstacles)) if !obstacles.is_empty() => {
            let all: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
            left(
                &all.join("; "),
                "nothing; where it may pass these by: ipv6.forward = \"always\"",
            )
        }
        (Ipv6Forward::Auto, Ok(_)) if !facts.is_looked_after => left(
            "nobody sees to it that it passes no rules by",
            "mape-ctl run in place of load; or ipv6.forward = \"always\"",
        ),
        (Ipv6Forward::Always, _) | (Ipv6Forward::Auto, Ok(_)) => None,
    }
}

/// What native IPv6 passes by because the configuration says so.
fn bypassed_by_native(subject: &Subject, facts: &Facts) -> Option<Trouble> {
    let obstacles = facts.obstacles.as_ref().ok()?.iter();
    let all: Vec<String> = obstacles
        .filter(|obstacle| **obstacle != Obstacle::NoForwarding)
        .map(ToString::to_string)
        .collect();
    (subject.ipv6_forward == Ipv6Forward::Always && !all.is_empty()).then(|| {
        Trouble::new(
            format!("native IPv6 that XDP forwards passes all rules by: {}", all.join("; ")),
            "ipv6.forward = \"auto\" leaves it to the kernel where there are such",
        )
    })
}

fn unread(facts: &Facts) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    match facts.rules {
        Ok(_) => {}
        Err(Unread::NoProgram) => troubles.push(Trouble::new(
            "there is no program nft, so rules of nftables, if there are any, were not looked at",
            "apt-get install nftables",
        )),
        Err(Unread::Failed) => troubles.push(Trouble::new(
            "nft could not list the rules, so they were not looked at",
            "nft -j list ruleset",
        )),
    }
    if !facts.legacy.is_empty() {
        troubles.push(Trouble::new(
            format!(
                "iptables-legacy has tables ({}), whose rules were not looked at",
                facts.legacy.join(", ")
            ),
            "iptables-legacy -S; iptables-legacy -t nat -S: no MASQUERADE or SNAT may be there for the tunnel device",
        ));
    }
    troubles
}

fn insert(chain: &Chain, rule: &str) -> String {
    let Chain {
        family, table, name, ..
    } = chain;
    format!("nft insert rule {family} {table} {name} {rule}")
}

fn translating(rules: &Ruleset, lan: &[String], device: &[String]) -> Vec<Trouble> {
    let packet = Packet {
        from: lan,
        to: device,
        ..Packet::default()
    };
    let found = rules
        .base("nat", "postrouting", false)
        .flat_map(|chain| rules.translations(chain, &packet));
    found
        .map(|found| {
            let (family, table, chain, handle) = (&found.family, &found.table, &found.chain, found.handle);
            Trouble::new(
                format!(
                    "{} in {family} {table} {chain} (handle {handle}) translates packets into {}, too",
                    found.statement,
                    device.concat()
                ),
                format!(
                    "nft delete rule {family} {table} {chain} handle {handle}, or give it: oifname != \"{}\"",
                    device.concat()
                ),
            )
        })
        .collect()
}

fn dropping(
    rules: &Ruleset,
    hook: &str,
    packet: &Packet<'_>,
    mend: impl Fn(&Chain) -> (String, String),
) -> Vec<Trouble> {
    rules
        .base("filter", hook, packet.is_ipv6)
        .filter_map(|chain| {
            let Fate::Dropped(by) = rules.fate(chain, packet) else {
                return None;
            };
            let by = by.map_or_else(|| "its policy".to_owned(), |handle| format!("handle {handle}"));
            let (packets, mend) = mend(chain);
            Some(Trouble::new(
                format!("{} {} {} drops {packets} ({by})", chain.family, chain.table, chain.name),
                mend,
            ))
        })
        .collect()
}
