//! Who gets which port and who may use it, by policy: mapping and filtering, quotas, quarantine, what happens when ports or
//! records are short (RFC 4787, 5382, 6888, 7857). On the host, where time is the test's.

use std::{collections::HashSet, net::Ipv4Addr};

use mape_common::{
    env::Env as _,
    layout::{Config, Filtering, Gauge, HostUse, LAN_HOSTS, Timeouts, Transport},
    map::psid::PortSet,
    nat::quota,
    time::Tick,
};
use mape_tests::table::{
    frame::{Payload, echo, tcp, udp},
    host::HostWorld,
    talk::{answer, send, sweep},
    world::{HOST, HOST_2, SERVER, SERVER_2},
};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN_ACK: u8 = 1 | ACK;
/// A host on the Internet that nobody has sent to.
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

/// A gateway whose configuration was changed before the first packet.
fn world(sessions: u32, change: impl FnOnce(&mut Config)) -> HostWorld {
    let mut world = HostWorld::new(sessions);
    change(world.env.config.as_mut().expect("configured"));
    world
}

/// The same with a set of eight ports.
fn eight_ports(sessions: u32, change: impl FnOnce(&mut Config)) -> HostWorld {
    world(sessions, |config| {
        config.port_set = PortSet::new(1, 12, 7).expect("1 block of 8 ports");
        config.ports = config.port_set.len();
        assert_eq!(config.ports, 8);
        config.ports_high = 8;
        config.first_dynamic = 0;
        config.overlap_row_mask = Config::overlap_rows(8) - 1;
        change(config);
    })
}

fn filter(config: &mut Config, transport: Transport, filtering: Filtering) {
    config.flags |= Config::filter(transport, filtering);
}

fn whole(world: &HostWorld) {
    assert_eq!(world.env.violations(), Vec::<String>::new());
}

#[test]
fn filtering_decides_which_remote_endpoints_reach_a_mapping() {
    // Remote address and port, and by which filtering it is let in.
    let senders = [
        (SERVER, 4000, [true, true, true]),
        (SERVER, 4001, [true, true, false]),
        (STRANGER, 4000, [true, false, false]),
    ];
    let ways = [
        Filtering::EndpointIndependent,
        Filtering::Address,
        Filtering::AddressAndPort,
    ];
    for (way, filtering) in ways.into_iter().enumerate() {
        for (from, from_port, admitted) in senders {
            let mut world = world(64, |config| filter(config, Transport::Udp, filtering));
            let port = send(&mut world, HOST, SERVER, udp(5000, 4000)).unwrap();
            let reached = answer(&mut world, from, udp(from_port, port));
            let expected = if admitted[way] {
                Ok((HOST, 5000))
            } else {
                Err("filtered")
            };
            assert_eq!(reached, expected, "{filtering:?}, from {from}:{from_port}");
            whole(&world);
        }
    }
}

#[test]
fn tcp_mappings_let_a_permitted_host_open_and_refuse_what_opens_nothing() {
    let mut world = world(64, |config| config.flags |= Config::mapping(Transport::Tcp));
    let port = send(&mut world, HOST, SERVER, tcp(5000, 443, SYN)).unwrap();
    assert_eq!(
        send(&mut world, HOST, SERVER_2, tcp(5000, 80, SYN)),
        Ok(port),
        "one mapping for all"
    );
    assert_eq!(answer(&mut world, STRANGER, tcp(9000, port, SYN)), Err("filtered"));
    assert_eq!(answer(&mut world, SERVER, tcp(9000, port, ACK)), Err("no-session"));
    assert_eq!(answer(&mut world, SERVER, tcp(9000, port, RST)), Err("no-session"));
    assert_eq!(answer(&mut world, SERVER, tcp(9000, port, SYN)), Ok((HOST, 5000)));
    assert_eq!(send(&mut world, HOST, SERVER, tcp(5000, 9000, SYN | ACK)), Ok(port));
    whole(&world);
}

#[test]
fn icmp_queries_keep_their_identifier_for_all_destinations_and_nobody_outside_asks() {
    let mut world = HostWorld::new(64);
    let id = send(&mut world, HOST, SERVER, echo(8, 7)).unwrap();
    assert_eq!(send(&mut world, HOST, SERVER_2, echo(8, 7)), Ok(id), "RFC 5508 REQ-1a");
    assert_ne!(send(&mut world, HOST, SERVER, echo(8, 8)).unwrap(), id);
    assert_eq!(answer(&mut world, SERVER, echo(0, id)), Ok((HOST, 7)));
    assert_eq!(answer(&mut world, STRANGER, echo(8, id)), Err("no-session"));
    assert_eq!(answer(&mut world, STRANGER, echo(0, id)), Err("no-session"));
    whole(&world);
}

