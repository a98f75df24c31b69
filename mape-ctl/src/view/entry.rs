//! One session as it is shown: what it translates, how long it has been idle, how long it has left; and filters for it.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{
    layout::{SweepOrder, Timeouts, Transport},
    nat::{
        session::{Hold, Phase},
        sweep,
    },
    time::Tick,
    wire::port::Port,
};
use serde::Serialize;

use crate::{
    cli::{Endpoint, SessionsArgs},
    datapath::sessions::Entry,
};

/// A session or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Row {
    /// udp, tcp or icmp.
    pub protocol: &'static str,
    /// The LAN host.
    pub inside: Ipv4Addr,
    /// Its port, or the query identifier.
    pub inside_port: u16,
    /// The remote host; none for a mapping.
    pub remote: Option<Ipv4Addr>,
    /// Its port; none for a mapping and for ICMP.
    pub remote_port: Option<u16>,
    /// The address translated to.
    pub external: Ipv4Addr,
    /// The port translated to.
    pub external_port: u16,
    /// How the port is held: mapping, forward (a mapping that an operator made), member (of either) or overlap.
    pub hold: &'static str,
    /// Open, established and so on.
    pub state: &'static str,
    /// The tunnel's far end; none for a mapping.
    pub far_end: Option<Ipv6Addr>,
    /// Seconds since it was made.
    pub age_seconds: u32,
    /// Seconds since a packet last used it.
    pub idle_seconds: u32,
    /// Seconds until it ends, if no packet uses it; none for a static forward, which does not end by itself.
    pub remaining_seconds: Option<u32>,
}

impl Row {
    /// How an entry is shown; none where its time is over: to every packet it is absent.
    pub fn new(entry: &Entry, timeouts: &Timeouts, now: Tick) -> Option<Self> {
        let (state, facts) = (entry.state, &entry.facts);
        if state.is_expired(timeouts, now) {
            return None;
        }
        let idle = now.since(state.used);
        let is_mapping = facts.hold == Hold::Mapping;
        let has_port = !is_mapping && facts.transport != Transport::Icmp;
        Some(Self {
            protocol: facts.transport.name(),
            inside: facts.inside.into(),
            inside_port: facts.inside_port.0,
            remote: (!is_mapping).then(|| facts.remote.into()),
            remote_port: has_port.then_some(facts.remote_port.0),
            external: facts.external.into(),
            external_port: facts.external_port.0,
            hold: match facts.hold {
                Hold::Mapping if state.phase == Phase::Static => "forward",
                Hold::Mapping => "mapping",
                Hold::Member => "member",
                Hold::Overlap => "overlap",
            },
            state: state.phase.name(),
            far_end: (!is_mapping).then(|| facts.far_end.into()),
            age_seconds: now.since(facts.created).seconds(),
            idle_seconds: idle.seconds(),
            remaining_seconds: (state.phase != Phase::Static)
                .then(|| Tick(state.phase.idle_time(timeouts).0.saturating_sub(idle.0)).seconds()),
        })
    }
}

/// Which sessions are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    order: SweepOrder,
    state: Option<String>,
    with_mappings: bool,
}

impl Filter {
    /// The filter that the arguments ask for.
    pub fn new(args: &SessionsArgs) -> Self {
        let address = |endpoint: Option<Endpoint>| endpoint.map(|one| one.address.octets()).unwrap_or_default();
        let port = |port: Option<u16>| port.map(|port| Port(port).to_bytes()).unwrap_or_default();
        let order = SweepOrder {
            inside: address(args.inside),
            remote: address(args.remote),
            inside_port: port(args.inside.and_then(|one| one.port)),
            external_port: port(args.external_port),
            remote_port: port(args.remote.and_then(|one| one.port)),
            protocol: args
                .protocol
                .map(|protocol| Transport::from(protocol).protocol())
                .unwrap_or_default(),
            ..SweepOrder::default()
        };
        Self {
            order,
            state: args.state.clone(),
            // A host's mappings are its ports.
            with_mappings: args.mappings || args.by_host,
        }
    }

    /// What the kernel's sweeper understands of it.
    pub const fn order(&self) -> &SweepOrder {
        &self.order
    }

    /// Whether everything is meant.
    pub fn is_everything(&self) -> bool {
        self.order == SweepOrder::default()
    }

    /// Whether a session is meant.
    pub fn matches(&self, entry: &Entry) -> bool {
        (self.with_mappings || entry.facts.hold != Hold::Mapping)
            && self
                .state
                .as_ref()
                .is_none_or(|state| state == entry.state.phase.name())
            && sweep::matches(&self.order, &entry.facts)
    }
}

