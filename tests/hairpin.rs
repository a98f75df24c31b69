//! LAN hosts that talk to each other by the shared address (RFC 4787 REQ-9, RFC 5382 REQ-8), on the host and in the kernel.

use std::net::Ipv4Addr;

use mape_common::{
    checksum,
    layout::{Config, Transport},
};
use mape_tests::table::{
    both::in_both,
    frame::{Payload, Seen, error, tcp, udp},
    host::HostWorld,
    talk::{answer, down, reserve, send, sweep, up},
    world::{HOST, HOST_2, IN_SET, NOT_IN_SET, Outcome, Program, SERVER, SERVER_2, SHARED, World},
};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

type Endpoint = (Ipv4Addr, u16);

/// Sends from a LAN host to the shared address; what arrives: from which address and port, at which.
fn turn(world: &mut dyn World, from: Ipv4Addr, payload: Payload) -> Result<(Endpoint, Endpoint), &'static str> {
    match world.give(Program::Lan, &up(from, SHARED, payload)) {
        (Outcome::Forwarded(frame), _) => {
            let seen = Seen::of(&frame);
            assert_eq!((seen.outer, seen.ttl), (None, 63));
            Ok(((seen.addresses.0, seen.ports.0), (seen.addresses.1, seen.ports.1)))
        }
        (_, label) => Err(label),
    }
}

#[test]
fn two_hosts_that_both_know_the_others_outside_talk() {
    in_both(mape_ctl::object::object(), "hairudp", |world| {
        // Both have told a server who they are; it tells each the other's endpoint.
        let a = send(world, HOST, SERVER, udp(5000, 3478)).unwrap();
        let b = send(world, HOST_2, SERVER, udp(6000, 3478)).unwrap();
        // Address-dependent filtering: the first to send is not let in yet, and opens its own side by that.
        assert_eq!(turn(world, HOST, udp(5000, b)), Err("filtered"));
        assert_eq!(turn(world, HOST_2, udp(6000, a)), Ok(((SHARED, b), (HOST, 5000))));
        for _ in 0..3 {
            assert_eq!(turn(world, HOST, udp(5000, b)), Ok(((SHARED, a), (HOST_2, 6000))));
            assert_eq!(turn(world, HOST_2, udp(6000, a)), Ok(((SHARED, b), (HOST, 5000))));
        }
        // And the Internet goes on as before.
        assert_eq!(send(world, HOST, SERVER_2, udp(5000, 9)), Ok(a));
        assert_eq!(answer(world, SERVER, udp(3478, b)), Ok((HOST_2, 6000)));
    });
}

#[test]
fn a_host_reaches_itself() {
    in_both(mape_ctl::object::object(), "hairself", |world| {
        let a = send(world, HOST, SERVER, udp(5000, 3478)).unwrap();
        let b = send(world, HOST, SERVER, udp(5001, 3478)).unwrap();
        assert_eq!(turn(world, HOST, udp(5000, b)), Err("filtered"));
        assert_eq!(turn(world, HOST, udp(5001, a)), Ok(((SHARED, b), (HOST, 5000))));
        assert_eq!(turn(world, HOST, udp(5000, b)), Ok(((SHARED, a), (HOST, 5001))));
    });
}

#[test]
fn what_nobody_has_mapped_goes_nowhere_and_never_into_the_tunnel() {
    in_both(mape_ctl::object::object(), "hairno", |world| {
        // Else the sender itself may be given it, which is then in nobody's way but its own.
        reserve(world, IN_SET);
        assert_eq!(turn(world, HOST, udp(5000, IN_SET)), Err("no-session"));
        assert_eq!(turn(world, HOST, tcp(5000, IN_SET, SYN)), Err("no-session"));
        // A port of another set is another customer edge's.
        let other = send(world, HOST, SHARED, udp(5000, NOT_IN_SET));
        assert!(other.is_ok(), "{other:?}");
    });
}

#[test]
fn nobody_outside_speaks_as_a_host_of_the_lan() {
    in_both(mape_ctl::object::object(), "hairspoof", |world| {
        let a = send(world, HOST, SERVER, udp(5000, 3478)).unwrap();
        let b = send(world, HOST_2, SERVER, udp(6000, 3478)).unwrap();
        let _ = turn(world, HOST, udp(5000, b));
        turn(world, HOST_2, udp(6000, a)).unwrap();
        assert_eq!(
            world.give(Program::Wan, &down(SHARED, udp(b, a))).1,
            "security-invalid-v4"
        );
        assert_eq!(
            world.give(Program::Wan, &down(SHARED, udp(1232, a))).1,
            "security-invalid-v4"
        );
    });
}

