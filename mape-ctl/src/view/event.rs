//! An event of the data path as a line: when, where, which packet, and what became of it.

use std::net::Ipv4Addr;

use aya::maps::{Array, MapData};
use mape_common::{
    env::Side,
    layout::{Config, FlowKey, Transport, maps},
    nat::{
        index::{self, WORDS},
        session::Facts as Record,
    },
    trace::{Facts, Kind},
    verdict::{DELIVERED, FORWARDED, HELD, NATIVE, Reason},
    wire::port::Port,
};
use serde_json::{Value, json};

use super::packet::{Inner, Seen, end};
use crate::{
    cli::{Endpoint, TraceArgs, Way},
    datapath::maps::{TableError, Tables},
    explain::report::fate,
};

/// The stable name of an outcome.
pub fn outcome_name(outcome: u32) -> &'static str {
    match outcome {
        FORWARDED => "forwarded",
        DELIVERED => "delivered",
        HELD => "held",
        NATIVE => "native",
        number => Reason::from_number(number).label(),
    }
}

/// Outcomes without a reason.
const PLAIN: [u32; 4] = [FORWARDED, DELIVERED, HELD, NATIVE];

/// The number of an outcome.
pub fn outcome_number(name: &str) -> Option<u32> {
    let reasons = Reason::ALL.iter().map(|reason| reason.number());
    PLAIN
        .into_iter()
        .chain(reasons)
        .find(|number| outcome_name(*number) == name)
}

/// All outcomes' names.
pub fn outcome_names() -> Vec<&'static str> {
    let reasons = Reason::ALL.iter().map(|reason| reason.number());
    PLAIN.into_iter().chain(reasons).map(outcome_name).collect()
}

/// What of a packet is wanted, beside its outcome.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    protocol: Option<&'static str>,
    hosts: Vec<Endpoint>,
    port: Option<u16>,
}

impl Filter {
    /// As the arguments say.
    pub fn new(args: &TraceArgs) -> Self {
        Self {
            protocol: args.protocol.map(|protocol| Transport::from(protocol).name()),
            hosts: args.host.clone(),
            port: args.port,
        }
    }

    /// Whether a packet, and its LAN host's end where that is another, is wanted.
    pub fn matches(&self, seen: &Seen, other: Option<(Ipv4Addr, u16)>) -> bool {
        if self.protocol.is_none() && self.hosts.is_empty() && self.port.is_none() {
            return true;
        }
        let Some(inner) = &seen.inner else { return false };
        let ends = [
            Some((inner.source, inner.source_port)),
            Some((inner.destination, inner.destination_port)),
            other.map(|(address, port)| (address, Some(port))),
        ];
        let has = |wanted: &Endpoint| {
            ends.iter()
                .flatten()
                .any(|(address, port)| *address == wanted.address && (wanted.port.is_none() || *port == wanted.port))
        };
        self.protocol.is_none_or(|name| inner.protocol == name)
            && self.hosts.iter().all(has)
            && self
                .port
                .is_none_or(|wanted| ends.iter().flatten().any(|(_, port)| *port == Some(wanted)))
    }
}

/// Outcomes that are wanted, a bit each, outbound and inbound.
pub fn wanted(args: &TraceArgs, outcomes: &[u32]) -> [u64; 2] {
    let mask_of = |outcomes: &[u32]| outcomes.iter().fold(0, |mask, outcome| mask | 1 << (outcome & 63));
    let chosen = mask_of(outcomes);
    let mask = if args.refused {
        !mask_of(&PLAIN)
    } else if outcomes.is_empty() {
        u64::MAX
    } else {
        chosen
    };
    match args.direction {
        None => [mask; 2],
        Some(Way::Outbound) => [mask, 0],
        Some(Way::Inbound) => [0, mask],
    }
}

