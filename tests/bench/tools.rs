//! Owns the measuring programs: the source of frames, the sinks that count them, programs that redirect, and the time that frames take.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, PerCpuArray, PerCpuValues},
    programs::{Xdp, XdpMode, xdp::XdpLinkId},
    util::nr_cpus,
};
use mape_common::layout::{maps, programs};
use mape_tests::{netns::Netns, process::stay_on, table::kernel::KernelWorld};

use crate::{
    bed::{Chain, DEVICES, Way},
    frames::{TEMPLATE, Template},
    processor::Spent,
};

/// Frames that the kernel hands to the source at a time, as a driver hands over what has arrived meanwhile.
const BATCH: u32 = 64;
/// More templates than any case has.
const TEMPLATES: u32 = 1 << 16;
/// Room for the longest frame.
const ROOM: usize = 1_536;
/// Frames are on their way yet when the call that sends them returns.
const LAST: Duration = Duration::from_millis(20);

/// The object, loaded a second time for its measuring programs; what belongs to a gateway is as small as can be.
fn object() -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("TEMPLATES", TEMPLATES);
    for map in ["OVERLAP", "REFUSED", "FRAGMENTS", "HOSTS"] {
        loader.map_max_entries(map, 1);
    }
    // As large as a gateway's, for the program that only looks things up.
    loader.map_max_entries(maps::FLOWS, 1 << 15);
    loader.map_max_entries(maps::SESSIONS, 1 << 16);
    Ok(loader.load(mape_ctl::object::object())?)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = ebpf.program_mut(name).context(name.to_owned())?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("loading {name}"))?;
    }
    Ok(program)
}

