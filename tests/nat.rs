//! What translation does over many packets and over time, on the host; where no clock is needed, in the kernel too.

#[path = "nat/mapping.rs"]
mod mapping;

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use mape_common::{
    env::{Env, Side},
    hop::Mac,
    host::HostEnv,
    layout::{Config, FlowKey, Gauge, Timeouts, Transport},
    map::psid::PortSet,
    time::Tick,
    wire::port::Port,
};
use mape_tests::{
    netns::Netns,
    table::{
        frame::{Payload, echo, tcp, udp},
        host::{HostWorld, LAN, TUNNEL, WAN},
        kernel::{KernelWorld, furnish},
        talk::{answer, send, sweep, up},
        world::{HOST, LAN_MAC, Program, SERVER, SERVER_2, WAN_MAC, World, config},
    },
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = SYN | ACK;
const FIN_ACK: u8 = 1 | ACK;
/// Ports of the tables' set.
const PORTS: u16 = 252;

fn assert_whole(env: &HostEnv) {
    assert_eq!(env.violations(), Vec::<String>::new());
}

/// A namespace that goes away with its test, however that ends.
struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

/// Runs a test in the kernel, or says that it was skipped.
fn in_the_kernel(name: &str, sessions: u32, test: impl FnOnce(&mut KernelWorld) + Send) {
    in_the_kernel_with(name, sessions, |_| {}, test);
}

/// The same with a configuration that was changed before anything ran.
fn in_the_kernel_with(
    name: &str,
    sessions: u32,
    change: impl FnOnce(&mut Config) + Send,
    test: impl FnOnce(&mut KernelWorld) + Send,
) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-{name}-{}", std::process::id())).expect("a namespace"));
    furnish(&room.0).expect("devices");
    let run = room.0.enter(|| {
        test(&mut KernelWorld::with(mape_ctl::object::object(), sessions, change)?);
        Ok(())
    });
    run.expect("the test");
}

/// Every port serves one connection to one remote end; others go on.
fn fill_one_destination(world: &mut dyn World) {
    let mut used = HashSet::new();
    for n in 0..PORTS {
        let port =
            send(world, HOST, SERVER, tcp(20_000 + n, 443, SYN)).unwrap_or_else(|e| panic!("connection {n}: {e}"));
        assert!(used.insert(port), "port {port} twice towards one destination");
    }
    assert_eq!(send(world, HOST, SERVER, tcp(30_000, 443, SYN)), Err("ports-exhausted"));
    assert_eq!(
        send(world, HOST, SERVER, tcp(30_000, 443, SYN)),
        Err("recently-refused"),
        "no second search at once"
    );
    for n in 0..1000u16 {
        let to = Ipv4Addr::new(203, 0, 113, 10 + u8::try_from(n % 200).expect("below 200"));
        send(world, HOST, to, tcp(1024 + n, 80, SYN)).unwrap_or_else(|e| panic!("connection {n} elsewhere: {e}"));
    }
    for n in 0..PORTS {
        send(world, HOST, SERVER, tcp(20_000 + n, 443, ACK)).unwrap_or_else(|e| panic!("connection {n} later: {e}"));
    }
}

/// As many connections as two buckets hold; those for which there is no place are refused and leave nothing.
fn crowd_two_buckets(world: &mut dyn World) {
    let mut connections = Vec::new();
    for inside in CROWD {
        match send(world, HOST, SERVER, tcp(inside, 443, SYN)) {
            Ok(port) => connections.push((inside, port)),
            Err(reason) => assert_eq!(reason, "sessions-exhausted", "from port {inside}"),
        }
    }
    assert!(connections.len() > 20, "{} of 40", connections.len());
    for (inside, port) in connections {
        for flags in [SYN_ACK, ACK] {
            let reached = answer(world, SERVER, tcp(443, port, flags));
            assert_eq!(reached, Ok((HOST, inside)), "an answer to port {port}");
            assert_eq!(
                send(world, HOST, SERVER, tcp(inside, 443, ACK)),
                Ok(port),
                "from port {inside}"
            );
        }
    }
}

const CROWD: RangeInclusive<u16> = 20_001..=20_040;
/// All but the highest bit of a hash is left out.
const TWO_BUCKETS: u32 = 63;

