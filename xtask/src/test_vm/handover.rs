//! Owns flows that change from XDP to the stack and back while they last: by hash that nothing is torn, by number what it costs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use mape_tests::{
    lab::Lab,
    process::pause,
    recipe,
    servers::Servers,
    traffic::{
        iperf::Direction,
        numbered::{self, Load, Numbered},
        snmp, web,
    },
};

use super::{
    bench::{Bench, CONFIG, LOAD},
    report::Found,
};
use crate::vm::live::Live;

/// Datagrams a second each way: one in so many milliseconds tells how long a gap was.
const RATE: u32 = 250;
/// Of each file; a file is under way all the time.
const MEBIBYTES: u64 = 2;
/// More than are ever sent.
const MOST: usize = 200_000;
/// From the begin of traffic to the change, and from the change to its end.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(4);

/// The word for a change that has cost more than it should.
const LOST: &str = "packets lost";

/// What a change has cost.
struct Cost {
    files: usize,
    sent_again: u64,
    /// Up, down.
    datagrams: [Numbered; 2],
}

impl Cost {
    fn lost(&self) -> usize {
        self.datagrams.iter().map(|seen| seen.lost).sum()
    }

    fn text(&self) -> String {
        let [up, down] = &self.datagrams;
        format!(
            "{} files intact, {} segments sent again; of {} datagrams a way {} up and {} down lost, {} and {} late",
            self.files, self.sent_again, up.sent, up.lost, down.lost, up.reordered, down.reordered
        )
    }
}

/// Nothing is torn, that is checked before; whether it was smooth is judged by what all changes together have lost.
fn judged(costs: &[(&str, Cost)], word: &'static str) -> Found {
    let said: Vec<String> = costs
        .iter()
        .map(|(what, cost)| format!("{what}{}", cost.text()))
        .collect();
    // Half a second of both ways for each change: no gap that anybody would notice, even on a busy machine.
    let most = costs.len() * RATE as usize;
    if costs.iter().map(|(_, cost)| cost.lost()).sum::<usize>() > most {
        return Found::degraded(word, said.join("; "));
    }
    Found::works(said.join("; "))
}

/// A stateful firewall is put under running flows, of which its kernel has seen nothing; it is there for all that follows.
pub(super) fn behind_a_firewall(bench: &mut Bench) -> Result<Found> {
    let rules = recipe::stateful_rules();
    let cost = during(bench, |machine| {
        machine.must(&format!("nft -f - <<'EOF'\n{rules}EOF\n")).map(drop)
    })?;
    Ok(judged(&[("", cost)], LOST))
}