/// The sessions, for the end of a packet that it does not show.
pub struct Sides {
    config: Config,
    flows: Array<MapData, [u64; WORDS]>,
    sessions: Array<MapData, [u64; 8]>,
}

impl Sides {
    /// Opens the maps.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn open(tables: &Tables) -> Result<Self, TableError> {
        Ok(Self {
            config: tables.config()?,
            flows: tables.array(maps::FLOWS)?,
            sessions: tables.array(maps::SESSIONS)?,
        })
    }

    /// The end that a translated packet does not show: the LAN host's of one that left for the WAN, the shared address's of
    /// one that left for the LAN. None where there is no such session, or none any longer.
    pub fn other(&self, seen: &Seen) -> Option<(Ipv4Addr, u16)> {
        let inner = seen.inner.as_ref()?;
        if seen.outer.is_some() {
            let key = key(
                inner,
                (inner.source, inner.source_port),
                (inner.destination, inner.destination_port),
            )?;
            let record = self.record(Side::Outside, &key)?;
            Some((Ipv4Addr::from(record.inside), record.inside_port.0))
        } else {
            let key = key(
                inner,
                (inner.destination, inner.destination_port),
                (inner.source, inner.source_port),
            )?;
            let record = self.record(Side::Inside, &key)?;
            Some((Ipv4Addr::from(record.external), record.external_port.0))
        }
    }

    fn record(&self, side: Side, key: &FlowKey) -> Option<Record> {
        let (bucket, session) = (|n| self.flows.get(&n, 0), |slot| self.sessions.get(&slot, 0));
        index::look_up(&self.config, side, key, bucket, session).ok().flatten()
    }
}

type End = (Ipv4Addr, Option<u16>);

fn key(inner: &Inner, local: End, remote: End) -> Option<FlowKey> {
    let transport = Transport::ALL
        .into_iter()
        .find(|transport| transport.name() == inner.protocol)?;
    let remote_port = match transport {
        Transport::Icmp => Port(0),
        Transport::Udp | Transport::Tcp => Port(remote.1?),
    };
    Some(FlowKey::new(
        transport,
        local.0.octets(),
        Port(local.1?),
        remote.0.octets(),
        remote_port,
    ))
}

/// What became of the packet, in words.
pub fn outcome_text(facts: &Facts) -> String {
    match facts.outcome {
        FORWARDED => "forwarded".to_owned(),
        DELIVERED => "out of the tunnel and to the stack".to_owned(),
        HELD => "held until the first fragment of its packet has come".to_owned(),
        NATIVE => "native IPv6, forwarded".to_owned(),
        number => {
            let reason = Reason::from_number(number);
            format!(
                "{} ({}: {})",
                fate(reason, facts.answered),
                reason.label(),
                reason.meaning()
            )
        }
    }
}

/// The line, without its time.
pub fn line(facts: &Facts, seen: &Seen, other: Option<(Ipv4Addr, u16)>, interface: &str) -> String {
    let alert = if facts.kind == Kind::Alert { "ALERT " } else { "" };
    let other = match other {
        Some((address, port)) if facts.outcome == FORWARDED => {
            let what = if seen.outer.is_some() { "for" } else { "came to" };
            format!(" ({what} {})", end(address, Some(port)))
        }
        _ => String::new(),
    };
    let tunnel = seen
        .outer
        .as_ref()
        .map_or_else(String::new, |outer| format!(" in {outer}"));
    format!(
        "{alert}{:8} {interface} {seen}{other}{tunnel}, {} bytes: {}",
        facts.direction.name(),
        facts.came,
        outcome_text(facts)
    )
}