#[test]
fn connections_that_a_glance_does_not_show_go_on_like_others() {
    let mut world = HostWorld::of(Config {
        flow_shift: TWO_BUCKETS,
        ..config(TUNNEL, 4096)
    });
    crowd_two_buckets(&mut world);
    assert_whole(&world.env);
    let key = |inside| FlowKey::new(Transport::Tcp, HOST.octets(), Port(inside), SERVER.octets(), Port(443));
    let is_hidden = |inside: &u16| {
        let (key, config) = (key(*inside), world.env.config().expect("configured"));
        world.env.find(Side::Inside, &key).is_some() && world.env.glance(config, Side::Inside, &key).is_none()
    };
    let hidden: Vec<u16> = CROWD.filter(is_hidden).collect();
    assert!(!hidden.is_empty(), "all are seen at a glance");
    // They, too, are noted as used once a second and not with every packet.
    for seconds in [0, 2] {
        world.env.pass_seconds(seconds);
        world.env.now.set(Tick(world.env.now.get().0 + 1));
        for inside in &hidden {
            let read = |world: &HostWorld| {
                let found = world.env.find(Side::Inside, &key(*inside)).expect("found before");
                let record = world.env.session(found.slot).expect("a record");
                (record.state(), record.facts())
            };
            let (before, facts) = read(&world);
            assert_eq!(
                send(&mut world, HOST, SERVER, tcp(*inside, 443, ACK)),
                Ok(facts.external_port.0)
            );
            let (used, _) = read(&world);
            assert_eq!(used == before, seconds == 0, "from port {inside} after {seconds} s");
            assert_eq!(
                answer(&mut world, SERVER, tcp(443, facts.external_port.0, ACK)),
                Ok((HOST, *inside))
            );
            assert_eq!(read(&world).0, used, "an answer to port {inside} after {seconds} s");
        }
    }
}

#[test]
fn connections_that_a_glance_does_not_show_go_on_in_the_kernel() {
    let crowded = |config: &mut Config| config.flow_shift = TWO_BUCKETS;
    in_the_kernel_with("crowd", 4096, crowded, |world| crowd_two_buckets(world));
}

#[test]
fn all_ports_serve_one_destination_and_the_next_connection_is_refused() {
    let mut world = HostWorld::new(4096);
    fill_one_destination(&mut world);
    assert_eq!(world.env.read(Gauge::Sessions(Transport::Tcp)), 1252);
    assert_whole(&world.env);
}

#[test]
fn all_ports_serve_one_destination_in_the_kernel() {
    in_the_kernel("fill", 4096, |world| {
        fill_one_destination(world);
        assert_eq!(world.read(Gauge::Sessions(Transport::Tcp)).expect("a gauge"), 1252);
    });
}

#[test]
fn a_freed_port_is_used_again_at_once_when_asked_for_later() {
    let mut world = HostWorld::new(4096);
    fill_one_destination(&mut world);
    world.env.pass_seconds(300);
    // Expired sessions are absent although nobody has swept them.
    for n in 0..PORTS {
        send(&mut world, HOST, SERVER, tcp(50_000 + n, 443, SYN)).unwrap_or_else(|e| panic!("connection {n}: {e}"));
        // The search that meets expired sessions ends a few; the sweeper the others.
        if n % 16 == 0 {
            sweep(&world.env);
        }
    }
    assert_whole(&world.env);
}

#[test]
fn an_udp_endpoint_has_one_port_towards_everybody() {
    let mut world = HostWorld::new(1024);
    let first = send(&mut world, HOST, SERVER, udp(50_000, 4000)).unwrap();
    for n in 0..100u8 {
        let port = send(
            &mut world,
            HOST,
            Ipv4Addr::new(203, 0, 113, 10 + n),
            udp(50_000, 5000 + u16::from(n)),
        )
        .unwrap();
        assert_eq!(port, first);
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, udp(50_000, 53)),
        Ok(first),
        "also towards client-server ports"
    );
    assert_eq!(world.env.read(Gauge::Exclusive(Transport::Udp)), 1);
    assert_eq!(
        answer(&mut world, SERVER, udp(4001, first)),
        Ok((HOST, 50_000)),
        "address-dependent filtering"
    );
    assert_eq!(answer(&mut world, SERVER_2, udp(4000, first)), Err("filtered"));
    assert_whole(&world.env);
}

#[test]
fn queries_share_ports_and_leave_the_free_ones_to_endpoints() {
    let mut world = HostWorld::new(4096);
    for n in 0..500u16 {
        let to = Ipv4Addr::new(198, 51, 100, u8::try_from(n % 250).unwrap());
        send(&mut world, HOST, to, udp(10_000 + n, 53)).unwrap();
    }
    let shared = world.env.read(Gauge::Shared(Transport::Udp));
    assert!(shared <= 16, "{shared} ports for 500 queries to 250 servers");
    for n in 0..100u16 {
        send(&mut world, HOST, SERVER, udp(20_000 + n, 4000)).unwrap();
    }
    assert_eq!(world.env.read(Gauge::Exclusive(Transport::Udp)), 100);
    assert_whole(&world.env);
}

