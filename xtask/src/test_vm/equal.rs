//! Owns the comparison of the two paths on the wire: one script of packets by XDP, and once more by the machine's stack.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use mape_tests::traffic::script::{Play, Way};

use super::{
    bench::{Bench, CONFIG},
    report::Found,
};
use crate::vm::live::Live;

/// Where the script's chance begins.
const SEED: u64 = 0x6d61_7065;

/// What leaves the machine is the same, bit by bit, but for what the kernel's tunnel may choose.
pub(super) fn on_the_wire(bench: &mut Bench) -> Result<Found> {
    let mut chosen = None;
    let play = Play::prepare(&bench.lab, SEED, |port, to| {
        chosen = Some((port, to));
        make_ready(&mut bench.machine, port, to)
    })?;
    let compared = compare(bench, &play);
    // Whatever came of it: what follows needs hosts that answer, and a fast path.
    play.end(&bench.lab)?;
    if let Some((port, _)) = chosen {
        bench.must_ctl(&format!("forward del both {port}"))?;
    }
    bench.must_ctl(&format!("load --config {CONFIG}"))?;
    bench.wait_until_reachable()?;
    compared
}

fn make_ready(machine: &mut Live, port: u16, to: SocketAddrV4) -> Result<()> {
    machine.must("mape-ctl sessions --flush --yes")?;
    machine
        .must(&format!("mape-ctl forward add both {port} {to}"))
        .map(drop)
}

fn compare(bench: &mut Bench, play: &Play) -> Result<Found> {
    let before = bench.counts()?;
    let fast = play.run(&bench.lab)?;
    let between = bench.counts()?;
    bench.must_ctl("detach")?;
    let slow = play.run(&bench.lab)?;
    let (with, without) = (between.since(before), bench.counts()?.since(between));
    play.compare(&fast, &slow)?;
    let by_xdp: u64 = with.fast.iter().sum();
    ensure!(
        usize::try_from(by_xdp)? * 10 > play.packets() * 8 && without.fast == [0, 0],
        "by XDP {with:?}, without {without:?}"
    );
    Ok(Found::works(format!(
        "{} packets, of which {by_xdp} by XDP and then none; {} out by the WAN and {} by the LAN are the same",
        play.packets(),
        play.expected(Way::Up),
        play.expected(Way::Down),
    )))
}
