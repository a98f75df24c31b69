//! Owns bringing maps and programs into the kernel: sizes, reuse of pinned maps, verification.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{MapError, MapInfo},
    programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp},
};
use mape_common::{
    hop::{Link, NextHop},
    layout::{
        Config, Counter, EVENT_BYTES, FRAGMENTS, Gauge, HOLDER_QUEUES, HostUse, LAN_HOSTS, NATIVE_WORDS, NEXT_HOPS,
        OVERLAP_CELLS, PermissionKey, PortOrder, REFUSALS, RuleRef, SweepOrder, maps,
    },
    map::rule::Rule,
    nat::{
        fragment,
        index::{Bucket, buckets_of_both},
        session::Session,
    },
    step::{spread::PLACES, stage::STAGES},
    trace::Watch,
    verdict::OUTCOMES,
};

use super::{attach::errno, pin::PinFolder};

/// Why the programs are not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// This binary carries no programs.
    #[error("this mape-ctl was built without its BPF programs (MAPE_SKIP_EBPF=1); build it again without that")]
    NoObject,
    /// The object or a map is refused.
    #[error("the kernel refuses the maps of the BPF object")]
    Maps(#[source] Box<EbpfError>),
    /// A program is refused.
    #[error(
        "the kernel refuses the program {name}; this is a fault of mape-ctl on this kernel, please report it with what follows"
    )]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// There is no memory for the maps.
    #[error(
        "there is no memory for the maps; where a service or a container is limited, a load needs more than it runs with afterwards"
    )]
    MapMemory(#[source] Box<EbpfError>),
    /// There is no memory for a program, or for looking at it.
    #[error(
        "there is no memory for the program {name}; where a service or a container is limited, a load needs more than it runs with afterwards"
    )]
    Memory {
        /// The program.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The object lacks a program.
    #[error("the BPF object has no XDP program {0}")]
    NoProgram(&'static str),
    /// A pinned map has another shape.
    #[error(
        "the loaded map {map} has {found}, this configuration needs {wanted}; sessions cannot be kept: run `mape-ctl unload`, then load again"
    )]
    Shape {
        /// The map.
        map: &'static str,
        /// What it has.
        found: String,
        /// What is wanted.
        wanted: String,
    },
    /// Some maps are pinned and others not.
    #[error("the pinned map {path} is missing while others are there; run `mape-ctl unload`, then load again")]
    HalfGone {
        /// Where it should be.
        path: PathBuf,
    },
    /// A pinned map cannot be looked at.
    #[error("cannot look at the pinned map {path}")]
    Info {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
}

impl LoadError {
    /// Why the maps are not there, by what the kernel has said.
    fn of_maps(error: EbpfError) -> Self {
        let source = Box::new(error);
        if errno(source.as_ref()) == Some(libc::ENOMEM) {
            Self::MapMemory(source)
        } else {
            Self::Maps(source)
        }
    }

    /// Why a program is not there, by what the kernel has said.
    pub(super) fn of_program(name: &'static str, error: ProgramError) -> Self {
        let source = Box::new(error);
        if errno(source.as_ref()) == Some(libc::ENOMEM) {
            Self::Memory { name, source }
        } else {
            Self::Program { name, source }
        }
    }
}

/// How many entries the maps need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Records of the session table.
    pub sessions: u32,
    /// Ports of the set.
    pub ports: u32,
    /// The highest interface index.
    pub max_ifindex: u32,
    /// Mapping rules.
    pub rules: u32,
    /// Processors that there can be.
    pub processors: u32,
}

/// Whether a pinned map of another size does as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Exactly,
    /// A larger one does.
    AtLeast,
    /// One with that many does: it is made larger than it has to be.
    From(u32),
}

struct Shape {
    key: usize,
    /// None for the one map whose value only the programs know.
    value: Option<usize>,
    entries: u32,
    fit: Fit,
}