#[test]
fn out_of_free_ports_endpoints_share_before_anything_is_refused() {
    let mut world = HostWorld::new(4096);
    send(&mut world, HOST, SERVER, udp(9_999, 53)).unwrap();
    for n in 0..PORTS - 1 {
        send(&mut world, HOST, SERVER, udp(10_000 + n, 4000)).unwrap_or_else(|e| panic!("endpoint {n}: {e}"));
    }
    assert_eq!(world.env.read(Gauge::Degraded(Transport::Udp)), 0);
    send(&mut world, HOST, SERVER, udp(20_000, 4000)).unwrap();
    assert_eq!(
        world.env.read(Gauge::Degraded(Transport::Udp)),
        1,
        "the one shared port serves another endpoint"
    );
    assert_eq!(
        send(&mut world, HOST, SERVER, udp(20_001, 4000)),
        Err("ports-exhausted")
    );
    send(&mut world, HOST, SERVER_2, udp(20_001, 4000)).unwrap();
    assert_whole(&world.env);
}

#[test]
fn a_session_ends_exactly_when_its_time_is_over() {
    for (payload, reply, seconds) in [
        (udp(50_000, 4000), udp(4000, 0), 300),
        (udp(50_000, 53), udp(53, 0), 60),
        (tcp(50_000, 443, SYN), tcp(443, 0, ACK), 240),
        (echo(8, 50_000), echo(0, 0), 60),
    ] {
        for (wait, alive) in [(seconds - 2, true), (seconds + 2, false)] {
            let mut world = HostWorld::new(64);
            let port = send(&mut world, HOST, SERVER, payload.clone()).unwrap();
            world.env.pass_seconds(wait);
            let reply = match reply.clone() {
                Payload::Udp {
                    from, data, checksum, ..
                } => Payload::Udp {
                    from,
                    to: port,
                    data,
                    checksum,
                },
                Payload::Tcp {
                    from,
                    flags,
                    options,
                    data,
                    ..
                } => Payload::Tcp {
                    from,
                    to: port,
                    flags,
                    options,
                    data,
                },
                Payload::Icmp { kind, code, data, .. } => Payload::Icmp {
                    kind,
                    code,
                    id: port,
                    data,
                },
                other @ (Payload::Raw { .. } | Payload::Other { .. }) => other,
            };
            let reached = answer(&mut world, SERVER, reply);
            assert_eq!(reached.is_ok(), alive, "{payload:?} after {wait} s: {reached:?}");
        }
    }
}

#[test]
fn an_established_connection_lives_two_hours_and_a_closed_one_four_minutes() {
    let mut world = HostWorld::new(64);
    let port = send(&mut world, HOST, SERVER, tcp(50_000, 443, SYN)).unwrap();
    answer(&mut world, SERVER, tcp(443, port, SYN_ACK)).unwrap();
    world.env.pass_seconds(7_400);
    answer(&mut world, SERVER, tcp(443, port, ACK)).unwrap();
    send(&mut world, HOST, SERVER, tcp(50_000, 443, FIN_ACK)).unwrap();
    answer(&mut world, SERVER, tcp(443, port, FIN_ACK)).unwrap();
    world.env.pass_seconds(230);
    answer(&mut world, SERVER, tcp(443, port, ACK)).unwrap();
    world.env.pass_seconds(250);
    assert_eq!(answer(&mut world, SERVER, tcp(443, port, ACK)), Err("no-session"));
}

#[test]
fn what_expired_leaves_nothing_behind() {
    let mut world = HostWorld::new(1024);
    for n in 0..100u16 {
        send(&mut world, HOST, SERVER, udp(10_000 + n, 4000)).unwrap();
        send(&mut world, HOST, SERVER, udp(20_000 + n, 53)).unwrap();
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 80, SYN)).unwrap();
        send(&mut world, HOST, SERVER, echo(8, 10_000 + n)).unwrap();
    }
    world.env.pass_seconds(10_000);
    assert_eq!(
        sweep(&world.env),
        600,
        "400 sessions, 100 mappings each of UDP and ICMP"
    );
    assert_eq!(world.env.live(), 0);
    for transport in Transport::ALL {
        for gauge in [
            Gauge::Sessions(transport),
            Gauge::Mappings(transport),
            Gauge::Exclusive(transport),
            Gauge::Shared(transport),
        ] {
            assert_eq!(world.env.read(gauge), 0, "{gauge:?}");
        }
        for ordinal in 0..u32::from(PORTS) {
            assert_eq!(
                world.env.port(transport, ordinal).unwrap().load(),
                0,
                "{transport:?} {ordinal}"
            );
        }
    }
    assert_eq!(world.env.read(Gauge::Permissions), 0);
    assert_whole(&world.env);
}

