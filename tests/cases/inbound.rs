//! WAN to LAN.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_tests::table::{
    frame::{Frame, Outer, Payload, Seen, echo, syn, tcp, udp},
    world::{CE, HOST, HOST_MAC, IN_SET, LAN_MAC, Program, RELAY, SERVER_2},
};

use super::{Case, down, down_from, refused, up};

const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

/// A packet back to a LAN host that has sent one before.
fn answered(name: &'static str, opening: Frame, frame: &Frame, check: fn(&Seen)) -> Case {
    Case {
        name,
        before: vec![(Program::Lan, opening)],
        program: Program::Wan,
        given: frame.bytes(),
        counted: "forwarded",
        check,
    }
}

fn reaches_host(seen: &Seen) {
    assert_eq!(seen.outer, None, "decapsulated");
    assert_eq!(seen.macs, (HOST_MAC.0, LAN_MAC.0));
    assert_eq!(seen.addresses.1, HOST);
    assert_eq!(seen.ports.1, IN_SET);
    assert_eq!(seen.ttl, 63, "one hop less");
}

pub(super) fn cases() -> Vec<Case> {
    [forwards(), passes(), drops()].into_iter().flatten().collect()
}

fn forwards() -> Vec<Case> {
    let opened = || up(udp(IN_SET, 4000));
    let marked = |tos, class| Frame {
        tos,
        outer: Some(Outer {
            from: RELAY,
            to: CE,
            class,
            extension: None,
        }),
        ..down(udp(4000, IN_SET))
    };
    let mut syn_ack = syn(443, IN_SET, 1460);
    if let Payload::Tcp { flags, .. } = &mut syn_ack {
        *flags = SYN_ACK;
    }
    vec![
        answered(
            "the answer to a UDP packet",
            opened(),
            &down(udp(4000, IN_SET)),
            reaches_host,
        ),
        answered(
            "UDP from another port of the same host",
            opened(),
            &down(udp(9999, IN_SET)),
            |seen| {
                reaches_host(seen);
                assert_eq!(seen.ports.0, 9999);
            },
        ),
        answered(
            "the answer to a SYN, its MSS clamped",
            up(syn(IN_SET, 443, 1460)),
            &down(syn_ack),
            |seen| {
                reaches_host(seen);
                assert_eq!(&seen.rest[18..20], &1420u16.to_be_bytes());
            },
        ),
        answered(
            "the answer to an echo",
            up(echo(8, IN_SET)),
            &down(echo(0, IN_SET)),
            reaches_host,
        ),
        answered(
            "UDP without a checksum",
            opened(),
            &down(Payload::Udp {
                from: 4000,
                to: IN_SET,
                data: vec![1],
                checksum: false,
            }),
            |seen| {
                reaches_host(seen);
                assert_eq!(&seen.rest[2..4], &[0, 0]);
            },
        ),
        answered(
            "congestion met on the way is told to the receiver",
            opened(),
            &marked(2, 3),
            |seen| {
                reaches_host(seen);
                assert_eq!(seen.tos, 3);
            },
        ),
        answered("the inner DSCP is kept", opened(), &marked(0xb8, 0x20), |seen| {
            assert_eq!(seen.tos, 0xb8);
        }),
        answered(
            "padding behind the outer packet is cut off",
            opened(),
            &Frame {
                padding: vec![9; 5],
                ..down(udp(4000, IN_SET))
            },
            reaches_host,
        ),
    ]
}

