//! Owns what virtio NICs get wrong: the gateway must notice, say what mends it, and leave nothing.

use anyhow::{Context, Result, ensure};

use super::{
    bench::{Bench, CONFIG},
    check,
    report::Found,
    traffic,
};

/// Without mergeable buffers the driver takes a program and never runs it.
pub(super) fn without_mergeable_buffers(bench: &mut Bench) -> Result<Found> {
    check::ensure_finds(bench, "virtio-mergeable")?;
    Ok(Found::degraded("refused", refused(bench, &["mrg_rxbuf"])?))
}

/// A host that does not let its guest switch offloads off: the driver refuses programs.
pub(super) fn without_control_of_offloads(bench: &mut Bench) -> Result<Found> {
    check::ensure_finds(bench, "virtio-offloads")?;
    let said = refused(bench, &["ctrl_guest_offloads", "--generic"])?;
    // The layer cannot see that a frame's sum is unfinished.
    let answer = bench.ctl(&format!("load --config {CONFIG} --generic"))?;
    ensure!(
        answer.exit_code == 0 && answer.stderr.contains("guest_csum=off"),
        "in the generic layer: {}{}",
        answer.stdout,
        answer.stderr
    );
    bench.must_ctl("unload")?;
    bench.ensure_as_before()?;
    Ok(Found::degraded("refused", said))
}

/// With nothing to switch off it works, in the driver and in the generic layer.
pub(super) fn without_offloads(bench: &mut Bench) -> Result<Found> {
    bench.note_before()?;
    let mut said = Vec::new();
    for (flag, mode) in [("", "native"), ("--generic", "generic")] {
        let loaded = bench.must_ctl(&format!("load --config {CONFIG} {flag}"))?;
        ensure!(loaded.contains(&format!("wan0: {mode} XDP, runs")), "{mode}: {loaded}");
        bench.wait_until_reachable()?;
        let before = bench.counts()?;
        let seen = traffic::both_ways(bench).with_context(|| mode.to_owned())?;
        let counts = bench.counts()?.since(before);
        ensure!(
            counts.fast.iter().all(|packets| *packets > 4_000),
            "{mode}: not by the fast path: {counts:?}"
        );
        bench.must_ctl("unload")?;
        bench.ensure_as_before()?;
        said.push(format!("{mode}: {seen}"));
    }
    Ok(Found::works(said.join("; ")))
}

/// Frames that are larger than a page of buffer takes.
pub(super) fn large_mtu(bench: &mut Bench) -> Result<Found> {
    bench.machine.must("ip link set lan0 mtu 9000")?;
    let said = refused(bench, &["lan0", "MTU"]);
    bench.machine.must("ip link set lan0 mtu 1500")?;
    Ok(Found::degraded("refused", said?))
}

/// Loads, and expects that it fails with these words and changes nothing.
fn refused(bench: &mut Bench, words: &[&str]) -> Result<String> {
    bench.note_before()?;
    let answer = bench.ctl(&format!("load --config {CONFIG}"))?;
    let said = format!("{}{}", answer.stdout, answer.stderr).trim().to_owned();
    ensure!(
        answer.exit_code == 1,
        "exit code {}, where load should fail: {said}",
        answer.exit_code
    );
    for word in words {
        ensure!(said.contains(word), "the message does not say {word:?}: {said}");
    }
    bench.ensure_as_before()?;
    Ok(said)
}
