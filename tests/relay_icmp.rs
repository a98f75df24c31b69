//! ICMP at the border relay: errors about packets of customer edges, and answers of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{
    checksum,
    env::Route,
    hop::Hop,
    host::HostEnv,
    layout::{Config, Gauge, RuleRef},
    map::{
        rule::{InterfaceId, Rule},
        spec::RuleSpec,
    },
    packet::VecPacket,
    step::relay,
    verdict::{Direction, Reason, Verdict},
};
use mape_tests::table::{
    frame::{Frame, Outer, Payload, Seen, echo, error, tcp, udp},
    host::{LAN, WAN},
    world::{CE, HOST_MAC, LAN_MAC, RELAY, ROUTER_MAC, SERVER, SHARED, WAN_MAC, config, host, router},
};

/// A port of the customer edge that has [`SHARED`], and one of its neighbour's.
const OWN: u16 = 1232;
const FOREIGN: u16 = 1236;
/// Another customer edge, with an address and a port of its own.
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 19);
const PEER_CE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x13, 0x3500, 0, 0xc000, 0x213, 0x35);
const PEER_PORT: u16 = 1236;
/// A router somewhere on the Internet.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);
/// The relay's own address, on its IPv4 side.
const RELAY_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const DF: u16 = 0x4000;

/// A relay whose IPv4 side is the LAN NIC and whose IPv6 side is the WAN NIC, each with that MTU.
fn border_relay(lan: u16, wan: u16) -> HostEnv {
    let config = Config {
        tunnel_address: RELAY.octets(),
        mss: 0,
        ..config(100, 8)
    };
    let mut env = HostEnv::new(config);
    assert_eq!(env.add_link_with(LAN_MAC, lan, RELAY_IPV4.octets()), LAN);
    assert_eq!(env.add_link(WAN_MAC, wan), WAN);
    env.set_far_hop(
        0,
        &Hop {
            mtu: wan,
            ..router(WAN)
        },
    );
    env.routes
        .borrow_mut()
        .push(([0; 4], 0, Route::Resolved(Hop { mtu: lan, ..host(LAN) })));
    let rule = Rule::new(&RuleSpec {
        ipv6: "2001:db8::/40".parse().expect("a prefix"),
        ipv4: "192.0.2.0/24".parse().expect("a prefix"),
        ea_len: 16,
        psid_offset: 6,
        psid_len: None,
        psid: None,
        format: InterfaceId::Rfc7597,
        fmr: true,
    })
    .expect("a rule");
    let found = RuleRef { rule: 0, hop: 0 };
    env.rules_v4.push((rule.ipv4(), rule.ipv4_len(), found));
    env.rules_v6.push((rule.ipv6(), rule.ipv6_len(), found));
    env.rules.push(rule);
    env
}

/// What becomes of a frame, with its bytes; a refused one is as it came.
fn run(env: &HostEnv, frame: &Frame, direction: Direction) -> Result<(Verdict, Vec<u8>), &'static str> {
    let before = frame.bytes();
    let mut packet = VecPacket(before.clone());
    let ifindex = match direction {
        Direction::Outbound => LAN,
        Direction::Inbound => WAN,
    };
    match relay::all(&mut packet, env, ifindex, direction) {
        Ok(verdict) => Ok((verdict, packet.0)),
        Err(failure) => {
            assert_eq!(packet.0, before, "{failure:?}");
            Err(failure.reason().label())
        }
    }
}

/// From the Internet.
fn to_domain(env: &HostEnv, frame: Frame) -> Result<(Verdict, Vec<u8>), &'static str> {
    let frame = Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        ..frame
    };
    run(env, &frame, Direction::Outbound)
}

/// From a customer edge.
fn from_domain(env: &HostEnv, from: Ipv6Addr, frame: Frame) -> Result<(Verdict, Vec<u8>), &'static str> {
    let frame = Frame {
        to_mac: WAN_MAC.0,
        from_mac: ROUTER_MAC.0,
        outer: Some(Outer {
            from,
            to: RELAY,
            class: 0,
            extension: None,
        }),
        ..frame
    };
    run(env, &frame, Direction::Inbound)
}

/// What a customer edge sends: each protocol with its port or identifier.
fn kinds(port: u16) -> [Payload; 3] {
    [udp(port, 4000), tcp(port, 443, 2), echo(8, port)]
}

