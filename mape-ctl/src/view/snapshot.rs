//! A gateway at one moment: everything that `stat` shows, read out of the maps.

use std::{collections::BTreeMap, io, net::Ipv6Addr, time::Instant};

use aya::maps::{Array, Map, MapData, MapError};
use mape_common::{
    hop::{Hop, Link, Mac},
    layout::{Config, Counter, Gauge, STATIC_HOPS, Transport, maps},
    time::Tick,
    verdict::{DELIVERED, Direction, FORWARDED, NATIVE, Reason, TRANSLATED},
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    hosts::Hosts,
    interface::{Interface, Losses, interfaces},
    pressure::Pressure,
};
use crate::{
    datapath::{
        attach::mode_name,
        mapped::MappedError,
        maps::{Count, Gauges, HopEntry, TableError, Tables},
        spread::Handed,
    },
    gateway::Mode,
    host::state::{State, uptime},
    instance::Instance,
    kernel,
    netlink::Netlink,
};

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The map of links.
    #[error("cannot read the map {}", maps::LINKS)]
    Links(#[source] MapError),
    /// The session table, or what is counted of hosts.
    #[error(transparent)]
    Mapped(#[from] MappedError),
    /// The interfaces.
    #[error("cannot read the list of interfaces")]
    Interfaces(#[source] io::Error),
}

/// A gateway at one moment.
pub struct Snapshot {
    /// When.
    pub taken: Instant,
    /// What it is.
    pub config: Config,
    /// Seconds since it was loaded; none where nobody has kept a record of that.
    pub loaded_for: Option<u64>,
    /// Whether it forwards.
    pub is_gate_open: bool,
    /// Whether it forwards native IPv6, too.
    pub is_native_on: bool,
    /// Its NICs.
    pub links: Vec<LinkView>,
    /// Next hops in use.
    pub hops: Vec<HopView>,
    /// Packets and bytes by direction and outcome.
    pub counters: Counters,
    /// Per protocol.
    pub use_of: Vec<(Transport, Use)>,
    /// Permissions noted, and lost because their table was full.
    pub permissions: (u64, u64),
    /// Packets noted because they come in fragments, and those of them forgotten before they were complete.
    pub fragmented: (u64, u64),
    /// Fragments that came before the first of their packet, while somebody held such.
    pub held: Held,
    /// ICMP errors sent, and not sent because there were too many.
    pub answers: (u64, u64),
    /// What each processor has handed on and taken over of the packets from the tunnel; none where nobody shares them.
    pub handed: Vec<Handed>,
    /// What is short.
    pub pressure: Pressure,
    /// What LAN hosts have.
    pub hosts: Hosts,
}

/// A NIC that a program of ours is attached to.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// Its name; none where it is not in this network namespace.
    pub name: Option<String>,
    /// Its number.
    pub ifindex: u32,
    /// Its address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u16,
    /// How the program is attached: native or generic; none where nothing is.
    pub mode: Option<&'static str>,
    /// The program has run there.
    pub is_alive: bool,
    /// It has been taken off: the NIC's traffic takes the slow path.
    pub is_detached: bool,
    /// It was deleted since, and its program with it.
    pub is_gone: bool,
    /// What the device has lost.
    pub losses: Losses,
}

/// A next hop.
#[derive(Clone, Debug)]
pub struct HopView {
    /// Its number in the table.
    pub index: u32,
    /// The LAN host; none for a far end of the tunnel.
    pub address: Option<[u8; 4]>,
    /// The router towards a far end of the tunnel, as `load` found it.
    pub router: Option<Ipv6Addr>,
    /// The NIC's name.
    pub interface: Option<String>,
    /// Where and how.
    pub hop: Hop,
    /// The largest IPv6 packet of the path to a far end, as a router on it has told; none where nobody has, lately.
    pub path_mtu: Option<u16>,
    /// Seconds since a frame came from there; none for a border relay's far ends, which nobody confirms.
    pub silent: Option<u32>,
}

/// Sessions and ports of one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Use {
    /// Sessions.
    pub sessions: u64,
    /// Endpoint-independent mappings.
    pub mappings: u64,
    /// Ports held by one endpoint.
    pub exclusive: u64,
    /// Ports shared by sessions.
    pub shared: u64,
    /// Ports forwarded.
    pub forwarded: u64,
    /// Sessions made since loading.
    pub created: u64,
    /// Endpoints that had to share a port.
    pub degraded: u64,
}

/// All counters.
#[derive(Clone, Debug, Default)]
pub struct Counters(Vec<Count>);

impl Counters {
    fn get(&self, direction: Direction, outcome: u32) -> Counter {
        let found = self
            .0
            .iter()
            .find(|count| count.direction == direction && count.outcome == outcome);
        found.map(|count| count.sum).unwrap_or_default()
    }

    /// Packets that left by a NIC.
    pub fn forwarded(&self, direction: Direction) -> Counter {
        self.get(direction, FORWARDED)
    }

    /// Native IPv6 that left by a NIC.
    pub fn native(&self, direction: Direction) -> Counter {
        self.get(direction, NATIVE)
    }

