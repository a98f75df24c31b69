//! ICMP errors in both directions, about the tunnel itself, and the answers of our own: on the host and in the kernel alike.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use mape_common::{checksum, layout::Gauge};
use mape_tests::table::{
    both::{in_both, in_the_kernel},
    frame::{Frame, Payload, Seen, echo, error, syn, tcp, udp},
    host::HostWorld,
    talk::{answer, down, reserve, send, sweep, up},
    world::{
        CE, ELSEWHERE, GATEWAY, HOST, HOST_2, HOST_MAC, IN_SET, LAN_MAC, NOT_IN_SET, Outcome, Program, RELAY,
        ROUTER_MAC, SERVER, SERVER_2, SHARED, WAN_MAC, World,
    },
};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
/// A router somewhere on the Internet.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);
/// A router of the provider.
const TRANSIT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 1);
const FROM: u16 = 50_000;

/// A packet of a LAN host, and what answers it, by the external port or identifier it left by.
type Kind = (Payload, fn(u16) -> Payload);

/// One of each protocol.
fn kinds() -> [Kind; 3] {
    [
        (udp(FROM, 4000), |port| udp(4000, port)),
        (tcp(FROM, 443, SYN), |port| tcp(443, port, SYN_ACK)),
        (echo(8, FROM), |id| echo(0, id)),
    ]
}

/// Sends a packet from the LAN; gives it as the host sent it, and as it went into the tunnel.
fn sent(world: &mut dyn World, payload: Payload) -> (Vec<u8>, Vec<u8>) {
    let frame = up(HOST, SERVER, payload);
    match world.give(Program::Lan, &frame) {
        (Outcome::Forwarded(out), _) => (frame[14..].to_vec(), out[54..].to_vec()),
        (_, label) => panic!("not forwarded: {label}"),
    }
}

fn labelled(world: &mut dyn World, program: Program, frame: &[u8]) -> &'static str {
    world.give(program, frame).1
}

/// The packet that an error quotes, its header's checksum checked; without its TTL and that checksum, which change on every hop.
fn quoted(seen: &Seen) -> Vec<u8> {
    let mut packet = seen.rest[4..].to_vec();
    let header = usize::from(packet[0] & 15) * 4;
    assert_eq!(checksum::of([&packet[..header]]), 0, "the quoted header's checksum");
    packet[8] = 0;
    packet[10..12].fill(0);
    packet
}

fn without_hops(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] = 0;
    packet[10..12].fill(0);
    packet
}

#[test]
fn an_error_from_the_internet_reaches_the_host_as_if_nothing_had_been_translated() {
    in_both(mape_ctl::object::object(), "errin", |world| {
        for (payload, _) in kinds() {
            let (original, translated) = sent(world, payload);
            for quote in [28, 40, translated.len()] {
                let quote = quote.min(translated.len());
                let (outcome, label) = world.give(Program::Wan, &down(ROUTER, error(3, 1, &translated[..quote])));
                let Outcome::Forwarded(frame) = outcome else {
                    panic!("{label}")
                };
                let seen = Seen::of(&frame);
                assert_eq!(seen.addresses, (ROUTER, HOST));
                assert_eq!((seen.ttl, seen.macs), (63, (HOST_MAC.0, LAN_MAC.0)));
                assert_eq!(quoted(&seen), without_hops(&original[..quote]), "{quote} bytes");
            }
        }
    });
}

#[test]
fn an_error_of_a_lan_host_shows_nothing_of_the_lan() {
    in_both(mape_ctl::object::object(), "errout", |world| {
        for (payload, reply) in kinds() {
            let (_, translated) = sent(world, payload);
            let is_echo = translated[9] == 1;
            let at = if is_echo { 24 } else { 20 };
            let port = u16::from_be_bytes([translated[at], translated[at + 1]]);
            let received = down(SERVER, reply(port));
            let (Outcome::Forwarded(inside), _) = world.give(Program::Wan, &received) else {
                panic!("the answer")
            };
            for quote in [28, inside.len() - 14] {
                let about = &inside[14..14 + quote];
                let (outcome, label) = world.give(Program::Lan, &up(HOST, SERVER, error(3, 3, about)));
                let Outcome::Forwarded(frame) = outcome else {
                    panic!("{label}")
                };
                let seen = Seen::of(&frame);
                assert_eq!(seen.addresses, (SHARED, SERVER));
                assert_eq!(seen.outer.map(|outer| (outer.0, outer.1)), Some((CE, RELAY)));
                assert_eq!(quoted(&seen), without_hops(&received[54..54 + quote]), "{quote} bytes");
            }
        }
    });
}

