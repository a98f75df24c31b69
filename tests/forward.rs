//! Static forwards and reserved ports over time, on the host and in the kernel.

use std::net::Ipv4Addr;

use mape_common::{
    env::{Env as _, Route, Search as _},
    host::HostEnv,
    layout::{Gauge, PortOrder, SweepOrder, Transport},
    nat::{
        session::{Hold, Phase},
        sweep::Sweep,
    },
};
use mape_tests::{
    netns::Netns,
    table::{
        both::in_both,
        frame::{Frame, Outer, Payload, Seen, tcp, udp},
        host::{HostWorld, LAN},
        kernel::{KernelWorld, furnish},
        talk,
        world::{
            CE, Forwarded, HOST, HOST_2, HOST_MAC, IN_SET, LAN_MAC, Outcome, Program, RELAY, ROUTER_MAC, SERVER,
            SERVER_2, SHARED, WAN_MAC, World,
        },
    },
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SERVICE: u16 = 80;

fn forward(transport: Transport) -> Forwarded {
    Forwarded {
        transport,
        external: IN_SET,
        inside: (HOST, SERVICE),
    }
}

fn make(world: &mut dyn World, transport: Transport) -> u32 {
    world.order(forward(transport).order(PortOrder::FORWARD))
}

fn end(world: &mut dyn World, transport: Transport) -> u32 {
    world.order(forward(transport).order(PortOrder::UNFORWARD))
}

fn send(world: &mut dyn World, payload: Payload) -> Result<u16, &'static str> {
    let frame = Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        ..Frame::new(HOST, SERVER, payload)
    };
    match world.give(Program::Lan, &frame.bytes()) {
        (Outcome::Forwarded(frame), _) => Ok(Seen::of(&frame).ports.0),
        (_, label) => Err(label),
    }
}

fn arrive(world: &mut dyn World, from: Ipv4Addr, payload: Payload) -> Result<u16, &'static str> {
    let outer = Some(Outer {
        from: RELAY,
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
    match world.give(Program::Wan, &frame.bytes()) {
        (Outcome::Forwarded(frame), _) => Ok(Seen::of(&frame).ports.1),
        (_, label) => Err(label),
    }
}

fn sweep(env: &HostEnv, order: Option<&SweepOrder>) -> u32 {
    let config = env.config().expect("configured");
    let mut sweep = Sweep {
        env,
        config,
        order,
        first: 0,
        now: env.now(),
        ended: 0,
    };
    for index in 0..config.sessions {
        sweep.step(index);
    }
    sweep.ended
}

fn whole(env: &HostEnv) {
    assert_eq!(env.violations(), Vec::<String>::new());
}

/// The phases of live sessions.
fn phases(env: &HostEnv) -> Vec<Phase> {
    let live = env.sessions.iter().filter(|record| record.state().phase.is_live());
    live.filter(|record| record.facts().hold != Hold::Mapping)
        .map(|record| record.state().phase)
        .collect()
}

#[test]
fn a_forward_outlives_every_idle_time_and_its_sessions_have_theirs() {
    let mut world = HostWorld::new(64);
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::DONE);
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::DONE, "it is there already");
    assert_eq!(arrive(&mut world, SERVER, udp(4000, IN_SET)), Ok(SERVICE));
    assert_eq!(arrive(&mut world, SERVER_2, udp(4000, IN_SET)), Ok(SERVICE));
    assert_eq!(world.env.read(Gauge::Sessions(Transport::Udp)), 2);
    world.env.pass_seconds(1_000_000);
    assert_eq!(sweep(&world.env, None), 2);
    whole(&world.env);
    assert_eq!(world.env.read(Gauge::Forwards(Transport::Udp)), 1);
    assert_eq!(arrive(&mut world, SERVER, udp(4001, IN_SET)), Ok(SERVICE));
    // Sessions that an operator ends leave the forward.
    let everything = SweepOrder {
        flush: 1,
        ..SweepOrder::default()
    };
    assert_eq!(sweep(&world.env, Some(&everything)), 1);
    assert_eq!(arrive(&mut world, SERVER, udp(4002, IN_SET)), Ok(SERVICE));
    whole(&world.env);
}