    /// Packets that the stack got after translation, or that were translated on their way through it.
    pub fn delivered(&self, direction: Direction) -> Counter {
        let (delivered, translated) = (self.get(direction, DELIVERED), self.get(direction, TRANSLATED));
        Counter {
            packets: delivered.packets + translated.packets,
            bytes: delivered.bytes + translated.bytes,
        }
    }

    /// Packets that were not forwarded, by reason; all reasons.
    pub fn reasons(&self, direction: Direction) -> impl Iterator<Item = (Reason, Counter)> {
        Reason::ALL
            .iter()
            .map(move |reason| (*reason, self.get(direction, reason.number())))
    }
}

/// What became of fragments that came before the first of their packet, since loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Held {
    /// Held for a time.
    pub held: u64,
    /// Sent on after the first had come.
    pub released: u64,
    /// Given up because it did not come in time.
    pub expired: u64,
    /// Given up for others, or not held, because there were too many.
    pub displaced: u64,
    /// Lost before they could be held: too many at once.
    pub lost: u64,
}

impl Held {
    fn new(gauges: &Gauges) -> Self {
        Self {
            held: gauges.get(Gauge::Held),
            released: gauges.get(Gauge::HeldReleased),
            expired: gauges.get(Gauge::HeldExpired),
            displaced: gauges.get(Gauge::HeldDisplaced),
            lost: gauges.get(Gauge::HeldLost),
        }
    }
}

/// The gateway's clock, now.
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Tick::from_nanos(
        part(time.tv_sec)
            .saturating_mul(1_000_000_000)
            .saturating_add(part(time.tv_nsec)),
    )
}

/// Whether a configuration is a border relay's: the tunnel's end is the relay itself.
pub fn is_border_relay(config: &Config) -> bool {
    config.tunnel_address == config.relay_address
}

impl Snapshot {
    /// Reads the maps.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn take(instance: &Instance, tables: &Tables) -> Result<Self, SnapshotError> {
        let config = tables.config()?;
        let record = State::read(instance);
        let is_here = record
            .as_ref()
            .is_some_and(|record| kernel::network_namespace() == Some(record.network_namespace));
        let interfaces = interfaces().map_err(SnapshotError::Interfaces)?;
        let gauges = tables.gauges()?;
        let of = |transport| Use {
            sessions: gauges.get(Gauge::Sessions(transport)),
            mappings: gauges.get(Gauge::Mappings(transport)),
            exclusive: gauges.get(Gauge::Exclusive(transport)),
            shared: gauges.get(Gauge::Shared(transport)),
            forwarded: gauges.get(Gauge::Forwards(transport)),
            created: gauges.get(Gauge::Created(transport)),
            degraded: gauges.get(Gauge::Degraded(transport)),
        };
        Ok(Self {
            config,
            loaded_for: record.as_ref().map(|record| uptime().saturating_sub(record.loaded_at)),
            is_gate_open: tables.is_gate_open()?,
            is_native_on: tables.native_lease()?.is_on(now()),
            links: links(tables, &interfaces, is_here)?,
            hops: hops(tables, &interfaces, record.as_ref(), is_border_relay(&config))?,
            use_of: Transport::ALL
                .into_iter()
                .map(|transport| (transport, of(transport)))
                .collect(),
            fragmented: (gauges.get(Gauge::Fragmented), gauges.get(Gauge::FragmentsDisplaced)),
            held: Held::new(&gauges),
            permissions: (gauges.get(Gauge::Permissions), gauges.get(Gauge::PermissionsLost)),
            answers: (gauges.get(Gauge::Answers), gauges.get(Gauge::AnswersSuppressed)),
            handed: tables.handed()?,
            pressure: Pressure::new(&config, &gauges, now()),
            hosts: Hosts::read(tables, &config)?,
            // Last, so that the time stands beside the counters that rates are computed of.
            counters: Counters(tables.counters()?),
            taken: Instant::now(),
        })
    }

    /// Packets refused because their LAN host had as many sessions as one may have.
    pub fn refused_by_quota(&self) -> u64 {
        let of = |direction| self.counters.get(direction, Reason::HostSessions.number()).packets;
        Direction::ALL.into_iter().map(of).sum()
    }

    /// Packets that were handed on and nobody has taken over: they wait, or the queue was full.
    pub fn not_taken_over(&self) -> u64 {
        let sum = |of: fn(&Handed) -> u64| self.handed.iter().map(of).sum::<u64>();
        sum(|one| one.handed_on).saturating_sub(sum(|one| one.taken_over))
    }

    /// Records of the session table in use: sessions and mappings of all protocols.
    pub fn records(&self) -> u64 {
        self.use_of
            .iter()
            .map(|(_, used)| {
                used.sessions
                    .saturating_add(used.mappings)
                    .saturating_add(used.forwarded)
            })
            .sum()
    }
}

