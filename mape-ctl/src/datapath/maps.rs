//! Owns typed access to the pinned maps: the only user of their names.

use std::{borrow::Borrow, path::PathBuf};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapError, PerCpuArray, ProgramArray, stack::Stack, xdp::XdpMapError},
    programs::ProgramFd,
};
use mape_common::{
    hop::{Hop, Link, NextHop},
    layout::{Config, Counter, Gauge, NEXT_HOPS, PortOrder, STATIC_HOPS, SweepOrder, maps},
    step::native::Lease,
    time::Tick,
    trace::Gate,
    verdict::{Direction, OUTCOMES},
};

use super::pin::PinFolder;

/// Why a map could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be opened.
    #[error("cannot open the pinned map {path}; if the gateway is half gone, `mape-ctl unload` cleans up")]
    Open {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// An element cannot be read or written.
    #[error("cannot {action} the map {map}")]
    Element {
        /// What was to be done.
        action: &'static str,
        /// Its name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// A processor cannot be told to take packets over, or not to.
    #[error("cannot set whether processor {number} takes packets over")]
    Processor {
        /// The kernel's number of it.
        number: u32,
        /// Why.
        source: XdpMapError,
    },
}

pub(super) fn reading(map: &'static str) -> impl Fn(MapError) -> TableError {
    move |source| TableError::Element {
        action: "read",
        map,
        source,
    }
}

pub(super) fn writing(map: &'static str) -> impl Fn(MapError) -> TableError {
    move |source| TableError::Element {
        action: "write",
        map,
        source,
    }
}

/// Packets and bytes of one outcome in one direction, of all processors together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Which way.
    pub direction: Direction,
    /// The outcome's number.
    pub outcome: u32,
    /// How many.
    pub sum: Counter,
}

/// A link as LINKS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// A program of ours is there.
    pub attached: bool,
    /// It has run.
    pub proven: bool,
}

/// How far the gate is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Nothing is forwarded.
    Closed,
    /// Only the tunnel device's programs work, while the fast path is changed.
    SlowPath,
    /// Both paths are open.
    Whole,
}

/// A next hop in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopEntry {
    /// Index into HOPS.
    pub index: u32,
    /// The LAN host's address; zeros for a far end of the tunnel.
    pub address: [u8; 4],
    /// Where and how.
    pub hop: Hop,
    /// When a frame last came from there.
    pub confirmed: Tick,
    /// The largest IPv6 packet of the path behind it, if a router on it has told that lately.
    pub path_mtu: Option<u16>,
}

/// The maps of one gateway, opened by their pins as they are wanted.
#[derive(Clone, Debug)]
pub struct Tables(PinFolder);

impl Tables {
    /// The maps pinned in a folder.
    pub fn new(pins: &PinFolder) -> Self {
        Self(pins.clone())
    }

    /// A map as the kernel has it.
    ///
    /// # Errors
    /// [`TableError::Open`].
    pub fn data(&self, name: &'static str) -> Result<MapData, TableError> {
        let path = self.0.map(name);
        MapData::from_pin(&path).map_err(|source| TableError::Open { path, source })
    }

    /// A map, typed.
    ///
    /// # Errors
    /// [`TableError::Open`], also where it is of another type.
    pub fn typed<M: TryFrom<Map, Error = MapError>>(&self, name: &'static str) -> Result<M, TableError> {
        let data = self.data(name)?;
        Map::from_map_data(data)
            .and_then(M::try_from)
            .map_err(|source| TableError::Open {
                path: self.0.map(name),
                source,
            })
    }

    /// An array map.
    ///
    /// # Errors
    /// [`TableError::Open`].
    pub fn array<V: Pod>(&self, name: &'static str) -> Result<Array<MapData, V>, TableError> {
        self.typed(name)
    }

    fn get<V: Pod>(&self, name: &'static str, index: u32) -> Result<V, TableError> {
        self.array::<V>(name)?.get(&index, 0).map_err(reading(name))
    }

    fn set<V: Pod>(&self, name: &'static str, index: u32, value: impl Borrow<V>) -> Result<(), TableError> {
        self.array::<V>(name)?.set(index, value, 0).map_err(writing(name))
    }