/// A packet that was sent, as an error quotes it.
fn quote(from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Vec<u8> {
    Frame::new(from, to, payload).packet()[..28].to_vec()
}

/// A large packet of one customer edge to another or to the Internet.
fn large(from: u16, to: u16, size: usize) -> Payload {
    Payload::Udp {
        from,
        to,
        data: vec![7; size - 28],
        checksum: true,
    }
}

/// What an ICMP error says: type, code, MTU, and what it quotes. Every checksum in it is right.
fn said(frame: &[u8]) -> (Seen, u8, u8, u16, Vec<u8>) {
    let seen = Seen::of(frame);
    let ip = if seen.outer.is_some() { 54 } else { 14 };
    let icmp = &frame[ip + 20..];
    assert_eq!(frame[ip + 9], 1, "ICMP");
    assert_eq!(checksum::of([icmp]), 0, "ICMP's checksum");
    let mtu = u16::from_be_bytes([icmp[6], icmp[7]]);
    (seen, icmp[0], icmp[1], mtu, icmp[8..].to_vec())
}

#[test]
fn an_error_finds_the_customer_edge_by_the_port_that_it_quotes() {
    let env = border_relay(1500, 1500);
    for payload in kinds(OWN) {
        for (kind, code) in [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)] {
            let about = quote(SHARED, SERVER, payload.clone());
            let (verdict, out) = to_domain(&env, Frame::new(ROUTER, SHARED, error(kind, code, &about))).unwrap();
            assert_eq!(verdict, Verdict::Forward { ifindex: WAN });
            let (seen, told_kind, told_code, _, quoted) = said(&out);
            assert_eq!(seen.outer.map(|outer| (outer.0, outer.1)), Some((RELAY, CE)));
            assert_eq!((seen.addresses, seen.ttl), ((ROUTER, SHARED), 63));
            assert_eq!(
                (told_kind, told_code, quoted),
                (kind, code, about),
                "a relay changes nothing in it"
            );
        }
    }
}

#[test]
fn an_error_that_nobody_can_be_meant_by_goes_nowhere() {
    let env = border_relay(1500, 1500);
    let about = |from, payload| quote(from, SERVER, payload);
    for (quoted, reason) in [
        (about(PEER, udp(PEER_PORT, 4000)), "error-unusable"),
        (about(SHARED, udp(80, 4000)), "foreign-port"),
        (about(SHARED, udp(OWN, 4000))[..20].to_vec(), "error-unusable"),
        (about(SHARED, error(3, 3, &[0; 28])), "error-unusable"),
        (
            about(
                SHARED,
                Payload::Other {
                    protocol: 47,
                    bytes: vec![0; 8],
                },
            ),
            "error-elsewhere",
        ),
    ] {
        let refused = to_domain(&env, Frame::new(ROUTER, SHARED, error(3, 1, &quoted)));
        assert_eq!(refused.unwrap_err(), reason, "{quoted:02x?}");
    }
    let later = Frame {
        fragment: 100,
        ..Frame::new(SHARED, SERVER, udp(OWN, 4000))
    };
    for frame in [
        Frame::new(ROUTER, SHARED, error(3, 1, &later.packet()[..28])),
        Frame::new(ROUTER, SHARED, error(5, 1, &about(SHARED, udp(OWN, 4000)))),
        Frame::new(ROUTER, SHARED, error(4, 0, &about(SHARED, udp(OWN, 4000)))),
    ] {
        let refused = to_domain(&env, frame).unwrap_err();
        assert!(["error-unusable", "error-elsewhere"].contains(&refused), "{refused}");
    }
}

#[test]
fn a_customer_edge_may_speak_of_packets_to_itself() {
    let env = border_relay(1500, 1500);
    for payload in [udp(4000, OWN), tcp(443, OWN, 18), echo(0, OWN)] {
        let about = quote(SERVER, SHARED, payload);
        let (verdict, out) = from_domain(&env, CE, Frame::new(SHARED, SERVER, error(3, 3, &about))).unwrap();
        assert_eq!(verdict, Verdict::Forward { ifindex: LAN });
        let (seen, kind, code, _, quoted) = said(&out);
        assert_eq!((seen.outer, seen.addresses, seen.ttl), (None, (SHARED, SERVER), 63));
        assert_eq!((kind, code, quoted), (3, 3, about));
    }
}

#[test]
fn a_customer_edge_may_not_speak_of_anothers_packets() {
    let env = border_relay(1500, 1500);
    for (from, to, port, reason) in [
        (SHARED, SHARED, FOREIGN, "security-invalid-v4"),
        (SHARED, PEER, PEER_PORT, "security-invalid-v4"),
        (PEER, PEER, PEER_PORT, "security-invalid-v4"),
        (PEER, SHARED, OWN, "security-invalid-v4"),
        (ROUTER, SHARED, OWN, "security-invalid-v4"),
    ] {
        let about = quote(SERVER, to, udp(4000, port));
        let refused = from_domain(&env, CE, Frame::new(from, SERVER, error(3, 3, &about)));
        assert_eq!(refused.unwrap_err(), reason, "{from} of {to}:{port}");
    }
    let about = quote(SERVER, SHARED, udp(4000, OWN));
    let stranger = "2001:db9::1".parse().unwrap();
    let refused = from_domain(&env, stranger, Frame::new(SHARED, SERVER, error(3, 3, &about)));
    assert_eq!(refused.unwrap_err(), "security-invalid-v6");
    let refused = from_domain(&env, CE, Frame::new(SHARED, ROUTER, error(3, 3, &about)));
    assert_eq!(refused.unwrap_err(), "error-unusable", "to whom has not sent it");
}

