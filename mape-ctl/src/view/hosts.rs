//! What LAN hosts use: sessions and ports of each, and how near it is to its quotas.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
    net::Ipv4Addr,
};

use mape_common::{
    layout::{Config, HostUse, Transport},
    nat::{
        quota,
        session::{Facts, Hold, Phase},
    },
};
use serde_json::{Map, Value, json};

use super::text;
use crate::datapath::{hosts::HostTable, mapped::MappedError, maps::Tables, sessions::SessionTable};

/// Hosts that are shown where nobody asks for more.
pub const HEAVIEST: usize = 10;
/// Percent of a quota from which on a host is marked.
const NEAR: u64 = 80;

/// Sessions and ports; ports are those that a host has to itself, per protocol as [`Transport::ALL`] has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Sessions.
    pub sessions: u64,
    /// Ports.
    pub ports: [u64; 3],
}

impl Amount {
    /// What is counted at a place of HOSTS.
    pub fn counted(used: &HostUse) -> Self {
        let ports = used.ports().load();
        Self {
            sessions: used.sessions().load(),
            ports: Transport::ALL.map(|transport| HostUse::ports_of(ports, transport)),
        }
    }

    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        for (mine, more) in self.ports.iter_mut().zip(other.ports) {
            *mine += more;
        }
    }

    fn all_ports(self) -> u64 {
        self.ports.iter().sum()
    }
}

impl From<&Facts> for Amount {
    /// What one record is of its host's. A forward is nothing that the host has taken.
    fn from(facts: &Facts) -> Self {
        let mut one = Self::default();
        match facts.hold {
            Hold::Mapping if facts.first == Phase::Static => {}
            Hold::Mapping => {
                one.ports = Transport::ALL.map(|transport| u64::from(transport == facts.transport));
            }
            Hold::Member | Hold::Overlap => one.sessions = 1,
        }
        one
    }
}

/// How much one host may have; zero = any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Sessions.
    pub sessions: u32,
    /// Ports to itself, per protocol.
    pub ports: u32,
}

impl From<&Config> for Quota {
    fn from(config: &Config) -> Self {
        Self {
            sessions: config.host_sessions,
            ports: config.host_ports,
        }
    }
}

impl Quota {
    const fn is_any(self) -> bool {
        self.sessions != 0 || self.ports != 0
    }

    /// What of it an amount has 80 % or more of, and the percentage.
    fn near(self, amount: Amount) -> Vec<(&'static str, u64)> {
        let sessions = ("sessions", amount.sessions, self.sessions);
        let ports = Transport::ALL
            .into_iter()
            .zip(amount.ports)
            .map(|(transport, ports)| (transport.name(), ports, self.ports));
        std::iter::once(sessions)
            .chain(ports)
            .filter_map(|(name, used, quota)| Some((name, used.saturating_mul(100).checked_div(quota.into())?)))
            .filter(|(_, percent)| *percent >= NEAR)
            .collect()
    }
}

/// A LAN host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Its address.
    pub address: Ipv4Addr,
    /// What it has.
    pub own: Amount,
    /// What its quotas are compared with: together with that of hosts in other networks that are counted at the same place.
    pub counted: Amount,
    /// Whether there are such hosts.
    pub is_counted_with_others: bool,
}

/// All LAN hosts that have something, the heaviest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    quota: Quota,
    rows: Vec<HostView>,
}