    /// What the gateway is; all zeros before it was written.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn config(&self) -> Result<Config, TableError> {
        self.get(maps::CONFIG, 0)
    }

    /// Writes what the gateway is. The gate must be closed.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_config(&self, config: &Config) -> Result<(), TableError> {
        self.set::<Config>(maps::CONFIG, 0, config)
    }

    /// Whether packets are forwarded.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn is_gate_open(&self) -> Result<bool, TableError> {
        Ok(Gate(self.get::<u64>(maps::GATE, 0)?).is_open())
    }

    /// Switches forwarding on or off; who follows packets asks for them again within a second.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_gate(&self, opening: Opening) -> Result<(), TableError> {
        let word = match opening {
            Opening::Closed => 0,
            Opening::SlowPath => Gate::SLOW,
            Opening::Whole => Gate::SLOW | Gate::OPEN,
        };
        self.set::<u64>(maps::GATE, 0, word)
    }

    /// How long native IPv6 is forwarded.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn native_lease(&self) -> Result<Lease, TableError> {
        Ok(Lease(self.get::<u64>(maps::NATIVE, Lease::INDEX)?))
    }

    /// Says how long; also while packets are forwarded.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_native_lease(&self, lease: Lease) -> Result<(), TableError> {
        self.set::<u64>(maps::NATIVE, Lease::INDEX, lease.0)
    }

    /// Takes the program of a stage out of one of the maps of stages: packets that it would get are counted by who would hand them on.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn clear_stage(&self, map: &'static str, stage: u32) -> Result<(), TableError> {
        let mut stages: ProgramArray<MapData> = self.typed(map)?;
        match stages.clear_index(&stage) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            cleared => cleared.map_err(writing(map)),
        }
    }

    /// Enters a program where the others' tail calls look for it, in STAGES, TUNNEL_STAGES or CPU_STAGES: by a stage's number, or that of
    /// the one that tells.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_stage(&self, map: &'static str, stage: u32, program: &ProgramFd) -> Result<(), TableError> {
        let mut stages: ProgramArray<MapData> = self.typed(map)?;
        stages.set(stage, program, 0).map_err(writing(map))
    }

    /// The words of an interface's entry.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn link_words(&self, index: u32) -> Result<[u64; 2], TableError> {
        self.get(maps::LINKS, index)
    }

    /// Writes them.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_link_words(&self, index: u32, words: [u64; 2]) -> Result<(), TableError> {
        self.set::<[u64; 2]>(maps::LINKS, index, words)
    }

    /// Lets nobody use an interface in the fast path any longer: what comes in by it is the stack's, and no next hop is on it.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn detach_link(&self, index: u32) -> Result<(), TableError> {
        self.set_link_words(index, [0, Link::DETACHED])?;
        let mut hops = self.array::<[u64; 4]>(maps::HOPS)?;
        for place in 0..NEXT_HOPS {
            let words = hops.get(&place, 0).map_err(reading(maps::HOPS))?;
            if NextHop::from_words(words).ifindex() == index {
                hops.set(place, [0; 4], 0).map_err(writing(maps::HOPS))?;
            }
        }
        Ok(())
    }

    /// Interfaces that LINKS has something of.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn linked(&self) -> Result<Vec<u32>, TableError> {
        let links = self.array::<[u64; 2]>(maps::LINKS)?;
        let mut found = Vec::new();
        for index in 0..links.len() {
            if links.get(&index, 0).map_err(reading(maps::LINKS))? != [0; 2] {
                found.push(index);
            }
        }
        Ok(found)
    }

    /// What LINKS says of an interface.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn link(&self, index: u32) -> Result<LinkState, TableError> {
        let [_, flags] = self.link_words(index)?;
        Ok(LinkState {
            attached: flags & Link::ATTACHED != 0,
            proven: flags & Link::ALIVE != 0,
        })
    }

    /// The words of the next hops towards far ends, by index.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn far_hops(&self) -> Result<Vec<[u64; 4]>, TableError> {
        let hops = self.array::<[u64; 4]>(maps::HOPS)?;
        (0..STATIC_HOPS)
            .map(|index| hops.get(&index, 0).map_err(reading(maps::HOPS)))
            .collect()
    }

    /// The narrowest path behind them that the data path has been told of, and has not forgotten yet: an MTU of IPv6.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn narrowest_path(&self, now: Tick) -> Result<Option<u16>, TableError> {
        let hops = self.far_hops()?.into_iter();
        Ok(hops.filter_map(|words| NextHop::from_words(words).path_mtu(now)).min())
    }

    /// Writes the next hops towards far ends; what is behind the last one given is emptied.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_far_hops(&self, words: &[[u64; 4]]) -> Result<(), TableError> {
        let mut hops = self.array::<[u64; 4]>(maps::HOPS)?;
        for (index, words) in (0..STATIC_HOPS).zip(words.iter().copied().chain(std::iter::repeat([0; 4]))) {
            hops.set(index, words, 0).map_err(writing(maps::HOPS))?;
        }
        Ok(())
    }

    /// The words of one of them.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn far_hop(&self, index: u32) -> Result<[u64; 4], TableError> {
        self.get(maps::HOPS, index)
    }

    /// Writes one of them, also while packets are forwarded by it: each word is whole, and any mixture of old and new ones leads
    /// one packet to the old router or the new one.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_far_hop(&self, index: u32, words: [u64; 4]) -> Result<(), TableError> {
        self.set::<[u64; 4]>(maps::HOPS, index, words)
    }

    /// Next hops in use.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn hops(&self, now: Tick) -> Result<Vec<HopEntry>, TableError> {
        let table = self.array::<[u64; 4]>(maps::HOPS)?;
        let mut hops = Vec::new();
        for index in 0..NEXT_HOPS {
            let words = table.get(&index, 0).map_err(reading(maps::HOPS))?;
            let record = NextHop::from_words(words);
            if let Some(address) = record.address()
                && let Some(hop) = record.get(address)
            {
                hops.push(HopEntry {
                    index,
                    address,
                    hop,
                    confirmed: record.confirmed(),
                    path_mtu: record.path_mtu(now),
                });
            }
        }
        Ok(hops)
    }

    /// Puts every slot of the session table on the free list, so that low ones are taken first.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn fill_free_slots(&self, sessions: u32) -> Result<(), TableError> {
        let mut free: Stack<MapData, u32> = self.typed(maps::FREE_SLOTS)?;
        for slot in (0..sessions).rev() {
            free.push(slot, 0).map_err(writing(maps::FREE_SLOTS))?;
        }
        Ok(())
    }

    /// Sets the state words of ports.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_ports(&self, words: impl IntoIterator<Item = (u32, u64)>) -> Result<(), TableError> {
        let mut ports = self.array::<u64>(maps::PORTS)?;
        for (index, word) in words {
            ports.set(index, word, 0).map_err(writing(maps::PORTS))?;
        }
        Ok(())
    }

    /// The state word of a port.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn port(&self, index: u32) -> Result<u64, TableError> {
        self.get(maps::PORTS, index)
    }

    /// A gauge.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn gauges(&self) -> Result<Gauges, TableError> {
        let table = self.array::<u64>(maps::GAUGES)?;
        let words = (0..Gauge::COUNT).map(|index| table.get(&index, 0).map_err(reading(maps::GAUGES)));
        Ok(Gauges(words.collect::<Result<_, _>>()?))
    }

    /// Every counter, zero or not.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn counters(&self) -> Result<Vec<Count>, TableError> {
        let table: PerCpuArray<MapData, Counter> = self.typed(maps::COUNTERS)?;
        let mut counts = Vec::new();
        for (direction, first) in Direction::ALL.into_iter().zip([0, OUTCOMES]) {
            for outcome in 0..OUTCOMES {
                let values = table.get(&(first + outcome), 0).map_err(reading(maps::COUNTERS))?;
                let sum = values.iter().fold(Counter::default(), |sum, one| Counter {
                    packets: sum.packets.wrapping_add(one.packets),
                    bytes: sum.bytes.wrapping_add(one.bytes),
                });
                counts.push(Count {
                    direction,
                    outcome,
                    sum,
                });
            }
        }
        Ok(counts)
    }

    /// What the sweeper shall do, or has done.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn sweep_order(&self) -> Result<SweepOrder, TableError> {
        self.get(maps::SWEEP_ORDER, 0)
    }

    /// Tells the sweeper what to do when it is called next.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_sweep_order(&self, order: &SweepOrder) -> Result<(), TableError> {
        self.set::<SweepOrder>(maps::SWEEP_ORDER, 0, order)
    }
}