impl Sizes {
    /// Entries that a map is made with.
    fn shape(&self, map: &str) -> Option<Shape> {
        let index = size_of::<u32>();
        let word = size_of::<u64>();
        let sessions = self.sessions.max(1);
        let rules = self.rules.max(64).next_power_of_two();
        let links = self.max_ifindex.saturating_mul(2).max(1_024).next_power_of_two();
        let (key, value, entries, fit) = match map {
            maps::CONFIG => (index, size_of::<Config>(), 1, Fit::Exactly),
            maps::GATE => (index, word, 1, Fit::Exactly),
            maps::LINKS => (
                index,
                size_of::<Link>(),
                links,
                Fit::From(self.max_ifindex.saturating_add(1)),
            ),
            maps::HOPS => (index, size_of::<NextHop>(), NEXT_HOPS, Fit::Exactly),
            maps::RULES => (index, size_of::<Rule>(), rules, Fit::AtLeast),
            // The key of a prefix tree is its length and the address.
            maps::RULES_V4 => (index + 4, size_of::<RuleRef>(), rules, Fit::AtLeast),
            maps::RULES_V6 => (index + 16, size_of::<RuleRef>(), rules, Fit::AtLeast),
            maps::FLOWS => (index, size_of::<Bucket>(), buckets_of_both(sessions), Fit::Exactly),
            maps::SESSIONS => (index, size_of::<Session>(), sessions, Fit::Exactly),
            maps::FREE_SLOTS => (0, index, sessions, Fit::Exactly),
            maps::PORTS => (index, word, self.ports.saturating_mul(3).max(1), Fit::AtLeast),
            maps::OVERLAP => (index, word, OVERLAP_CELLS, Fit::Exactly),
            maps::REFUSED => (index, word, REFUSALS, Fit::Exactly),
            maps::FRAGMENTS => (index, size_of::<fragment::Record>(), FRAGMENTS, Fit::Exactly),
            maps::PERMISSIONS => (
                size_of::<PermissionKey>(),
                word,
                (sessions / 4).max(1_024),
                Fit::Exactly,
            ),
            maps::HOSTS => (index, size_of::<HostUse>(), LAN_HOSTS, Fit::Exactly),
            maps::COUNTERS => (index, size_of::<Counter>(), 2 * OUTCOMES, Fit::Exactly),
            maps::GAUGES => (index, word, Gauge::COUNT, Fit::Exactly),
            maps::SWEEP => {
                return Some(Shape {
                    key: index,
                    value: None,
                    entries: 1,
                    fit: Fit::Exactly,
                });
            }
            maps::PORT_ORDER => (index, size_of::<PortOrder>(), 1, Fit::Exactly),
            maps::SWEEP_ORDER => (index, size_of::<SweepOrder>(), 1, Fit::Exactly),
            maps::STAGES | maps::TUNNEL_STAGES | maps::CPU_STAGES => (index, size_of::<u32>(), STAGES, Fit::Exactly),
            maps::NATIVE => (index, word, NATIVE_WORDS, Fit::Exactly),
            // A processor's queue, and the program there.
            maps::CPUS => (index, word, self.processors.max(1), Fit::AtLeast),
            maps::SPREAD => (index, index, PLACES, Fit::Exactly),
            maps::HANDED => (index, word, 2, Fit::Exactly),
            maps::WATCH => (index, size_of::<Watch>(), 1, Fit::Exactly),
            maps::EVENTS => (0, 0, EVENT_BYTES, Fit::Exactly),
            maps::HOLDERS => (
                index,
                size_of::<u32>(),
                links.saturating_mul(HOLDER_QUEUES),
                Fit::From(self.max_ifindex.saturating_add(1).saturating_mul(HOLDER_QUEUES)),
            ),
            _ => return None,
        };
        Some(Shape {
            key,
            value: Some(value),
            entries,
            fit,
        })
    }
}