impl Hosts {
    /// Reads the tables of a loaded gateway.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn read(tables: &Tables, config: &Config) -> Result<Self, MappedError> {
        let counts = HostTable::open(tables)?;
        let records = SessionTable::open(tables)?;
        let counted = |place| counts.at(place).map(Amount::counted);
        Ok(Self::new(
            config.into(),
            records.live().map(|entry| entry.facts),
            counted,
        ))
    }

    /// Those of some records; `counted` says what is counted at a place, where that is to be compared with the quota.
    pub fn new(quota: Quota, records: impl Iterator<Item = Facts>, counted: impl Fn(u32) -> Option<Amount>) -> Self {
        let mut own: HashMap<Ipv4Addr, Amount> = HashMap::new();
        for facts in records {
            let one = Amount::from(&facts);
            if one != Amount::default() {
                own.entry(facts.inside.into()).or_default().add(one);
            }
        }
        let mut at: HashMap<u32, u32> = HashMap::new();
        for address in own.keys() {
            *at.entry(quota::place(address.octets())).or_default() += 1;
        }
        let mut rows: Vec<_> = own
            .into_iter()
            .map(|(address, own)| {
                let place = quota::place(address.octets());
                HostView {
                    address,
                    own,
                    counted: counted(place).unwrap_or(own),
                    is_counted_with_others: at.get(&place).is_some_and(|hosts| *hosts > 1),
                }
            })
            .collect();
        rows.sort_by_key(|row| {
            let weight = (row.own.all_ports(), row.own.sessions);
            (std::cmp::Reverse(weight), row.address)
        });
        Self { quota, rows }
    }

    fn sum<'a>(rows: impl IntoIterator<Item = &'a HostView>) -> Amount {
        let mut sum = Amount::default();
        for row in rows {
            sum.add(row.own);
        }
        sum
    }

    fn near_quota(&self) -> usize {
        let near = |row: &&HostView| !self.quota.near(row.counted).is_empty();
        self.rows.iter().filter(near).count()
    }

    /// For people: the heaviest hosts, at most `shown`, and what the others have together; `more` is how to ask for all.
    ///
    /// # Errors
    /// None that a string can have.
    pub fn text(&self, shown: usize, more: &str) -> Result<String, fmt::Error> {
        let mut out = String::new();
        if self.rows.is_empty() {
            writeln!(out, "No LAN host has a session or a port.")?;
            return Ok(out);
        }
        let (shown, others) = self.rows.split_at(shown.min(self.rows.len()));
        if !shown.is_empty() {
            let mut columns = vec!["LAN HOST", ">SESSIONS", ">UDP PORTS", ">TCP PORTS", ">ICMP PORTS"];
            if self.quota.is_any() {
                columns.push("NEAR ITS QUOTA");
            }
            let mut table = text::table(&columns);
            for row in shown {
                table.add_row(self.cells(row));
            }
            text::lines(&mut out, &table)?;
        }
        if !others.is_empty() {
            let sum = Self::sum(others);
            writeln!(
                out,
                "and {} more hosts with {} sessions and {} ports{more}",
                others.len(),
                sum.sessions,
                sum.all_ports()
            )?;
        }
        match self.near_quota() {
            0 => {}
            1 => writeln!(out, "1 host has {NEAR} % of a quota or more")?,
            near => writeln!(out, "{near} hosts have {NEAR} % of a quota or more")?,
        }
        Ok(out)
    }

    fn cells(&self, row: &HostView) -> Vec<String> {
        let of = |used: u64, quota: u32| match quota {
            0 => used.to_string(),
            quota => format!("{used} of {quota}"),
        };
        let mut cells = vec![row.address.to_string(), of(row.own.sessions, self.quota.sessions)];
        cells.extend(row.own.ports.map(|ports| of(ports, self.quota.ports)));
        if self.quota.is_any() {
            let near = self.quota.near(row.counted).into_iter().map(|(name, percent)| {
                let ports = if name == "sessions" { "" } else { " ports" };
                let others = if row.is_counted_with_others {
                    " with another host"
                } else {
                    ""
                };
                format!("{name}{ports} {percent} %{others}")
            });
            cells.push(near.collect::<Vec<_>>().join(", "));
        }
        cells
    }

    /// The same as JSON, with at most `shown` hosts one by one.
    pub fn json(&self, shown: usize) -> Value {
        let sum = Self::sum(&self.rows);
        let quota = |quota: u32| (quota != 0).then_some(quota);
        json!({
            "count": self.rows.len(),
            "sessions": sum.sessions,
            "ports": ports(sum),
            "quota": { "sessions": quota(self.quota.sessions), "ports": quota(self.quota.ports) },
            "near_quota": self.near_quota(),
            "heaviest": self.rows.iter().take(shown).map(|row| self.row(row)).collect::<Vec<_>>(),
        })
    }

    fn row(&self, row: &HostView) -> Value {
        let near: BTreeMap<_, _> = self.quota.near(row.counted).into_iter().collect();
        json!({
            "address": row.address,
            "sessions": row.own.sessions,
            "ports": ports(row.own),
            "near_quota_percent": near,
            "counted_with_others": row.is_counted_with_others,
        })
    }
}