fn links(
    tables: &Tables,
    interfaces: &BTreeMap<u32, Interface>,
    is_here: bool,
) -> Result<Vec<LinkView>, SnapshotError> {
    let data = tables.data(maps::LINKS)?;
    let table: Array<MapData, [u64; 2]> = Map::from_map_data(data)
        .and_then(Array::try_from)
        .map_err(SnapshotError::Links)?;
    let modes = modes();
    let mut links = Vec::new();
    for ifindex in 0..table.len() {
        let link = Link::from_words(table.get(&ifindex, 0).map_err(SnapshotError::Links)?);
        if link.flags() & (Link::ATTACHED | Link::DETACHED) == 0 {
            continue;
        }
        let interface = interfaces.get(&ifindex);
        let is_gone = is_here && interface.is_none();
        links.push(LinkView {
            name: interface.map(|found| found.name.clone()),
            ifindex,
            mac: Mac::from_bits(link.mac()),
            mtu: link.mtu(),
            mode: modes.get(&ifindex).copied(),
            is_alive: !is_gone && link.flags() & Link::ALIVE != 0,
            is_detached: link.flags() & Link::DETACHED != 0,
            is_gone,
            losses: interface.map(|found| found.losses).unwrap_or_default(),
        });
    }
    Ok(links)
}

/// How programs are attached, by interface; without an answer of the kernel's nothing is shown.
fn modes() -> BTreeMap<u32, &'static str> {
    let interfaces = Netlink::open()
        .and_then(|netlink| netlink.interfaces())
        .unwrap_or_default();
    let mode = |native| mode_name(if native { Mode::Native } else { Mode::Generic });
    interfaces
        .into_iter()
        .filter_map(|found| Some((found.index, mode(found.xdp?.native))))
        .collect()
}

fn hops(
    tables: &Tables,
    interfaces: &BTreeMap<u32, Interface>,
    record: Option<&State>,
    is_relay: bool,
) -> Result<Vec<HopView>, SnapshotError> {
    let now = now();
    let router = |index| {
        record?
            .far_hops
            .iter()
            .find(|hop| hop.index == index)
            .map(|hop| hop.neighbour)
    };
    let view = |entry: HopEntry| {
        let HopEntry {
            index,
            address,
            hop,
            confirmed,
            path_mtu,
        } = entry;
        let is_far = index < STATIC_HOPS;
        HopView {
            index,
            address: (!is_far).then_some(address),
            router: if is_far { router(index) } else { None },
            interface: interfaces.get(&hop.ifindex).map(|found| found.name.clone()),
            hop,
            path_mtu,
            silent: (!is_far || !is_relay).then(|| now.since(confirmed).seconds()),
        }
    };
    Ok(tables.hops(now)?.into_iter().map(view).collect())
}

/// Packets and bits per second of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Rate {
    /// Packets per second.
    pub packets_per_second: f64,
    /// Bits per second.
    pub bits_per_second: f64,
}

/// The rates of forwarding between two snapshots, outbound and inbound.
pub fn rates(earlier: &Snapshot, later: &Snapshot) -> [(Direction, Rate); 2] {
    let seconds = later.taken.duration_since(earlier.taken).as_secs_f64();
    Direction::ALL.map(|direction| {
        (
            direction,
            rate(
                earlier.counters.forwarded(direction),
                later.counters.forwarded(direction),
                seconds,
            ),
        )
    })
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a rate is for people; 53 bits are enough"
)]
fn rate(earlier: Counter, later: Counter, seconds: f64) -> Rate {
    // Loaded anew in between, the counters began again.
    let span = |earlier: u64, later: u64| later.saturating_sub(earlier) as f64;
    if seconds <= 0.0 {
        return Rate::default();
    }
    Rate {
        packets_per_second: span(earlier.packets, later.packets) / seconds,
        bits_per_second: span(earlier.bytes, later.bytes) * 8.0 / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_by_time_and_never_negative() {
        let counter = |packets, bytes| Counter { packets, bytes };
        let found = rate(counter(10, 1_000), counter(30, 3_000), 2.0);
        assert_eq!(
            found,
            Rate {
                packets_per_second: 10.0,
                bits_per_second: 8_000.0
            }
        );
        assert_eq!(rate(counter(10, 1_000), counter(0, 0), 1.0), Rate::default());
        assert_eq!(rate(counter(0, 0), counter(1, 1), 0.0), Rate::default());
    }

    #[test]
    fn a_counter_is_found_by_direction_and_outcome() {
        let count = |direction, outcome, packets| Count {
            direction,
            outcome,
            sum: Counter { packets, bytes: 0 },
        };
        let counters = Counters(vec![
            count(Direction::Outbound, FORWARDED, 1),
            count(Direction::Inbound, FORWARDED, 2),
            count(Direction::Inbound, Reason::NoSession.number(), 3),
        ]);
        assert_eq!(counters.forwarded(Direction::Inbound).packets, 2);
        assert_eq!(counters.delivered(Direction::Inbound).packets, 0);
        let by_reason: Vec<_> = counters
            .reasons(Direction::Inbound)
            .filter(|(_, sum)| sum.packets > 0)
            .collect();
        assert_eq!(by_reason, [(Reason::NoSession, Counter { packets: 3, bytes: 0 })]);
        assert_eq!(counters.reasons(Direction::Outbound).count(), Reason::ALL.len());
    }
}
