//! Firewall rules: those that would translate again, those that stop the slow path, and those that the fast path bypasses.

use std::{env, fs, path::PathBuf, process::Command};

use mape_common::layout::MARK;

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
}

pub(super) fn gather() -> Facts {
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
