//! WAN to LAN.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_tests::table::{
    frame::{Frame, Outer, Payload, Seen, echo, udp},
    world::{CE, HOST, HOST_MAC, IN_SET, LAN_MAC, Program, RELAY, SERVER, SERVER_2},
};

use super::{Case, MORE, after, datagram, down, down_from, first, forwarded, is_last_part, last, placed, refused, up};

/// What each fragment out of the tunnel has.
fn reaches_host(seen: &Seen) {
    assert_eq!(seen.outer, None, "decapsulated");
    assert_eq!(seen.macs, (HOST_MAC.0, LAN_MAC.0));
    assert_eq!((seen.addresses, seen.ttl), ((SERVER, HOST), 63));
    assert_eq!(seen.fragment.0, 0x1c46, "the identification is the sender's");
}

pub(super) fn cases() -> Vec<Case> {
    [forwards(), drops(), malformed()].into_iter().flatten().collect()
}

fn forwards() -> Vec<Case> {
    let (lan, wan) = (Program::Lan, Program::Wan);
    let whole = down(datagram(4000, IN_SET));
    let opened = || (lan, up(udp(IN_SET, 4000)));
    let answer = down(Payload::Icmp {
        kind: 0,
        code: 0,
        id: IN_SET,
        data: (0..40).collect(),
    });
    let marked = Frame {
        tos: 2,
        outer: Some(Outer {
            from: RELAY,
            to: CE,
            class: 3,
            extension: None,
        }),
        ..last(&whole, 24)
    };
    vec![
        forwarded(
            "a first fragment of an answer",
            vec![opened()],
            (wan, &first(&whole, 24)),
            |seen| {
                reaches_host(seen);
                assert_eq!(seen.fragment.1, MORE);
            },
        ),
        forwarded(
            "a later fragment of an answer",
            vec![opened(), (wan, first(&whole, 24))],
            (wan, &last(&whole, 24)),
            |seen| {
                reaches_host(seen);
                is_last_part(seen);
            },
        ),
        forwarded(
            "a first fragment from another port of the same host",
            vec![opened()],
            (wan, &first(&down(datagram(9999, IN_SET)), 24)),
            reaches_host,
        ),
        forwarded(
            "a later fragment of the answer to an echo",
            vec![(lan, up(echo(8, IN_SET))), (wan, first(&answer, 24))],
            (wan, &last(&answer, 24)),
            |seen| {
                reaches_host(seen);
                is_last_part(seen);
            },
        ),
        forwarded(
            "congestion that a later fragment has met is told to the receiver",
            vec![opened(), (wan, first(&whole, 24))],
            (wan, &marked),
            |seen| {
                reaches_host(seen);
                assert_eq!(seen.tos, 3);
            },
        ),
    ]
}

/// By who sent it, and to whom.
fn drops() -> Vec<Case> {
    let (lan, wan) = (Program::Lan, Program::Wan);
    let whole = down(datagram(4000, IN_SET));
    let opened = || (lan, up(udp(IN_SET, 4000)));
    let noted = || vec![opened(), (wan, first(&whole, 24))];
    let from_elsewhere = |frame: Frame| Frame {
        outer: Some(Outer {
            from: Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1),
            to: CE,
            class: 0,
            extension: None,
        }),
        ..frame
    };
    vec![
        after(
            vec![opened()],
            refused(
                "an answer's later fragment whose first has not come",
                wan,
                last(&whole, 24).bytes(),
                "fragment-first-missing",
            ),
        ),
        after(
            noted(),
            refused(
                "a later fragment that came through the tunnel from somebody else (RFC 7597 section 8.1)",
                wan,
                from_elsewhere(last(&whole, 24)).bytes(),
                "fragment-first-missing",
            ),
        ),
        after(
            vec![opened()],
            refused(
                "a first fragment whose sender may not have sent it",
                wan,
                from_elsewhere(first(&whole, 24)).bytes(),
                "security-invalid-v6",
            ),
        ),
        refused(
            "a first fragment to a port that nobody has opened",
            wan,
            first(&whole, 24).bytes(),
            "no-session",
        ),
        after(
            vec![opened()],
            refused(
                "a first fragment from a host that was not sent to",
                wan,
                first(&down_from(SERVER_2, datagram(4000, IN_SET)), 24).bytes(),
                "filtered",
            ),
        ),
        refused(
            "a first fragment to a port of another customer edge",
            wan,
            first(&down(datagram(4000, 1236)), 24).bytes(),
            "foreign-port",
        ),
    ]
}

/// By what it is.
fn malformed() -> Vec<Case> {
    let (lan, wan) = (Program::Lan, Program::Wan);
    let whole = down(datagram(4000, IN_SET));
    let opened = || (lan, up(udp(IN_SET, 4000)));
    let noted = || vec![opened(), (wan, first(&whole, 24))];
    let to_another = Frame {
        to: Ipv4Addr::new(192, 0, 2, 19),
        ..last(&whole, 24)
    };
    let in_options = Frame {
        fragment: MORE,
        payload: Payload::Other {
            protocol: 6,
            bytes: vec![1, 187, 4, 208, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 2, 0, 0],
        },
        ..down(udp(0, 0))
    };
    vec![
        after(
            noted(),
            refused(
                "a later fragment to another IPv4 address",
                wan,
                to_another.bytes(),
                "not-my-address",
            ),
        ),
        refused(
            "an answer's first fragment that ends within the TCP header",
            wan,
            in_options.bytes(),
            "fragment-tiny",
        ),
        after(
            noted(),
            refused(
                "an answer's fragment that overlaps the first",
                wan,
                placed(&whole, 2).bytes(),
                "fragment-overlap",
            ),
        ),
        after(
            noted(),
            refused(
                "an answer's fragment that ends beyond the longest packet",
                wan,
                placed(&whole, 0x1fff).bytes(),
                "fragment-too-long",
            ),
        ),
        after(
            noted(),
            refused(
                "an answer's later fragment at its last hop",
                wan,
                Frame {
                    ttl: 1,
                    ..last(&whole, 24)
                }
                .bytes(),
                "ttl-expired",
            ),
        ),
    ]
}
