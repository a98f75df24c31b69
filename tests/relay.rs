//! The border relay's two directions, and a customer edge in a mesh: rules, spoofed senders, customer edge to customer edge.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{
    env::Route,
    host::HostEnv,
    packet::VecPacket,
    step::{edge, relay},
    verdict::{Direction, Failure, Verdict},
};
use mape_tests::table::{
    domain::{add, border_relay, rule},
    frame::{Frame, Outer, Payload, Seen, echo, tcp, udp},
    host::{HostWorld, LAN, WAN},
    world::{CE, HOST, HOST_MAC, LAN_MAC, RELAY, ROUTER_MAC, SERVER, SHARED, WAN_MAC},
};

fn outcome(result: Result<Verdict, Failure>, packet: &VecPacket) -> Result<(Verdict, Seen), &'static str> {
    result
        .map(|verdict| (verdict, Seen::of(&packet.0)))
        .map_err(|failure| failure.reason().label())
}

/// From the Internet.
fn to_domain(env: &HostEnv, frame: Frame) -> Result<(Verdict, Seen), &'static str> {
    let mut packet = VecPacket(
        Frame {
            to_mac: LAN_MAC.0,
            from_mac: HOST_MAC.0,
            ..frame
        }
        .bytes(),
    );
    outcome(relay::all(&mut packet, env, LAN, Direction::Outbound), &packet)
}

/// From a customer edge.
fn from_domain(env: &HostEnv, outer: &str, frame: Frame) -> Result<(Verdict, Seen), &'static str> {
    let outer = Some(Outer {
        from: outer.parse().expect("an address"),
        to: RELAY,
        class: 2,
        extension: None,
    });
    let mut packet = VecPacket(
        Frame {
            to_mac: WAN_MAC.0,
            from_mac: ROUTER_MAC.0,
            outer,
            ..frame
        }
        .bytes(),
    );
    outcome(relay::all(&mut packet, env, WAN, Direction::Inbound), &packet)
}

const CUSTOMER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 12);
const CUSTOMER_ADDRESS: &str = "2001:db8:f0:c30:0:c612:c:3";

#[test]
fn a_relay_finds_the_customer_edge_by_address_and_port() {
    let env = border_relay();
    let (verdict, seen) = to_domain(&env, Frame::new(SERVER, CUSTOMER, udp(4000, 16_606))).unwrap();
    assert_eq!(verdict, Verdict::Forward { ifindex: WAN });
    let (from, to, ..) = seen.outer.unwrap();
    assert_eq!((from, to), (RELAY, CUSTOMER_ADDRESS.parse().unwrap()));
    assert_eq!(
        (seen.addresses, seen.ports, seen.ttl),
        ((SERVER, CUSTOMER), (4000, 16_606), 63)
    );
    let (_, seen) = to_domain(&env, Frame::new(SERVER, SHARED, echo(0, 1232))).unwrap();
    assert_eq!(seen.outer.unwrap().1, CE, "an identifier is a port");
}

#[test]
fn a_relay_passes_what_is_in_no_rule_and_drops_what_nobody_can_have() {
    let env = border_relay();
    assert_eq!(
        to_domain(&env, Frame::new(SERVER, HOST, udp(1, 16_606))).unwrap_err(),
        "no-rule"
    );
    assert_eq!(
        to_domain(&env, Frame::new(SERVER, CUSTOMER, udp(1, 1023))).unwrap_err(),
        "foreign-port"
    );
    let gre = Payload::Other {
        protocol: 47,
        bytes: vec![0; 8],
    };
    assert_eq!(
        to_domain(&env, Frame::new(SERVER, CUSTOMER, gre)).unwrap_err(),
        "unsupported-protocol"
    );
}

#[test]
fn a_relay_decapsulates_what_its_sender_may_send() {
    let env = border_relay();
    let (verdict, seen) = from_domain(&env, CUSTOMER_ADDRESS, Frame::new(CUSTOMER, SERVER, udp(16_606, 4000))).unwrap();
    assert_eq!(verdict, Verdict::Forward { ifindex: LAN });
    assert_eq!(seen.outer, None);
    assert_eq!(
        (seen.addresses, seen.ports, seen.ttl),
        ((CUSTOMER, SERVER), (16_606, 4000), 63)
    );
}

