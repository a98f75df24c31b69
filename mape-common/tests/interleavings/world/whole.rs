//! The rules that hold whenever no packet is on its way.

use std::sync::Arc;

use mape_common::{
    env::Side,
    layout::{Gauge, HostUse, SessionRef, Transport},
    nat::{
        index::Bucket,
        port::PortState,
        quota,
        session::{Facts, Hold, Phase, Session, State},
        table,
    },
};

use super::{Gateway, HOST, OTHER_HOST, Processor, START};

type Live = [(SessionRef, State, Facts)];

impl Gateway {
    /// Fails where one of them is broken.
    pub(crate) fn assert_whole(self: &Arc<Self>) {
        let live = self.live();
        self.assert_entries(&live);
        self.assert_ports(&live);
        self.assert_counts(&live);
        self.assert_permissions(&live);
        if live.iter().all(|(_, _, f)| f.hold != Hold::Overlap) {
            assert!(
                self.overlap.iter().all(|cell| cell.load() == 0),
                "a cell remembers a session that is gone"
            );
        }
    }

    /// A record is free or live; a live one has both its entries, and there are no others.
    fn assert_entries(self: &Arc<Self>, live: &Live) {
        let processor = Processor {
            gateway: Arc::clone(self),
            now: START,
        };
        for record in &self.sessions {
            let phase = record.state().phase;
            assert!(
                !matches!(phase, Phase::Building | Phase::Dead),
                "a record was left in {phase:?}"
            );
        }
        for (reference, _, facts) in live {
            for (side, key) in [(Side::Inside, facts.inside_key()), (Side::Outside, facts.outside_key())] {
                let found = table::find(&processor, side, &key).map(|(found, _)| found);
                assert_eq!(found, Some(*reference), "entry of {facts:?} in {side:?}");
            }
        }
        let entries: usize = self.flows.iter().map(Bucket::len).sum();
        assert_eq!(entries, 2 * live.len(), "entries of both tables");
        assert_eq!(
            self.free.lock().unwrap().len() + live.len(),
            self.sessions.len(),
            "slots are free or live"
        );
    }

    /// Every port is as those that hold it say.
    fn assert_ports(&self, live: &Live) {
        for transport in Transport::ALL {
            let (mut shared, mut exclusive) = (0, 0);
            for ordinal in 0..self.config.ports {
                let held = |hold: Hold| {
                    live.iter()
                        .filter(|(_, _, f)| {
                            f.hold == hold && f.transport == transport && u32::from(f.ordinal) == ordinal
                        })
                        .count()
                };
                let (mappings, overlaps) = (held(Hold::Mapping), held(Hold::Overlap));
                let expected = match (mappings, u32::try_from(overlaps).unwrap()) {
                    (0, 0) => PortState::Free,
                    (0, n) => {
                        shared += 1;
                        PortState::Shared(n)
                    }
                    (1, 0) => {
                        exclusive += 1;
                        PortState::Exclusive
                    }
                    both => panic!("port {ordinal} of {transport:?} has mappings and sharers {both:?}"),
                };
                let at = usize::try_from(transport.index() * self.config.ports + ordinal).unwrap();
                assert_eq!(
                    PortState::from_word(self.ports[at].load()),
                    expected,
                    "port {ordinal} of {transport:?}"
                );
            }
            assert_eq!(self.read(Gauge::Shared(transport)), shared, "gauge of shared ports");
            assert_eq!(
                self.read(Gauge::Exclusive(transport)),
                exclusive,
                "gauge of exclusive ports"
            );
        }
    }

    /// Gauges and quotas count what there is.
    fn assert_counts(&self, live: &Live) {
        let count = |hold: Hold, transport: Transport| {
            let of = |(_, _, f): &&(SessionRef, State, Facts)| f.hold == hold && f.transport == transport;
            u64::try_from(live.iter().filter(of).count()).unwrap()
        };
        for transport in Transport::ALL {
            assert_eq!(
                self.read(Gauge::Mappings(transport)),
                count(Hold::Mapping, transport),
                "gauge of mappings"
            );
            let sessions = count(Hold::Member, transport) + count(Hold::Overlap, transport);
            assert_eq!(self.read(Gauge::Sessions(transport)), sessions, "gauge of sessions");
        }
        for host in [HOST, OTHER_HOST] {
            let of = |wanted: &dyn Fn(&Facts) -> u64| -> u64 {
                live.iter()
                    .filter(|(_, _, f)| f.inside == host)
                    .map(|(_, _, f)| wanted(f))
                    .sum()
            };
            let counted = &self.uses[usize::try_from(quota::place(host) % 2).unwrap()];
            assert_eq!(
                counted.sessions().load(),
                of(&|f| u64::from(f.hold != Hold::Mapping)),
                "sessions of {host:?}"
            );
            let ports = of(&|f| {
                if f.hold == Hold::Mapping {
                    HostUse::one_port(f.transport)
                } else {
                    0
                }
            });
            assert_eq!(counted.ports().load(), ports, "ports of {host:?}");
        }
    }

    /// Permissions are counted, by their mapping too, and outlive nobody who could take them away.
    fn assert_permissions(&self, live: &Live) {
        for (reference, _, facts) in live.iter().filter(|(_, _, f)| f.hold == Hold::Mapping) {
            let permissions = self.permissions.lock().unwrap();
            let mine = permissions.iter().filter(|(k, _)| k.mapping == *reference).count();
            let counted = Session::no_permissions(reference.generation);
            assert_eq!(
                facts.mapping.generation, counted.generation,
                "a mapping counts its permissions"
            );
            assert_eq!(
                usize::try_from(facts.mapping.slot).unwrap(),
                mine,
                "permissions of {facts:?}"
            );
        }
        let permissions = u64::try_from(self.permissions.lock().unwrap().len()).unwrap();
        assert_eq!(self.read(Gauge::Permissions), permissions, "gauge of permissions");
        if live.is_empty() {
            assert_eq!(permissions, 0, "nobody is left who could take a permission away");
        }
    }

    /// Fails where a live session's mapping is gone: somebody else could get its port alone.
    pub(crate) fn assert_members_have_their_mapping(&self) {
        let live = self.live();
        for (_, _, facts) in live.iter().filter(|(_, _, f)| f.hold == Hold::Member) {
            assert!(
                live.iter().any(|(reference, _, _)| *reference == facts.mapping),
                "{facts:?} has no mapping"
            );
        }
    }
}
