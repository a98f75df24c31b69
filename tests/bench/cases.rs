//! Owns the cases: what carries frames, which frames, and how cases take turns.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use mape_common::layout::programs;
use mape_tests::process::interrupted;

use crate::{
    Arguments,
    bed::{Chain, Way},
    frames::{CHECK_SEQUENCE, Flow, OUTER, Order, Template},
    kernel,
    stats::Readings,
    tools::{Redirect, Sent, Tools},
};

/// A path that a stack carries is slower by about as much: it gets so many times fewer frames.
const FEWER: u32 = 5;

/// What carries a frame through the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// Nothing: a sink there.
    Nothing,
    /// A bare redirect.
    Bare,
    /// One that encapsulates.
    Encapsulating,
    /// One that also looks up and counts what has to be: the least that a gateway can take.
    Least,
    /// Our gateway's fast path.
    Ours,
    /// That of another program of ours.
    Other,
    /// The kernel's forwarding.
    Kernel,
    /// The same with source NAT.
    KernelNat,
    /// The kernel's tunnel, and the usual rules of source NAT before it.
    KernelTunnel,
}

impl By {
    /// What a run has side by side.
    pub(crate) const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Bare,
        Self::Encapsulating,
        Self::Least,
        Self::Ours,
        Self::Kernel,
        Self::KernelNat,
    ];

    /// As reports call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "generator",
            Self::Bare => "redirect",
            Self::Encapsulating => "encapsulate",
            Self::Least => "least",
            Self::Ours => "gateway",
            Self::Other => "other_gateway",
            Self::Kernel => "kernel_forward",
            Self::KernelNat => "kernel_snat",
            Self::KernelTunnel => "kernel_tunnel",
        }
    }

    /// The program that redirects, where that is all there is.
    const fn redirect(self) -> Option<&'static str> {
        match self {
            Self::Bare => Some(programs::BARE),
            Self::Encapsulating => Some(programs::ENCAPSULATE),
            Self::Least => Some(programs::LEAST),
            Self::Nothing | Self::Ours | Self::Other | Self::Kernel | Self::KernelNat | Self::KernelTunnel => None,
        }
    }

    const fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::KernelNat | Self::KernelTunnel)
    }
}

/// What is sent in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub way: Way,
    /// Bytes of each frame on a wire; towards the WAN before it is encapsulated, from there as the LAN host gets it.
    pub size: usize,
    pub flows: u32,
    pub order: Order,
}

impl Load {
    /// What targets hold for: 64 bytes, 1,000 sessions.
    pub(crate) const fn usual(way: Way) -> Self {
        Self {
            way,
            size: 64,
            flows: 1_000,
            order: Order::Sequential,
        }
    }

    /// Bytes of each frame as the source sends it.
    const fn len(self) -> usize {
        match self.way {
            Way::Up => self.size - CHECK_SEQUENCE,
            Way::Down => self.size - CHECK_SEQUENCE + OUTER,
        }
    }
}

/// The chains, one for each of the [`By`] that are wanted, all there at once.
pub(crate) struct Beds {
    chains: BTreeMap<By, Chain>,
    _redirects: Vec<Redirect>,
}

impl Beds {
    /// Makes them, with sinks at the ends.
    pub(crate) fn make(tools: &mut Tools, wanted: &[By]) -> Result<Self> {
        let mut chains = BTreeMap::new();
        let mut redirects = Vec::new();
        for by in wanted.iter().copied() {
            let chain = Chain::new(by.name())?;
            match by {
                By::Nothing => tools.sink_in_the_middle(&chain)?,
                By::Bare | By::Encapsulating | By::Least | By::Ours | By::Other => {}
                By::Kernel => chain.forward_by_kernel()?,
                By::KernelNat => {
                    chain.forward_by_kernel()?;
                    kernel::translate(&chain)?;
                }
                By::KernelTunnel => kernel::tunnel(&chain)?,
            }
            if let Some(program) = by.redirect() {
                redirects.push(Redirect::put(&chain, program)?);
            }
            tools.sink_at_the_ends(&chain)?;
            chains.insert(by, chain);
        }
        Ok(Self {
            chains,
            _redirects: redirects,
        })
    }

    /// The chain of that.
    pub(crate) fn chain(&self, by: By) -> &Chain {
        &self.chains[&by]
    }
}

/// Flows that have sessions, and their external ports.
pub(crate) struct Flows {
    pub all: Vec<Flow>,
    pub ports: Vec<u16>,
    /// Those at the other gateway, if there is one.
    pub other_ports: Vec<u16>,
}

impl Flows {
    /// The frames of a load, in its order.
    pub(crate) fn templates(&self, by: By, load: Load) -> Result<Vec<Template>> {
        let ports = if by == By::Other {
            &self.other_ports
        } else {
            &self.ports
        };
        let numbers = load.order.of(load.flows).into_iter().map(usize::try_from);
        numbers
            .map(|number| {
                let number = number?;
                let flow = *self.all.get(number).context("a flow")?;
                Ok(match load.way {
                    Way::Up => flow.up(load.size),
                    Way::Down => flow.down(*ports.get(number).context("a port")?, load.size),
                })
            })
            .collect()
    }
}

/// What readings are made with.
pub(crate) struct Bench<'a> {
    pub tools: Tools,
    pub beds: &'a Beds,
    pub flows: &'a Flows,
    /// Frames in a timed run by XDP.
    pub frames: u32,
    /// Timed runs of each case.
    pub rounds: usize,
}

impl<'a> Bench<'a> {
    /// As large as was asked for.
    pub(crate) const fn new(tools: Tools, beds: &'a Beds, flows: &'a Flows, arguments: &Arguments) -> Self {
        Self {
            tools,
            beds,
            flows,
            frames: arguments.frames,
            rounds: arguments.rounds,
        }
    }

    /// What is sent for a load; the source has its frames then.
    pub(crate) fn prepare(&mut self, by: By, load: Load) -> Result<Sent> {
        ensure!(!interrupted(), "interrupted");
        let templates = self.flows.templates(by, load)?;
        self.tools.make(&templates)?;
        Ok(Sent {
            way: load.way,
            len: load.len(),
            frames: if by.is_kernel() {
                self.frames / FEWER
            } else {
                self.frames
            },
            templates: u32::try_from(templates.len())?,
            processor: 0,
        })
    }

    /// Nanoseconds a frame of one reading.
    fn read(&mut self, by: By, load: Load) -> Result<f64> {
        let sent = self.prepare(by, load)?;
        self.tools
            .slope(self.beds.chain(by), &sent)
            .with_context(|| format!("{}, {load:?}", by.name()))
    }

    /// Cases in turn, some rounds of them.
    pub(crate) fn turns(&mut self, cases: &[(By, Load)]) -> Result<Vec<Readings>> {
        let mut readings = vec![Readings::default(); cases.len()];
        for round in 0..self.rounds {
            for turn in 0..cases.len() {
                // Another one is the first each time.
                let case = (turn + round) % cases.len();
                let (by, load) = cases[case];
                readings[case].add(self.read(by, load)?);
            }
        }
        Ok(readings)
    }
}
