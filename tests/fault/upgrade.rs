//! Programs are exchanged for those of another build while packets flow; and what exchanging one on its link costs by itself.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use aya::programs::{
    Xdp,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use aya_obj::programs::XdpAttachType;
use mape_tests::{lab::alone, process::wait_for, traces::Objects};

use crate::{
    Site,
    flow::{Flow, Seen},
};

const RATE: u32 = 2_000;
const TIMES: usize = 4;

/// The port of the shared address that the flow has, and how many sessions there are.
fn session(site: &Site, flow: &Flow) -> Result<(u16, u64)> {
    let list = site.ctl(&["sessions", "--json"])?.success()?.stdout;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let sessions = list["sessions"].as_array().context("no sessions")?;
    let port = flow.seen_from.port();
    let own = sessions.iter().filter(|session| session["external_port"] == port);
    Ok((port, u64::try_from(own.count())?))
}

/// Puts the program that is on a NIC's link there once more: the least that an exchange can cost.
fn replace(site: &Site, nic: &str, program: &str) -> Result<()> {
    let gateway = site.gateway()?;
    let mut program = Xdp::from_pin(gateway.pin(&format!("programs/{program}")), XdpAttachType::Interface)?;
    let link = FdLink::from(PinnedLink::from_pin(gateway.pin(&format!("links/{nic}")))?);
    program.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(())
}

fn during(site: &Site, port: u16, mut change: impl FnMut() -> Result<()>) -> Result<Seen> {
    let flow = Flow::start(&site.lab, port, RATE)?;
    let before = session(site, &flow)?;
    for _ in 0..TIMES {
        thread::sleep(Duration::from_millis(300));
        change()?;
    }
    thread::sleep(Duration::from_millis(300));
    let after = session(site, &flow)?;
    anyhow::ensure!(
        before == after && before.1 == 1,
        "the session: {before:?}, then {after:?}"
    );
    flow.finish()
}

/// The kernel takes a moment to give programs back: whoever runs one is waited for.
///
/// It is not asked often: who opens a map of programs by its number, as asking does, and closes it has the kernel clear the map once more,
/// and where the last clearing is still to be done that leaves the map there for good (`prog_array_map_clear` in 6.18).
fn wait_until(is_so: impl Fn() -> bool, what: &str) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(500);
    thread::sleep(PAUSE);
    wait_for(what, Duration::from_secs(10), || {
        let is_so = is_so();
        if !is_so {
            thread::sleep(PAUSE);
        }
        Ok(is_so)
    })
}

#[test]
fn programs_are_exchanged_under_traffic_and_no_session_is_lost() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let (lan, wan) = (mape_common::layout::programs::LAN, mape_common::layout::programs::WAN);
    let plain = during(&site, 7_150, || {
        for (nic, program) in [("lan0", lan), ("wan0", wan)] {
            replace(&site, nic, program)?;
        }
        Ok(())
    })
    .unwrap();
    println!("{TIMES} times a plain exchange on both links: {plain:?}");
    let first = Objects::of(site.gateway().unwrap()).unwrap();
    let seen = during(&site, 7_160, || site.load()?.success().map(drop)).unwrap();
    println!("{TIMES} times all programs: {seen:?}");
    assert!(seen.lost <= plain.lost, "{seen:?}, and a plain exchange {plain:?}");
    let now = Objects::of(site.gateway().unwrap()).unwrap();
    // The maps are the same, and of the old programs none is left.
    let maps = mape_common::layout::maps::ALL.len();
    assert_eq!(now.alive(), now.len());
    wait_until(|| first.alive() == maps, "none of the old programs").unwrap();
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
    wait_until(|| now.alive() == 0, "all programs and maps are gone").unwrap();
}