#[test]
fn a_connection_from_outside_opens_and_is_established_by_the_servers_answer() {
    let mut world = HostWorld::new(64);
    assert_eq!(make(&mut world, Transport::Tcp), PortOrder::DONE);
    assert_eq!(arrive(&mut world, SERVER, tcp(4000, IN_SET, SYN)), Ok(SERVICE));
    assert_eq!(phases(&world.env), [Phase::TcpUnanswered]);
    assert_eq!(arrive(&mut world, SERVER, tcp(4000, IN_SET, SYN)), Ok(SERVICE), "again");
    assert_eq!(phases(&world.env), [Phase::TcpUnanswered]);
    assert_eq!(send(&mut world, tcp(SERVICE, 4000, SYN | ACK)), Ok(IN_SET));
    assert_eq!(phases(&world.env), [Phase::TcpEstablished]);
    assert_eq!(arrive(&mut world, SERVER, tcp(4000, IN_SET, ACK)), Ok(SERVICE));
    whole(&world.env);
}

#[test]
fn who_only_waits_is_found_by_the_routing_table_or_by_what_he_once_sent() {
    let mut world = HostWorld::new(64);
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::DONE);
    world
        .env
        .routes
        .borrow_mut()
        .push((HOST.octets(), 32, Route::Unresolved { ifindex: LAN }));
    assert_eq!(arrive(&mut world, SERVER, udp(4000, IN_SET)), Err("next-hop-unknown"));
    whole(&world.env);
    send(&mut world, udp(9, 9)).expect("a frame teaches where the host is");
    assert_eq!(arrive(&mut world, SERVER, udp(4000, IN_SET)), Ok(SERVICE));
    whole(&world.env);
}

#[test]
fn a_port_or_an_endpoint_in_use_is_not_taken_before_it_is_freed() {
    let mut world = HostWorld::new(64);
    let flush = SweepOrder {
        flush: 1,
        ..SweepOrder::default()
    };
    // The port is another endpoint's.
    assert_eq!(send(&mut world, udp(IN_SET, 4000)), Ok(IN_SET));
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::BUSY);
    assert_eq!(sweep(&world.env, Some(&flush)), 2);
    // The endpoint has another port.
    let port = send(&mut world, udp(SERVICE, 4000)).expect("a port");
    assert_ne!(port, IN_SET);
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::BUSY);
    whole(&world.env);
    assert_eq!(send(&mut world, udp(SERVICE, 4001)), Ok(port), "nothing was changed");
    assert_eq!(sweep(&world.env, Some(&flush)), 3);
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::DONE);
    assert_eq!(send(&mut world, udp(SERVICE, 4000)), Ok(IN_SET));
    whole(&world.env);
}

#[test]
fn orders_that_make_no_sense_change_nothing() {
    let mut world = HostWorld::new(2);
    let udp_forward = forward(Transport::Udp).order(PortOrder::FORWARD);
    for order in [
        PortOrder {
            external_port: 1236_u16.to_be_bytes(),
            ..udp_forward
        },
        PortOrder {
            protocol: Transport::Icmp.protocol(),
            ..udp_forward
        },
        PortOrder {
            protocol: 0,
            ..udp_forward
        },
        PortOrder {
            action: 9,
            ..udp_forward
        },
        PortOrder::default(),
    ] {
        assert_eq!(world.order(order), PortOrder::INVALID, "{order:?}");
    }
    assert_eq!(end(&mut world, Transport::Udp), PortOrder::ABSENT);
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::DONE);
    let elsewhere = PortOrder {
        inside_port: [0, 81],
        action: PortOrder::UNFORWARD,
        ..udp_forward
    };
    assert_eq!(world.order(elsewhere), PortOrder::ABSENT, "another endpoint's");
    assert_eq!(make(&mut world, Transport::Tcp), PortOrder::DONE);
    let third = Forwarded {
        external: IN_SET + 1,
        inside: (HOST, SERVICE + 1),
        ..forward(Transport::Tcp)
    };
    assert_eq!(world.order(third.order(PortOrder::FORWARD)), PortOrder::FULL);
    whole(&world.env);
}

#[test]
fn a_reserved_port_is_nobodys_until_it_is_released() {
    let mut world = HostWorld::new(64);
    let order = |action| PortOrder {
        external_port: IN_SET.to_be_bytes(),
        protocol: Transport::Udp.protocol(),
        action,
        ..PortOrder::default()
    };
    assert_eq!(world.order(order(PortOrder::RELEASE)), PortOrder::ABSENT);
    assert_eq!(world.order(order(PortOrder::RESERVE)), PortOrder::DONE);
    assert_eq!(world.order(order(PortOrder::RESERVE)), PortOrder::DONE);
    assert_ne!(send(&mut world, udp(IN_SET, 4000)), Ok(IN_SET));
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::BUSY);
    assert_eq!(world.order(order(PortOrder::RELEASE)), PortOrder::DONE);
    assert_eq!(
        send(&mut world, udp(IN_SET, 4001)).map(|port| port == IN_SET),
        Ok(false),
        "its mapping stays"
    );
    assert_eq!(send(&mut world, udp(IN_SET + 1, 4001)), Ok(IN_SET + 1));
    assert_eq!(make(&mut world, Transport::Udp), PortOrder::DONE);
    assert_eq!(world.order(order(PortOrder::RESERVE)), PortOrder::BUSY);
    whole(&world.env);
}