#[cfg(test)]
mod tests {
    use mape_common::{
        layout::SessionRef,
        nat::session::{Facts, State},
    };

    use super::*;
    use crate::cli::Protocol;

    fn entry() -> Entry {
        Entry {
            slot: 0,
            state: State {
                generation: 1,
                phase: Phase::TcpEstablished,
                used: Tick(1_000),
            },
            facts: Facts {
                transport: Transport::Tcp,
                hold: Hold::Overlap,
                inside: [192, 168, 1, 10],
                inside_port: Port(40_000),
                external: [192, 0, 2, 18],
                external_port: Port(1_232),
                ordinal: 0,
                first: Phase::TcpOpening,
                remote: [198, 51, 100, 7],
                remote_port: Port(443),
                far_end: [0; 16],
                wan_hop: 0,
                lan_hop: 64,
                created: Tick(900),
                mapping: SessionRef::default(),
            },
        }
    }

    #[test]
    fn idle_and_remaining_time_are_the_timeout_together() {
        let row = Row::new(&entry(), &Timeouts::DEFAULT, Tick(1_000 + 373)).unwrap();
        assert_eq!(
            (row.idle_seconds, row.state, row.remote_port),
            (100, "established", Some(443))
        );
        assert!(
            row.remaining_seconds
                .is_some_and(|left| (7_339..=7_341).contains(&left)),
            "{row:?}"
        );
    }

    #[test]
    fn what_has_expired_is_not_shown_although_its_record_is_there() {
        assert_eq!(Row::new(&entry(), &Timeouts::DEFAULT, Tick(1_000_000)), None);
    }

    #[test]
    fn a_mapping_has_no_remote_and_is_shown_only_if_asked_for() {
        let mapping = Entry {
            facts: Facts {
                hold: Hold::Mapping,
                remote: [0; 4],
                ..entry().facts
            },
            ..entry()
        };
        let row = Row::new(&mapping, &Timeouts::DEFAULT, Tick(1_000)).unwrap();
        assert_eq!((row.remote, row.remote_port, row.far_end), (None, None, None));
        assert!(!Filter::new(&SessionsArgs::default()).matches(&mapping));
        assert!(
            Filter::new(&SessionsArgs {
                mappings: true,
                ..SessionsArgs::default()
            })
            .matches(&mapping)
        );
    }

    #[test]
    fn a_forward_never_ends_by_itself() {
        let mut forward = entry();
        forward.facts.hold = Hold::Mapping;
        forward.state.phase = Phase::Static;
        let row = Row::new(&forward, &Timeouts::DEFAULT, Tick(u32::MAX / 3)).unwrap();
        assert_eq!(
            (row.hold, row.state, row.remaining_seconds),
            ("forward", "static", None)
        );
    }

    #[test]
    fn each_filter_lets_only_its_own_through() {
        let endpoint = |text: &str| Some(text.parse().unwrap());
        let none = SessionsArgs::default;
        let rows = [
            (none(), true),
            (
                SessionsArgs {
                    protocol: Some(Protocol::Tcp),
                    ..none()
                },
                true,
            ),
            (
                SessionsArgs {
                    protocol: Some(Protocol::Udp),
                    ..none()
                },
                false,
            ),
            (
                SessionsArgs {
                    inside: endpoint("192.168.1.10"),
                    ..none()
                },
                true,
            ),
            (
                SessionsArgs {
                    inside: endpoint("192.168.1.10:40001"),
                    ..none()
                },
                false,
            ),
            (
                SessionsArgs {
                    remote: endpoint("198.51.100.7:443"),
                    ..none()
                },
                true,
            ),
            (
                SessionsArgs {
                    remote: endpoint("198.51.100.8"),
                    ..none()
                },
                false,
            ),
            (
                SessionsArgs {
                    external_port: Some(1_232),
                    ..none()
                },
                true,
            ),
            (
                SessionsArgs {
                    external_port: Some(1_233),
                    ..none()
                },
                false,
            ),
            (
                SessionsArgs {
                    state: Some("established".to_owned()),
                    ..none()
                },
                true,
            ),
            (
                SessionsArgs {
                    state: Some("opening".to_owned()),
                    ..none()
                },
                false,
            ),
        ];
        for (args, expected) in rows {
            assert_eq!(Filter::new(&args).matches(&entry()), expected, "{args:?}");
        }
        assert!(Filter::new(&none()).is_everything());
    }
}
