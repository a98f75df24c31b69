//! Packets in fragments over time, in numbers and under attack (RFC 7597 §8.3, RFC 4787 REQ-14, RFC 1858, 3128, 4963, 6864). On the
//! host, where time is the test's.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use mape_common::{layout::Gauge, map::psid::PortSet, time::Tick, wire::port::Port};
use mape_tests::table::{
    frame::{Frame, Payload, Seen, join},
    host::HostWorld,
    talk::{down_frame, sweep},
    world::{HOST, HOST_2, HOST_MAC, LAN_MAC, Outcome, Program, SERVER, SERVER_2, SHARED, World, port_set},
};

/// Bytes after the IPv4 header of each fragment but the last.
const SIZE: usize = 1_400;

fn datagram(from: u16, to: u16, len: usize) -> Payload {
    Payload::Udp {
        from,
        to,
        data: (0..=255).cycle().take(len).collect(),
        checksum: true,
    }
}

fn up(from: Ipv4Addr, to: Ipv4Addr, id: u16, payload: Payload) -> Frame {
    Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        id,
        ..Frame::new(from, to, payload)
    }
}

fn down(from: Ipv4Addr, id: u16, payload: Payload) -> Frame {
    Frame {
        id,
        ..down_frame(from, payload)
    }
}

/// What comes out of a fragment, or why nothing does.
fn give(world: &mut HostWorld, program: Program, frame: &Frame) -> Result<Vec<u8>, &'static str> {
    match world.give(program, &frame.bytes()) {
        (Outcome::Forwarded(bytes), _) => Ok(bytes),
        (_, label) => Err(label),
    }
}

/// What comes out of a whole packet's fragments, put together again.
fn through(world: &mut HostWorld, program: Program, frame: &Frame) -> Seen {
    let pieces = frame.split(SIZE);
    assert!(pieces.len() > 1, "in fragments");
    let out: Vec<Vec<u8>> = pieces
        .iter()
        .map(|piece| give(world, program, piece).expect("forwarded"))
        .collect();
    join(&out)
}

fn first(frame: &Frame) -> Frame {
    frame.split(SIZE).remove(0)
}

fn last(frame: &Frame) -> Frame {
    frame.split(SIZE).pop().expect("at least one")
}

/// The identification that a fragment came out with.
fn id(bytes: &[u8]) -> u16 {
    Seen::of(bytes).fragment.0
}

#[test]
fn whole_packets_come_out_at_the_far_end_with_every_checksum_right() {
    let mut world = HostWorld::new(64);
    for len in [SIZE, 4_000, 8_192, 65_507] {
        let there = through(
            &mut world,
            Program::Lan,
            &up(HOST, SERVER, 7, datagram(5000, 4000, len)),
        );
        let (shared, port) = (there.addresses.0, there.ports.0);
        assert_eq!((shared, there.rest.len()), (SHARED, len + 4));
        let back = through(&mut world, Program::Wan, &down(SERVER, 7, datagram(4000, port, len)));
        assert_eq!((back.addresses.1, back.ports.1, back.fragment.0), (HOST, 5000, 7));
        assert_eq!(back.rest.len(), len + 4);
    }
    let ping = |kind, id| Payload::Icmp {
        kind,
        code: 0,
        id,
        data: vec![9; 4_000],
    };
    let there = through(&mut world, Program::Lan, &up(HOST, SERVER, 8, ping(8, 77)));
    let back = through(&mut world, Program::Wan, &down(SERVER, 8, ping(0, there.ports.0)));
    assert_eq!((back.addresses.1, back.ports.0), (HOST, 77));
    let tcp = |from, to, flags| Payload::Tcp {
        from,
        to,
        flags,
        options: vec![2, 4, 5, 180],
        data: vec![3; 3_000],
    };
    let there = through(&mut world, Program::Lan, &up(HOST, SERVER, 9, tcp(5000, 443, 2)));
    let back = through(&mut world, Program::Wan, &down(SERVER, 9, tcp(443, there.ports.0, 18)));
    assert_eq!((back.addresses.1, back.ports.1), (HOST, 5000));
    assert_eq!(world.env.violations(), Vec::<String>::new());
}

#[test]
fn no_checksum_stays_none() {
    let mut world = HostWorld::new(64);
    let mut payload = datagram(5000, 4000, 4_000);
    if let Payload::Udp { checksum, .. } = &mut payload {
        *checksum = false;
    }
    let there = through(&mut world, Program::Lan, &up(HOST, SERVER, 7, payload));
    assert_eq!(there.rest[2..4], [0, 0]);
}

