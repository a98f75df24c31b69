//! Owns the test that the wire cannot tell the two paths apart: one script of packets is played through a customer edge by XDP, and
//! once more, by the same sessions, without XDP; what leaves it is compared packet by packet.

use anyhow::{Context, Result};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    plan::Shape,
    process::watch_signals,
    traffic::script::{Play, Way},
};

/// Where the script's chance begins, if nobody wants another place.
const SEED: u64 = 0x6d61_7065;

fn seed() -> u64 {
    std::env::var("MAPE_SEED").map_or(SEED, |text| text.parse().expect("a number"))
}

#[test]
fn the_wire_cannot_tell_which_path_a_packet_took() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let mut lab = Lab::up(&LabOptions {
        // Its hosts' NICs take what XDP sends them.
        shape: Shape::FarServer,
        ..LabOptions::default()
    })
    .unwrap();
    lab.load(&gateway::program().unwrap()).unwrap();
    lab.wait_until_reachable("host1").unwrap();
    let (gateway, ce) = (lab.gateway(Role::Ce).unwrap(), lab.node("ce").unwrap());
    let ctl = |words: &[&str]| -> Result<String> { Ok(gateway.ctl(ce, words)?.success()?.stdout) };
    let play = Play::prepare(&lab, seed(), |port, to| {
        ctl(&["sessions", "--flush", "--yes"])?;
        ctl(&["forward", "add", "both", &port.to_string(), &to.to_string()]).map(drop)
    })
    .unwrap();

    let before = gateway.by_path(ce).unwrap();
    let fast = play.run(&lab).unwrap();
    let between = gateway.by_path(ce).unwrap();
    ctl(&["detach"]).unwrap();
    let slow = play.run(&lab).unwrap();
    let after = gateway.by_path(ce).unwrap();

    let passed = |from: [[u64; 2]; 2], to: [[u64; 2]; 2]| {
        [0, 1].map(|path| (0..2).map(|way| to[path][way] - from[path][way]).sum::<u64>())
    };
    let [with, without] = [passed(before, between), passed(between, after)];
    println!(
        "{} packets, of which {} leave by the WAN and {} by the LAN; by XDP and by the stack {with:?}, then {without:?}",
        play.packets(),
        play.expected(Way::Up),
        play.expected(Way::Down),
    );
    play.compare(&fast, &slow)
        .with_context(|| ctl(&["stat"]).unwrap_or_default())
        .unwrap();
    // Only options have taken the slow path while there was a fast one.
    assert!(with[0] * 10 > u64::try_from(play.packets()).unwrap() * 8 && without[0] == 0);
}
