//! A loaded gateway as an [`Env`] of the core: read out of the pinned maps as it is asked for, written only here.
//!
//! Nothing in the kernel changes: what the core would write goes into copies. The routing table is asked by the gateway's own
//! program, so that it says what a packet would get.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::Hash,
};

use aya::{
    Pod, TestRun as _, TestRunOptions,
    maps::{Array, HashMap as KernelHash, LpmTrie, MapData, MapError, lpm_trie::Key},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;
use elsa::FrozenMap;
use mape_common::{
    env::{Env, Noted, Route, Rules, Search, Side},
    hop::{Link, NextHop},
    inquiry::{self, Ends},
    layout::{Config, Gauge, HostUse, PermissionKey, RuleRef, Transport, maps, programs},
    map::rule::Rule,
    nat::{
        fragment,
        index::{self, Bucket, WORDS},
        session::Session,
    },
    time::Tick,
    word::Word,
};

use super::chance::Chance;
use crate::{
    datapath::{
        mapped::MappedError,
        maps::{TableError, Tables},
        pin::PinFolder,
        sessions::SessionTable,
        tables,
    },
    view::snapshot::now,
};

/// Why a loaded gateway cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadedError {
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The session table.
    #[error(transparent)]
    Sessions(#[from] MappedError),
    /// An element of a map.
    #[error("cannot read the map {map}")]
    Element {
        /// Its name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The program that asks the routing table.
    #[error("cannot ask the routing table by the gateway's program {}", programs::ROUTE)]
    Route(#[source] Box<aya::programs::ProgramError>),
    /// Random numbers.
    #[error("the kernel gives no random numbers")]
    Random(#[source] std::io::Error),
}

/// An array map of records that are made of words, copied as they are asked for.
struct Copies<V, const N: usize> {
    name: &'static str,
    map: Array<MapData, [u64; N]>,
    make: fn([u64; N]) -> V,
    read: FrozenMap<u32, Box<V>>,
}

impl<V, const N: usize> Copies<V, N> {
    fn open(tables: &Tables, name: &'static str, make: fn([u64; N]) -> V) -> Result<Self, TableError> {
        Ok(Self {
            name,
            map: tables.array(name)?,
            make,
            read: FrozenMap::new(),
        })
    }

    fn get(&self, index: u32, failure: &Failure) -> Option<&V> {
        if let Some(copy) = self.read.get(&index) {
            return Some(copy);
        }
        match self.map.get(&index, 0) {
            Ok(words) => Some(self.read.insert(index, Box::new((self.make)(words)))),
            Err(MapError::OutOfBounds { .. }) => None,
            Err(source) => {
                failure.note(self.name, source);
                None
            }
        }
    }
}

/// A hash map, with what has been changed here; none = taken away.
struct Entries<K, V: Copy> {
    name: &'static str,
    map: KernelHash<MapData, K, V>,
    changed: RefCell<HashMap<K, Option<V>>>,
}

impl<K: Pod + Eq + Hash, V: Pod> Entries<K, V> {
    fn open(tables: &Tables, name: &'static str) -> Result<Self, TableError> {
        Ok(Self {
            name,
            map: tables.typed(name)?,
            changed: RefCell::default(),
        })
    }

    fn get(&self, key: &K, failure: &Failure) -> Option<V> {
        if let Some(changed) = self.changed.borrow().get(key) {
            return *changed;
        }
        match self.map.get(key, 0) {
            Ok(value) => Some(value),
            Err(MapError::KeyNotFound) => None,
            Err(source) => {
                failure.note(self.name, source);
                None
            }
        }
    }

    fn set(&self, key: &K, value: Option<V>) {
        self.changed.borrow_mut().insert(*key, value);
    }
}

/// The first thing that could not be read: the core cannot be told, so the explanation is not shown then.
#[derive(Default)]
struct Failure(RefCell<Option<LoadedError>>);

impl Failure {
    fn note(&self, map: &'static str, source: MapError) {
        self.0.borrow_mut().get_or_insert(LoadedError::Element { map, source });
    }
}

/// What the routing table is asked: interface, source and destination.
type Question = (u32, Ends);

/// A loaded gateway and what has been changed of it here.
pub struct Loaded {
    config: Config,
    gate: bool,
    now: Tick,
    chance: Chance,
    links: Copies<Link, 2>,
    hops: Copies<NextHop, 4>,
    sessions: Copies<Session, 8>,
    fragments: Copies<fragment::Record, 8>,
    ports: Copies<Word, 1>,
    overlap: Copies<Word, 1>,
    refused: Copies<Word, 1>,
    gauges: Copies<Word, 1>,
    native: Copies<Word, 1>,
    rules: Array<MapData, Rule>,
    known_rules: FrozenMap<u32, Box<Rule>>,
    rules_v4: LpmTrie<MapData, [u8; 4], RuleRef>,
    rules_v6: LpmTrie<MapData, [u8; 16], RuleRef>,
    flows: Copies<Bucket, WORDS>,
    permissions: Entries<PermissionKey, u64>,
    hosts: Copies<HostUse, 2>,
    records: SessionTable,
    taken: RefCell<HashSet<u32>>,
    given: RefCell<Vec<u32>>,
    asker: Xdp,
    answers: RefCell<HashMap<Question, Route>>,
    failure: Failure,
}

fn word(words: [u64; 1]) -> Word {
    let [word] = words;
    Word::new(word)
}

impl Loaded {
    /// Opens the maps of a gateway.
    ///
    /// # Errors
    /// [`LoadedError`].
    pub fn open(pins: &PinFolder, tables: &Tables) -> Result<Self, LoadedError> {
        let asker = Xdp::from_pin(pins.program(programs::ROUTE), XdpAttachType::Interface)
            .map_err(|error| LoadedError::Route(Box::new(error)))?;
        let seed = tables::secret().map_err(LoadedError::Random)?;
        Ok(Self {
            config: tables.config()?,
            gate: tables.is_gate_open()?,
            now: now(),
            chance: Chance::new(seed),
            links: Copies::open(tables, maps::LINKS, Link::from_words)?,
            hops: Copies::open(tables, maps::HOPS, NextHop::from_words)?,
            sessions: Copies::open(tables, maps::SESSIONS, Session::from_words)?,
            fragments: Copies::open(tables, maps::FRAGMENTS, fragment::Record::from_words)?,
            ports: Copies::open(tables, maps::PORTS, word)?,
            overlap: Copies::open(tables, maps::OVERLAP, word)?,
            refused: Copies::open(tables, maps::REFUSED, word)?,
            gauges: Copies::open(tables, maps::GAUGES, word)?,
            native: Copies::open(tables, maps::NATIVE, word)?,
            rules: tables.array(maps::RULES)?,
            known_rules: FrozenMap::new(),
            rules_v4: tables.typed(maps::RULES_V4)?,
            rules_v6: tables.typed(maps::RULES_V6)?,
            flows: Copies::open(tables, maps::FLOWS, Bucket::from_words)?,
            permissions: Entries::open(tables, maps::PERMISSIONS)?,
            hosts: Copies::open(tables, maps::HOSTS, |words| HostUse(words.map(Word::new)))?,
            records: SessionTable::open(tables)?,
            taken: RefCell::default(),
            given: RefCell::default(),
            asker,
            answers: RefCell::default(),
            failure: Failure::default(),
        })
    }

    /// Says if something could not be read, so that what the core came to is not to be believed.
    ///
    /// # Errors
    /// The first such thing.
    pub fn check(&self) -> Result<(), LoadedError> {
        match self.failure.0.borrow_mut().take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn known_route(&self, ifindex: u32, ends: Ends) -> Route {
        let asked = (ifindex, ends);
        if let Some(known) = self.answers.borrow().get(&asked) {
            return *known;
        }
        let route = self.ask(ifindex, &ends).unwrap_or_else(|error| {
            self.failure
                .0
                .borrow_mut()
                .get_or_insert(LoadedError::Route(Box::new(error)));
            Route::Other
        });
        self.answers.borrow_mut().insert(asked, route);
        route
    }

    fn ask(&self, ifindex: u32, ends: &Ends) -> Result<Route, aya::programs::ProgramError> {
        // The kernel wants at least an Ethernet header.
        let mut question = [0; 64];
        let mut answer = question;
        for (to, from) in question.iter_mut().zip(inquiry::question(ifindex, ends)) {
            *to = from;
        }
        self.asker.test_run(TestRunOptions {
            data_in: Some(&question),
            data_out: Some(&mut answer),
            ..TestRunOptions::new()
        })?;
        Ok(answer
            .first_chunk()
            .map_or(Route::Other, |answer| inquiry::answered(*answer)))
    }
}

impl Rules for Loaded {
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef> {
        known(
            self.rules_v4.get(&Key::new(32, address), 0),
            maps::RULES_V4,
            &self.failure,
        )
    }

    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef> {
        known(
            self.rules_v6.get(&Key::new(128, address), 0),
            maps::RULES_V6,
            &self.failure,
        )
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        if let Some(rule) = self.known_rules.get(&index) {
            return Some(rule);
        }
        let rule = known(self.rules.get(&index, 0), maps::RULES, &self.failure)?;
        Some(self.known_rules.insert(index, Box::new(rule)))
    }
}

impl Env for Loaded {
    fn config(&self) -> Option<&Config> {
        (self.config.tunnel_mtu != 0).then_some(&self.config)
    }

    fn is_gate_open(&self) -> bool {
        self.gate
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn random(&self) -> u32 {
        self.chance.next()
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(ifindex, &self.failure)
    }

    fn hop(&self, index: u16) -> Option<&NextHop> {
        self.hops.get(u32::from(index), &self.failure)
    }

    fn route(&self, ifindex: u32, source: [u8; 4], destination: [u8; 4]) -> Route {
        self.known_route(ifindex, Ends::V4(source, destination))
    }

    fn route6(&self, ifindex: u32, source: &[u8; 16], destination: &[u8; 16]) -> Route {
        self.known_route(ifindex, Ends::V6(*source, *destination))
    }

    fn native(&self, index: u32) -> Option<&Word> {
        self.native.get(index, &self.failure)
    }

    fn bucket(&self, side: Side, index: u32) -> Option<&Bucket> {
        self.flows.get(index::number(side, index), &self.failure)
    }

    fn session(&self, slot: u32) -> Option<&Session> {
        self.sessions.get(slot, &self.failure)
    }

    fn take_slot(&self) -> Option<u32> {
        if let Some(slot) = self.given.borrow_mut().pop() {
            return Some(slot);
        }
        // Only the free list's first entry can be read without taking it; but what is on it is free in the table, too.
        let mut taken = self.taken.borrow_mut();
        let slot = self.records.free().find(|slot| !taken.contains(slot))?;
        taken.insert(slot);
        Some(slot)
    }

    fn give_slot(&self, slot: u32) {
        self.given.borrow_mut().push(slot);
    }

    fn port(&self, transport: Transport, ordinal: u32) -> Option<&Word> {
        let index = transport.index().checked_mul(self.config.ports)?.checked_add(ordinal)?;
        self.ports.get(index, &self.failure)
    }

    fn overlap(&self, cell: u32) -> Option<&Word> {
        self.overlap.get(cell, &self.failure)
    }

    fn fragment(&self, index: u32) -> Option<&fragment::Record> {
        self.fragments.get(index, &self.failure)
    }

    fn refusal(&self, index: u32) -> Option<&Word> {
        self.refused.get(index, &self.failure)
    }

    fn permission(&self, key: &PermissionKey) -> Option<Tick> {
        let tick = self.permissions.get(key, &self.failure)?;
        u32::try_from(tick).ok().map(Tick)
    }

    fn permit(&self, key: &PermissionKey, now: Tick) -> Noted {
        let known = self.permission(key).is_some();
        self.permissions.set(key, Some(u64::from(now.0)));
        if known { Noted::Again } else { Noted::Anew }
    }

    fn forbid(&self, key: &PermissionKey) -> bool {
        let there = self.permission(key).is_some();
        self.permissions.set(key, None);
        there
    }

    fn host_use(&self, place: u32) -> Option<&HostUse> {
        self.hosts.get(place, &self.failure)
    }

    fn gauge(&self, gauge: Gauge) -> Option<&Word> {
        self.gauges.get(gauge.index(), &self.failure)
    }

    fn search<S: Search>(&self, steps: u32, search: &mut S) {
        for index in 0..steps {
            if !search.step(index) {
                break;
            }
        }
    }
}

/// An element that may not be there.
fn known<V>(read: Result<V, MapError>, map: &'static str, failure: &Failure) -> Option<V> {
    match read {
        Ok(value) => Some(value),
        Err(MapError::KeyNotFound | MapError::OutOfBounds { .. }) => None,
        Err(source) => {
            failure.note(map, source);
            None
        }
    }
}