#[test]
fn what_the_lan_host_never_answers_keeps_no_mapping_alive() {
    for answered in [false, true] {
        let mut world = HostWorld::new(64);
        let port = send(&mut world, HOST, SERVER, udp(5000, 4000)).unwrap();
        // From another port of the same host: a session of its own.
        answer(&mut world, SERVER, udp(4001, port)).unwrap();
        if answered {
            send(&mut world, HOST, SERVER, udp(5000, 4001)).unwrap();
        }
        for _ in 0..20 {
            world.env.pass_seconds(50);
            let _ = answer(&mut world, SERVER, udp(4001, port));
        }
        let reached = answer(&mut world, SERVER, udp(4001, port));
        assert_eq!(reached.is_ok(), answered, "{reached:?}");
        sweep(&world.env);
        whole(&world);
    }
}

#[test]
fn a_mapping_remembers_so_many_hosts_and_no_more() {
    let mut world = world(256, |config| config.mapping_permissions = 10);
    let remote = |n: u8| Ipv4Addr::new(198, 51, 100, 100 + n);
    let mut port = 0;
    for n in 1..=30 {
        port = send(&mut world, HOST, remote(n), udp(5000, 4000)).unwrap();
    }
    assert_eq!(world.env.read(Gauge::Permissions), 10);
    assert_eq!(world.env.read(Gauge::PermissionsLost), 20);
    // All are answered on the port that was sent to; only the remembered may use others.
    for n in 1..=30 {
        assert!(answer(&mut world, remote(n), udp(4000, port)).is_ok(), "{n}");
        assert_eq!(answer(&mut world, remote(n), udp(4001, port)).is_ok(), n <= 10, "{n}");
    }
    // Another endpoint has a count of its own; and what has expired makes room.
    send(&mut world, HOST_2, remote(1), udp(5000, 4000)).unwrap();
    assert_eq!(world.env.read(Gauge::Permissions), 11);
    world.env.pass_seconds(400);
    sweep(&world.env);
    assert_eq!(world.env.read(Gauge::Permissions), 0);
    send(&mut world, HOST, remote(20), udp(5000, 4000)).unwrap();
    assert_eq!(world.env.read(Gauge::Permissions), 1);
    whole(&world);
}

#[test]
fn one_host_has_no_more_sessions_than_one_may_have() {
    let mut world = world(256, |config| config.host_sessions = 20);
    for n in 0..20 {
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 443, SYN)).unwrap();
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(11_000, 443, SYN)),
        Err("host-sessions")
    );
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(11_000, 443, SYN)),
        Err("recently-refused")
    );
    assert!(
        send(&mut world, HOST, SERVER, tcp(10_000, 443, SYN)).is_ok(),
        "what it has goes on"
    );
    assert!(
        send(&mut world, HOST_2, SERVER, tcp(11_000, 443, SYN)).is_ok(),
        "another host is another matter"
    );
    whole(&world);
    world.env.pass_seconds(300);
    sweep(&world.env);
    assert!(send(&mut world, HOST, SERVER, tcp(11_000, 443, SYN)).is_ok());
    assert_eq!(
        world
            .env
            .host_use(quota::place(HOST.octets()))
            .unwrap()
            .sessions()
            .load(),
        1
    );
    whole(&world);
}

#[test]
fn a_lan_that_scans_with_many_sources_takes_nobody_elses_quota() {
    let mut world = world(2_048, |config| {
        config.host_sessions = 20;
        config.host_ports = 3;
    });
    let to_host = *world.env.routes.borrow().iter().find(|(_, len, _)| *len == 24).unwrap();
    // Another network of the LAN, behind a router that checks no source.
    world.env.routes.borrow_mut().push(([10, 0, 0, 0], 8, to_host.2));
    for wave in 0..20 {
        for n in 0..200 {
            for net in 0..4 {
                let from = Ipv4Addr::new(10, wave, net, n);
                send(&mut world, from, SERVER, tcp(10_000, 443 + u16::from(net), SYN)).unwrap();
            }
        }
        world.env.pass_seconds(300);
        assert_eq!(sweep(&world.env), 800, "wave {wave}");
    }
    whole(&world);
    // What they had is not there any longer, and both hosts have quotas of their own.
    let used = |world: &HostWorld, host: Ipv4Addr| {
        let used = world.env.host_use(quota::place(host.octets())).unwrap();
        (used.sessions().load(), used.ports().load())
    };
    assert!((0..LAN_HOSTS).all(|place| {
        let used = world.env.host_use(place).unwrap();
        (used.sessions().load(), used.ports().load()) == (0, 0)
    }));
    for host in [HOST, HOST_2] {
        for n in 0..20 {
            send(&mut world, host, SERVER, udp(10_000 + n, 4000)).unwrap();
        }
        let more = send(&mut world, host, SERVER, udp(11_000, 4000));
        assert_eq!(more, Err("host-sessions"), "{host}");
        assert_eq!(used(&world, host), (20, 3 * HostUse::one_port(Transport::Udp)));
    }
    whole(&world);
}

