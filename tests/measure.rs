//! Owns the tests of `mape-ctl bench`: that it reads what passes by either path, and leaves the fast path open however it ends.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    process::{interrupted, wait_for, watch_signals},
    servers::Servers,
    traffic::iperf::{self, Direction},
};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

fn lab() -> Result<Option<Lab>> {
    if !is_root() {
        return Ok(None);
    }
    watch_signals()?;
    let mut lab = Lab::up(&LabOptions::default())?;
    lab.load(&gateway::program()?)?;
    lab.wait_until_reachable("host1")?;
    Ok(Some(lab))
}

fn by_path(lab: &Lab) -> Result<[[u64; 2]; 2]> {
    lab.gateway(Role::Ce)?.by_path(lab.node("ce")?)
}

#[test]
fn each_path_is_read_and_the_fast_one_is_open_again() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let _servers = Servers::start(&lab).unwrap();
    let (gateway, ce) = (lab.gateway(Role::Ce).unwrap(), lab.node("ce").unwrap());
    let before = by_path(&lab).unwrap();
    let (load, said) = thread::scope(|scope| {
        let load = scope.spawn(|| iperf::udp(&lab, "host1", Direction::Up, 20, 1_000, 14));
        let said = gateway.ctl(ce, &["bench", "--seconds", "3", "--compare", "--json"]);
        (load.join().expect("no panic"), said)
    });
    load.unwrap();
    let said = said.unwrap().success().unwrap();
    assert!(said.stderr.contains("iperf3 -c SERVER"), "{}", said.stderr);
    let readings: Value = serde_json::from_str(&said.stdout).unwrap();
    let bits = |path: usize| readings[path]["outbound"]["bits_per_second"].as_f64();
    for (path, name) in ["fast path", "slow path"].into_iter().enumerate() {
        assert_eq!(readings[path]["path"], name);
        let bits = bits(path).unwrap();
        // What iperf3 sends, and the headers.
        assert!((15e6..30e6).contains(&bits), "{name}: {bits}");
    }
    let after = by_path(&lab).unwrap();
    let slow = after[1][0] - before[1][0];
    // Of 2,500 a second, for more than three seconds.
    assert!(slow > 5_000, "{slow} packets took the slow path");
    lab.wait_until_reachable("host1").unwrap();
    assert!(by_path(&lab).unwrap()[0][0] > after[0][0], "the fast path is shut");
}

#[test]
fn a_signal_in_the_middle_opens_the_fast_path_again() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let (gateway, ce) = (lab.gateway(Role::Ce).unwrap(), lab.node("ce").unwrap());
    let words = ["bench", "--seconds", "1", "--compare", "--no-wait"];
    let bench = gateway.start(ce, &[], &words).unwrap();
    let is_open = || -> Result<bool> {
        let stat = gateway.stat(ce)?;
        let gate = stat["gate"].as_str().with_context(|| stat.to_string())?;
        Ok(gate == "open")
    };
    wait_for("the fast path to be shut", Duration::from_secs(20), || {
        Ok(!is_open()? || interrupted())
    })
    .unwrap();
    kill_process(bench.pid(), Signal::TERM).unwrap();
    wait_for("the fast path to be open", Duration::from_secs(5), is_open).unwrap();
}

#[test]
fn who_measures_nothing_is_told() {
    let _alone = alone();
    let Some(lab) = lab().unwrap() else { return };
    let (gateway, ce) = (lab.gateway(Role::Ce).unwrap(), lab.node("ce").unwrap());
    gateway.ctl(ce, &["unload"]).unwrap().success().unwrap();
    let said = gateway.ctl(ce, &["bench", "--no-wait"]).unwrap();
    assert!(
        !said.status.success() && said.stderr.contains("nothing is loaded"),
        "{}",
        said.stderr
    );
}
