//! What the gateway adds to a packet's time, held against a bare redirect between the same devices in the same run.
//!
//! Everything happens on one processor: the source makes frames by `BPF_PROG_TEST_RUN` with live frames and sends them into
//! one end of a veth, the program under test receives them at the other end as from a wire and redirects them into a second
//! veth, whose far end drops and counts. Source and sink are the same for both, so the difference is the program's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::{
    TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, PerCpuArray},
    programs::Xdp,
};
use mape_common::layout::programs;
use mape_tests::{
    netns::Netns,
    process::stay_on,
    table::{
        frame::{Frame, Outer, Seen, udp},
        kernel::{KernelWorld, furnish},
        world::{CE, HOST, HOST_MAC, LAN_MAC, Outcome, Program, RELAY, ROUTER_MAC, SHARED, WAN_MAC, World},
    },
};

/// Sessions that the frames belong to, in turn.
const SESSIONS: u16 = 1_000;
/// Frames in one timed run.
const FRAMES: u32 = 1_000_000;
/// Timed runs of each, alternating.
const RUNS: usize = 5;
/// Frames that the kernel hands to the source at a time.
const BATCH: u32 = 64;
const TEMPLATE: usize = 96;

struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

/// A frame's bytes as a template; what is longer than the frame is its padding.
fn template(frame: &[u8]) -> [u8; TEMPLATE] {
    std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0))
}

/// Opens the sessions; gives the frames of both directions.
fn open(world: &mut KernelWorld) -> (Vec<[u8; TEMPLATE]>, Vec<[u8; TEMPLATE]>) {
    let mut up = Vec::new();
    let mut down = Vec::new();
    for n in 0..SESSIONS {
        let [high, low] = n.to_be_bytes();
        let remote = [198, 51, 100, high * 64 + low % 64].into();
        let from = 10_000 + n;
        let frame = Frame {
            to_mac: LAN_MAC.0,
            from_mac: HOST_MAC.0,
            ..Frame::new(HOST, remote, udp(from, 53))
        };
        let (outcome, label) = world.give(Program::Lan, &frame.bytes());
        let Outcome::Forwarded(out) = outcome else {
            panic!("session {n}: {label}")
        };
        let external = Seen::of(&out).ports.0;
        up.push(template(&frame.bytes()));
        let back = Frame {
            to_mac: WAN_MAC.0,
            from_mac: ROUTER_MAC.0,
            outer: Some(Outer {
                from: RELAY,
                to: CE,
                class: 0,
                extension: None,
            }),
            ..Frame::new(remote, SHARED, udp(53, external))
        };
        down.push(template(&back.bytes()));
    }
    (up, down)
}

/// Nanoseconds per frame from `source`'s peer through the program on `through` into `sink`.
fn time(world: &mut KernelWorld, templates: &[[u8; TEMPLATE]], path: &Path) -> Result<f64> {
    world.attach(path.through, path.program)?;
    let ebpf = world.ebpf();
    let mut array: Array<_, [u8; TEMPLATE]> = Array::try_from(ebpf.map_mut("TEMPLATES").context("TEMPLATES")?)?;
    for (index, template) in (0..).zip(templates) {
        array.set(index, template, 0)?;
    }
    let generate = [KernelWorld::index(path.source)?, u32::try_from(templates.len())?];
    let mut map: Array<_, [u32; 2]> = Array::try_from(ebpf.map_mut("GENERATE").context("GENERATE")?)?;
    map.set(0, generate, 0)?;
    let mut target: Array<_, u32> = Array::try_from(ebpf.map_mut("REDIRECT_TO").context("REDIRECT_TO")?)?;
    target.set(0, KernelWorld::index(path.out)?, 0)?;
    let before = sunk(world)?;
    let source: &mut Xdp = world
        .ebpf()
        .program_mut(programs::SOURCE)
        .context("source")?
        .try_into()?;
    let start = Instant::now();
    source.test_run(TestRunOptions {
        data_in: Some(&[0; 128][..path.len]),
        repeat: FRAMES,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    })?;
    let elapsed = start.elapsed();
    // The last frames are on their way when the call returns.
    std::thread::sleep(Duration::from_millis(20));
    let seen = sunk(world)? - before;
    ensure!(
        seen > u64::from(FRAMES) / 100 * 95,
        "{seen} of {FRAMES} frames reached the sink"
    );
    Ok(elapsed.as_secs_f64() * 1e9 / f64::from(u32::try_from(seen)?))
}

fn sunk(world: &mut KernelWorld) -> Result<u64> {
    let map: PerCpuArray<_, u64> = PerCpuArray::try_from(world.ebpf().map_mut("SUNK").context("SUNK")?)?;
    Ok(map.get(&0, 0)?.iter().sum())
}

/// Where frames go in, through and out.
struct Path {
    source: &'static str,
    through: &'static str,
    out: &'static str,
    program: &'static str,
    len: usize,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(world: &mut KernelWorld) -> Result<()> {
    let (up, down) = open(world);
    let source: &mut Xdp = world
        .ebpf()
        .program_mut(programs::SOURCE)
        .context("source")?
        .try_into()?;
    source.load()?;
    for device in ["lan0p", "wan0p"] {
        world.attach(device, programs::SINK)?;
    }
    println!("one processor, {SESSIONS} sessions, {FRAMES} frames a run, {RUNS} runs of each in turn");
    for (name, templates, source, through, out, program, len) in [
        ("LAN to WAN", &up, "lan0p", "lan0", "wan0", programs::LAN, 64),
        ("WAN to LAN", &down, "wan0p", "wan0", "lan0", programs::WAN, 104),
    ] {
        let path = |program| Path {
            source,
            through,
            out,
            program,
            len,
        };
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            bare.push(time(world, templates, &path(programs::BARE))?);
            ours.push(time(world, templates, &path(program))?);
        }
        let added: Vec<f64> = ours.iter().zip(&bare).map(|(o, b)| o - b).collect();
        let (bare, ours, added) = (median(bare), median(ours), median(added));
        println!("{name}: bare redirect {bare:.0} ns, gateway {ours:.0} ns, added {added:.0} ns a packet");
        // Not a target, a guard against a fast path that is not taken: opening a session each time costs thousands.
        assert!(added < 2_000.0, "{name}: the gateway adds {added:.0} ns");
    }
    Ok(())
}

#[test]
fn the_gateway_adds_little_to_a_bare_redirect() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-speed-{}", std::process::id())).unwrap());
    furnish(&room.0).unwrap();
    room.0
        .enter(|| {
            stay_on(0)?;
            measure(&mut KernelWorld::new(mape_ctl::object::object(), 4096)?)
        })
        .unwrap();
}