/// Packets that the firewall has let pass because they belong to a session of the gateway's.
fn known_by_mark(machine: &mut Live) -> Result<u64> {
    let chain = machine.must("nft list chain inet filter forward")?;
    let counted = chain
        .split("counter packets ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    counted
        .and_then(|packets| packets.parse().ok())
        .with_context(|| format!("no counter in {chain}"))
}

/// Both NICs leave the fast path, and come back.
pub(super) fn both(bench: &mut Bench) -> Result<Found> {
    let (before, known) = (bench.counts()?, known_by_mark(&mut bench.machine)?);
    let off = during(bench, |machine| mape_ctl(machine, "detach"))?;
    let counts = bench.counts()?.since(before);
    let known = known_by_mark(&mut bench.machine)? - known;
    ensure!(
        counts.slow.iter().all(|packets| *packets > 1_000) && known > 1_000,
        "without XDP the stack should carry everything, past the firewall: {counts:?}, {known} by mark"
    );
    let on = during(bench, load)?;
    Ok(judged(&[("off: ", off), ("on again: ", on)], LOST))
}

/// One NIC after the other does, the other one stays.
pub(super) fn one(bench: &mut Bench) -> Result<Found> {
    let mut costs = Vec::new();
    for (nic, what) in [("lan0", "lan0: "), ("wan0", "wan0: ")] {
        let cost = during(bench, |machine| {
            mape_ctl(machine, &format!("detach {nic}"))?;
            pause(AFTER)?;
            load(machine)
        });
        costs.push((what, cost.with_context(|| format!("without XDP on {nic}"))?));
    }
    Ok(judged(&costs, LOST))
}

/// A NIC loses its program without a word, as where its driver starts anew: `mape-ctl run` sees that, and takes the NIC up again.
pub(super) fn torn_off(bench: &mut Bench) -> Result<Found> {
    bench.run()?;
    let cost = during(bench, |machine| {
        machine.must("rm /sys/fs/bpf/mape/*/default/links/lan0")?;
        let begin = Instant::now();
        while !machine.must("ip link show dev lan0")?.contains("xdp") {
            ensure!(begin.elapsed() < LOAD, "nobody has put a program on lan0 again");
            pause(Duration::from_millis(500))?;
        }
        Ok(())
    });
    // The file has a word behind the number.
    bench.machine.must("kill $(cut -d' ' -f1 /run/mape/default.run.pid)")?;
    // Until it is back, the other NIC's program goes on sending to it.
    Ok(judged(&[("", cost?)], LOST))
}

/// The gateway is loaded again over itself, as for an upgrade.
pub(super) fn reload(bench: &mut Bench) -> Result<Found> {
    Ok(judged(&[("", during(bench, load)?)], LOST))
}

/// The router and the LAN host are forgotten, and looked up again.
pub(super) fn neighbours(bench: &mut Bench) -> Result<Found> {
    let cost = during(bench, |machine| {
        machine
            .must("ip neigh flush dev lan0; ip neigh flush dev wan0")
            .map(drop)
    })?;
    Ok(judged(&[("", cost)], LOST))
}

fn load(machine: &mut Live) -> Result<()> {
    mape_ctl(machine, &format!("load --config {CONFIG}"))
}

fn mape_ctl(machine: &mut Live, words: &str) -> Result<()> {
    let answer = machine.script(&format!("mape-ctl {words}"), LOAD)?;
    ensure!(
        answer.exit_code == 0,
        "mape-ctl {words}: {}{}",
        answer.stdout,
        answer.stderr
    );
    Ok(())
}

/// Keeps files and datagrams going both ways while something changes.
fn during(bench: &mut Bench, change: impl FnOnce(&mut Live) -> Result<()>) -> Result<Cost> {
    let Bench {
        lab, servers, machine, ..
    } = bench;
    let (lab, servers) = (&*lab, &*servers);
    let stop = AtomicBool::new(false);
    let before = sent_again(lab)?;
    let (up, down) = (
        numbered::pair(lab, "host1", 7_101)?,
        numbered::pair(lab, "host1", 7_102)?,
    );
    let load = Load {
        count: MOST,
        size: 200,
        rate: RATE,
    };
    thread::scope(|scope| {
        let up = scope.spawn(|| numbered::until(&up.0, &up.1, load, &stop));
        let down = scope.spawn(|| numbered::until(&down.1, &down.0, load, &stop));
        let files = scope.spawn(|| files(lab, servers, &stop));
        let changed = pause(BEFORE).and_then(|()| change(machine)).and_then(|()| pause(AFTER));
        stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a sending thread panicked");
        let datagrams = [up.join().map_err(panicked)??, down.join().map_err(panicked)??];
        let files = files.join().map_err(panicked)?;
        changed?;
        for seen in &datagrams {
            ensure!((seen.damaged, seen.duplicates) == (0, 0), "datagrams: {seen:?}");
        }
        Ok(Cost {
            files: files?,
            sent_again: sent_again(lab)? - before,
            datagrams,
        })
    })
}

/// Transfers one file after the other, each way in turn, and counts them.
fn files(lab: &Lab, servers: &Servers, stop: &AtomicBool) -> Result<usize> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        for direction in [Direction::Down, Direction::Up] {
            let file = web::transfer(lab, servers, "host1", direction, MEBIBYTES)?;
            ensure!(file.is_intact(), "file {count}, {direction:?}: another SHA-256");
            count += 1;
        }
    }
    Ok(count)
}

/// Segments that the two ends' kernels have sent again so far.
fn sent_again(lab: &Lab) -> Result<u64> {
    Ok(snmp::sent_again(lab, "host1")? + snmp::sent_again(lab, "internet")?)
}