/// A program that redirects, in a chain, both ways; it goes with this.
pub(crate) struct Redirect(#[expect(dead_code, reason = "its programs are there as long as it is")] [Ebpf; 2]);

impl Redirect {
    /// Puts it there.
    pub(crate) fn put(chain: &Chain, name: &'static str) -> Result<Self> {
        let [_, lan, wan, _] = DEVICES;
        let redirect = |from: &str, to: &str| {
            chain.middle().enter(|| {
                let mut ebpf = object()?;
                let mut map: Array<_, u32> = Array::try_from(ebpf.map_mut("REDIRECT_TO").context("REDIRECT_TO")?)?;
                map.set(0, KernelWorld::index(to)?, 0)?;
                program(&mut ebpf, name)?.attach(from, XdpMode::Driver)?;
                Ok(ebpf)
            })
        };
        Ok(Self([redirect(lan, wan)?, redirect(wan, lan)?]))
    }
}

/// Source and sinks.
pub(crate) struct Tools {
    ebpf: Ebpf,
    /// By namespace and device.
    sinks: BTreeMap<(String, &'static str), XdpLinkId>,
}

impl Tools {
    /// Loads them.
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = object()?;
        program(&mut ebpf, programs::SOURCE)?;
        Ok(Self {
            ebpf,
            sinks: BTreeMap::new(),
        })
    }

    /// Has both ends of a chain count and drop what arrives.
    pub(crate) fn sink_at_the_ends(&mut self, chain: &Chain) -> Result<()> {
        for way in [Way::Up, Way::Down] {
            let (netns, device) = chain.sink(way);
            self.sink(netns, device)?;
        }
        Ok(())
    }

    /// Has the NICs in the middle count and drop: what is left is the source's own time.
    pub(crate) fn sink_in_the_middle(&mut self, chain: &Chain) -> Result<()> {
        let [_, lan, wan, _] = DEVICES;
        self.sink(chain.middle(), lan)?;
        self.sink(chain.middle(), wan)
    }

    fn sink(&mut self, netns: &Netns, device: &'static str) -> Result<()> {
        let link = netns.enter(|| Ok(program(&mut self.ebpf, programs::SINK)?.attach(device, XdpMode::Driver)?))?;
        self.sinks.insert((netns.name().to_owned(), device), link);
        Ok(())
    }

    /// Has both ends of a chain pass what arrives to their stacks.
    pub(crate) fn pass_at_the_ends(&mut self, chain: &Chain) -> Result<()> {
        for way in [Way::Up, Way::Down] {
            let (netns, device) = chain.sink(way);
            self.pass(netns, device)?;
        }
        Ok(())
    }

    /// Attaches a program to a device that passes everything to the stack.
    pub(crate) fn pass(&mut self, netns: &Netns, device: &'static str) -> Result<()> {
        netns.enter(|| {
            program(&mut self.ebpf, programs::PASS)?.attach(device, XdpMode::Driver)?;
            Ok(())
        })
    }

    fn no_sink(&mut self, netns: &Netns, device: &'static str) -> Result<()> {
        if let Some(link) = self.sinks.remove(&(netns.name().to_owned(), device)) {
            program(&mut self.ebpf, programs::SINK)?.detach(link)?;
        }
        Ok(())
    }

    /// What the source makes from here on, in turn.
    pub(crate) fn make(&mut self, templates: &[Template]) -> Result<()> {
        let map = self.ebpf.map_mut("TEMPLATES").context("TEMPLATES")?;
        let mut array: Array<_, Template> = Array::try_from(map)?;
        for (index, template) in (0..).zip(templates) {
            array.set(index, template, 0)?;
        }
        Ok(())
    }

    /// Sends frames into a chain and gives how long that took until all were through and how many arrived; everything happens on the calling thread's processor.
    pub(crate) fn send(&mut self, chain: &Chain, sent: &Sent) -> Result<Arrived> {
        let before = self.sunk()?;
        let took = self.run(chain, sent)?;
        std::thread::sleep(LAST);
        Ok(Arrived {
            took,
            frames: self.sunk()? - before,
        })
    }

    /// The same, without a look at how many arrived.
    pub(crate) fn run(&mut self, chain: &Chain, sent: &Sent) -> Result<Took> {
        self.run_as(programs::SOURCE, BATCH, chain, sent)
    }

    fn run_as(&mut self, source: &str, batch: u32, chain: &Chain, sent: &Sent) -> Result<Took> {
        chain.source(sent.way).enter(|| {
            let generate = [KernelWorld::index(sent.way.source())?, sent.templates];
            let mut map: Array<_, [u32; 2]> = Array::try_from(self.ebpf.map_mut("GENERATE").context("GENERATE")?)?;
            map.set(0, generate, 0)?;
            stay_on(sent.processor)?;
            let source = program(&mut self.ebpf, source)?;
            let time = Spent::begin(sent.processor)?;
            let start = Instant::now();
            source.test_run(TestRunOptions {
                data_in: Some(&[0; ROOM][..sent.len.max(TEMPLATE.min(60))]),
                repeat: sent.frames,
                attrs: TestRunAttrs::new().xdp_live_frames(batch),
                ..TestRunOptions::default()
            })?;
            Ok(Took {
                wall: start.elapsed(),
                spent: time.end()?,
            })
        })
    }

    /// Frames that sinks have counted so far.
    pub(crate) fn sunk(&mut self) -> Result<u64> {
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.ebpf.map_mut("SUNK").context("SUNK")?)?;
        Ok(map.get(&0, 0)?.iter().sum())
    }

    /// Nanoseconds a frame: the slope between a fifth of the frames and all of them, so that what a call costs by itself is no part of it.
    pub(crate) fn slope(&mut self, chain: &Chain, sent: &Sent) -> Result<f64> {
        let fewer = Sent {
            frames: sent.frames / 5,
            ..*sent
        };
        let (short, long) = (self.send(chain, &fewer)?, self.send(chain, sent)?);
        for (arrived, sent) in [(&short, &fewer), (&long, sent)] {
            ensure!(
                arrived.are_all(sent),
                "{} of {} frames arrived",
                arrived.frames,
                sent.frames
            );
        }
        let frames = f64::from(sent.frames - fewer.frames);
        Ok((long.took.spent.as_secs_f64() - short.took.spent.as_secs_f64()) * 1e9 / frames)
    }

    /// Sends frames one by one at a pace, whatever becomes of them, and waits until no more come out.
    pub(crate) fn offered(&mut self, chain: &Chain, sent: &Sent, pace: Pace) -> Result<Arrived> {
        self.set_pace(pace)?;
        let before = self.sunk()?;
        let mut took = self.run_as(programs::PACED, 1, chain, sent)?;
        let mut frames = self.sunk()? - before;
        loop {
            std::thread::sleep(LAST);
            let more = self.sunk()? - before - frames;
            if more == 0 {
                return Ok(Arrived { took, frames });
            }
            frames += more;
            took.wall += LAST;
        }
    }

    fn set_pace(&mut self, pace: Pace) -> Result<()> {
        let mut map: Array<_, [u64; 3]> = Array::try_from(self.ebpf.map_mut("PACE").context("PACE")?)?;
        map.set(0, [pace.interval, pace.sent_at, pace.seen_at], 0)?;
        for value in ["AGES", "DUE"] {
            let mut map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.ebpf.map_mut(value).context(value)?)?;
            for index in 0..map.len() {
                let zeros = vec![0; nr_cpus().map_err(|(_, error)| error)?];
                map.set(index, PerCpuValues::try_from(zeros)?, 0)?;
            }
        }
        Ok(())
    }

    /// Sends frames one by one at a pace; how old they were when they arrived. The sink at the chain's end is another one meanwhile.
    pub(crate) fn paced(&mut self, chain: &Chain, sent: &Sent, pace: Pace) -> Result<Ages> {
        let (end, device) = chain.sink(sent.way);
        self.set_pace(pace)?;
        self.no_sink(end, device)?;
        let link = end.enter(|| Ok(program(&mut self.ebpf, programs::CLOCK)?.attach(device, XdpMode::Driver)?))?;
        let took = self.run_as(programs::PACED, 1, chain, sent);
        std::thread::sleep(LAST);
        program(&mut self.ebpf, programs::CLOCK)?.detach(link)?;
        self.sink(end, device)?;
        let map: PerCpuArray<_, u64> = PerCpuArray::try_from(self.ebpf.map_mut("AGES").context("AGES")?)?;
        let counts: Vec<u64> = map
            .iter()
            .map(|counts| Ok::<u64, aya::maps::MapError>(counts?.iter().sum()))
            .collect::<Result<_, _>>()?;
        let ages = Ages { counts, took: took? };
        let seen: u64 = ages.counts.iter().sum();
        let arrived = Arrived {
            took: ages.took,
            frames: seen,
        };
        ensure!(
            arrived.are_all(sent),
            "{seen} of {} frames with a time arrived",
            sent.frames
        );
        Ok(ages)
    }
}