impl Tables {
    /// Adds to gauges that nobody else counts.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn add_to_gauges(&self, more: &[(Gauge, u64)]) -> Result<(), TableError> {
        let mut table = self.array::<u64>(maps::GAUGES)?;
        for (gauge, more) in more.iter().filter(|(_, more)| *more > 0) {
            let before = table.get(&gauge.index(), 0).map_err(reading(maps::GAUGES))?;
            table
                .set(gauge.index(), before.wrapping_add(*more), 0)
                .map_err(writing(maps::GAUGES))?;
        }
        Ok(())
    }

    /// What the last order about a port came to.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn port_order(&self) -> Result<PortOrder, TableError> {
        self.get(maps::PORT_ORDER, 0)
    }

    /// Says what the next call shall do with a port.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_port_order(&self, order: &PortOrder) -> Result<(), TableError> {
        self.set::<PortOrder>(maps::PORT_ORDER, 0, order)
    }
}

/// All gauges, read one after the other.
#[derive(Clone, Debug)]
pub struct Gauges(Vec<u64>);

impl Gauges {
    /// The value of one. Two processors' changes may be seen out of order, so a moment's minus one is shown as zero.
    pub fn get(&self, gauge: Gauge) -> u64 {
        let value = usize::try_from(gauge.index())
            .ok()
            .and_then(|index| self.0.get(index))
            .copied()
            .unwrap_or(0);
        if value.cast_signed() < 0 { 0 } else { value }
    }
}

#[cfg(test)]
mod tests {
    use mape_common::layout::Transport;

    use super::*;

    #[test]
    fn a_gauge_below_zero_is_shown_as_zero() {
        let mut words = vec![0; 32];
        words[usize::try_from(Gauge::Sessions(Transport::Tcp).index()).unwrap()] = u64::MAX;
        words[usize::try_from(Gauge::Created(Transport::Tcp).index()).unwrap()] = 7;
        let gauges = Gauges(words);
        assert_eq!(gauges.get(Gauge::Sessions(Transport::Tcp)), 0);
        assert_eq!(gauges.get(Gauge::Created(Transport::Tcp)), 7);
    }
}