#[test]
fn a_router_on_the_lan_reports_as_the_shared_address() {
    in_both(mape_ctl::object::object(), "errlan", |world| {
        let (_, translated) = sent(world, udp(FROM, 4000));
        let port = u16::from_be_bytes([translated[20], translated[21]]);
        let (Outcome::Forwarded(inside), _) = world.give(Program::Wan, &down(SERVER, udp(4000, port))) else {
            panic!("the answer")
        };
        // RFC 5508 REQ-5 c: whoever says it, it comes from the gateway's address.
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &up(HOST_2, SERVER, error(11, 0, &inside[14..])))
        else {
            panic!("forwarded")
        };
        assert_eq!(Seen::of(&frame).addresses, (SHARED, SERVER));
    });
}

#[test]
fn options_of_a_quoted_packet_are_stepped_over() {
    in_both(mape_ctl::object::object(), "erropt", |world| {
        let (_, translated) = sent(world, udp(FROM, 4000));
        let port = u16::from_be_bytes([translated[20], translated[21]]);
        for options in [vec![7, 4, 4, 0], vec![1; 40]] {
            let about = Frame {
                options: options.clone(),
                ..Frame::new(SHARED, SERVER, udp(port, 4000))
            }
            .packet();
            let original = Frame {
                options,
                ..Frame::new(HOST, SERVER, udp(FROM, 4000))
            }
            .packet();
            let (outcome, label) = world.give(Program::Wan, &down(ROUTER, error(12, 0, &about)));
            let Outcome::Forwarded(frame) = outcome else {
                panic!("{label}")
            };
            assert_eq!(quoted(&Seen::of(&frame)), without_hops(&original));
        }
    });
}

#[test]
fn errors_that_nobody_can_have_sent_in_good_faith_go_nowhere() {
    in_both(mape_ctl::object::object(), "errbad", |world| {
        reserve(world, IN_SET);
        let (original, translated) = sent(world, udp(FROM, 4000));
        let port = u16::from_be_bytes([translated[20], translated[21]]);
        let about = |payload| Frame::new(SHARED, SERVER, payload).packet();
        let inbound = |quoted: &[u8]| down(ROUTER, error(3, 1, quoted));
        let other_ce = |from: Ipv4Addr, quoted: &[u8]| {
            let mut frame = down(from, error(3, 1, quoted));
            // Not the relay: nobody who may send as that address.
            frame[22..38].copy_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 7).octets());
            frame
        };
        let later = Frame {
            fragment: 0x2064,
            ..Frame::new(SHARED, SERVER, udp(port, 4000))
        };
        for (what, frame, label) in [
            (
                "no such session",
                inbound(&about(udp(port, 4001))),
                "error-without-session",
            ),
            (
                "another port of the set",
                inbound(&about(udp(IN_SET, 4000))),
                "error-without-session",
            ),
            (
                "a port of another set",
                inbound(&about(udp(NOT_IN_SET, 4000))),
                "foreign-port",
            ),
            ("seven bytes", inbound(&translated[..27]), "error-unusable"),
            ("a later fragment", inbound(&later.packet()), "error-unusable"),
            (
                "an error about an error",
                inbound(&about(error(3, 1, &translated))),
                "error-unusable",
            ),
            ("another sender's packet", inbound(&original), "error-unusable"),
            (
                "a protocol without ports",
                inbound(&about(Payload::Other {
                    protocol: 47,
                    bytes: vec![0; 8],
                })),
                "error-elsewhere",
            ),
            ("a redirect", down(ROUTER, error(5, 1, &translated)), "error-elsewhere"),
            (
                "from nobody's tunnel",
                other_ce(SERVER, &translated),
                "security-invalid-v6",
            ),
        ] {
            assert_eq!(labelled(world, Program::Wan, &frame), label, "{what}");
        }
        let reply = Frame::new(SERVER, HOST, udp(4000, FROM)).packet();
        for (what, frame, label) in [
            (
                "no such session",
                up(
                    HOST,
                    SERVER,
                    error(3, 3, &Frame::new(SERVER, HOST, udp(4000, 9)).packet()),
                ),
                "error-without-session",
            ),
            (
                "to somebody else than the sender",
                up(HOST, SERVER_2, error(3, 3, &reply)),
                "error-unusable",
            ),
            ("a redirect", up(HOST, SERVER, error(5, 1, &reply)), "error-elsewhere"),
            (
                "not into the tunnel",
                up(
                    HOST,
                    ELSEWHERE,
                    error(3, 3, &Frame::new(ELSEWHERE, HOST, udp(1, 2)).packet()),
                ),
                "not-tunnelled",
            ),
        ] {
            assert_eq!(labelled(world, Program::Lan, &frame), label, "{what}");
        }
    });
}