#[test]
fn beyond_its_ports_a_host_shares() {
    let mut world = world(256, |config| config.host_ports = 3);
    let ports: Vec<u16> = (0..6)
        .map(|n| send(&mut world, HOST, SERVER, udp(10_000 + n, 4000)).unwrap())
        .collect();
    let held = world.env.host_use(quota::place(HOST.octets())).unwrap().ports().load();
    assert_eq!(HostUse::ports_of(held, Transport::Udp), 3);
    assert_eq!(HostUse::ports_of(held, Transport::Tcp), 0);
    assert_eq!(world.env.read(Gauge::Exclusive(Transport::Udp)), 3);
    assert_eq!(world.env.read(Gauge::Degraded(Transport::Udp)), 3);
    assert_eq!(
        ports.iter().collect::<HashSet<_>>().len(),
        6,
        "to one destination each has its own"
    );
    send(&mut world, HOST_2, SERVER, udp(10_000, 4000)).unwrap();
    assert_eq!(world.env.read(Gauge::Exclusive(Transport::Udp)), 4);
    whole(&world);
}

#[test]
fn a_port_that_anybody_could_send_to_rests_before_it_is_used_again() {
    for (filtering, rests) in [
        (Filtering::EndpointIndependent, true),
        (Filtering::Address, false),
        (Filtering::AddressAndPort, false),
    ] {
        let mut world = eight_ports(64, |config| filter(config, Transport::Udp, filtering));
        for n in 0..8 {
            send(&mut world, HOST, SERVER, udp(10_000 + n, 4000)).unwrap();
        }
        world.env.pass_seconds(310);
        assert_eq!(sweep(&world.env), 16);
        let free = send(&mut world, HOST_2, SERVER, udp(20_000, 4000));
        assert_eq!(free.is_err(), rests, "{filtering:?}: {free:?}");
        whole(&world);
        world.env.pass_seconds(125);
        assert!(
            send(&mut world, HOST_2, SERVER, udp(20_000, 4000)).is_ok(),
            "{filtering:?}"
        );
        whole(&world);
    }
}

#[test]
fn out_of_ports_for_one_alone_new_endpoints_share_before_any_is_refused() {
    let mut world = eight_ports(256, |_| {});
    let mut ports = HashSet::new();
    for n in 0..4 {
        ports.insert(send(&mut world, HOST, SERVER, udp(10_000 + n, 4000)).unwrap());
    }
    for n in 0..3 {
        // DNS shares from the beginning, but to one server each question has a port.
        send(&mut world, HOST, SERVER, udp(11_000 + n, 53)).unwrap();
    }
    for n in 0..4 {
        let port = send(&mut world, HOST, SERVER_2, udp(12_000 + n, 4000)).unwrap();
        ports.insert(port);
    }
    assert_eq!(
        world.env.read(Gauge::Degraded(Transport::Udp)),
        3,
        "one port was left for one alone"
    );
    assert_eq!(
        world.env.read(Gauge::Exclusive(Transport::Udp)) + world.env.read(Gauge::Shared(Transport::Udp)),
        8
    );
    whole(&world);
}

/// Opens a connection and closes it from both sides.
fn open_and_close(world: &mut HostWorld, from: u16) -> Result<u16, &'static str> {
    let port = send(world, HOST, SERVER, tcp(from, 443, SYN))?;
    answer(world, SERVER, tcp(443, port, SYN | ACK))?;
    answer(world, SERVER, tcp(443, port, FIN_ACK))?;
    send(world, HOST, SERVER, tcp(from, 443, FIN_ACK))?;
    Ok(port)
}