/// Refuses pinned maps that the programs could not use: aya would take any map that has the name.
///
/// # Errors
/// [`LoadError::Shape`], [`LoadError::HalfGone`], [`LoadError::Info`].
pub fn check_pinned(pins: &PinFolder, sizes: &Sizes) -> Result<(), LoadError> {
    for map in maps::ALL {
        let path = pins.map(map);
        if !path.exists() {
            return Err(LoadError::HalfGone { path });
        }
        let info = MapInfo::from_pin(&path).map_err(|source| LoadError::Info { path, source })?;
        if let Some(shape) = sizes.shape(map) {
            compare(map, &shape, info.key_size(), info.value_size(), info.max_entries())?;
        }
    }
    Ok(())
}

fn compare(map: &'static str, shape: &Shape, key: u32, value: u32, entries: u32) -> Result<(), LoadError> {
    let bytes = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    let same = key == bytes(shape.key) && shape.value.is_none_or(|wanted| value == bytes(wanted));
    let enough = match shape.fit {
        Fit::Exactly => entries == shape.entries,
        Fit::AtLeast => entries >= shape.entries,
        Fit::From(least) => entries >= least,
    };
    if same && enough {
        return Ok(());
    }
    let describe =
        |key: u32, value: u32, entries: u32| format!("{entries} entries of {key}-byte keys and {value}-byte values");
    Err(LoadError::Shape {
        map,
        found: describe(key, value, entries),
        wanted: describe(bytes(shape.key), shape.value.map_or(value, bytes), shape.entries),
    })
}

/// Makes the maps and pins them; those that are pinned already are used as they are ([`check_pinned`] before).
///
/// # Errors
/// [`LoadError`]; maps that were made stay pinned.
pub fn load(object: &[u8], pins: &PinFolder, sizes: &Sizes) -> Result<Ebpf, LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    let paths: BTreeMap<&'static str, PathBuf> = maps::ALL.into_iter().map(|map| (map, pins.map(map))).collect();
    let mut loader = sized(sizes);
    for (map, path) in &paths {
        loader.map_pin_path(map, path.as_path());
    }
    loader.load(object).map_err(LoadError::of_maps)
}

/// Makes the maps without pinning them: they are gone when the result is.
///
/// # Errors
/// [`LoadError::NoObject`], [`LoadError::Maps`].
pub fn unpinned(object: &[u8], sizes: &Sizes) -> Result<Ebpf, LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    let mut loader = sized(sizes);
    // Without statistics, which come last and are long on newer kernels, a log ends with the fault.
    loader.verifier_log_level(VerifierLogLevel::DEBUG);
    loader.load(object).map_err(LoadError::of_maps)
}

/// A loader that makes the maps as large as they have to be.
fn sized(sizes: &Sizes) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    for map in maps::ALL {
        if let Some(shape) = sizes.shape(map) {
            loader.map_max_entries(map, shape.entries);
        }
    }
    loader
}

/// Brings programs into the kernel, as many at once as there are processors: nearly all of the time is the verifier's, which
/// looks at one on each.
///
/// # Errors
/// [`LoadError::NoProgram`], [`LoadError::Program`], [`LoadError::Memory`]: of one of those that were refused; the others may be there.
pub fn load_all(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), LoadError> {
    let mut there: BTreeMap<String, &mut Program> = ebpf
        .programs_mut()
        .map(|(name, program)| (name.to_owned(), program))
        .collect();
    let mut wanted = Vec::with_capacity(names.len());
    for name in names {
        wanted.push((*name, there.remove(*name).ok_or(LoadError::NoProgram(name))?));
    }
    // The last are taken first. By name, that leaves short ones for the end.
    wanted.reverse();
    let count = thread::available_parallelism().map_or(1, usize::from).min(wanted.len());
    let wanted = Mutex::new(wanted);
    let work = || -> Result<(), LoadError> {
        let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some((name, program)) = next() {
            bring(program).map_err(|error| LoadError::of_program(name, error))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..count).map(|_| scope.spawn(work)).collect();
        let own = work();
        // One that has panicked has left its program out, which the first use of it says.
        workers
            .into_iter()
            .fold(own, |sum, worker| sum.and(worker.join().unwrap_or(Ok(()))))
    })
}