#[test]
fn an_error_keeps_no_session_alive_and_ends_none() {
    let mut world = HostWorld::new(64);
    let (_, translated) = sent(&mut world, udp(FROM, 4000));
    let port = u16::from_be_bytes([translated[20], translated[21]]);
    for _ in 0..5 {
        world.env.pass_seconds(58);
        let (outcome, label) = world.give(Program::Wan, &down(ROUTER, error(3, 3, &translated)));
        assert!(matches!(outcome, Outcome::Forwarded(_)), "{label}");
    }
    assert!(
        answer(&mut world, SERVER, udp(4000, port)).is_ok(),
        "still there after errors, within its time"
    );
    for _ in 0..6 {
        world.env.pass_seconds(58);
        world.give(Program::Wan, &down(ROUTER, error(3, 3, &translated)));
    }
    assert_eq!(
        labelled(&mut world, Program::Wan, &down(ROUTER, error(3, 3, &translated))),
        "error-without-session"
    );
    assert_eq!(sweep(&world.env), 2, "session and mapping");
    assert_eq!(world.env.violations(), Vec::<String>::new());
}

/// A frame of the provider's network to the tunnel's address: an ICMPv6 error about a tunnel packet.
fn tunnel_error(kind: u8, code: u8, mtu: u32, far_end: Ipv6Addr, inner: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(mtu.to_be_bytes());
    body.extend([0x60, 0, 0, 0]);
    body.extend(u16::try_from(inner.len()).expect("short").to_be_bytes());
    body.extend([4, 64]);
    body.extend(CE.octets());
    body.extend(far_end.octets());
    body.extend(inner);
    let mut frame = Vec::new();
    frame.extend(WAN_MAC.0);
    frame.extend(ROUTER_MAC.0);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
    frame.extend([58, 64]);
    frame.extend(TRANSIT.octets());
    frame.extend(CE.octets());
    frame.extend(body);
    frame
}

/// An ICMPv4 error as the host got it: code, MTU, and the packet that it quotes.
fn told(frame: &[u8]) -> (Ipv4Addr, u8, u16, Vec<u8>) {
    let seen = Seen::of(frame);
    assert_eq!(seen.addresses.1, HOST);
    assert_eq!((frame[34], frame.len()), (3, 70), "destination unreachable");
    let mtu = u16::from_be_bytes([seen.rest[2], seen.rest[3]]);
    (seen.addresses.0, frame[35], mtu, quoted(&seen))
}

#[test]
fn a_path_that_is_too_narrow_is_told_to_the_host_and_remembered() {
    in_both(mape_ctl::object::object(), "ptb", |world| {
        let large = Payload::Udp {
            from: FROM,
            to: 4000,
            data: vec![7; 1372],
            checksum: true,
        };
        let (original, translated) = sent(world, large.clone());
        assert_eq!(original.len(), 1400);
        let (outcome, label) = world.give(Program::Wan, &tunnel_error(2, 0, 1400, RELAY, &translated));
        let Outcome::Forwarded(frame) = outcome else {
            panic!("{label}")
        };
        assert_eq!(told(&frame), (GATEWAY, 4, 1360, without_hops(&original[..28])));
        // The next one need not go out at all.
        let (outcome, label) = world.give(Program::Lan, &up(HOST, SERVER, large));
        let Outcome::Answered(frame) = outcome else {
            panic!("{label}")
        };
        assert_eq!(
            (label, told(&frame)),
            ("too-big", (GATEWAY, 4, 1360, without_hops(&original[..28])))
        );
        // And segments are made to fit.
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &up(HOST, SERVER, syn(FROM, 443, 1460))) else {
            panic!("a connection")
        };
        assert_eq!(frame[54 + 20 + 22..54 + 20 + 24], 1320_u16.to_be_bytes());
        // What may be fragmented is the stack's to fragment.
        let may = Frame {
            to_mac: LAN_MAC.0,
            from_mac: HOST_MAC.0,
            fragment: 0,
            ..Frame::new(
                HOST,
                SERVER,
                Payload::Udp {
                    from: FROM,
                    to: 4000,
                    data: vec![7; 1372],
                    checksum: true,
                },
            )
        };
        let (outcome, label) = world.give(Program::Lan, &may.bytes());
        assert!(matches!(outcome, Outcome::Passed(_)), "{label}");
    });
}