/// Made and ended again and again, with packets before and after, nothing is left over.
fn comes_and_goes<W: World>(world: &mut W, flush: impl Fn(&mut W)) {
    for round in 0..100 {
        let remote = 4000 + round;
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(make(world, transport), PortOrder::DONE, "round {round}");
        }
        assert_eq!(arrive(world, SERVER, udp(remote, IN_SET)), Ok(SERVICE));
        assert_eq!(arrive(world, SERVER, tcp(remote, IN_SET, SYN)), Ok(SERVICE));
        assert_eq!(send(world, udp(SERVICE, remote)), Ok(IN_SET));
        assert_eq!(send(world, tcp(SERVICE, remote, SYN | ACK)), Ok(IN_SET));
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(end(world, transport), PortOrder::DONE, "round {round}");
        }
        // New ones are refused at once, also while the old sessions are still to be ended.
        assert_eq!(arrive(world, SERVER_2, udp(remote, IN_SET)), Err("no-session"));
        flush(world);
        assert_eq!(arrive(world, SERVER, udp(remote, IN_SET)), Err("no-session"));
        assert_eq!(arrive(world, SERVER, tcp(remote, IN_SET, ACK)), Err("no-session"));
    }
}

#[test]
fn forwards_come_and_go_on_the_host() {
    let mut world = HostWorld::new(64);
    comes_and_goes(&mut world, |world| {
        let everything = SweepOrder {
            flush: 1,
            ..SweepOrder::default()
        };
        sweep(&world.env, Some(&everything));
        whole(&world.env);
        assert_eq!(world.env.live(), 0);
    });
}

#[test]
fn a_forwarded_port_is_reached_from_the_lan_by_the_shared_address() {
    in_both(mape_ctl::object::object(), "forwardhair", |world| {
        assert_eq!(make(world, Transport::Tcp), PortOrder::DONE);
        let frame = talk::up(HOST_2, SHARED, tcp(5000, IN_SET, SYN));
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &frame) else {
            panic!("not forwarded: {}", world.give(Program::Lan, &frame).1);
        };
        let seen = Seen::of(&frame);
        assert_eq!(
            (seen.outer, seen.addresses, seen.ports.1),
            (None, (SHARED, HOST), SERVICE)
        );
        let answer = talk::up(HOST, SHARED, tcp(SERVICE, seen.ports.0, SYN | ACK));
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &answer) else {
            panic!("no answer: {}", world.give(Program::Lan, &answer).1);
        };
        let seen = Seen::of(&frame);
        assert_eq!((seen.addresses, seen.ports), ((SHARED, HOST_2), (IN_SET, 5000)));
    });
}

/// A namespace that goes away with its test, however that ends.
struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

#[test]
fn forwards_come_and_go_in_the_kernel() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-forward-{}", std::process::id())).unwrap());
    furnish(&room.0).unwrap();
    let run = room.0.enter(|| {
        let mut world = KernelWorld::new(mape_ctl::object::object(), 64)?;
        comes_and_goes(&mut world, |world| {
            world.flush().expect("the sweeper runs");
        });
        for transport in Transport::ALL {
            for gauge in [
                Gauge::Sessions(transport),
                Gauge::Mappings(transport),
                Gauge::Forwards(transport),
                Gauge::Exclusive(transport),
                Gauge::Shared(transport),
            ] {
                assert_eq!(world.read(gauge)?, 0, "{gauge:?}");
            }
        }
        assert_eq!(world.read(Gauge::Records)?, 0);
        // Without a neighbour entry and without a frame from there, nobody knows where that host is.
        let silent = Forwarded {
            inside: (HOST_2, SERVICE),
            ..forward(Transport::Udp)
        };
        assert_eq!(world.order(silent.order(PortOrder::FORWARD)), PortOrder::DONE);
        assert_eq!(arrive(&mut world, SERVER, udp(4000, IN_SET)), Err("next-hop-unknown"));
        Ok(())
    });
    run.unwrap();
}
