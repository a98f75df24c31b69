//! Owns the tests of routers that fall silent or change: when the stack is asked, and what its frames teach.

use mape_common::{
    env::Env as _,
    hop::{Mac, NextHop},
    packet::VecPacket,
    step::{guard, neighbour},
    time::Tick,
};
use mape_tests::table::{
    frame::udp,
    host::{HostWorld, WAN},
    talk::{down, up},
    world::{HOST, Outcome, Program, ROUTER_MAC, SERVER, WAN_MAC, World as _},
};

const SUCCESSOR: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn world() -> HostWorld {
    let mut world = HostWorld::new(64);
    world.is_router_silent = true;
    world.env.hop(0).expect("the relay's").confirm(world.env.now());
    world
}

/// A frame of the stack's own, between the tunnel's ends.
fn frame(world: &HostWorld, to: Mac, next_header: u8, kind: u8) -> VecPacket {
    let config = world.env.config().expect("configured");
    let mut bytes = [&to.0[..], &WAN_MAC.0, &[0x86, 0xdd]].concat();
    bytes.extend([0x60, 0, 0, 0, 0, 8, next_header, 64]);
    bytes.extend(config.tunnel_address);
    bytes.extend(config.relay_address);
    bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    VecPacket(bytes)
}

fn sent(world: &HostWorld, to: Mac, next_header: u8) {
    neighbour::sent(&frame(world, to, next_header, 0), &world.env, WAN);
}

fn neighbour_of(world: &HostWorld) -> Mac {
    let hop = world.env.hop(0).and_then(|record| record.get(NextHop::FAR_END));
    hop.expect("the relay's").destination
}

#[test]
fn what_the_stack_sends_into_the_tunnel_shows_the_router() {
    let world = world();
    for (to, next_header, ifindex, why) in [
        (SUCCESSOR, 17, WAN, "no packet of the tunnel's"),
        (SUCCESSOR, 4, WAN + 1, "another NIC"),
        (Mac([0x33, 0x33, 0, 0, 0, 1]), 4, WAN, "no neighbour's address"),
    ] {
        neighbour::sent(&frame(&world, to, next_header, 0), &world.env, ifindex);
        assert_eq!(neighbour_of(&world), ROUTER_MAC, "{why}");
    }
    sent(&world, SUCCESSOR, 4);
    assert_eq!(neighbour_of(&world), SUCCESSOR);
    sent(&world, ROUTER_MAC, 44);
    assert_eq!(neighbour_of(&world), ROUTER_MAC, "a fragment");
}

#[test]
fn an_announcement_makes_the_next_packet_ask() {
    let world = world();
    let record = world.env.hop(0).unwrap();
    for (next_header, kind, asks) in [(58, 135, false), (17, 136, false), (58, 136, true), (58, 134, true)] {
        neighbour::heard(&frame(&world, WAN_MAC, next_header, kind), &world.env, WAN);
        assert_eq!(record.asks(world.env.now()), asks, "{next_header} {kind}");
        assert!(!record.asks(world.env.now()), "one packet is enough");
        record.confirm(world.env.now());
    }
}

#[test]
fn a_silent_router_is_asked_for_by_a_packet_every_two_seconds() {
    let mut world = world();
    let send = |world: &mut HostWorld, port| world.give(Program::Lan, &up(HOST, SERVER, udp(port, 4000))).1;
    assert_eq!(send(&mut world, 50_000), "forwarded");
    world.env.pass_seconds(1);
    assert_eq!(send(&mut world, 50_000), "forwarded");
    for port in [50_001, 50_003, 50_005] {
        world.env.pass_seconds(3);
        assert_eq!(send(&mut world, port), "next-hop-silent");
        assert_eq!(send(&mut world, port + 1), "forwarded", "one is enough");
    }
    // The stack has sent one there.
    sent(&world, ROUTER_MAC, 4);
    world.env.pass_seconds(1);
    assert_eq!(send(&mut world, 50_000), "forwarded");
}

#[test]
fn a_router_that_answers_is_not_asked_for() {
    let mut world = world();
    for _ in 0..10 {
        let (outcome, label) = world.give(Program::Lan, &up(HOST, SERVER, udp(50_000, 4000)));
        assert_eq!(label, "forwarded");
        let Outcome::Forwarded(out) = outcome else {
            panic!("{outcome:?}")
        };
        let port = u16::from_be_bytes([out[74], out[75]]);
        assert_eq!(world.give(Program::Wan, &down(SERVER, udp(4000, port))).1, "forwarded");
        world.env.pass_seconds(1);
    }
    assert!(world.env.hop(0).unwrap().confirmed() != Tick(0));
}

/// A frame of the stack's own with those headers between the outer one and an IPv4 packet.
fn with_inner(world: &HostWorld, next_header: u8, extensions: &[u8], source: [u8; 4]) -> VecPacket {
    let VecPacket(mut bytes) = frame(world, ROUTER_MAC, next_header, 0);
    bytes.truncate(14 + 40);
    bytes.extend(extensions);
    bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend(source);
    bytes.extend([198, 51, 100, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    VecPacket(bytes)
}

#[test]
fn what_nobody_has_translated_does_not_leave_by_the_wan() {
    let world = world();
    let shared = world.env.config().expect("configured").external_address;
    let host = HOST.octets();
    let limit = |next| [next, 0, 4, 1, 4, 1, 0, 0];
    let fragment = |offset: u16| {
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        [4, 0, high, low, 0, 0, 0, 7]
    };
    let both = [limit(44), fragment(0)].concat();
    let later = [limit(44), fragment(181)].concat();
    for (name, next_header, extensions, source, is_untranslated) in [
        ("a LAN host's", 4, &[][..], host, true),
        ("a session's", 4, &[], shared, false),
        ("with an encapsulation limit", 60, &limit(4), host, true),
        ("a session's with an encapsulation limit", 60, &limit(4), shared, false),
        ("the first fragment", 44, &fragment(0), host, true),
        ("a session's first fragment", 44, &fragment(0), shared, false),
        ("both", 60, &both, host, true),
        (
            "a later fragment, whatever its bytes look like",
            60,
            &later,
            host,
            false,
        ),
        ("another protocol", 17, &[], host, false),
        ("IPv6 in it", 41, &[], host, false),
    ] {
        let frame = with_inner(&world, next_header, extensions, source);
        assert_eq!(guard::is_untranslated(&frame, &world.env), is_untranslated, "{name}");
        let VecPacket(short) = frame;
        for len in 0..short.len() {
            let cut = VecPacket(short.iter().copied().take(len).collect());
            assert!(
                is_untranslated || !guard::is_untranslated(&cut, &world.env),
                "{name}, {len} bytes"
            );
        }
    }
    let leak = with_inner(&world, 4, &[], host);
    let mut other = VecPacket(leak.0.clone());
    other.0.splice(
        14 + 8..14 + 24,
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    );
    assert!(
        !guard::is_untranslated(&other, &world.env),
        "another address of this machine"
    );
    let mut config = *world.env.config().expect("configured");
    config.tunnel_address = config.relay_address;
    let world = HostWorld::of(config);
    let relayed = with_inner(&world, 4, &[], host);
    assert!(
        !guard::is_untranslated(&relayed, &world.env),
        "a border relay forwards for others"
    );
}