#[test]
fn who_says_that_a_path_is_narrower_than_ipv6_allows_is_not_believed() {
    in_both(mape_ctl::object::object(), "ptbleast", |world| {
        let (_, translated) = sent(world, udp(FROM, 4000));
        for mtu in [0, 600, 1279] {
            let forged = tunnel_error(2, 0, mtu, RELAY, &translated);
            assert_eq!(labelled(world, Program::Wan, &forged), "error-unusable", "{mtu}");
        }
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &up(HOST, SERVER, syn(FROM, 443, 1460))) else {
            panic!("a connection")
        };
        assert_eq!(frame[54 + 20 + 22..54 + 20 + 24], 1420_u16.to_be_bytes());
    });
}

#[test]
fn who_says_that_a_path_is_wider_than_the_tunnel_changes_nothing() {
    in_both(mape_ctl::object::object(), "ptbwide", |world| {
        let (original, translated) = sent(world, udp(FROM, 4000));
        // The field has 32 bits: the lower half of the first is zero.
        for mtu in [0x0001_0000, 9_000] {
            let (outcome, label) = world.give(Program::Wan, &tunnel_error(2, 0, mtu, RELAY, &translated));
            let Outcome::Forwarded(frame) = outcome else {
                panic!("{label}")
            };
            assert_eq!(told(&frame), (GATEWAY, 4, 1460, without_hops(&original[..28])), "{mtu}");
        }
        let (Outcome::Forwarded(frame), _) = world.give(Program::Lan, &up(HOST, SERVER, syn(FROM, 443, 1460))) else {
            panic!("a connection")
        };
        assert_eq!(frame[54 + 20 + 22..54 + 20 + 24], 1420_u16.to_be_bytes());
    });
}

#[test]
fn a_tunnel_packet_that_came_nowhere_is_told_as_unreachable() {
    in_both(mape_ctl::object::object(), "tunerr", |world| {
        for (payload, _) in kinds() {
            let (original, translated) = sent(world, payload);
            for (kind, code) in [(1, 0), (3, 0), (4, 1)] {
                let (outcome, label) = world.give(Program::Wan, &tunnel_error(kind, code, 0, RELAY, &translated[..28]));
                let Outcome::Forwarded(frame) = outcome else {
                    panic!("{label}")
                };
                assert_eq!(told(&frame), (GATEWAY, 1, 0, without_hops(&original[..28])));
            }
        }
    });
}

#[test]
fn only_errors_about_packets_of_ours_count() {
    in_both(mape_ctl::object::object(), "tunbad", |world| {
        let (_, translated) = sent(world, udp(FROM, 4000));
        let port = u16::from_be_bytes([translated[20], translated[21]]);
        let other = Frame::new(SHARED, SERVER, udp(port, 4001)).packet();
        let mut foreign = tunnel_error(2, 0, 1300, RELAY, &translated);
        foreign[14 + 40 + 8 + 8 + 15] ^= 1;
        let mut advertisement = tunnel_error(136, 0, 0, RELAY, &translated);
        advertisement.truncate(14 + 40 + 24);
        let may_fragment = Frame {
            fragment: 0,
            ..Frame::new(SHARED, SERVER, udp(port, 4000))
        };
        for (what, frame, label) in [
            (
                "another far end",
                tunnel_error(2, 0, 1300, TRANSIT, &translated),
                "error-without-session",
            ),
            (
                "no such session",
                tunnel_error(2, 0, 1300, RELAY, &other),
                "error-without-session",
            ),
            ("another's tunnel", foreign, "icmpv6"),
            ("neighbour discovery", advertisement, "icmpv6"),
            ("an echo request", tunnel_error(128, 0, 0, RELAY, &translated), "icmpv6"),
            (
                "too little",
                tunnel_error(2, 0, 1300, RELAY, &translated[..26]),
                "error-unusable",
            ),
        ] {
            assert_eq!(labelled(world, Program::Wan, &frame), label, "{what}");
        }
        let big = |dont: bool| Frame {
            to_mac: LAN_MAC.0,
            from_mac: HOST_MAC.0,
            fragment: if dont { 0x4000 } else { 0 },
            ..Frame::new(
                HOST,
                SERVER,
                Payload::Udp {
                    from: FROM,
                    to: 4000,
                    data: vec![7; 1372],
                    checksum: true,
                },
            )
        };
        assert_eq!(
            labelled(world, Program::Lan, &big(true).bytes()),
            "forwarded",
            "nothing of that was believed"
        );
        // Of a packet that may be fragmented nobody need be told, but the path is known now.
        let frame = tunnel_error(2, 0, 1300, RELAY, &may_fragment.packet());
        assert_eq!(labelled(world, Program::Wan, &frame), "tunnel-error");
        assert_eq!(labelled(world, Program::Lan, &big(true).bytes()), "too-big");
    });
}

