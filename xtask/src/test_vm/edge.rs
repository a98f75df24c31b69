//! Owns putting the gateway into a machine's kernel and taking it out again.

use anyhow::{Result, ensure};

use super::{
    bench::{Bench, CONFIG},
    report::Found,
};

/// What `load` may change and `unload` must leave as it was.
const SNAPSHOT: &str = "\
    for nic in $(ls /sys/class/net); do
        ip -o address show dev $nic | sed 's/ tentative//'
        ip -o link show dev $nic | cut -d'<' -f2- | cut -d' ' -f1-7
    done
    ip -4 route; ip -6 route; ip neigh show nud permanent; tc qdisc
    cat /proc/sys/net/ipv4/conf/*/forwarding; find /sys/fs/bpf -type f
    for side in ingress egress; do tc filter show dev lan0 $side; tc filter show dev wan0 $side; done; pidof mape-ctl; true";

/// Puts the gateway into the kernel: the verifier takes all programs, and they prove that they run on both NICs.
pub(super) fn load(bench: &mut Bench) -> Result<Found> {
    bench.note_before()?;
    let answer = bench.ctl(&format!("load --config {CONFIG}"))?;
    let said = format!("{}{}", answer.stdout, answer.stderr);
    ensure!(answer.exit_code == 0, "exit code {}: {said}", answer.exit_code);
    for nic in ["lan0", "wan0"] {
        ensure!(
            answer.stdout.contains(&format!("{nic}: native XDP, runs")),
            "the program on {nic} did not prove that it runs: {said}"
        );
    }
    let lost = bench.wait_until_reachable()?;
    bench.loaded = said;
    let stat = bench.must_ctl("stat")?;
    ensure!(
        stat.contains("customer edge, forwarding"),
        "`mape-ctl stat` does not say that it forwards: {stat}"
    );
    let found = format!("{lost} packets lost until neighbours were known");
    // Word of the driver: there is no queue for each processor's XDP.
    let locked = bench.machine.must("dmesg | grep 'slower locked tx mode' || true")?;
    if locked.is_empty() {
        return Ok(Found::works(found));
    }
    Ok(Found::degraded(
        "queues shared",
        format!("{found}; {}", locked.lines().next().unwrap_or_default()),
    ))
}

/// What carries the slow path's packets, and how its programs are attached.
pub(super) fn tunnel_device(bench: &mut Bench) -> Result<Found> {
    let device = bench.machine.must("ip -d link show mape0")?;
    let is_kernels = device.contains("ip6tnl");
    let filters = bench
        .machine
        .must("tc qdisc show dev mape0; tc filter show dev mape0 egress")?;
    let attached = if filters.contains("clsact") { "clsact" } else { "TCX" };
    if is_kernels {
        return Ok(Found::works(format!("the kernel's ip6tnl, {attached}")));
    }
    ensure!(
        bench.loaded.contains("started `mape-ctl tunnel`"),
        "nobody carries the device's packets: {}",
        bench.loaded
    );
    Ok(Found::degraded(
        "in user space",
        format!("a TUN device and `mape-ctl tunnel`, {attached}"),
    ))
}

/// Takes the gateway out; what is there then is what was there before.
pub(super) fn unload(bench: &mut Bench) -> Result<Found> {
    bench.must_ctl("unload")?;
    let empty = bench.ensure_as_before()?;
    let said = "addresses, routes, neighbours, tc, pins and processes are as before";
    if empty.is_empty() {
        return Ok(Found::works(said));
    }
    Ok(Found::degraded(
        "empty clsact stays",
        format!("{said}, but for {}", empty.join(", ")),
    ))
}

/// An old kernel is refused by number, and nothing is changed.
pub(super) fn refusal(bench: &mut Bench) -> Result<Found> {
    bench.note_before()?;
    let answer = bench.ctl(&format!("load --config {CONFIG}"))?;
    ensure!(
        answer.exit_code == 1 && answer.stderr.contains(" is too old: "),
        "mape-ctl should refuse this kernel, but exit code {}: {}{}",
        answer.exit_code,
        answer.stdout,
        answer.stderr
    );
    bench.ensure_as_before()?;
    Ok(Found::degraded("refused", answer.stderr.trim().to_owned()))
}

impl Bench {
    /// Fails with what differs from before `load`; gives back queueing disciplines that are left without a filter.
    pub(super) fn ensure_as_before(&mut self) -> Result<Vec<String>> {
        let now = self.machine.must(SNAPSHOT)?;
        let only_in = |one: &str, other: &str| -> Vec<String> {
            let lines = one.lines().filter(|line| !other.lines().any(|theirs| theirs == *line));
            lines.map(str::to_owned).collect()
        };
        let (more, less) = (only_in(&now, &self.before), only_in(&self.before, &now));
        let (empty, more): (Vec<_>, Vec<_>) = more.into_iter().partition(|line| line.starts_with("qdisc clsact "));
        ensure!(more.is_empty() && less.is_empty(), "left: {more:?}, missing: {less:?}");
        Ok(empty)
    }

    /// Notes what is there before something that must leave it so.
    pub(super) fn note_before(&mut self) -> Result<()> {
        self.before = self.machine.must(SNAPSHOT)?;
        Ok(())
    }
}