#[test]
fn spoofed_senders_are_dropped_each_by_its_counter() {
    let env = border_relay();
    for (outer, from, port, counted) in [
        ("2001:db8:f0:c30:0:c612:1c:3", CUSTOMER, 16_606, "security-invalid-v4"),
        ("2001:db8:f0:a00:0:c612:c:3", CUSTOMER, 16_606, "security-invalid-v4"),
        ("2001:db8:f0:c30:0:c612:c:4", CUSTOMER, 16_606, "security-invalid-v4"),
        (CUSTOMER_ADDRESS, CUSTOMER, 16_862, "security-invalid-v4"),
        (
            CUSTOMER_ADDRESS,
            Ipv4Addr::new(198, 18, 0, 13),
            16_606,
            "security-invalid-v4",
        ),
        (CUSTOMER_ADDRESS, SERVER, 16_606, "security-invalid-v4"),
        ("2001:db8:0:c30:0:c612:c:3", CUSTOMER, 16_606, "security-invalid-v4"),
        ("2001:db8:f100:c30:0:c612:c:3", CUSTOMER, 16_606, "security-invalid-v6"),
    ] {
        let reached = from_domain(&env, outer, Frame::new(from, SERVER, udp(port, 4000)));
        assert_eq!(reached.unwrap_err(), counted, "{outer} {from}:{port}");
    }
}

#[test]
fn a_relay_sends_from_one_customer_edge_to_another() {
    let env = border_relay();
    let (verdict, seen) = from_domain(&env, CUSTOMER_ADDRESS, Frame::new(CUSTOMER, SHARED, udp(16_606, 1232))).unwrap();
    assert_eq!(verdict, Verdict::Forward { ifindex: WAN });
    let (from, to, class, _, hops) = seen.outer.unwrap();
    assert_eq!((from, to, hops), (RELAY, CE, 64));
    assert_eq!(class, 2, "what the way has marked stays");
    assert_eq!((seen.addresses, seen.ttl), ((CUSTOMER, SHARED), 63));
}

#[test]
fn a_relay_lets_its_own_stack_find_a_neighbour() {
    let env = border_relay();
    *env.routes.borrow_mut() = vec![([0; 4], 0, Route::Unresolved { ifindex: LAN })];
    let (verdict, seen) = from_domain(&env, CUSTOMER_ADDRESS, Frame::new(CUSTOMER, SERVER, udp(16_606, 4000))).unwrap();
    assert_eq!((verdict, seen.outer), (Verdict::Deliver, None));
    assert_eq!(seen.macs.0, WAN_MAC.0, "for this machine");
}

fn large(from: u16, to: u16) -> Payload {
    Payload::Udp {
        from,
        to,
        data: vec![7; 4_000],
        checksum: true,
    }
}

#[test]
fn a_relay_sends_fragments_where_their_first_has_gone() {
    let env = border_relay();
    let packet = Frame::new(SERVER, CUSTOMER, large(4000, 16_606));
    let pieces = packet.split(1_400);
    assert_eq!(
        to_domain(&env, pieces[1].clone()).unwrap_err(),
        "fragment-first-missing"
    );
    let mut label = None;
    for (n, piece) in pieces.into_iter().enumerate() {
        let (verdict, seen) = to_domain(&env, piece).unwrap();
        assert_eq!(verdict, Verdict::Forward { ifindex: WAN });
        let (from, to, _, of, _) = seen.outer.unwrap();
        assert_eq!((from, to), (RELAY, CUSTOMER_ADDRESS.parse().unwrap()));
        assert_eq!(*label.get_or_insert(of), of, "one way for all of them");
        assert_eq!((seen.addresses, seen.ttl), ((SERVER, CUSTOMER), 63));
        assert_eq!(
            (seen.fragment.0, usize::from(seen.fragment.1 & 0x1fff)),
            (0x1c46, n * 175)
        );
    }
    assert_eq!(
        to_domain(&env, Frame::new(SERVER, HOST, large(1, 2)).split(1_400).remove(1)).unwrap_err(),
        "no-rule",
        "none of the domain's"
    );
    assert_eq!(
        to_domain(
            &env,
            Frame::new(SERVER, CUSTOMER, large(1, 1023)).split(1_400).remove(0)
        )
        .unwrap_err(),
        "foreign-port"
    );
}