#[test]
fn fragments_in_any_order_follow_once_the_first_has_come() {
    let mut world = HostWorld::new(64);
    let packet = up(HOST, SERVER, 7, datagram(5000, 4000, 8_000));
    let mut pieces = packet.split(SIZE);
    let one = give(&mut world, Program::Lan, &pieces[0]).unwrap();
    pieces.remove(0);
    let mut out: Vec<Vec<u8>> = pieces
        .iter()
        .rev()
        .map(|piece| give(&mut world, Program::Lan, piece).unwrap())
        .collect();
    out.push(one);
    out.reverse();
    assert_eq!(join(&out).rest.len(), 8_004);
    let another = up(HOST, SERVER, 8, datagram(5000, 4000, 8_000));
    for piece in another.split(SIZE).iter().skip(1).rev() {
        assert_eq!(give(&mut world, Program::Lan, piece), Err("fragment-first-missing"));
    }
}

#[test]
fn two_hosts_with_the_same_identification_are_told_apart_by_the_remote_host() {
    let mut world = HostWorld::new(64);
    let (a, b) = (
        up(HOST, SERVER, 7, datagram(5000, 4000, 4_000)),
        up(HOST_2, SERVER, 7, datagram(5000, 4000, 4_000)),
    );
    // Fragment by fragment in turns.
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for (one, other) in a.split(SIZE).iter().zip(b.split(SIZE)) {
        of_a.push(give(&mut world, Program::Lan, one).unwrap());
        of_b.push(give(&mut world, Program::Lan, &other).unwrap());
    }
    assert_ne!(id(&of_a[0]), id(&of_b[0]));
    assert_ne!(join(&of_a).ports.0, join(&of_b).ports.0);
}

#[test]
fn every_identification_of_the_set_has_its_turn_before_one_comes_again() {
    let mut world = HostWorld::new(64);
    let set: PortSet = port_set();
    let turns = usize::try_from(set.len()).unwrap();
    let ids: Vec<u16> = (0..2 * turns)
        .map(|n| {
            let id = u16::try_from(n).unwrap();
            let packet = up(HOST, SERVER, id, datagram(5000, 4000, 2_000));
            through(&mut world, Program::Lan, &packet).fragment.0
        })
        .collect();
    assert!(ids.iter().all(|id| set.contains(Port(*id))), "RFC 7597 section 8.3.3");
    assert_eq!(ids[..turns].iter().collect::<HashSet<_>>().len(), turns);
    assert_eq!(ids[..turns], ids[turns..]);
    let packet = up(HOST, SERVER_2, 1, datagram(5000, 4000, 2_000));
    let elsewhere = through(&mut world, Program::Lan, &packet).fragment.0;
    assert_ne!(elsewhere, ids[0], "another remote host is counted by itself");
}

#[test]
fn complete_packets_take_no_room_however_many_they_are() {
    let mut world = HostWorld::new(64);
    let there = through(
        &mut world,
        Program::Lan,
        &up(HOST, SERVER, 0, datagram(5000, 4000, 2_000)),
    );
    for n in 1..=20_000_u16 {
        through(
            &mut world,
            Program::Lan,
            &up(HOST, SERVER, n, datagram(5000, 4000, 2_000)),
        );
        through(
            &mut world,
            Program::Wan,
            &down(SERVER, n, datagram(4000, there.ports.0, 2_000)),
        );
    }
    assert_eq!(world.env.read(Gauge::Fragmented), 40_001);
    assert_eq!(world.env.read(Gauge::FragmentsDisplaced), 0);
}

#[test]
fn later_fragments_come_too_late_after_the_timeout() {
    let mut world = HostWorld::new(64);
    let packet = up(HOST, SERVER, 7, datagram(5000, 4000, 4_000));
    let pieces = packet.split(SIZE);
    give(&mut world, Program::Lan, &pieces[0]).unwrap();
    world.env.pass_seconds(28);
    give(&mut world, Program::Lan, &pieces[1]).unwrap();
    world.env.pass_seconds(3);
    assert_eq!(
        give(&mut world, Program::Lan, &pieces[2]),
        Err("fragment-first-missing"),
        "30 s from the first fragment on, whatever came between"
    );
}

#[test]
fn the_end_of_a_session_is_the_end_of_its_fragments() {
    let mut world = HostWorld::new(64);
    world.env.config.as_mut().unwrap().fragment_timeout = Tick::at_least_seconds(120);
    let ping = up(
        HOST,
        SERVER,
        7,
        Payload::Icmp {
            kind: 8,
            code: 0,
            id: 5,
            data: vec![0; 4_000],
        },
    );
    give(&mut world, Program::Lan, &first(&ping)).unwrap();
    world.env.pass_seconds(70);
    assert!(sweep(&world.env) > 0, "60 s for an echo");
    assert_eq!(give(&mut world, Program::Lan, &last(&ping)), Err("no-session"));
}