#[test]
fn who_gets_no_port_on_two_tries_is_told_that_the_host_is_unreachable() {
    let mut world = HostWorld::new(4096);
    for n in 0..252 {
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 443, SYN)).unwrap();
    }
    let refused = up(HOST, SERVER, tcp(20_000, 443, SYN));
    // Who opens a connection takes the answer for the end: so not at once, something may become free.
    assert_eq!(
        world.give(Program::Lan, &refused),
        (Outcome::Dropped, "ports-exhausted")
    );
    assert_eq!(
        world.give(Program::Lan, &refused),
        (Outcome::Dropped, "recently-refused")
    );
    world.env.pass_seconds(2);
    let (outcome, label) = world.give(Program::Lan, &refused);
    let Outcome::Answered(frame) = outcome else {
        panic!("{label}")
    };
    assert_eq!(
        (label, told(&frame)),
        ("ports-exhausted", (GATEWAY, 1, 0, without_hops(&refused[14..42])))
    );
    assert_eq!(
        world.give(Program::Lan, &refused),
        (Outcome::Dropped, "recently-refused")
    );
    world.env.pass_seconds(20);
    assert_eq!(
        world.give(Program::Lan, &refused),
        (Outcome::Dropped, "ports-exhausted"),
        "a first try again"
    );
}

#[test]
fn in_the_kernel_the_second_refusal_is_answered_too() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    in_the_kernel(mape_ctl::object::object(), "exhaust", |world| {
        for n in 0..252 {
            send(world, HOST, SERVER, tcp(10_000 + n, 443, SYN)).unwrap();
        }
        let refused = up(HOST, SERVER, tcp(20_000, 443, SYN));
        assert_eq!(
            world.give(Program::Lan, &refused),
            (Outcome::Dropped, "ports-exhausted")
        );
        std::thread::sleep(Duration::from_millis(1_500));
        let (outcome, label) = world.give(Program::Lan, &refused);
        let Outcome::Answered(frame) = outcome else {
            panic!("{label}")
        };
        assert_eq!(told(&frame), (GATEWAY, 1, 0, without_hops(&refused[14..42])));
    });
}

#[test]
fn answers_are_few_however_many_packets_ask_for_one() {
    let mut world = HostWorld::new(4096);
    for n in 0..252 {
        send(&mut world, HOST, SERVER, tcp(10_000 + n, 443, SYN)).unwrap();
    }
    let ask = |world: &mut HostWorld| {
        let answered = (0..200_u8).filter(|n| {
            let from = Ipv4Addr::new(192, 168, 10, 20 + n);
            let (outcome, _) = world.give(Program::Lan, &up(from, SERVER, tcp(20_000, 443, SYN)));
            matches!(outcome, Outcome::Answered(_))
        });
        answered.count()
    };
    assert_eq!(ask(&mut world), 0, "a first try is not answered");
    world.env.pass_seconds(2);
    assert_eq!(ask(&mut world), 64);
    assert_eq!(world.env.read(Gauge::Answers), 64);
    // Of some hosts the first refusal was forgotten for another's, which fell into the same place.
    assert!(world.env.read(Gauge::AnswersSuppressed) > 120);
    world.env.pass_seconds(2);
    assert_eq!(ask(&mut world), 64, "a new tick has new answers");
}

#[test]
fn the_shared_address_answers_a_ping_from_the_lan_and_only_that() {
    in_both(mape_ctl::object::object(), "self", |world| {
        reserve(world, IN_SET);
        let request = up(HOST, SHARED, echo(8, IN_SET));
        let (outcome, _) = world.give(Program::Lan, &request);
        let Outcome::Answered(frame) = outcome else {
            panic!("{outcome:?}")
        };
        let seen = Seen::of(&frame);
        assert_eq!((seen.addresses, seen.ports.0, frame[34]), ((SHARED, HOST), IN_SET, 0));
        assert_eq!(frame[42..], request[42..], "the data comes back");
        assert_eq!(
            labelled(world, Program::Lan, &up(HOST, SHARED, tcp(FROM, IN_SET, SYN))),
            "no-session"
        );
    });
}