#[test]
fn connections_open_talk_and_end() {
    let mut world = HostWorld::new(64);
    world.env.config.as_mut().unwrap().flags |= Config::mapping(Transport::Tcp);
    let world = &mut world;
    // The server on HOST_2 has a mapping, and has sent to the shared address.
    let b = send(world, HOST_2, SERVER, tcp(80, 9, SYN)).unwrap();
    let a = send(world, HOST, SERVER, tcp(5000, 9, SYN)).unwrap();
    assert_eq!(turn(world, HOST, tcp(5000, b, SYN)), Err("filtered"));
    assert_eq!(turn(world, HOST_2, tcp(80, a, SYN)), Ok(((SHARED, b), (HOST, 5000))));
    assert_eq!(
        turn(world, HOST, tcp(5000, b, SYN_ACK)),
        Ok(((SHARED, a), (HOST_2, 80)))
    );
    world.env.pass_seconds(3_000);
    assert_eq!(
        turn(world, HOST_2, tcp(80, a, ACK)),
        Ok(((SHARED, b), (HOST, 5000))),
        "established"
    );
    assert_eq!(turn(world, HOST, tcp(5000, b, ACK)), Ok(((SHARED, a), (HOST_2, 80))));
    world.env.pass_seconds(8_000);
    sweep(&world.env);
    assert_eq!(world.env.live(), 0);
    assert_eq!(world.env.violations(), Vec::<String>::new());
}

#[test]
fn sessions_that_turn_round_end_like_others() {
    let mut world = HostWorld::new(64);
    let a = send(&mut world, HOST, SERVER, udp(5000, 3478)).unwrap();
    let b = send(&mut world, HOST_2, SERVER, udp(6000, 3478)).unwrap();
    let _ = turn(&mut world, HOST, udp(5000, b));
    turn(&mut world, HOST_2, udp(6000, a)).unwrap();
    for _ in 0..10 {
        world.env.pass_seconds(100);
        turn(&mut world, HOST, udp(5000, b)).unwrap();
        turn(&mut world, HOST_2, udp(6000, a)).unwrap();
    }
    world.env.pass_seconds(310);
    sweep(&world.env);
    assert_eq!(world.env.live(), 0);
    assert_eq!(world.env.violations(), Vec::<String>::new());
}

#[test]
fn an_error_about_a_packet_from_the_other_host_comes_back_to_it() {
    in_both(mape_ctl::object::object(), "hairerr", |world| {
        let a = send(world, HOST, SERVER, udp(5000, 3478)).unwrap();
        let b = send(world, HOST_2, SERVER, udp(6000, 3478)).unwrap();
        assert_eq!(turn(world, HOST, udp(5000, b)), Err("filtered"));
        turn(world, HOST_2, udp(6000, a)).unwrap();
        let sent = up(HOST, SHARED, udp(5000, b));
        let (Outcome::Forwarded(arrived), _) = world.give(Program::Lan, &sent) else {
            panic!("not turned round");
        };
        // HOST_2 has closed its port; it quotes what it has received.
        let refusal = up(HOST_2, SHARED, error(3, 3, &arrived[14..]));
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &refusal) else {
            panic!("{}", world.give(Program::Lan, &refusal).1);
        };
        let seen = Seen::of(&frame);
        assert_eq!((seen.addresses, seen.ttl), ((SHARED, HOST), 63));
        let mut quoted = seen.rest[4..].to_vec();
        let mut wanted = sent[14..].to_vec();
        assert_eq!(checksum::of([&quoted[..20]]), 0, "the quoted header's checksum");
        for packet in [&mut quoted, &mut wanted] {
            packet[8] = 0;
            packet[10..12].fill(0);
        }
        assert_eq!(quoted, wanted, "what HOST has sent");
        // About what was never sent nobody is told.
        let nothing = up(HOST_2, SHARED, error(3, 3, &up(SHARED, HOST_2, udp(a, 6001))[14..]));
        assert_eq!(world.give(Program::Lan, &nothing).1, "error-without-session");
    });
}

#[test]
fn a_forged_packet_keeps_no_session_of_lan_hosts_alive() {
    let mut world = HostWorld::new(64);
    let a = send(&mut world, HOST, SERVER, udp(5000, 3478)).unwrap();
    let b = send(&mut world, HOST_2, SERVER, udp(6000, 3478)).unwrap();
    let _ = turn(&mut world, HOST, udp(5000, b));
    turn(&mut world, HOST_2, udp(6000, a)).unwrap();
    turn(&mut world, HOST, udp(5000, b)).unwrap();
    for _ in 0..4 {
        world.env.pass_seconds(100);
        assert_eq!(
            world.give(Program::Wan, &down(SHARED, udp(b, a))).1,
            "security-invalid-v4"
        );
    }
    sweep(&world.env);
    assert_eq!(world.env.live(), 0);
}
