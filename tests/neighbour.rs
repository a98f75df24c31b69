//! Owns the tests of routers that fall silent or change: when the stack is asked, and what its frames teach.

use mape_common::{
    env::Env as _,
    hop::{Mac, NextHop},
    packet::VecPacket,
    step::neighbour,
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