#[test]
fn no_more_bytes_follow_than_a_packet_can_have() {
    let mut world = HostWorld::new(64);
    let packet = up(HOST, SERVER, 7, datagram(5000, 4000, 65_000));
    let pieces = packet.split(SIZE);
    give(&mut world, Program::Lan, &pieces[0]).unwrap();
    let most = (65_515 - SIZE) / SIZE;
    for n in 0..most {
        assert!(give(&mut world, Program::Lan, &pieces[1]).is_ok(), "time {n}");
    }
    for _ in 0..3 {
        assert_eq!(give(&mut world, Program::Lan, &pieces[1]), Err("fragment-too-long"));
    }
}

#[test]
fn an_identification_that_is_used_again_is_another_packets() {
    let mut world = HostWorld::new(64);
    let packet = |len| up(HOST, SERVER, 7, datagram(5000, 4000, len));
    let one = through(&mut world, Program::Lan, &packet(4_000)).fragment.0;
    // Complete: at once.
    let two = through(&mut world, Program::Lan, &packet(2_800)).fragment.0;
    assert_ne!(one, two);
    // Incomplete: a first fragment that comes again within a second is the same one.
    let three = id(&give(&mut world, Program::Lan, &first(&packet(4_000))).unwrap());
    let again = id(&give(&mut world, Program::Lan, &first(&packet(4_000))).unwrap());
    assert_eq!(three, again);
    world.env.pass_seconds(2);
    let four = id(&give(&mut world, Program::Lan, &first(&packet(4_000))).unwrap());
    assert_ne!(three, four);
    let follows = id(&give(&mut world, Program::Lan, &last(&packet(4_000))).unwrap());
    assert_eq!(four, follows);
}

/// Sends first fragments and nothing after them.
fn flood(world: &mut HostWorld, from: Ipv4Addr, ids: std::ops::Range<u16>) -> HashMap<&'static str, u32> {
    let mut outcomes = HashMap::new();
    for id in ids {
        let frame = first(&up(from, SERVER, id, datagram(5000, 4000, 4_000)));
        let outcome = give(world, Program::Lan, &frame).map_or_else(|label| label, |_| "forwarded");
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

#[test]
fn a_host_that_never_completes_a_packet_displaces_only_its_own() {
    let mut world = HostWorld::new(64);
    let waiting: Vec<Frame> = (0..200)
        .map(|id| up(HOST_2, SERVER, id, datagram(5000, 4000, 4_000)))
        .collect();
    for packet in &waiting {
        give(&mut world, Program::Lan, &first(packet)).unwrap();
    }
    let before = world.env.read(Gauge::FragmentsDisplaced);
    let outcomes = flood(&mut world, HOST, 0..60_000);
    assert_eq!(outcomes, HashMap::from([("forwarded", 60_000)]));
    assert!(world.env.read(Gauge::FragmentsDisplaced) - before > 50_000, "its own");
    for packet in &waiting {
        for piece in packet.split(SIZE).iter().skip(1) {
            give(&mut world, Program::Lan, piece).expect("the other host's follow as before");
        }
    }
    for id in 1_000..2_000 {
        through(
            &mut world,
            Program::Lan,
            &up(HOST_2, SERVER, id, datagram(5000, 4000, 4_000)),
        );
    }
}

#[test]
fn a_full_table_refuses_and_has_room_again_two_seconds_later() {
    let mut world = HostWorld::new(64);
    let third = Ipv4Addr::new(192, 168, 10, 12);
    flood(&mut world, HOST, 0..60_000);
    flood(&mut world, HOST_2, 0..60_000);
    let outcomes = flood(&mut world, third, 0..1_000);
    assert_eq!(outcomes, HashMap::from([("fragments-exhausted", 1_000)]));
    assert!(
        give(
            &mut world,
            Program::Lan,
            &up(third, SERVER, 1, datagram(5000, 4000, 100))
        )
        .is_ok(),
        "whole packets have nothing to do with it"
    );
    world.env.pass_seconds(3);
    let outcomes = flood(&mut world, third, 0..1_000);
    assert_eq!(outcomes, HashMap::from([("forwarded", 1_000)]));
    assert_eq!(world.env.violations(), Vec::<String>::new());
}