#[test]
fn a_relay_decapsulates_fragments_from_who_sent_the_first() {
    let env = border_relay();
    let pieces = Frame::new(CUSTOMER, SERVER, large(16_606, 4000)).split(1_400);
    for spoofed in ["2001:db8:f0:c30:0:c612:c:4", "2001:db8:f0:a00:0:c612:c:3"] {
        assert_eq!(
            from_domain(&env, spoofed, pieces[0].clone()).unwrap_err(),
            "security-invalid-v4"
        );
        assert_eq!(
            from_domain(&env, spoofed, pieces[1].clone()).unwrap_err(),
            "fragment-first-missing",
            "what is spoofed is not noted"
        );
    }
    for piece in &pieces {
        let (verdict, seen) = from_domain(&env, CUSTOMER_ADDRESS, piece.clone()).unwrap();
        assert_eq!((verdict, seen.outer), (Verdict::Forward { ifindex: LAN }, None));
        assert_eq!((seen.addresses, seen.ttl), ((CUSTOMER, SERVER), 63));
    }
    assert_eq!(
        from_domain(&env, "2001:db8:f0:c30:0:c612:c:4", pieces[1].clone()).unwrap_err(),
        "fragment-first-missing",
        "only the outer source of the first (RFC 7597 section 8.1)"
    );
    assert_eq!(
        from_domain(&env, "2001:db9::1", pieces[1].clone()).unwrap_err(),
        "fragment-first-missing"
    );
}

#[test]
fn a_relay_sends_fragments_from_one_customer_edge_to_another() {
    let env = border_relay();
    for piece in Frame::new(CUSTOMER, SHARED, large(16_606, 1232)).split(1_400) {
        let (verdict, seen) = from_domain(&env, CUSTOMER_ADDRESS, piece).unwrap();
        assert_eq!(verdict, Verdict::Forward { ifindex: WAN });
        let (from, to, class, ..) = seen.outer.unwrap();
        assert_eq!((from, to, class), (RELAY, CE, 2));
    }
}

#[test]
fn a_relay_lets_no_more_bytes_follow_than_a_packet_can_have() {
    let env = border_relay();
    let pieces = Frame::new(CUSTOMER, SERVER, large(16_606, 4000)).split(1_400);
    from_domain(&env, CUSTOMER_ADDRESS, pieces[0].clone()).unwrap();
    for _ in 0..(65_515 - 1_400) / 1_400 {
        from_domain(&env, CUSTOMER_ADDRESS, pieces[1].clone()).unwrap();
    }
    assert_eq!(
        from_domain(&env, CUSTOMER_ADDRESS, pieces[1].clone()).unwrap_err(),
        "fragment-too-long"
    );
}

/// A customer edge with a forwarding rule that holds its own address and others'.
fn mesh() -> HostWorld {
    let mut world = HostWorld::new(64);
    add(&mut world.env, rule("2001:db8::", 40, [192, 0, 2, 0], 24, 16));
    world
}

fn up(world: &HostWorld, to: Ipv4Addr, payload: Payload) -> Result<Seen, &'static str> {
    let frame = Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        ..Frame::new(HOST, to, payload)
    };
    let mut packet = VecPacket(frame.bytes());
    outcome(edge::all(&mut packet, &world.env, LAN, Direction::Outbound), &packet).map(|(_, seen)| seen)
}

fn down(world: &HostWorld, outer: Ipv6Addr, from: Ipv4Addr, payload: Payload) -> Result<Seen, &'static str> {
    let outer = Some(Outer {
        from: outer,
        to: CE,
        class: 0,
        extension: None,
    });
    let frame = Frame {
        to_mac: WAN_MAC.0,
        from_mac: ROUTER_MAC.0,
        outer,
        ..Frame::new(from, SHARED, payload)
    };
    let mut packet = VecPacket(frame.bytes());
    outcome(edge::all(&mut packet, &world.env, WAN, Direction::Inbound), &packet).map(|(_, seen)| seen)
}

