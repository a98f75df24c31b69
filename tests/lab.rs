//! Owns the tests with real packets: the lab without any gateway first, as proof of the lab, then through both gateways.

use anyhow::{Context, Result, bail};
use mape_tests::{
    capture::Capture,
    checks::{ALL, Bench, Effort},
    gateway,
    lab::{Lab, LabOptions, alone, is_root},
    plan::{self, Shape},
    process::watch_signals,
    servers::Servers,
    traffic::{
        iperf::{self, Direction},
        names, numbered, ping, ports, web,
    },
};

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
    let capture = Capture::start(&lab, "transit", "ce0").unwrap();
    for direction in [Direction::Up, Direction::Down] {
        numbered::send(
            &lab,
            "host1",
            direction,
            numbered::Load {
                count: 500,
                size: 77,
                rate: 5_000,
            },
        )
        .unwrap();
        assert!(
            web::transfer(&lab, &servers, "host2", direction, 1)
                .unwrap()
                .is_intact()
        );
    }
    let report = capture.judge().unwrap();
    println!("plain capture: {report:?}");
    let faults: Vec<&str> = report.faults.keys().map(String::as_str).collect();
    assert_eq!(
        faults,
        ["IPv4 outside the CE's tunnel"],
        "the only fault there can be without gateways"
    );
    assert!(report.faults["IPv4 outside the CE's tunnel"] > 2_000, "{report:?}");

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

/// Brings a lab with both gateways up and runs one check in it.
fn through_the_gateways(name: &str) -> Result<()> {
    let _alone = alone();
    if !is_root() {
        return Ok(());
    }
    watch_signals()?;
    let mut lab = Lab::up(&LabOptions::default())?;
    let servers = Servers::start(&lab)?;
    lab.load(&gateway::program()?)?;
    for host in ["host1", "host2"] {
        lab.wait_until_reachable(host)?;
    }
    let (.., check) = ALL
        .iter()
        .find(|(known, ..)| *known == name)
        .context("no check of this name")?;
    let outcomes = check(&Bench {
        lab: &lab,
        servers: &servers,
        effort: Effort::SHORT,
    })?;
    for outcome in &outcomes {
        println!("{}: {}", outcome.what, outcome.result);
    }
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    if !failed.is_empty() {
        for role in [gateway::Role::Ce, gateway::Role::Br] {
            let stat = lab.gateway(role)?.ctl(lab.node(role.node())?, &["stat"])?;
            println!("{role:?}: {}{}", stat.stdout, stat.stderr);
        }
        bail!("not as it should be: {failed:#?}");
    }
    Ok(())
}

#[test]
fn pings_of_both_lans_are_answered() {
    through_the_gateways("ping").unwrap();
}

#[test]
fn names_are_answered_over_udp_and_tcp() {
    through_the_gateways("names").unwrap();
}

#[test]
fn a_large_file_arrives_unchanged_both_ways() {
    through_the_gateways("file").unwrap();
}

#[test]
fn tcp_flows_both_ways_alone_and_in_parallel() {
    through_the_gateways("tcp").unwrap();
}

#[test]
fn numbered_datagrams_are_neither_lost_nor_doubled_nor_reordered() {
    through_the_gateways("udp").unwrap();
}

#[test]
fn the_gateways_count_what_sender_and_receiver_count() {
    through_the_gateways("counts").unwrap();
}

#[test]
fn one_remote_takes_as_many_connections_as_there_are_ports_and_others_take_more() {
    through_the_gateways("ports").unwrap();
}

#[test]
fn every_frame_on_the_transit_link_is_as_the_rules_say() {
    through_the_gateways("wire").unwrap();
}

#[test]
fn every_check_has_a_test() {
    let names: Vec<&str> = ALL.iter().map(|(name, ..)| *name).collect();
    assert_eq!(
        names,
        ["ping", "names", "file", "tcp", "udp", "counts", "ports", "wire"],
        "add a test above for a new check"
    );
}

#[test]
fn a_network_behind_a_router_on_the_lan_is_reached() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let mut lab = Lab::up(&LabOptions {
        shape: Shape::LanRouter,
        ..LabOptions::default()
    })
    .unwrap();
    let servers = Servers::start(&lab).unwrap();
    lab.load(&gateway::program().unwrap()).unwrap();
    for host in ["host1", "host2", "host3"] {
        lab.wait_until_reachable(host).unwrap();
        let echo = ping::ping(&lab, host, "198.51.100.9", 20, 56).unwrap();
        assert_eq!(echo.received, 20, "{host}: {echo:?}");
    }
    for direction in [Direction::Up, Direction::Down] {
        assert!(
            web::transfer(&lab, &servers, "host3", direction, 4)
                .unwrap()
                .is_intact()
        );
    }
}

#[test]
fn one_interface_serves_for_both_sides() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let mut lab = Lab::up(&LabOptions {
        shape: Shape::OneArm,
        ..LabOptions::default()
    })
    .unwrap();
    let servers = Servers::start(&lab).unwrap();
    lab.load(&gateway::program().unwrap()).unwrap();
    for host in ["host1", "host2"] {
        lab.wait_until_reachable(host).unwrap();
        let echo = ping::ping(&lab, host, "198.51.100.9", 20, 56).unwrap();
        assert_eq!(echo.received, 20, "{host}: {echo:?}");
    }
    for direction in [Direction::Up, Direction::Down] {
        assert!(
            web::transfer(&lab, &servers, "host1", direction, 4)
                .unwrap()
                .is_intact()
        );
    }
    // What is between two hosts of the LAN is none of the gateway's business.
    let near = ping::ping(&lab, "host1", "192.168.10.3", 20, 56).unwrap();
    assert_eq!(near.received, 20, "{near:?}");
}
