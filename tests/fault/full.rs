//! The session table is full: who comes new is refused and counted, who is there goes on.

use std::{collections::BTreeSet, net::UdpSocket, time::Duration};

use mape_tests::{lab::alone, traffic::numbered};

use crate::{PATIENCE, Site, flow::Flow};

const SESSIONS: u64 = 256;
const MORE: usize = 400;

/// Sends one datagram to each of many remote addresses, spread over two ports; how many different ones arrive.
fn reach(site: &Site, near: &UdpSocket, far: &[UdpSocket], count: usize) -> anyhow::Result<usize> {
    let mut heard = BTreeSet::new();
    let mut buffer = [0; 64];
    for number in 0..count {
        let host = 1 + number / far.len();
        let far = &far[number % far.len()];
        let to = format!("198.51.100.{host}:{}", far.local_addr()?.port());
        let text = u64::try_from(number)?.to_be_bytes();
        site.lab.node("host2")?.enter(|| Ok(near.send_to(&text, &to)?))?;
        if let Ok(len) = far.recv(&mut buffer) {
            heard.insert(buffer[..len].to_vec());
        }
    }
    Ok(heard.len())
}

#[test]
fn a_full_session_table_refuses_the_new_and_keeps_the_old() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    site.configure("sessions = 65536", &format!("sessions = {SESSIONS}"))
        .unwrap();
    site.load().unwrap().success().unwrap();
    site.lab.wait_until_reachable("host1").unwrap();
    site.lab.wait_until_reachable("host2").unwrap();
    let flow = Flow::start(&site.lab, 7_140, 500).unwrap();
    let far: Vec<UdpSocket> = [7_141, 7_142]
        .into_iter()
        .map(|port| {
            let node = site.lab.node("internet").unwrap();
            let far = node
                .enter(|| numbered::socket((std::net::Ipv4Addr::UNSPECIFIED, port)))
                .unwrap();
            far.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
            far
        })
        .collect();
    let near = site
        .lab
        .node("host2")
        .unwrap()
        .enter(|| numbered::socket(("192.168.20.2".parse()?, 5_000)))
        .unwrap();
    let refused_before = site
        .gateway()
        .unwrap()
        .refused(site.ce().unwrap(), "sessions-exhausted")
        .unwrap();
    let heard = reach(&site, &near, &far, MORE).unwrap();
    let gateway = site.gateway().unwrap();
    let refused = gateway.refused(site.ce().unwrap(), "sessions-exhausted").unwrap() - refused_before;
    let seen = flow.finish().unwrap();
    println!("of {MORE} new ones {heard} came through and {refused} were refused; who was there: {seen:?}");
    assert!(refused > 100, "{refused}");
    assert_eq!(heard + usize::try_from(refused).unwrap(), MORE);
    assert_eq!(seen.lost, 0, "{seen:?}");
    let text = site.ctl(&["stat", "--no-rates"]).unwrap().success().unwrap().stdout;
    assert!(
        text.contains("sessions-exhausted") || text.contains("session table is full"),
        "{text}"
    );

    // Room again, new ones again.
    site.ctl(&["sessions", "--flush", "--yes"]).unwrap().success().unwrap();
    mape_tests::process::wait_for("room for new sessions", PATIENCE, || {
        Ok(reach(&site, &near, &far, 50)? == 50)
    })
    .unwrap();
    site.unload_leaves_nothing().unwrap();
}