#[test]
fn an_error_goes_from_one_customer_edge_to_another() {
    let env = border_relay(1500, 1500);
    let about = quote(PEER, SHARED, udp(PEER_PORT, OWN));
    let (verdict, out) = from_domain(&env, CE, Frame::new(SHARED, PEER, error(3, 3, &about))).unwrap();
    assert_eq!(verdict, Verdict::Forward { ifindex: WAN });
    let (seen, kind, code, _, quoted) = said(&out);
    assert_eq!(seen.outer.map(|outer| (outer.0, outer.1)), Some((RELAY, PEER_CE)));
    assert_eq!(seen.addresses, (SHARED, PEER));
    assert_eq!((kind, code, quoted), (3, 3, about));
}

#[test]
fn who_sends_from_the_internet_what_does_not_fit_into_the_tunnel_is_told() {
    let env = border_relay(1500, 1400);
    let frame = Frame {
        fragment: DF,
        ..Frame::new(SERVER, SHARED, large(4000, OWN, 1361))
    };
    let (verdict, out) = to_domain(&env, frame.clone()).unwrap();
    assert_eq!(verdict, Verdict::Answer(Reason::TooBig));
    let (seen, kind, code, mtu, quoted) = said(&out);
    assert_eq!(seen.macs, (HOST_MAC.0, LAN_MAC.0));
    assert_eq!((seen.outer, seen.addresses), (None, (RELAY_IPV4, SERVER)));
    assert_eq!((kind, code, mtu), (3, 4, 1360));
    assert_eq!(quoted, frame.packet()[..28]);
    assert_eq!(env.read(Gauge::Answers), 1);

    let fitting = Frame {
        payload: large(4000, OWN, 1360),
        ..frame.clone()
    };
    assert_eq!(to_domain(&env, fitting).unwrap().0, Verdict::Forward { ifindex: WAN });
    let divisible = Frame { fragment: 0, ..frame };
    assert_eq!(to_domain(&env, divisible).unwrap_err(), "too-big", "the stack's");
}

#[test]
fn a_customer_edge_is_told_where_a_packets_ttl_ended() {
    let env = border_relay(1500, 1500);
    for payload in kinds(OWN) {
        let frame = Frame {
            ttl: 1,
            ..Frame::new(SHARED, SERVER, payload)
        };
        let (verdict, out) = from_domain(&env, CE, frame.clone()).unwrap();
        assert_eq!(verdict, Verdict::Answer(Reason::TtlExpired));
        let (seen, kind, code, mtu, quoted) = said(&out);
        assert_eq!(seen.macs, (ROUTER_MAC.0, WAN_MAC.0));
        assert_eq!(seen.outer.map(|outer| (outer.0, outer.1)), Some((RELAY, CE)));
        assert_eq!((seen.addresses, seen.ttl), ((RELAY_IPV4, SHARED), 63));
        assert_eq!((kind, code, mtu, quoted), (11, 0, 0, frame.packet()[..28].to_vec()));
    }
    let about = quote(SERVER, SHARED, udp(4000, OWN));
    let frame = Frame {
        ttl: 1,
        ..Frame::new(SHARED, SERVER, error(3, 3, &about))
    };
    assert_eq!(
        from_domain(&env, CE, frame).unwrap_err(),
        "ttl-expired",
        "no error about an error"
    );
    let spoofed = Frame {
        ttl: 1,
        ..Frame::new(SHARED, SERVER, udp(FOREIGN, 4000))
    };
    assert_eq!(
        from_domain(&env, CE, spoofed).unwrap_err(),
        "security-invalid-v4",
        "who lies is not answered"
    );
}

#[test]
fn a_customer_edge_is_told_what_fits_into_the_link_behind() {
    let env = border_relay(1300, 1500);
    for (to, ports, size, largest) in [(SERVER, (OWN, 4000), 1301, 1300), (PEER, (OWN, PEER_PORT), 1461, 1460)] {
        let frame = Frame {
            fragment: DF,
            ..Frame::new(SHARED, to, large(ports.0, ports.1, size))
        };
        let (verdict, out) = from_domain(&env, CE, frame.clone()).unwrap();
        assert_eq!(verdict, Verdict::Answer(Reason::TooBig), "{to}");
        let (seen, kind, code, mtu, quoted) = said(&out);
        assert_eq!(seen.outer.map(|outer| (outer.0, outer.1)), Some((RELAY, CE)));
        assert_eq!((kind, code, mtu), (3, 4, largest), "{to}");
        assert_eq!(quoted, frame.packet()[..28]);
        let divisible = Frame { fragment: 0, ..frame };
        assert_eq!(from_domain(&env, CE, divisible).unwrap_err(), "too-big", "{to}");
    }
}

#[test]
fn a_relay_answers_few_however_many_ask() {
    let env = border_relay(1500, 1500);
    let frame = Frame {
        ttl: 1,
        ..Frame::new(SHARED, SERVER, udp(OWN, 4000))
    };
    let answered = (0..100)
        .filter(|_| from_domain(&env, CE, frame.clone()).is_ok())
        .count();
    assert_eq!(
        (answered, env.read(Gauge::Answers), env.read(Gauge::AnswersSuppressed)),
        (64, 64, 36)
    );
}
