//! Owns the order of a run: makes the chains, has the cases take turns, and makes the report of their readings.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use mape_tests::process::interrupted;
use serde_json::{Value, json};

use crate::{
    Arguments,
    bed::{Chain, Way},
    frames::{CHECK_SEQUENCE, Flow, OUTER, Order, Template},
    gateway::{self, Gateway},
    kernel, processor,
    stats::{Readings, Summary},
    tools::{Bare, Sent, Tools},
};

/// Sizes of frames on a wire, and how many of each are in an IMIX.
const SIZES: [(usize, f64); 5] = [(64, 7.0), (128, 0.0), (512, 0.0), (594, 4.0), (1_400, 1.0)];
/// Sessions in use.
const SESSIONS: [u32; 4] = [100, 1_000, 10_000, 60_000];
/// What targets hold for.
const USUAL: (usize, u32) = (64, 1_000);
/// What the frames' flows need.
const MOST: u32 = 60_000;
/// A path that a stack carries is slower by about as much.
const FEWER: u32 = 5;

/// What carries a frame through the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// Nothing: a sink there.
    Nothing,
    /// A bare redirect.
    Bare,
    /// Our gateway's fast path.
    Ours,
    /// The kernel's forwarding.
    Kernel,
    /// The same with source NAT.
    KernelNat,
}

impl By {
    const ALL: [Self; 5] = [Self::Nothing, Self::Bare, Self::Ours, Self::Kernel, Self::KernelNat];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "generator",
            Self::Bare => "redirect",
            Self::Ours => "gateway",
            Self::Kernel => "kernel_forward",
            Self::KernelNat => "kernel_snat",
        }
    }

    const fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::KernelNat)
    }
}

/// What is sent in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    way: Way,
    size: usize,
    flows: u32,
    order: Order,
}

impl Load {
    const fn usual(way: Way) -> Self {
        Self {
            way,
            size: USUAL.0,
            flows: USUAL.1,
            order: Order::Sequential,
        }
    }

    /// Bytes of each frame as the source sends it, without its check sequence.
    const fn len(self) -> usize {
        match self.way {
            Way::Up => self.size - CHECK_SEQUENCE,
            Way::Down => self.size - CHECK_SEQUENCE + OUTER,
        }
    }
}

/// The chains with what they are made of.
struct Beds {
    tools: Tools,
    chains: BTreeMap<By, Chain>,
    _bare: Bare,
}

impl Beds {
    fn make() -> Result<Self> {
        let mut tools = Tools::load()?;
        let mut chains = BTreeMap::new();
        for by in By::ALL {
            let chain = Chain::new(by.name())?;
            match by {
                By::Nothing => tools.sink_in_the_middle(&chain)?,
                By::Bare | By::Ours => {}
                By::Kernel => chain.forward_by_kernel()?,
                By::KernelNat => {
                    chain.forward_by_kernel()?;
                    kernel::translate(&chain)?;
                }
            }
            tools.sink_at_the_ends(&chain)?;
            chains.insert(by, chain);
        }
        let bare = Bare::put(&chains[&By::Bare])?;
        Ok(Self {
            tools,
            chains,
            _bare: bare,
        })
    }
}

/// Flows that have sessions, and their external ports.
struct Flows {
    all: Vec<Flow>,
    ports: Vec<u16>,
}

impl Flows {
    fn templates(&self, load: Load) -> Result<Vec<Template>> {
        let numbers = load.order.of(load.flows).into_iter().map(usize::try_from);
        numbers
            .map(|number| {
                let number = number?;
                let flow = *self.all.get(number).context("a flow")?;
                Ok(match load.way {
                    Way::Up => flow.up(load.size),
                    Way::Down => flow.down(*self.ports.get(number).context("a port")?, load.size),
                })
            })
            .collect()
    }
}