fn ports(amount: Amount) -> Value {
    let named = Transport::ALL.into_iter().zip(amount.ports);
    named
        .map(|(transport, ports)| (transport.name().to_owned(), ports.into()))
        .collect::<Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(host: [u8; 4], transport: Transport, hold: Hold) -> Facts {
        Facts {
            transport,
            hold,
            inside: host,
            ..Facts::EMPTY
        }
    }

    /// Three hosts: one with many sessions, one with ports of its own, one with a forward and nothing else.
    fn records() -> Vec<Facts> {
        let mut records = vec![record([192, 168, 1, 10], Transport::Tcp, Hold::Overlap); 85];
        records.extend([record([192, 168, 1, 9], Transport::Udp, Hold::Mapping); 2]);
        records.extend([record([192, 168, 1, 9], Transport::Udp, Hold::Member); 3]);
        records.push(record([192, 168, 1, 9], Transport::Icmp, Hold::Mapping));
        records.push(Facts {
            first: Phase::Static,
            ..record([192, 168, 1, 8], Transport::Tcp, Hold::Mapping)
        });
        records
    }

    fn hosts(quota: Quota) -> Hosts {
        Hosts::new(quota, records().into_iter(), |_| None)
    }

    #[test]
    fn the_host_with_most_ports_comes_first_and_a_forward_is_none_of_them() {
        assert_eq!(
            hosts(Quota::default()).text(HEAVIEST, "").unwrap(),
            "LAN HOST      SESSIONS  UDP PORTS  TCP PORTS  ICMP PORTS\n\
             192.168.1.9          3          2          0           1\n\
             192.168.1.10        85          0          0           0\n"
        );
    }

    #[test]
    fn who_has_four_fifths_of_a_quota_is_marked() {
        let quota = Quota {
            sessions: 100,
            ports: 2,
        };
        assert_eq!(
            hosts(quota).text(HEAVIEST, "").unwrap(),
            "LAN HOST       SESSIONS  UDP PORTS  TCP PORTS  ICMP PORTS  NEAR ITS QUOTA\n\
             192.168.1.9    3 of 100     2 of 2     0 of 2      1 of 2  udp ports 100 %\n\
             192.168.1.10  85 of 100     0 of 2     0 of 2      0 of 2  sessions 85 %\n\
             2 hosts have 80 % of a quota or more\n"
        );
        let far = Quota {
            sessions: 107,
            ports: 0,
        };
        assert_eq!(hosts(far).near_quota(), 0, "79 % is not near");
    }

    #[test]
    fn hosts_that_share_a_count_are_marked_by_what_they_have_together() {
        let other = (0..=u16::MAX)
            .map(|low| {
                let [c, d] = low.to_be_bytes();
                [10, 0, c, d]
            })
            .find(|host| quota::place(*host) == quota::place([192, 168, 1, 10]))
            .unwrap();
        let records = [other, [192, 168, 1, 10]].map(|host| record(host, Transport::Tcp, Hold::Overlap));
        let together = Amount {
            sessions: 2,
            ports: [0; 3],
        };
        let quota = Quota { sessions: 2, ports: 0 };
        let hosts = Hosts::new(quota, records.into_iter(), |_| Some(together));
        let text = hosts.text(HEAVIEST, "").unwrap();
        assert_eq!(text.matches("1 of 2").count(), 2, "{text}");
        assert_eq!(text.matches("sessions 100 % with another host").count(), 2, "{text}");
    }

    #[test]
    fn the_json_has_the_same_facts() {
        let quota = Quota {
            sessions: 100,
            ports: 0,
        };
        assert_eq!(
            hosts(quota).json(1),
            json!({
                "count": 2,
                "sessions": 88,
                "ports": { "udp": 2, "tcp": 0, "icmp": 1 },
                "quota": { "sessions": 100, "ports": null },
                "near_quota": 1,
                "heaviest": [{
                    "address": "192.168.1.9",
                    "sessions": 3,
                    "ports": { "udp": 2, "tcp": 0, "icmp": 1 },
                    "near_quota_percent": {},
                    "counted_with_others": false,
                }],
            })
        );
        assert_eq!(
            hosts(quota).json(2)["heaviest"][1]["near_quota_percent"],
            json!({ "sessions": 85 })
        );
    }

    #[test]
    fn nobody_and_a_whole_network_are_a_few_lines() {
        let nobody = Hosts::new(Quota::default(), std::iter::empty(), |_| None);
        assert_eq!(
            nobody.text(HEAVIEST, "").unwrap(),
            "No LAN host has a session or a port.\n"
        );
        assert_eq!(nobody.json(HEAVIEST)["heaviest"], json!([]));
        let all = (0..=u16::MAX).map(|low| {
            let [c, d] = low.to_be_bytes();
            record([10, 0, c, d], Transport::Udp, Hold::Overlap)
        });
        let all = Hosts::new(Quota::default(), all, |_| None);
        let text = all.text(HEAVIEST, "; --hosts shows all").unwrap();
        assert_eq!(text.lines().count(), HEAVIEST + 2, "{text}");
        assert!(
            text.ends_with("and 65526 more hosts with 65526 sessions and 0 ports; --hosts shows all\n"),
            "{text}"
        );
        assert_eq!(all.text(usize::MAX, "").unwrap().lines().count(), 65_537, "on demand");
        assert_eq!(all.json(HEAVIEST)["heaviest"].as_array().unwrap().len(), HEAVIEST);
    }
}