/// Has the kernel take one program; each kind is loaded in a way of its own, and the object has programs of these.
///
/// # Errors
/// Why the kernel refuses it.
pub fn bring(program: &mut Program) -> Result<(), ProgramError> {
    if let Ok(xdp) = <&mut Xdp>::try_from(&mut *program) {
        return xdp.load();
    }
    <&mut SchedClassifier>::try_from(program)?.load()
}

/// A loaded program's file descriptor.
///
/// # Errors
/// [`LoadError::NoProgram`], [`LoadError::Program`].
pub fn fd(ebpf: &Ebpf, name: &'static str) -> Result<ProgramFd, LoadError> {
    let program = ebpf.program(name).ok_or(LoadError::NoProgram(name))?;
    let fd = program
        .fd()
        .and_then(|fd| fd.try_clone().map_err(ProgramError::IOError));
    fd.map_err(|error| LoadError::of_program(name, error))
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    const SIZES: Sizes = Sizes {
        sessions: 65_536,
        ports: 240,
        max_ifindex: 7,
        rules: 3,
        processors: 4,
    };

    #[test]
    fn a_program_without_memory_is_no_fault_of_ours() {
        let refused = |number| {
            let error = ProgramError::SyscallError(SyscallError {
                call: "bpf_prog_load",
                io_error: std::io::Error::from_raw_os_error(number),
            });
            LoadError::of_program("mape_lan", error).to_string()
        };
        assert!(refused(libc::ENOMEM).contains("no memory for the program mape_lan"));
        assert!(refused(libc::EACCES).contains("please report"));
    }

    #[test]
    fn every_map_has_a_shape() {
        for map in maps::ALL {
            assert!(SIZES.shape(map).is_some(), "{map}");
        }
    }

    #[test]
    fn sizes_follow_the_configuration() {
        let entries = |map| SIZES.shape(map).unwrap().entries;
        assert_eq!(entries(maps::SESSIONS), 65_536);
        assert_eq!(entries(maps::PERMISSIONS), 16_384);
        assert_eq!(entries(maps::PORTS), 720);
        assert_eq!(entries(maps::LINKS), 1_024);
        assert_eq!(
            Sizes {
                max_ifindex: 600,
                ..SIZES
            }
            .shape(maps::LINKS)
            .unwrap()
            .entries,
            2_048
        );
        // A border relay has neither sessions nor ports, but the kernel makes no empty map.
        let relay = Sizes {
            sessions: 0,
            ports: 0,
            ..SIZES
        };
        assert!(maps::ALL.iter().all(|map| relay.shape(map).unwrap().entries > 0));
    }

    #[test]
    fn another_shape_is_refused_and_a_larger_table_of_links_is_not() {
        let sessions = SIZES.shape(maps::SESSIONS).unwrap();
        assert!(compare(maps::SESSIONS, &sessions, 4, 64, 65_536).is_ok());
        for (key, value, entries) in [(4, 64, 1_024), (4, 32, 65_536), (8, 64, 65_536)] {
            let error = compare(maps::SESSIONS, &sessions, key, value, entries)
                .unwrap_err()
                .to_string();
            assert!(error.contains("mape-ctl unload"), "{error}");
        }
        let links = SIZES.shape(maps::LINKS).unwrap();
        assert!(compare(maps::LINKS, &links, 4, 16, 2_048).is_ok());
        assert!(compare(maps::LINKS, &links, 4, 16, 8).is_ok());
        assert!(compare(maps::LINKS, &links, 4, 16, 7).is_err());
    }
}