fn passes() -> Vec<Case> {
    let wan = Program::Wan;
    let to = |to: Ipv6Addr| Frame {
        outer: Some(Outer {
            from: RELAY,
            to,
            class: 0,
            extension: None,
        }),
        ..down(udp(4000, IN_SET))
    };
    let extended = |next, between: Vec<u8>| Frame {
        outer: Some(Outer {
            from: RELAY,
            to: CE,
            class: 0,
            extension: Some((next, between)),
        }),
        ..down(udp(4000, IN_SET))
    };
    let unreachable = down(Payload::Icmp {
        kind: 3,
        code: 1,
        id: 0,
        data: vec![0; 28],
    });
    let mut native = extended(58, Vec::new()).bytes();
    native.truncate(14 + 40);
    native[18..20].copy_from_slice(&[0, 0]);
    vec![
        refused("ICMPv6 for the tunnel address is the stack's", wan, native, "icmpv6"),
        refused(
            "IPv4-in-IPv6 for another address is not ours",
            wan,
            to(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)).bytes(),
            "other-ipv6",
        ),
        refused(
            "a fragmented tunnel packet is the stack's to put together",
            wan,
            extended(44, vec![4, 0, 0, 1, 0, 0, 0, 1]).bytes(),
            "outer-extension",
        ),
        refused(
            "destination options are the stack's to read",
            wan,
            extended(60, vec![4, 0, 4, 1, 1, 1, 1, 0]).bytes(),
            "outer-extension",
        ),
        refused(
            "an ICMP error that quotes too little to tell whose it is",
            wan,
            unreachable.bytes(),
            "error-unusable",
        ),
        Case {
            before: vec![(Program::Lan, up(udp(IN_SET, 4000)))],
            ..refused(
                "a last hop is answered by the stack",
                wan,
                Frame {
                    ttl: 1,
                    ..down(udp(4000, IN_SET))
                }
                .bytes(),
                "ttl-expired",
            )
        },
    ]
}

fn drops() -> Vec<Case> {
    let wan = Program::Wan;
    let opened = |case: Case| Case {
        before: vec![(Program::Lan, up(udp(IN_SET, 4000)))],
        ..case
    };
    let connected = |case: Case| Case {
        before: vec![(Program::Lan, up(syn(IN_SET, 443, 1200)))],
        ..case
    };
    let stranger = Frame {
        outer: Some(Outer {
            from: Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1),
            to: CE,
            class: 0,
            extension: None,
        }),
        ..down(udp(4000, IN_SET))
    };
    let congested = Frame {
        outer: Some(Outer {
            from: RELAY,
            to: CE,
            class: 3,
            extension: None,
        }),
        ..down(udp(4000, IN_SET))
    };
    let other = Frame {
        to: Ipv4Addr::new(192, 0, 2, 19),
        ..down(udp(4000, IN_SET))
    };
    let mut long_outer = down(udp(4000, IN_SET)).bytes();
    long_outer[19] += 1;
    let mut long_inner = down(udp(4000, IN_SET)).bytes();
    long_inner[57] += 1;
    vec![
        refused(
            "a port that nobody has opened",
            wan,
            down(udp(4000, IN_SET)).bytes(),
            "no-session",
        ),
        refused(
            "a TCP port that nobody has opened",
            wan,
            down(tcp(443, IN_SET, ACK)).bytes(),
            "no-session",
        ),
        opened(refused(
            "UDP from a host that was not sent to",
            wan,
            down_from(SERVER_2, udp(4000, IN_SET)).bytes(),
            "filtered",
        )),
        connected(refused(
            "TCP from another port of the server",
            wan,
            down(tcp(444, IN_SET, ACK)).bytes(),
            "no-session",
        )),
        connected(refused(
            "UDP to a port that only TCP has opened",
            wan,
            down(udp(443, IN_SET)).bytes(),
            "no-session",
        )),
        opened(refused(
            "a sender that is not the relay and in no rule",
            wan,
            stranger.bytes(),
            "security-invalid-v6",
        )),
        refused("another IPv4 address", wan, other.bytes(), "not-my-address"),
        refused(
            "a port of another customer edge",
            wan,
            down(udp(4000, 1236)).bytes(),
            "foreign-port",
        ),
        opened(refused(
            "congestion on a flow that cannot react",
            wan,
            congested.bytes(),
            "ecn-invalid",
        )),
        refused("an outer packet longer than its frame", wan, long_outer, "bad-length"),
        refused(
            "an inner packet longer than the outer one",
            wan,
            long_inner,
            "bad-length",
        ),
    ]
}