#[test]
fn closed_connections_make_room_at_once_and_open_ones_never() {
    let mut world = eight_ports(64, |_| {});
    for n in 0..100 {
        open_and_close(&mut world, 10_000 + n).unwrap_or_else(|reason| panic!("connection {n}: {reason}"));
    }
    assert!(world.env.read(Gauge::Reclaimed) > 90);
    let open: Vec<u16> = (0..8)
        .map(|n| send(&mut world, HOST, SERVER, tcp(20_000 + n, 443, SYN)).unwrap())
        .collect();
    for port in &open {
        answer(&mut world, SERVER, tcp(443, *port, SYN | ACK)).unwrap();
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(30_000, 443, SYN)),
        Err("ports-exhausted")
    );
    for port in &open {
        assert!(
            answer(&mut world, SERVER, tcp(443, *port, ACK)).is_ok(),
            "RFC 6888 REQ-11"
        );
    }
    whole(&world);
}

#[test]
fn what_comes_late_of_a_connection_holds_no_port() {
    let mut world = eight_ports(64, |_| {});
    for n in 0..8 {
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 443, FIN_ACK)).unwrap();
    }
    for n in 0..8 {
        send(&mut world, HOST, SERVER, tcp(20_000 + n, 443, SYN)).unwrap();
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(10_000, 443, FIN_ACK)),
        Err("ports-exhausted")
    );
    whole(&world);
}

#[test]
fn a_reset_that_may_be_forged_makes_room_only_after_a_while() {
    let mut world = eight_ports(64, |_| {});
    let ports: Vec<u16> = (0..8)
        .map(|n| {
            let port = send(&mut world, HOST, SERVER, tcp(10_000 + n, 443, SYN)).unwrap();
            answer(&mut world, SERVER, tcp(443, port, SYN | ACK)).unwrap();
            answer(&mut world, SERVER, tcp(443, port, RST)).unwrap();
            port
        })
        .collect();
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(20_000, 443, SYN)),
        Err("ports-exhausted")
    );
    // One connection was not reset at all: it goes on and is established again.
    send(&mut world, HOST, SERVER, tcp(10_000, 443, ACK)).unwrap();
    answer(&mut world, SERVER, tcp(443, ports[0], ACK)).unwrap();
    world.env.pass_seconds(3);
    for n in 0..7 {
        send(&mut world, HOST, SERVER, tcp(21_000 + n, 443, SYN)).unwrap_or_else(|reason| panic!("{n}: {reason}"));
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(22_000, 443, SYN)),
        Err("ports-exhausted")
    );
    assert!(answer(&mut world, SERVER, tcp(443, ports[0], ACK)).is_ok());
    whole(&world);
}

#[test]
fn while_ports_are_short_the_sweeper_ends_what_is_over_sooner() {
    let mut world = eight_ports(64, |_| {});
    for n in 0..8 {
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 443, SYN)).unwrap();
    }
    world.env.pass_seconds(35);
    assert_eq!(sweep(&world.env), 0, "nothing is short");
    assert_eq!(send(&mut world, HOST, SERVER, udp(9, 9)).map(|_| ()), Ok(()));
    // A ninth connection finds that the others were not answered for half a minute.
    send(&mut world, HOST, SERVER, tcp(20_000, 443, SYN)).unwrap();
    assert_eq!(
        sweep(&world.env),
        7,
        "TCP is short: those that were not answered for half a minute"
    );
    whole(&world);
    world.env.pass_seconds(10);
    send(&mut world, HOST, SERVER, tcp(10_000, 443, SYN)).unwrap();
    world.env.pass_seconds(35);
    assert_eq!(sweep(&world.env), 0, "the shortage is over");
}

#[test]
fn above_the_watermark_queries_end_sooner() {
    let mut world = world(100, |config| config.sessions_high = 50);
    for n in 0..40 {
        send(&mut world, HOST, SERVER, udp(10_000 + n, 53)).unwrap();
    }
    world.env.pass_seconds(20);
    assert_eq!(sweep(&world.env), 0);
    for n in 0..15 {
        send(&mut world, HOST, SERVER, udp(20_000 + n, 53)).unwrap();
    }
    assert_eq!(sweep(&world.env), 40, "ten seconds are enough now");
    whole(&world);
}

#[test]
fn a_full_table_takes_the_record_of_what_is_over() {
    let mut world = world(20, |config| config.sessions_high = u32::MAX);
    for n in 0..20 {
        open_and_close(&mut world, 10_000 + n).unwrap();
    }
    assert_eq!(
        send(&mut world, HOST, SERVER_2, tcp(20_000, 443, SYN)),
        Err("sessions-exhausted"),
        "too young"
    );
    world.env.pass_seconds(3);
    for n in 0..10 {
        send(&mut world, HOST, SERVER_2, tcp(21_000 + n, 443, SYN)).unwrap_or_else(|reason| panic!("{n}: {reason}"));
    }
    whole(&world);
}

