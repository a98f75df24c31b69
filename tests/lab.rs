//! Owns the tests with real packets: the lab without any gateway first, as proof of the lab, then through both gateways.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mape_tests::{
    lab::{Lab, LabOptions},
    plan,
    process::watch_signals,
    servers::Servers,
    traffic::{
        iperf::{self, Direction},
        names, numbered, ping, ports, web,
    },
};

/// One lab at a time: two would share the processors and spoil each other's figures.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the reason in the form that `cargo xtask test` counts, and says whether the test can run.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: network namespaces need root");
    }
    root
}

#[test]
fn without_gateways_the_lab_itself_loses_and_damages_nothing() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    lab.route_plainly().unwrap();
    let servers = Servers::start(&lab).unwrap();
    lab.wait_until_reachable("host1").unwrap();
    let echo = ping::ping(&lab, "host1", "198.51.100.7", 20, 56).unwrap();
    assert_eq!((echo.sent, echo.received, echo.duplicates), (20, 20, 0), "{echo:?}");
    for over_tcp in [false, true] {
        let names = names::query(&lab, "host1", 10, over_tcp).unwrap();
        assert_eq!(names.answered, 10, "{names:?}");
    }
    for direction in [Direction::Up, Direction::Down] {
        let tcp = iperf::tcp(&lab, "host1", direction, 1, 1).unwrap();
        println!("plain TCP {direction:?}: {tcp:?}");
        assert!(tcp.bits_per_second > 1e6, "{tcp:?}");
        let udp = iperf::udp(&lab, "host2", direction, 20, 1000, 1).unwrap();
        println!("plain UDP {direction:?}: {udp:?}");
        assert_eq!(udp.lost, 0, "{udp:?}");
        let file = web::transfer(&lab, &servers, "host1", direction, 8).unwrap();
        println!("plain file {direction:?}: {:.0} Mbit/s", file.bits_per_second / 1e6);
        assert!(file.is_intact(), "{file:?}");
        let load = numbered::Load {
            count: 5_000,
            size: 200,
            rate: 10_000,
        };
        let count = numbered::send(&lab, "host1", direction, load).unwrap();
        println!("plain numbered {direction:?}: {count:?}");
        assert_eq!(
            (count.arrived, count.lost, count.duplicates, count.damaged),
            (5_000, 0, 0, 0),
            "{count:?}"
        );
    }
    let ports = ports::exhaust(&lab, &servers, "host1", plan::PORTS, 500).unwrap();
    assert_eq!((ports.to_one_remote, ports.to_others), (plan::PORTS, 500), "{ports:?}");
    assert_eq!(ports.verified, plan::PORTS + 500);
    assert_eq!(ports.refusal, None, "without a port set nothing is refused");
}