#[test]
fn a_full_session_table_refuses_and_recovers() {
    let mut world = HostWorld::new(8);
    for n in 0..8 {
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 80, SYN)).unwrap();
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(20_000, 80, SYN)),
        Err("sessions-exhausted")
    );
    send(&mut world, HOST, SERVER, tcp(10_000, 80, ACK)).expect("a session that is there goes on");
    world.env.pass_seconds(8_000);
    assert_eq!(sweep(&world.env), 8);
    send(&mut world, HOST, SERVER, tcp(20_000, 80, SYN)).unwrap();
    assert_whole(&world.env);
}

#[test]
fn a_closed_gate_an_empty_configuration_and_a_missing_next_hop_pass_everything() {
    let frame = up(HOST, SERVER, udp(1232, 4000));
    let label = |world: &mut HostWorld| world.give(Program::Lan, &frame).1;
    let mut world = HostWorld::new(64);
    world.env.gate.set(false);
    assert_eq!(label(&mut world), "gate-closed");
    world.env.config = None;
    assert_eq!(label(&mut world), "not-configured");

    let mut env = HostEnv::new(config(TUNNEL, 64));
    assert_eq!((env.add_link(LAN_MAC, 1500), env.add_link(WAN_MAC, 1500)), (LAN, WAN));
    std::mem::swap(
        &mut *env.routes.borrow_mut(),
        &mut *HostWorld::new(64).env.routes.borrow_mut(),
    );
    assert_eq!(
        label(&mut HostWorld {
            env,
            is_router_silent: false
        }),
        "next-hop-unknown"
    );

    let mut world = HostWorld::new(64);
    world.env.links[2] =
        mape_common::hop::Link::from_words(mape_common::hop::Link::words(Mac([2, 0, 0, 0, 2, 1]), 1500));
    assert_eq!(label(&mut world), "link-unproven");
}

/// Small steps of chance that a test can repeat.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u16) -> u16 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u16::try_from((self.0 >> 33) % u64::from(limit)).expect("below a u16")
    }
}

#[test]
fn nothing_breaks_over_many_random_packets_and_no_answer_reaches_another_host() {
    let set = PortSet::new(6, 8, 0x34).unwrap();
    let mut chance = Chance(7);
    let mut world = HostWorld::new(600);
    // Who sent from which external port to whom: an answer may only reach one of them.
    let mut senders: HashMap<(u8, u16, Ipv4Addr, u16), (Ipv4Addr, u16)> = HashMap::new();
    for step in 0..200_000u32 {
        let host = Ipv4Addr::new(192, 168, 10, 10 + u8::try_from(chance.below(3)).unwrap());
        let server = Ipv4Addr::new(198, 51, 100, u8::try_from(chance.below(20)).unwrap());
        let (local, remote) = (
            1200 + chance.below(400),
            [53, 443, 4000, 5000][usize::from(chance.below(4))],
        );
        let flags = [SYN, ACK, FIN_ACK, 4][usize::from(chance.below(4))];
        let (protocol, payload, remote) = match chance.below(3) {
            0 => (17, udp(local, remote), remote),
            1 => (6, tcp(local, remote, flags), remote),
            _ => (1, echo(8, local), 0),
        };
        match chance.below(100) {
            0 => world.env.pass_seconds(u32::from(chance.below(400))),
            1 => {
                sweep(&world.env);
            }
            2..50 => {
                if let Ok(port) = send(&mut world, host, server, payload) {
                    assert!(set.contains(Port(port)), "port {port}");
                    senders.insert((protocol, port, server, remote), (host, local));
                }
            }
            _ => {
                let port = set.port(u32::from(chance.below(PORTS))).unwrap().0;
                let reply = match protocol {
                    17 => udp(remote, port),
                    6 => tcp(remote, port, flags),
                    _ => echo(0, port),
                };
                if let Ok(reached) = answer(&mut world, server, reply) {
                    let known = senders.get(&(protocol, port, server, remote));
                    if protocol != 17 {
                        assert_eq!(known, Some(&reached), "step {step}");
                    }
                }
            }
        }
        if step % 5_000 == 0 {
            assert_whole(&world.env);
        }
    }
    assert_whole(&world.env);
    assert!(
        world.env.read(Gauge::Created(Transport::Udp)) > 1_000,
        "the test did something"
    );
}