/// Measures everything.
pub fn run(arguments: &Arguments) -> Result<Value> {
    let Beds {
        mut tools,
        chains,
        _bare,
    } = Beds::make()?;
    let gateway = Gateway::load(&chains[&By::Ours], "fast")?;
    let all: Vec<Flow> = (0..MOST).map(Flow::number).collect();
    let opened = gateway.open(&mut tools, &all)?;
    eprintln!("{MOST} sessions opened in {opened:?}");
    let ports = gateway.external_ports(&all)?;
    let flows = Flows { all, ports };

    let mut bench = Bench {
        arguments,
        tools,
        chains: &chains,
        flows: &flows,
    };
    let mut report = serde_json::Map::new();
    bench.usual(&mut report)?;
    let (stat, took) = gateway.stat()?;
    ensure!(
        stat.pointer("/sessions/udp/sessions").and_then(Value::as_u64) == Some(u64::from(MOST)),
        "`mape-ctl stat` does not tell of {MOST} sessions: {}",
        stat["sessions"]
    );
    report.insert("stat_ms".to_owned(), json!(took.as_secs_f64() * 1e3));
    report.insert("load_ms".to_owned(), json!(gateway.load.as_secs_f64() * 1e3));
    Ok(Value::Object(report))
}

struct Bench<'a> {
    arguments: &'a Arguments,
    tools: Tools,
    chains: &'a BTreeMap<By, Chain>,
    flows: &'a Flows,
}

impl Bench<'_> {
    /// Nanoseconds a frame of one reading.
    fn read(&mut self, by: By, load: Load) -> Result<f64> {
        ensure!(!interrupted(), "interrupted");
        let templates = self.flows.templates(load)?;
        self.tools.make(&templates)?;
        let chain = &self.chains[&by];
        let frames = if by.is_kernel() {
            self.arguments.frames / FEWER
        } else {
            self.arguments.frames
        };
        let sent = Sent {
            way: load.way,
            len: load.len(),
            frames,
            templates: u32::try_from(templates.len())?,
            processor: 0,
        };
        self.tools
            .slope(chain, &sent)
            .with_context(|| format!("{}, {load:?}", by.name()))
    }

    /// Cases in turn, some rounds of them.
    fn turns(&mut self, cases: &[(By, Load)]) -> Result<Vec<Readings>> {
        let mut readings = vec![Readings::default(); cases.len()];
        for round in 0..self.arguments.rounds {
            for turn in 0..cases.len() {
                // Another one is the first each time.
                let case = (turn + round) % cases.len();
                let (by, load) = cases[case];
                readings[case].add(self.read(by, load)?);
            }
        }
        Ok(readings)
    }

    /// What the targets hold for.
    fn usual(&mut self, report: &mut serde_json::Map<String, Value>) -> Result<()> {
        let [up, down] = [Way::Up, Way::Down].map(Load::usual);
        let readings = self.turns(&[
            (By::Nothing, up),
            (By::Nothing, down),
            (By::Bare, up),
            (By::Bare, down),
            (By::Ours, up),
            (By::Ours, down),
            (By::Kernel, up),
            (By::KernelNat, up),
        ])?;
        let [made_up, made_down, bare_up, bare_down, ours_up, ours_down, forward, nat] = &readings[..] else {
            anyhow::bail!("eight cases");
        };
        for (key, readings) in [
            ("generator_ns", made_up.clone()),
            ("generator_down_ns", made_down.clone()),
            ("redirect_ns", bare_up.clone()),
            ("redirect_down_ns", bare_down.clone()),
            ("up_ns", ours_up.clone()),
            ("down_ns", ours_down.clone()),
            ("up_added_ns", ours_up.minus(bare_up)),
            ("down_added_ns", ours_down.minus(bare_down)),
            ("kernel_forward_ns", forward.clone()),
            ("kernel_snat_ns", nat.clone()),
        ] {
            let summary = readings.summary();
            eprintln!(
                "{key:<20} {:>8.1} ({:.1} to {:.1})",
                summary.median, summary.least, summary.most
            );
            report.insert(key.to_owned(), json!(summary.median));
            report.insert(format!("{key}_spread"), json!([summary.least, summary.most]));
        }
        let of = |readings: &Readings| readings.summary().median;
        let ratio = (of(nat) - of(made_up)) / (of(ours_up) - of(made_up));
        report.insert("ratio_up_to_kernel_snat".to_owned(), json!(ratio));
        Ok(())
    }
}
