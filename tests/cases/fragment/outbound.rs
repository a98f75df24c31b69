//! LAN to WAN.

use std::net::Ipv4Addr;

use mape_common::{map::psid::PortSet, wire::port::Port};
use mape_tests::table::{
    frame::{Frame, Payload, Seen, udp},
    world::{CE, ELSEWHERE, IN_SET, Program, RELAY, ROUTER_MAC, SERVER, SHARED, WAN_MAC},
};

use super::{Case, MORE, after, datagram, first, forwarded, is_last_part, last, placed, refused, segment, up, up_to};

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

pub(super) fn cases() -> Vec<Case> {
    [forwards(), drops(), malformed(), passes(), not_ours()]
        .into_iter()
        .flatten()
        .collect()
}

fn forwards() -> Vec<Case> {
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

fn drops() -> Vec<Case> {
    let lan = Program::Lan;
    let whole = up(datagram(IN_SET, 4000));
    let noted = || vec![(lan, first(&whole, 24))];
    let syn = up(segment(IN_SET, 443));
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
    ]
}

/// Lengths that contradict each other.
fn malformed() -> Vec<Case> {
    let lan = Program::Lan;
    let whole = up(datagram(IN_SET, 4000));
    let noted = || vec![(lan, first(&whole, 24))];
    let odd = Frame {
        payload: Payload::Other {
            protocol: 17,
            bytes: vec![4, 208, 15, 160, 0, 48, 0, 0, 1],
        },
        ..first(&whole, 24)
    };
    vec![
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
                    fragment: MORE | 0x3,
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
                    ..first(&whole, 24)
                }
                .bytes(),
                "bad-length",
            ),
        ),
    ]
}

/// What the stack gets.
fn passes() -> Vec<Case> {
    let lan = Program::Lan;
    let whole = up(datagram(IN_SET, 4000));
    let noted = || vec![(lan, first(&whole, 24))];
    let large = up(Payload::Udp {
        from: IN_SET,
        to: 4000,
        data: vec![7; 2_000],
        checksum: true,
    });
    let dying = |frame: Frame| Frame { ttl: 1, ..frame };
    vec![
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
                    fragment: MORE | 0xb4,
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