/// How a paced source goes: nanoseconds from a frame to the next, and where the time stands in a frame when it is sent and when it is seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub interval: u64,
    pub sent_at: u64,
    pub seen_at: u64,
}

/// Frames by age.
pub(crate) struct Ages {
    /// For each place how many; the last has all that were older.
    pub counts: Vec<u64>,
    /// Until all were through.
    pub took: Took,
}

impl Ages {
    /// Nanoseconds of a place.
    pub(crate) const PLACE: u64 = 25;

    /// How long each of so many took.
    pub(crate) fn nanos_each(&self, frames: u32) -> u64 {
        u64::try_from(self.took.spent.as_nanos() / u128::from(frames.max(1))).unwrap_or(u64::MAX)
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Through the chain in this direction.
    pub way: Way,
    /// Bytes of each frame, without its check sequence.
    pub len: usize,
    /// How many.
    pub frames: u32,
    /// How many templates they are made of, in turn.
    pub templates: u32,
    /// On which processor.
    pub processor: usize,
}

/// How long sending took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    /// By a clock on the wall.
    pub wall: Duration,
    /// Of the processor's time: what other programs had of it meanwhile is not in it.
    pub spent: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Until all were through.
    pub took: Took,
    /// How many reached a sink.
    pub frames: u64,
}

impl Arrived {
    /// Whether that were all, but for a few that have asked for neighbours or come too late.
    pub(crate) fn are_all(&self, sent: &Sent) -> bool {
        self.frames * 1_000 >= u64::from(sent.frames) * 995
    }
}
