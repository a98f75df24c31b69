//! Packets in fragments, both ways.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{map::psid::PortSet, wire::port::Port};
use mape_tests::table::{
    frame::{Frame, Outer, Payload, Seen, echo, udp},
    world::{
        CE, ELSEWHERE, HOST, HOST_MAC, IN_SET, LAN_MAC, Program, RELAY, ROUTER_MAC, SERVER, SERVER_2, SHARED, WAN_MAC,
    },
};

use super::{Case, down, down_from, refused, up, up_to};

/// More fragments follow.
const MORE: u16 = 0x2000;

/// Forty bytes of data: two fragments of 24 bytes each.
fn datagram(from: u16, to: u16) -> Payload {
    Payload::Udp {
        from,
        to,
        data: (0..40).collect(),
        checksum: true,
    }
}

/// A SYN with an MSS option and data, 20 and 8 and 20 bytes.
fn segment(from: u16, to: u16) -> Payload {
    let [high, low] = 1460_u16.to_be_bytes();
    Payload::Tcp {
        from,
        to,
        flags: 2,
        options: vec![2, 4, high, low, 1, 3, 3, 7],
        data: (0..20).collect(),
    }
}

/// The first fragment, of that many bytes.
fn first(frame: &Frame, size: usize) -> Frame {
    frame.split(size).remove(0)
}

/// The last one.
fn last(frame: &Frame, size: usize) -> Frame {
    frame.split(size).pop().expect("at least one")
}

/// A later fragment with these bits in the place of flags and offset.
fn placed(frame: &Frame, fragment: u16) -> Frame {
    Frame {
        fragment,
        ..last(frame, 24)
    }
}

fn after(before: Vec<(Program, Frame)>, case: Case) -> Case {
    Case { before, ..case }
}

fn forwarded(
    name: &'static str,
    before: Vec<(Program, Frame)>,
    (program, frame): (Program, &Frame),
    check: fn(&Seen),
) -> Case {
    Case {
        name,
        before,
        program,
        given: frame.bytes(),
        counted: "forwarded",
        check,
    }
}

/// What each fragment into the tunnel has.
fn is_tunnelled(seen: &Seen) {
    let (from, to, _, label, hops) = seen.outer.expect("a tunnel header");
    assert_eq!((from, to, hops), (CE, RELAY, 64));
    assert_ne!(label, 0, "the flow label of its session");
    assert_eq!(seen.macs, (ROUTER_MAC.0, WAN_MAC.0));
    assert_eq!((seen.addresses, seen.ttl), ((SHARED, SERVER), 63));
    let set = PortSet::new(6, 8, 0x34).expect("RFC 7597 appendix A");
    let (id, _) = seen.fragment;
    assert!(set.contains(Port(id)), "identification {id} is in the port set");
}

/// What each fragment out of the tunnel has.
fn reaches_host(seen: &Seen) {
    assert_eq!(seen.outer, None, "decapsulated");
    assert_eq!(seen.macs, (HOST_MAC.0, LAN_MAC.0));
    assert_eq!((seen.addresses, seen.ttl), ((SERVER, HOST), 63));
    assert_eq!(seen.fragment.0, 0x1c46, "the identification is the sender's");
}

/// The last 24 bytes of the datagram.
fn is_last_part(seen: &Seen) {
    assert_eq!(seen.fragment.1, 3, "24 bytes in, and no more");
    assert_eq!(seen.rest, (16..40).collect::<Vec<u8>>(), "nothing is changed in it");
}

pub(super) fn cases() -> Vec<Case> {
    [outbound(), outbound_refused(), inbound(), inbound_refused(), not_ours()]
        .into_iter()
        .flatten()
        .collect()
}

fn outbound() -> Vec<Case> {
    let lan = Program::Lan;
    let whole = up(datagram(IN_SET, 4000));
    let ping = up(Payload::Icmp {
        kind: 8,
        code: 0,
        id: IN_SET,
        data: (0..40).collect(),
    });
    let syn = up(segment(IN_SET, 443));
    let padded = |frame: Frame| Frame {
        padding: vec![0xa5; 9],
        ..frame
    };
    vec![
        forwarded(
            "a first fragment opens a session",
            Vec::new(),
            (lan, &first(&whole, 24)),
            |seen| {
                is_tunnelled(seen);
                assert_eq!(seen.fragment.1, MORE);
                assert_eq!(seen.rest[..4], [4, 208, 15, 160], "the port of the set is kept");
            },
        ),
        forwarded(
            "a first fragment of a session in use",
            vec![(lan, up(udp(IN_SET, 4000)))],
            (lan, &first(&whole, 24)),
            is_tunnelled,
        ),
        forwarded(
            "a later fragment follows its first",
            vec![(lan, first(&whole, 24))],
            (lan, &last(&whole, 24)),
            |seen| {
                is_tunnelled(seen);
                is_last_part(seen);
            },
        ),
        forwarded(
            "a later fragment with padding behind it",
            vec![(lan, padded(first(&whole, 24)))],
            (lan, &padded(last(&whole, 24))),
            |seen| {
                is_tunnelled(seen);
                is_last_part(seen);
            },
        ),
        forwarded(
            "a later fragment of an echo, which alone has no identifier",
            vec![(lan, first(&ping, 24))],
            (lan, &last(&ping, 24)),
            |seen| {
                is_tunnelled(seen);
                is_last_part(seen);
            },
        ),
        forwarded(
            "a SYN in fragments has its MSS clamped in the first",
            Vec::new(),
            (lan, &first(&syn, 32)),
            |seen| {
                is_tunnelled(seen);
                assert_eq!(seen.rest[22..24], 1420_u16.to_be_bytes());
            },
        ),
        forwarded(
            "a first fragment that comes twice",
            vec![(lan, first(&whole, 24))],
            (lan, &first(&whole, 24)),
            is_tunnelled,
        ),
        forwarded(
            "a later fragment that comes twice",
            vec![(lan, first(&whole, 24)), (lan, last(&whole, 24))],
            (lan, &last(&whole, 24)),
            is_tunnelled,
        ),
    ]
}

