//! Owns the tests of the slow path's translation on the host: every kind of packet by either door, a flow that changes doors at
//! any packet, and what only the slow path takes.

use mape_common::layout::Config;
use mape_common::{
    nat::session::State,
    packet::{Bare, VecPacket},
    step::slow,
    time::Tick,
    verdict::{Failure, Reason},
};
use mape_tests::table::{
    domain,
    doors::Doors,
    frame::{Frame, Outer, Payload, Seen, echo, error, join, tcp, udp},
    host::{LAN, TUNNEL},
    talk::{answer, down, down_frame, send, up},
    world::{CE, HOST, HOST_2, Outcome, Program, RELAY, ROUTER_MAC, SERVER, SERVER_2, SHARED, WAN_MAC, World},
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// Says of a packet, by its number, whether it takes the slow path.
type IsSlow = fn(u32) -> bool;
/// What a remote host answers to a port.
type Reply = fn(u16) -> Payload;

/// All by the one, all by the other, and in turn, begun by either.
const DOORS: [(&str, IsSlow); 4] = [
    ("fast", |_| false),
    ("slow", |_| true),
    ("fast, slow, …", |n| n % 2 == 0),
    ("slow, fast, …", |n| n % 2 == 1),
];

fn by_every_door(test: impl Fn(&mut Doors)) {
    for (name, is_slow) in DOORS {
        println!("{name}");
        let mut doors = Doors::new(64, is_slow);
        test(&mut doors);
        assert_eq!(doors.world.env.violations(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_flow_keeps_its_port_whatever_door_its_packets_take() {
    by_every_door(|doors| {
        let kinds: [(Payload, Reply); 3] = [
            (udp(50_000, 4000), |port| udp(4000, port)),
            (tcp(50_000, 443, SYN), |port| tcp(443, port, SYN | ACK)),
            (echo(8, 50_000), |id| echo(0, id)),
        ];
        for (payload, reply) in kinds {
            let port = send(doors, HOST, SERVER, payload.clone()).unwrap();
            for _ in 0..3 {
                assert_eq!(answer(doors, SERVER, reply(port)), Ok((HOST, 50_000)), "{payload:?}");
                assert_eq!(send(doors, HOST, SERVER, payload.clone()), Ok(port), "{payload:?}");
                doors.world.env.pass_seconds(2);
            }
        }
    });
}

/// What is written of each record: when it was used, with its phase.
fn states(doors: &Doors) -> Vec<State> {
    let sessions = &doors.world.env.sessions;
    sessions.iter().map(mape_common::nat::session::Session::state).collect()
}

#[test]
fn a_session_in_use_is_written_by_neither_door() {
    by_every_door(|doors| {
        let port = send(doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
        answer(doors, SERVER, udp(4000, port)).unwrap();
        let before = states(doors);
        // Less than a second, in ticks that can be told apart.
        let now = &doors.world.env.now;
        now.set(Tick(now.get().0 + 2));
        assert!(Tick(2) < Tick::STALE);
        for _ in 0..2 {
            answer(doors, SERVER, udp(4000, port)).unwrap();
            send(doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
        }
        assert_eq!(states(doors), before);
        doors.world.env.pass_seconds(2);
        answer(doors, SERVER, udp(4000, port)).unwrap();
        assert_ne!(states(doors), before, "later its use is noted");
    });
}

#[test]
fn a_nic_that_comes_back_gets_packets_for_a_host_that_the_stack_knows_meanwhile() {
    let mut doors = Doors::new(64, |_| true);
    // The fast path cannot use any way to the host while the session is made.
    let routes = doors.world.env.routes.take();
    let port = send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    assert_eq!(answer(&mut doors, SERVER, udp(4000, port)), Ok((HOST, 50_000)));
    doors.world.env.routes.replace(routes);
    let is_fast = |doors: &mut Doors| {
        let (outcome, label) = doors.world.give(Program::Wan, &down(SERVER, udp(4000, port)));
        println!("{label}");
        matches!(outcome, Outcome::Forwarded(_))
    };
    assert!(!is_fast(&mut doors), "no way is known yet");
    // By the stack once more, within the second for which the session's use is noted.
    assert_eq!(answer(&mut doors, SERVER, udp(4000, port)), Ok((HOST, 50_000)));
    assert!(is_fast(&mut doors));
}

#[test]
fn an_endpoint_has_one_port_and_lets_in_whom_it_has_sent_to_by_either_door() {
    by_every_door(|doors| {
        let port = send(doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
        assert_eq!(send(doors, HOST, SERVER_2, udp(50_000, 4000)), Ok(port));
        for _ in 0..2 {
            assert_eq!(answer(doors, SERVER, udp(4001, port)), Ok((HOST, 50_000)));
        }
        for _ in 0..2 {
            assert_eq!(
                answer(doors, "203.0.113.77".parse().unwrap(), udp(4000, port)),
                Err("filtered")
            );
            assert_eq!(answer(doors, SERVER, udp(4000, port ^ 1)), Err("no-session"));
        }
    });
}

#[test]
fn a_connection_ends_by_whatever_door_its_last_packets_take() {
    by_every_door(|doors| {
        for from in 50_000..50_040 {
            let port = send(doors, HOST, SERVER, tcp(from, 443, SYN)).unwrap();
            answer(doors, SERVER, tcp(443, port, SYN | ACK)).unwrap();
            send(doors, HOST, SERVER, tcp(from, 443, FIN | ACK)).unwrap();
            answer(doors, SERVER, tcp(443, port, FIN | ACK)).unwrap();
        }
        doors.world.env.pass_seconds(300);
        mape_tests::table::talk::sweep(&doors.world.env);
        assert_eq!(doors.world.env.live(), 0, "nothing is left of forty connections");
    });
}

/// As the doors give it out: IPv4 alone, or in IPv6.
fn ipv4_of(outcome: Outcome) -> Vec<u8> {
    let Outcome::Forwarded(frame) = outcome else {
        panic!("{outcome:?}")
    };
    let is_tunnelled = frame[12..14] == [0x86, 0xdd];
    frame[if is_tunnelled { 54 } else { 14 }..].to_vec()
}

/// The same in an Ethernet frame, for reading.
fn framed(outcome: Outcome) -> Vec<u8> {
    [vec![0; 12], vec![8, 0], ipv4_of(outcome)].concat()
}

#[test]
fn both_doors_write_the_same_bytes_but_for_what_the_stack_writes() {
    let frames = |port| {
        [
            (Program::Lan, up(HOST, SERVER, udp(50_000, 4000))),
            (Program::Wan, down(SERVER, udp(4000, port))),
            (Program::Lan, up(HOST, SERVER, error(3, 3, &translated_back(port)))),
            (Program::Wan, down(SERVER, error(11, 0, &as_seen_outside(port)))),
        ]
    };
    let mut doors = Doors::new(64, |_| false);
    let port = send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    for (program, frame) in frames(port) {
        doors.is_slow = |_| false;
        let mut fast = ipv4_of(doors.give(program, &frame).0);
        doors.is_slow = |_| true;
        let slow = ipv4_of(doors.give(program, &frame).0);
        // The TTL is the stack's matter, and the header's checksum follows it.
        fast[8] = slow[8];
        fast[10..12].copy_from_slice(&slow[10..12]);
        assert_eq!(fast, slow, "{program:?}");
    }
}

/// The server's packet as the LAN host has got it.
fn translated_back(_: u16) -> Vec<u8> {
    Frame::new(SERVER, HOST, udp(4000, 50_000)).packet()
}

/// The LAN host's packet as it went over the Internet.
fn as_seen_outside(port: u16) -> Vec<u8> {
    Frame::new(SHARED, SERVER, udp(port, 4000)).packet()
}

#[test]
fn options_are_stepped_over() {
    // A timestamp option with room for two, and the end of the list.
    let options = vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for payload in [udp(50_000, 4000), tcp(50_000, 443, SYN), echo(8, 50_000)] {
        let mut doors = Doors::new(64, |_| true);
        let frame = Frame {
            options: options.clone(),
            ..Frame::new(HOST, SERVER, payload)
        };
        let out = ipv4_of(doors.give(Program::Lan, &frame.bytes()).0);
        let (_, body) = (&out[..32], &out[32..]);
        assert_eq!(&out[20..32], &options[..], "as they were");
        let mut framed = vec![0; 12];
        framed.extend([8, 0]);
        framed.extend(&out);
        let seen = Seen::of(&framed);
        assert_eq!(seen.addresses, (SHARED, SERVER));
        assert!(
            doors
                .world
                .env
                .config
                .as_ref()
                .unwrap()
                .port_set
                .contains(mape_common::wire::port::Port(seen.ports.0))
        );
        assert_eq!(body.len(), frame.packet().len() - 32);
    }
}

#[test]
fn fragments_go_by_either_door_and_change_it_on_the_way() {
    by_every_door(|doors| {
        let big = Payload::Udp {
            from: 50_000,
            to: 4000,
            checksum: true,
            data: (0..3_000_u16).map(|n| n.to_be_bytes()[1]).collect(),
        };
        let whole = Frame {
            fragment: 0,
            to_mac: mape_tests::table::world::LAN_MAC.0,
            from_mac: mape_tests::table::world::HOST_MAC.0,
            ..Frame::new(HOST, SERVER, big)
        };
        let out: Vec<Vec<u8>> = whole
            .split(1_208)
            .iter()
            .map(|piece| framed(doors.give(Program::Lan, &piece.bytes()).0))
            .collect();
        let seen = join(&out);
        assert_eq!(seen.addresses, (SHARED, SERVER));
        let port = seen.ports.0;
        let outer = Some(Outer {
            from: RELAY,
            to: CE,
            class: 0,
            extension: None,
        });
        let back = Frame {
            fragment: 0,
            to_mac: WAN_MAC.0,
            from_mac: ROUTER_MAC.0,
            outer,
            ..Frame::new(
                SERVER,
                SHARED,
                Payload::Udp {
                    from: 4000,
                    to: port,
                    checksum: true,
                    data: vec![7; 3_000],
                },
            )
        };
        let pieces: Vec<Vec<u8>> = back
            .split(1_208)
            .iter()
            .map(|piece| framed(doors.give(Program::Wan, &piece.bytes()).0))
            .collect();
        let seen = join(&pieces);
        assert_eq!((seen.addresses.1, seen.ports.1), (HOST, 50_000));
    });
}

/// A datagram of so much data in fragments, into the tunnel, and one out of it to the port.
fn in_fragments(len: usize, port: u16) -> [(Program, Vec<Frame>); 2] {
    let data = |from, to| Payload::Udp {
        from,
        to,
        checksum: true,
        data: vec![7; len],
    };
    let up = Frame {
        fragment: 0,
        to_mac: mape_tests::table::world::LAN_MAC.0,
        from_mac: mape_tests::table::world::HOST_MAC.0,
        ..Frame::new(HOST, SERVER, data(50_000, 4000))
    };
    let down = Frame {
        fragment: 0,
        ..down_frame(SERVER, data(4000, port))
    };
    [(Program::Lan, up.split(1_208)), (Program::Wan, down.split(1_208))]
}

#[test]
fn a_first_fragment_may_come_again_by_either_door() {
    by_every_door(|doors| {
        let port = send(doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
        for (program, pieces) in in_fragments(3_000, port) {
            let [first, others @ ..] = &pieces[..] else {
                panic!("no pieces")
            };
            // One more than a multiple of two, so that the other door comes next.
            let twice = [(); 3].map(|()| framed(doors.give(program, &first.bytes()).0));
            for again in &twice[1..] {
                // Not the TTL and the header's checksum, which are the stack's matter.
                assert_eq!(
                    (&again[..22], &again[26..]),
                    (&twice[0][..22], &twice[0][26..]),
                    "{program:?}"
                );
            }
            let mut all = vec![twice[0].clone()];
            all.extend(others.iter().map(|piece| framed(doors.give(program, &piece.bytes()).0)));
            join(&all);
        }
    });
}

/// A gateway whose tunnel device wants to be told, with a rule to another customer.
fn external() -> Doors {
    let mut doors = Doors::new(64, |_| true);
    let env = &mut doors.world.env;
    if let Some(config) = &mut env.config {
        config.flags |= Config::EXTERNAL_TUNNEL;
    }
    domain::add(env, domain::rule("2001:db8::", 40, [192, 0, 2, 0], 24, 16));
    doors
}

#[test]
fn a_device_without_a_far_end_is_told_of_each_packet_where_it_goes() {
    let mut doors = external();
    let neighbour: std::net::Ipv4Addr = "192.0.2.33".parse().unwrap();
    // Port 2000 of the neighbour's address is of PSID 0xf4: EA bits 0x21f4.
    let far_end: std::net::Ipv6Addr = "2001:db8:21:f400:0:c000:221:f4".parse().unwrap();
    for (remote, port, expected) in [(SERVER, 4000, RELAY), (neighbour, 2000, far_end)] {
        for payload in [udp(50_000, port), tcp(50_000, port, SYN)] {
            send(&mut doors, HOST, remote, payload.clone()).unwrap();
            let told = doors.world.env.take_led().unwrap();
            assert_eq!(std::net::Ipv6Addr::from(told.far_end), expected, "{payload:?}");
            assert!(told.label != 0, "the session's label");
        }
    }
    // An echo has no port by which a customer could be found.
    send(&mut doors, HOST, neighbour, echo(8, 50_000)).unwrap();
    assert_eq!(doors.world.env.take_led().unwrap().far_end, RELAY.octets());
    // Nothing is told of what comes in, nor of what stays.
    let port = send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    doors.world.env.take_led();
    answer(&mut doors, SERVER, udp(4000, port)).unwrap();
    doors.world.env.gate.set(false);
    assert!(send(&mut doors, HOST, SERVER, udp(50_000, 4000)).is_err());
    assert_eq!(doors.world.env.take_led(), None);
}

#[test]
fn errors_and_fragments_are_led_like_their_session() {
    let mut doors = external();
    let big = Payload::Udp {
        from: 50_000,
        to: 4000,
        checksum: true,
        data: vec![7; 3_000],
    };
    let whole = Frame {
        fragment: 0,
        tos: 0xb8,
        to_mac: mape_tests::table::world::LAN_MAC.0,
        from_mac: mape_tests::table::world::HOST_MAC.0,
        ..Frame::new(HOST, SERVER, big)
    };
    let mut labels = Vec::new();
    for piece in whole.split(1_208) {
        ipv4_of(doors.give(Program::Lan, &piece.bytes()).0);
        let told = doors.world.env.take_led().unwrap();
        assert_eq!((told.far_end, told.traffic_class), (RELAY.octets(), 0xb8));
        labels.push(told.label);
    }
    let port = send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    labels.push(doors.world.env.take_led().unwrap().label);
    ipv4_of(
        doors
            .give(Program::Lan, &up(HOST, SERVER, error(3, 3, &translated_back(port))))
            .0,
    );
    let told = doors.world.env.take_led().unwrap();
    assert_eq!(told.far_end, RELAY.octets());
    labels.push(told.label);
    assert_eq!(labels, [labels[0]; 5], "one flow");
}

#[test]
fn a_device_that_has_a_far_end_is_told_nothing() {
    let mut doors = Doors::new(64, |_| true);
    send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    assert_eq!(doors.world.env.take_led(), None);
}

#[test]
fn small_fragments_do_not_overtake_a_first_one_that_is_too_large_for_the_tunnel() {
    let mut doors = Doors::new(64, |_| false);
    let large = Payload::Udp {
        from: 50_000,
        to: 4000,
        checksum: true,
        data: vec![7; 1_972],
    };
    let whole = Frame {
        fragment: 0,
        to_mac: mape_tests::table::world::LAN_MAC.0,
        from_mac: mape_tests::table::world::HOST_MAC.0,
        ..Frame::new(HOST, SERVER, large)
    };
    let pieces = whole.split(1_480);
    let [first, last] = &pieces[..] else {
        panic!("{} pieces", pieces.len())
    };
    // The stack would cut the first, and each piece find the tunnel device; the last may be seen before, or after.
    assert_eq!(doors.world.give(Program::Lan, &first.bytes()).1, "too-big");
    assert_eq!(doors.world.give(Program::Lan, &last.bytes()).1, "fragment-by-stack");
    doors.is_slow = |_| true;
    let at_device = [first, last].map(|piece| doors.give(Program::Lan, &piece.bytes()));
    let pieces = at_device.map(|(outcome, label)| {
        assert_eq!(label, "translated");
        framed(outcome)
    });
    let seen = join(&pieces);
    assert_eq!((seen.addresses, seen.ports.1), ((SHARED, SERVER), 4000));
    assert_eq!(doors.world.give(Program::Lan, &last.bytes()).1, "fragment-by-stack");
}

#[test]
fn an_error_about_another_lan_hosts_packet_does_not_leave_by_the_tunnel() {
    let mut doors = Doors::new(64, |_| false);
    let port = send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    // Each has sent to the other's outside.
    let other = send(&mut doors, HOST_2, SERVER, udp(50_001, 4000)).unwrap();
    doors.give(Program::Lan, &up(HOST, SHARED, udp(50_000, other)));
    let (outcome, label) = doors.give(Program::Lan, &up(HOST_2, SHARED, udp(50_001, port)));
    assert_eq!(label, "forwarded", "{outcome:?}");
    let quoted = Frame::new(SHARED, HOST, udp(other, 50_000)).packet();
    let told = up(HOST, SHARED, error(3, 3, &quoted));
    assert_eq!(doors.give(Program::Lan, &told).1, "forwarded", "to the other LAN host");
    doors.is_slow = |_| true;
    assert_eq!(doors.give(Program::Lan, &told), (Outcome::Dropped, "hairpin"));
}

#[test]
fn another_customer_edge_may_send_only_what_is_its_own() {
    // No rule holds this outer source: RFC 7597 §8.1.
    let mut doors = Doors::new(64, |_| true);
    let port = send(&mut doors, HOST, SERVER, udp(50_000, 4000)).unwrap();
    let stranger: std::net::Ipv6Addr = "2001:db8:bad::1".parse().unwrap();
    let mut packet = VecPacket(Frame::new(SERVER, SHARED, udp(4000, port)).packet());
    let outcome = slow::all(
        &mut packet,
        &doors.world.env,
        mape_common::verdict::Direction::Inbound,
        &stranger.octets(),
    );
    assert_eq!(outcome, Err(Failure::Refused(Reason::InvalidV6)));
}

#[test]
fn what_has_come_out_of_the_tunnel_does_not_go_back_into_it() {
    // As when the LAN's interface is gone, and the default route leads into the tunnel.
    let doors = Doors::new(64, |_| true);
    let mut packet = VecPacket(Frame::new(SERVER, HOST, udp(4000, 50_000)).packet());
    for (came_by, outcome) in [(TUNNEL, Some(Reason::SourceNotLan)), (LAN, None), (0, None)] {
        let attempt = slow::outbound(&mut Bare::new(&mut packet), &doors.world.env, came_by);
        let refused = match attempt.outcome() {
            Ok(Err(Failure::Refused(reason))) => Some(reason),
            _ => None,
        };
        assert_eq!(refused, outcome, "by {came_by}");
        assert_eq!(
            doors.world.env.live() == 0,
            outcome.is_some(),
            "a session is a LAN host's"
        );
    }
}