/// With stable keys.
pub fn json(facts: &Facts, seen: &Seen, other: Option<(Ipv4Addr, u16)>, interface: &str, time: f64) -> Value {
    let reason = match facts.outcome {
        FORWARDED | DELIVERED | HELD | NATIVE => None,
        number => Some(Reason::from_number(number)),
    };
    json!({
        "time": time,
        "alert": facts.kind == Kind::Alert,
        "direction": facts.direction.name(),
        "interface": interface,
        "outcome": outcome_name(facts.outcome),
        "meaning": reason.map(Reason::meaning),
        "action": match reason {
            None => outcome_name(facts.outcome),
            Some(_) if facts.answered => "answered",
            Some(reason) if reason.action().passes() => "passed",
            Some(_) => "dropped",
        },
        "bytes": facts.came,
        "packet": seen.json(),
        "other_end": other.map(|(address, port)| json!({ "address": address, "port": port })),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use mape_common::verdict::Direction;

    use super::*;

    fn seen() -> Seen {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 168, 1, 2], [198, 51, 100, 7], 63)
            .udp(5_000, 53)
            .write(&mut frame, b"?")
            .unwrap();
        Seen::frame(&frame)
    }

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn a_packet_is_wanted_by_its_ends_and_by_its_lan_hosts() {
        let behind = Some((Ipv4Addr::new(10, 0, 0, 9), 777));
        let rows = [
            (Filter::default(), true),
            (
                Filter {
                    protocol: Some("udp"),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    protocol: Some("tcp"),
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    hosts: vec![endpoint("198.51.100.7")],
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    hosts: vec![endpoint("198.51.100.7:53")],
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    hosts: vec![endpoint("198.51.100.7:54")],
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    hosts: vec![endpoint("10.0.0.9")],
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    hosts: vec![endpoint("10.0.0.9"), endpoint("10.0.0.8")],
                    ..Filter::default()
                },
                false,
            ),
            (
                Filter {
                    port: Some(5_000),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    port: Some(777),
                    ..Filter::default()
                },
                true,
            ),
            (
                Filter {
                    port: Some(778),
                    ..Filter::default()
                },
                false,
            ),
        ];
        for (filter, wanted) in rows {
            assert_eq!(filter.matches(&seen(), behind), wanted, "{filter:?}");
        }
        let arp = Seen {
            other: "ARP".to_owned(),
            ..Seen::default()
        };
        assert!(Filter::default().matches(&arp, None));
        assert!(
            !Filter {
                port: Some(1),
                ..Filter::default()
            }
            .matches(&arp, None)
        );
    }

    #[test]
    fn the_kernel_is_asked_for_what_is_wanted_only() {
        let args = TraceArgs {
            direction: Some(Way::Inbound),
            ..TraceArgs::default()
        };
        let filtered = outcome_number("filtered").unwrap();
        assert_eq!(wanted(&args, &[filtered]), [0, 1 << 34]);
        assert_eq!(wanted(&TraceArgs::default(), &[]), [u64::MAX; 2]);
        let refused = TraceArgs {
            refused: true,
            ..TraceArgs::default()
        };
        assert_eq!(wanted(&refused, &[]), [!(3 | 1 << HELD | 1 << NATIVE); 2]);
        assert_eq!(outcome_number("frobnicated"), None);
        assert_eq!(outcome_names().len(), Reason::ALL.len() + PLAIN.len());
    }

    #[test]
    fn a_line_says_what_became_of_the_packet() {
        let facts = Facts {
            nanos: 0,
            came: 60,
            len: 60,
            ifindex: 3,
            suppressed: 0,
            direction: Direction::Outbound,
            kind: Kind::Alert,
            outcome: Reason::PortsExhausted.number(),
            answered: true,
            captured: 60,
        };
        assert_eq!(
            line(&facts, &seen(), None, "lan0"),
            "ALERT outbound lan0 udp 192.168.1.2:5000 > 198.51.100.7:53, 60 bytes: answered (ports-exhausted: no port of the \
             set is usable towards this destination)"
        );
        let dropped = Facts {
            answered: false,
            kind: Kind::Packet,
            ..facts
        };
        assert!(line(&dropped, &seen(), None, "lan0").contains(": dropped (ports-exhausted"));
    }
}