#[test]
fn a_hundred_mappings_and_twenty_thousand_connections_live_on_240_ports() {
    let mut world = world(65_536, |config| {
        config.port_set = PortSet::new(4, 8, 0x34).expect("v6plus");
        config.ports = config.port_set.len();
        config.overlap_row_mask = Config::overlap_rows(config.ports) - 1;
    });
    let remote = |n: u16| Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 51, 100, 20)) + u32::from(n) % 200);
    let mut mappings = HashSet::new();
    for n in 0..100 {
        let port = send(&mut world, HOST, SERVER, udp(10_000 + n, 3478)).unwrap();
        assert!(mappings.insert(port), "port {port} is not that endpoint's alone");
    }
    let mut flows = HashSet::new();
    for n in 0..20_000_u16 {
        let (host, from) = if n % 2 == 0 {
            (HOST, 1024 + n)
        } else {
            (HOST_2, 1024 + n)
        };
        let port = send(&mut world, host, remote(n), tcp(from, 443, SYN))
            .unwrap_or_else(|reason| panic!("connection {n}: {reason}"));
        assert!(flows.insert((port, remote(n))), "{port} twice towards {}", remote(n));
        assert_eq!(
            answer(&mut world, remote(n), tcp(443, port, SYN | ACK)),
            Ok((host, from))
        );
    }
    for n in 0..100 {
        assert!(mappings.contains(&send(&mut world, HOST, SERVER_2, udp(10_000 + n, 3478)).unwrap()));
    }
    whole(&world);
}

#[test]
fn shorter_idle_times_are_never_longer() {
    let (usual, pressed) = (Timeouts::DEFAULT, Timeouts::PRESSED);
    for (usual, pressed) in [
        (usual.udp_query, pressed.udp_query),
        (usual.tcp_opening, pressed.tcp_opening),
        (usual.tcp_closing, pressed.tcp_closing),
    ] {
        assert!(Tick(0) < pressed && pressed < usual);
    }
}

#[test]
fn unpreserved_ports_are_spread_over_the_whole_set() {
    let mut world = HostWorld::new(4_096);
    let Payload::Tcp { from, .. } = tcp(50_000, 443, SYN) else {
        panic!("tcp() makes TCP")
    };
    // First choice each time: the sessions before are gone.
    let first: HashSet<u16> = (0..400)
        .map(|_| {
            let port = send(&mut world, HOST, SERVER, tcp(from, 443, SYN)).unwrap();
            world.env.pass_seconds(8_000);
            sweep(&world.env);
            port
        })
        .collect();
    assert!(
        first.len() > 150,
        "{} of 252 ports in 400 draws (RFC 6056)",
        first.len()
    );
}

#[test]
fn bursts_of_connections_to_one_server_find_the_ports_of_those_before() {
    let mut world = world(4_096, |_| {});
    let ports = world.env.config.as_ref().expect("configured").ports;
    assert_eq!(ports, 252);
    for burst in 0..200_u16 {
        let flows = || (0..200).map(|n| 10_000 + (burst * 200 + n) % 40_000);
        let mut held = Vec::new();
        for from in flows() {
            let port = send(&mut world, HOST, SERVER, tcp(from, 443, SYN))
                .unwrap_or_else(|reason| panic!("burst {burst}, source port {from}: {reason}"));
            answer(&mut world, SERVER, tcp(443, port, SYN | ACK)).unwrap();
            held.push((from, port));
        }
        for (from, port) in held {
            assert_eq!(send(&mut world, HOST, SERVER, tcp(from, 443, FIN_ACK)), Ok(port));
            answer(&mut world, SERVER, tcp(443, port, FIN_ACK)).unwrap();
        }
    }
    whole(&world);
}

#[test]
fn a_conversation_keeps_the_permission_of_a_host_that_always_speaks_first() {
    let mut world = HostWorld::new(64);
    let port = send(&mut world, HOST, SERVER, udp(5000, 4000)).unwrap();
    for _ in 0..8 {
        world.env.pass_seconds(100);
        // The remote host's packet is the one that is noted; the LAN host's goes by the session in use.
        answer(&mut world, SERVER, udp(4000, port)).unwrap();
        send(&mut world, HOST, SERVER, udp(5000, 4000)).unwrap();
    }
    assert_eq!(answer(&mut world, SERVER, udp(4001, port)), Ok((HOST, 5000)));
    // It is the conversation that keeps it, and only as long as itself.
    world.env.pass_seconds(310);
    assert!(answer(&mut world, SERVER, udp(4002, port)).is_err());
}