fn outbound_refused() -> Vec<Case> {
    let lan = Program::Lan;
    let whole = up(datagram(IN_SET, 4000));
    let noted = || vec![(lan, first(&whole, 24))];
    let large = up(Payload::Udp {
        from: IN_SET,
        to: 4000,
        data: vec![7; 2_000],
        checksum: true,
    });
    let syn = up(segment(IN_SET, 443));
    let odd = Frame {
        payload: Payload::Other {
            protocol: 17,
            bytes: vec![4, 208, 15, 160, 0, 48, 0, 0, 1],
        },
        ..first(&whole, 24)
    };
    let dying = |frame: Frame| Frame { ttl: 1, ..frame };
    let longer = |fragment| Frame {
        fragment,
        ..first(&whole, 24)
    };
    vec![
        refused(
            "a later fragment whose first has not come",
            lan,
            last(&whole, 24).bytes(),
            "fragment-first-missing",
        ),
        after(
            noted(),
            refused(
                "a later fragment of another packet",
                lan,
                Frame {
                    id: 0x1c47,
                    ..last(&whole, 24)
                }
                .bytes(),
                "fragment-first-missing",
            ),
        ),
        refused(
            "a first fragment that ends within the TCP header",
            lan,
            first(&syn, 16).bytes(),
            "fragment-tiny",
        ),
        refused(
            "a first fragment that ends within TCP's options",
            lan,
            first(&syn, 24).bytes(),
            "fragment-tiny",
        ),
        after(
            vec![(lan, first(&syn, 32))],
            refused(
                "a fragment that would replace the flags of a TCP header",
                lan,
                Frame {
                    fragment: 1,
                    ..last(&syn, 24)
                }
                .bytes(),
                "fragment-overlap",
            ),
        ),
        after(
            noted(),
            refused(
                "another first fragment of the same packet",
                lan,
                first(&up(datagram(IN_SET + 1, 4000)), 24).bytes(),
                "fragment-overlap",
            ),
        ),
        after(
            noted(),
            refused(
                "a longer first fragment of the same packet",
                lan,
                first(&whole, 32).bytes(),
                "fragment-overlap",
            ),
        ),
        after(
            noted(),
            refused(
                "a fragment that ends beyond the longest packet",
                lan,
                placed(&whole, 0x1fff).bytes(),
                "fragment-too-long",
            ),
        ),
        refused("a first fragment of odd length", lan, odd.bytes(), "bad-length"),
        after(
            noted(),
            refused(
                "a fragment in the middle of odd length",
                lan,
                Frame {
                    fragment: MORE | 3,
                    ..odd.clone()
                }
                .bytes(),
                "bad-length",
            ),
        ),
        after(
            noted(),
            refused(
                "a fragment without a byte",
                lan,
                Frame {
                    fragment: 3,
                    payload: Payload::Other {
                        protocol: 17,
                        bytes: Vec::new(),
                    },
                    ..longer(3)
                }
                .bytes(),
                "bad-length",
            ),
        ),
        refused(
            "a first fragment larger than the tunnel takes",
            lan,
            first(&large, 1_448).bytes(),
            "too-big",
        ),
        after(
            vec![(lan, first(&large, 1_440))],
            refused(
                "a later fragment larger than the tunnel takes",
                lan,
                Frame {
                    fragment: MORE | 180,
                    ..first(&large, 1_448)
                }
                .bytes(),
                "too-big",
            ),
        ),
        refused(
            "a first fragment at its last hop",
            lan,
            dying(first(&whole, 24)).bytes(),
            "ttl-expired",
        ),
        after(
            noted(),
            refused(
                "a later fragment at its last hop",
                lan,
                dying(last(&whole, 24)).bytes(),
                "ttl-expired",
            ),
        ),
        refused(
            "a fragment with options",
            lan,
            Frame {
                options: vec![7, 4, 4, 0],
                ..last(&whole, 24)
            }
            .bytes(),
            "ip-options",
        ),
    ]
}

fn inbound() -> Vec<Case> {
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

fn inbound_refused() -> Vec<Case> {
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

fn not_ours() -> Vec<Case> {
    let lan = Program::Lan;
    let elsewhere = up_to(ELSEWHERE, datagram(IN_SET, 4000));
    let group = up_to(Ipv4Addr::new(224, 0, 0, 251), datagram(IN_SET, 4000));
    let gre = Frame {
        fragment: MORE,
        ..up(Payload::Other {
            protocol: 47,
            bytes: vec![0; 16],
        })
    };
    vec![
        refused(
            "a first fragment that the routing table sends elsewhere",
            lan,
            first(&elsewhere, 24).bytes(),
            "not-tunnelled",
        ),
        refused(
            "a later fragment that the routing table sends elsewhere",
            lan,
            last(&elsewhere, 24).bytes(),
            "not-tunnelled",
        ),
        refused(
            "a tiny fragment that the routing table sends elsewhere",
            lan,
            first(&up_to(ELSEWHERE, segment(IN_SET, 443)), 16).bytes(),
            "not-tunnelled",
        ),
        refused(
            "a first fragment to a group",
            lan,
            first(&group, 24).bytes(),
            "not-unicast",
        ),
        refused(
            "a later fragment to a group",
            lan,
            last(&group, 24).bytes(),
            "not-unicast",
        ),
        refused(
            "a first fragment of a protocol without ports",
            lan,
            gre.bytes(),
            "unsupported-protocol",
        ),
    ]
}