#[test]
fn in_a_mesh_packets_go_to_the_customer_edge_that_has_address_and_port() {
    let world = mesh();
    let peer = Ipv4Addr::new(192, 0, 2, 19);
    let seen = up(&world, peer, udp(1232, 1236)).unwrap();
    let theirs: Ipv6Addr = "2001:db8:13:3500:0:c000:213:35".parse().unwrap();
    assert_eq!(seen.outer.unwrap().1, theirs);
    assert_eq!(
        up(&world, SERVER, udp(1232, 4000)).unwrap().outer.unwrap().1,
        RELAY,
        "elsewhere: the relay"
    );
    assert_eq!(
        up(&world, peer, echo(8, 1232)).unwrap().outer.unwrap().1,
        RELAY,
        "an identifier says nothing of the peer"
    );
    let answered = down(&world, theirs, peer, udp(1236, 1232)).unwrap();
    assert_eq!(answered.addresses, (peer, HOST));
    assert!(down(&world, RELAY, peer, udp(1236, 1232)).is_ok(), "or by the relay");
}

#[test]
fn two_customer_edges_of_one_address_reach_each_other() {
    let world = mesh();
    let seen = up(&world, SHARED, udp(1232, 1236)).unwrap();
    let theirs: Ipv6Addr = "2001:db8:12:3500:0:c000:212:35".parse().unwrap();
    assert_eq!(seen.outer.unwrap().1, theirs);
    assert_eq!(seen.addresses, (SHARED, SHARED));
    assert_eq!(
        down(&world, theirs, SHARED, udp(1236, 1232)).unwrap().addresses,
        (SHARED, HOST)
    );
}

#[test]
fn the_shared_address_with_a_port_of_another_set_is_elsewhere() {
    const SYN: u8 = 2;
    const SYN_ACK: u8 = 18;
    let theirs: Ipv6Addr = "2001:db8:12:3500:0:c000:212:35".parse().unwrap();
    // Without a forwarding rule the relay sends it on; with one it goes straight to whose port it is.
    for (world, far_end) in [(HostWorld::new(64), RELAY), (mesh(), theirs)] {
        for (first, answer) in [
            (udp(1232, 1236), udp(1236, 1232)),
            (tcp(1232, 1236, SYN), tcp(1236, 1232, SYN_ACK)),
        ] {
            let seen = up(&world, SHARED, first).unwrap();
            assert_eq!(seen.outer.unwrap().1, far_end);
            assert_eq!((seen.addresses, seen.ports), ((SHARED, SHARED), (1232, 1236)));
            let seen = down(&world, far_end, SHARED, answer).unwrap();
            assert_eq!((seen.addresses, seen.ports), ((SHARED, HOST), (1236, 1232)));
        }
        // Below the first block are ports that nobody has: into the tunnel all the same, by the relay.
        let seen = up(&world, SHARED, udp(1232, 1023)).unwrap();
        assert_eq!(seen.outer.unwrap().1, RELAY);
    }
}

#[test]
fn in_a_mesh_a_customer_edge_drops_what_its_sender_may_not_send() {
    let world = mesh();
    let peer = Ipv4Addr::new(192, 0, 2, 19);
    let theirs: Ipv6Addr = "2001:db8:13:3500:0:c000:213:35".parse().unwrap();
    up(&world, peer, udp(1232, 1236)).unwrap();
    assert_eq!(
        down(&world, theirs, peer, udp(1240, 1232)).unwrap_err(),
        "security-invalid-v4",
        "another's port"
    );
    assert_eq!(
        down(&world, theirs, SERVER, udp(1236, 1232)).unwrap_err(),
        "security-invalid-v4",
        "another's address"
    );
    let stranger = "2001:db9::1".parse().unwrap();
    assert_eq!(
        down(&world, stranger, peer, udp(1236, 1232)).unwrap_err(),
        "security-invalid-v6"
    );
}
