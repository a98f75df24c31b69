//! Endpoint-independent mappings over time: their members, permissions and ports.

use super::*;

/// What the tests after these look at: a gateway with mappings for TCP too.
fn with_mappings_for_tcp(sessions: u32) -> HostWorld {
    let mut world = HostWorld::new(sessions);
    if let Some(config) = &mut world.env.config {
        config.flags |= Config::mapping(Transport::Tcp);
    }
    world
}

#[test]
fn a_permission_goes_with_the_session_that_renewed_it_last() {
    let mut world = with_mappings_for_tcp(1024);
    send(&mut world, HOST, SERVER_2, udp(50_000, 4000)).unwrap();
    send(&mut world, HOST, SERVER, udp(50_000, 53)).unwrap();
    send(&mut world, HOST, SERVER, tcp(50_000, 8080, SYN)).unwrap();
    assert_eq!(world.env.read(Gauge::Permissions), 3);
    world.env.pass_seconds(301);
    sweep(&world.env);
    assert_eq!(
        world.env.read(Gauge::Permissions),
        0,
        "nobody is left who could renew one"
    );
    assert_whole(&world.env);
}

#[test]
fn a_mapping_is_not_over_before_its_members() {
    let mut world = HostWorld::new(1024);
    let tick = |world: &HostWorld, ticks: u32| world.env.now.set(Tick(world.env.now.get().0 + ticks));
    let port = send(&mut world, HOST, SERVER, udp(50_000, 4000)).unwrap();
    let first = world.env.now.get();
    // The other member is looked after when the mapping's stamp is too young to be written anew for its own sake.
    tick(&world, 1);
    send(&mut world, HOST, SERVER_2, udp(50_000, 4000)).unwrap();
    tick(&world, 3);
    send(&mut world, HOST, SERVER, udp(50_000, 4000)).unwrap();
    tick(&world, 1);
    send(&mut world, HOST, SERVER_2, udp(50_000, 4000)).unwrap();
    let timeout = Timeouts::DEFAULT.udp;
    world.env.now.set(Tick(first.0 + 5 + timeout.0));
    sweep(&world.env);
    assert_eq!(
        answer(&mut world, SERVER_2, udp(4000, port)),
        Ok((HOST, 50_000)),
        "in its last tick"
    );
    assert_eq!(
        world.env.read(Gauge::Exclusive(Transport::Udp)),
        1,
        "its port is still held"
    );
    assert_eq!(
        send(&mut world, HOST, Ipv4Addr::new(203, 0, 113, 10), udp(50_000, 4000)),
        Ok(port)
    );
    assert_whole(&world.env);
}

/// Lets ticks pass.
fn pass_ticks(env: &HostEnv, ticks: u32) {
    env.now.set(Tick(env.now.get().0 + ticks));
}

#[test]
fn a_session_lives_its_time_after_its_last_packet_although_not_every_packet_is_noted() {
    for late in 0..Tick::STALE.0 {
        let mut world = HostWorld::new(64);
        let port = send(&mut world, HOST, SERVER, udp(50_000, 53)).unwrap();
        pass_ticks(&world.env, late);
        send(&mut world, HOST, SERVER, udp(50_000, 53)).unwrap();
        // 60 s are 223.5 ticks.
        pass_ticks(&world.env, 224);
        assert_eq!(
            answer(&mut world, SERVER, udp(53, port)),
            Ok((HOST, 50_000)),
            "{late} ticks late"
        );
    }
}

#[test]
fn a_mapping_of_tcp_admits_a_connection_but_nothing_else_and_has_no_client_server_ports() {
    let mut world = with_mappings_for_tcp(64);
    let port = send(&mut world, HOST, SERVER, tcp(50_000, 443, SYN)).unwrap();
    assert_eq!(world.env.read(Gauge::Mappings(Transport::Tcp)), 1);
    for flags in [4, SYN | 4, ACK, FIN_ACK] {
        assert_eq!(answer(&mut world, SERVER, tcp(9_000, port, flags)), Err("no-session"));
    }
    assert_eq!(answer(&mut world, SERVER, tcp(9_000, port, SYN)), Ok((HOST, 50_000)));
    assert_whole(&world.env);
}

#[test]
fn an_endpoint_that_shared_a_port_before_it_had_a_mapping_is_not_reached_by_two() {
    let mut world = HostWorld::new(64);
    let shared = send(&mut world, HOST, SERVER, udp(50_000, 53)).unwrap();
    let mapped = send(&mut world, HOST, SERVER, udp(50_000, 4000)).unwrap();
    assert_ne!(shared, mapped);
    assert_eq!(answer(&mut world, SERVER, udp(53, shared)), Ok((HOST, 50_000)));
    assert_eq!(answer(&mut world, SERVER, udp(53, mapped)), Err("filtered"));
    assert_eq!(answer(&mut world, SERVER, udp(123, mapped)), Ok((HOST, 50_000)));
    assert_whole(&world.env);
}

#[test]
fn a_closed_session_of_a_mapping_makes_no_room_on_the_mappings_port() {
    // Four ports, one of them a mapping's; the others have a session with the server each.
    let set = PortSet::new(1, 13, 5).unwrap();
    let mut wanted = config(TUNNEL, 64);
    wanted.port_set = set;
    (wanted.ports, wanted.first_dynamic) = (set.len(), 0);
    wanted.overlap_row_mask = Config::overlap_rows(set.len()) - 1;
    wanted.flags |= Config::mapping(Transport::Tcp);
    let mut world = HostWorld::of(wanted);
    let port = send(&mut world, HOST, SERVER, tcp(50_000, 80, SYN)).unwrap();
    answer(&mut world, SERVER, tcp(80, port, SYN_ACK)).unwrap();
    send(&mut world, HOST, SERVER, tcp(50_000, 80, FIN_ACK)).unwrap();
    answer(&mut world, SERVER, tcp(80, port, FIN_ACK)).unwrap();
    world.env.config.as_mut().unwrap().flags &= !Config::mapping(Transport::Tcp);
    for n in 0..3 {
        send(&mut world, HOST, SERVER, tcp(50_001 + n, 80, SYN)).unwrap();
    }
    assert_eq!(
        send(&mut world, HOST, SERVER, tcp(50_010, 80, SYN)),
        Err("ports-exhausted")
    );
    assert_eq!(
        answer(&mut world, SERVER, tcp(80, port, ACK)),
        Ok((HOST, 50_000)),
        "the closed one has not ended"
    );
    assert_whole(&world.env);
}

#[test]
fn an_unanswered_session_left_over_by_its_mapping_is_in_nobodys_way() {
    let mut world = HostWorld::new(64);
    let port = send(&mut world, HOST, SERVER, udp(50_000, 4000)).unwrap();
    world.env.pass_seconds(290);
    assert_eq!(answer(&mut world, SERVER, udp(80, port)), Ok((HOST, 50_000)));
    world.env.pass_seconds(20);
    sweep(&world.env);
    let other = Ipv4Addr::new(192, 168, 10, 12);
    assert_eq!(
        send(&mut world, other, SERVER, udp(port, 80)),
        Ok(port),
        "the port of the mapping that has ended, towards the same remote end"
    );
    assert_eq!(answer(&mut world, SERVER, udp(80, port)), Ok((other, port)));
    assert_whole(&world.env);
}
