//! LAN to WAN.

use std::net::Ipv4Addr;

use mape_common::{map::psid::PortSet, wire::port::Port};
use mape_tests::table::{
    frame::{Frame, Payload, Seen, echo, syn, tcp, udp},
    world::{
        CE, ELSEWHERE, GATEWAY, HOST_MAC, IN_SET, NOT_IN_SET, Program, RELAY, ROUTER_MAC, SERVER, SHARED, WAN_MAC,
    },
};

use super::{Case, refused, up, up_to};

const ACK: u8 = 16;
const RST: u8 = 4;

fn forwarded(name: &'static str, frame: &Frame, check: fn(&Seen)) -> Case {
    Case {
        name,
        before: Vec::new(),
        program: Program::Lan,
        given: frame.bytes(),
        counted: "forwarded",
        check,
    }
}

/// What every forwarded packet has.
fn is_tunnelled(seen: &Seen) {
    let (from, to, _, label, hops) = seen.outer.expect("a tunnel header");
    assert_eq!((from, to, hops), (CE, RELAY, 64));
    assert_ne!(label, 0, "a flow label");
    assert_eq!(seen.macs, (ROUTER_MAC.0, WAN_MAC.0));
    assert_eq!(seen.addresses.0, SHARED);
    assert_eq!(seen.ttl, 63, "one hop less");
}

fn keeps_port(seen: &Seen) {
    is_tunnelled(seen);
    assert_eq!(seen.addresses.1, SERVER);
    assert_eq!(seen.ports.0, IN_SET, "a free port of the set is kept");
}

fn gets_port_of_set(seen: &Seen) {
    is_tunnelled(seen);
    let set = PortSet::new(6, 8, 0x34).expect("RFC 7597 appendix A");
    assert!(
        set.contains(Port(seen.ports.0)),
        "{} is a port of the set",
        seen.ports.0
    );
}

/// The value of the MSS option, which stands at that byte of the TCP header.
fn mss(seen: &Seen, at: usize) -> u16 {
    u16::from_be_bytes([seen.rest[at - 4], seen.rest[at - 3]])
}

pub(super) fn cases() -> Vec<Case> {
    [forwards(), clamps(), passes(), drops()]
        .into_iter()
        .flatten()
        .collect()
}

fn forwards() -> Vec<Case> {
    let with_tos = Frame {
        tos: 0b1011_1001,
        ..up(udp(IN_SET, 4000))
    };
    let no_checksum = up(Payload::Udp {
        from: IN_SET,
        to: 4000,
        data: b"x".to_vec(),
        checksum: false,
    });
    let padded = Frame {
        padding: vec![0xa5; 17],
        ..up(udp(IN_SET, 4000))
    };
    vec![
        forwarded(
            "UDP from a port of the set keeps it",
            &up(udp(IN_SET, 4000)),
            keeps_port,
        ),
        forwarded(
            "TCP from a port of the set keeps it",
            &up(syn(IN_SET, 443, 1200)),
            keeps_port,
        ),
        forwarded(
            "an echo with an identifier of the set keeps it",
            &up(echo(8, IN_SET)),
            |seen| {
                is_tunnelled(seen);
                assert_eq!(seen.ports, (IN_SET, IN_SET));
            },
        ),
        forwarded(
            "UDP from another port gets one of the set",
            &up(udp(NOT_IN_SET, 4000)),
            gets_port_of_set,
        ),
        forwarded(
            "a DNS query gets a port of the set",
            &up(udp(NOT_IN_SET, 53)),
            gets_port_of_set,
        ),
        forwarded(
            "TCP from another port gets one of the set",
            &up(syn(NOT_IN_SET, 443, 1200)),
            gets_port_of_set,
        ),
        forwarded(
            "an echo with another identifier gets one of the set",
            &up(echo(8, NOT_IN_SET)),
            gets_port_of_set,
        ),
        forwarded(
            "TCP in the middle of a connection is picked up",
            &up(tcp(IN_SET, 443, ACK)),
            keeps_port,
        ),
        forwarded("DSCP and ECN are copied to the outer header", &with_tos, |seen| {
            assert_eq!(seen.outer.expect("a tunnel header").2, 0b1011_1001);
            assert_eq!(seen.tos, 0b1011_1001);
        }),
        forwarded("no UDP checksum stays none", &no_checksum, |seen| {
            keeps_port(seen);
            assert_eq!(&seen.rest[2..4], &[0, 0]);
        }),
        forwarded("Ethernet's padding does not enter the tunnel", &padded, keeps_port),
        forwarded(
            "the shared address with another's port is another customer edge, behind the relay",
            &up_to(SHARED, udp(IN_SET, 5000)),
            |seen| {
                is_tunnelled(seen);
                assert_eq!((seen.addresses.1, seen.ports.1), (SHARED, 5000));
            },
        ),
        Case {
            name: "the second packet uses the session of the first",
            before: vec![(Program::Lan, up(udp(NOT_IN_SET, 4000)))],
            ..forwarded("", &up(udp(NOT_IN_SET, 4000)), gets_port_of_set)
        },
    ]
}

fn clamps() -> Vec<Case> {
    let behind_a_no_operation = Payload::Tcp {
        from: IN_SET,
        to: 443,
        flags: 2,
        options: vec![1, 2, 4, 0x05, 0xb4, 0, 0, 0],
        data: Vec::new(),
    };
    // 20 + 68 is 88; six bits of that are 24.
    let beyond_the_header = Payload::Tcp {
        from: IN_SET,
        to: 443,
        flags: 2,
        options: vec![253, 68, 0, 0, 2, 4, 0x05, 0xb4],
        data: Vec::new(),
    };
    let not_a_syn = Payload::Tcp {
        from: IN_SET,
        to: 443,
        flags: ACK,
        options: vec![2, 4, 0x05, 0xb4],
        data: Vec::new(),
    };
    vec![
        forwarded(
            "an MSS that is too large is made smaller",
            &up(syn(IN_SET, 443, 1460)),
            |seen| {
                assert_eq!(mss(seen, 22), 1420);
            },
        ),
        forwarded("a smaller MSS stays", &up(syn(IN_SET, 443, 1200)), |seen| {
            assert_eq!(mss(seen, 22), 1200);
        }),
        forwarded(
            "an MSS at an odd place is clamped too",
            &up(behind_a_no_operation),
            |seen| {
                assert_eq!(mss(seen, 23), 1420);
            },
        ),
        forwarded(
            "an option that claims to end beyond the header leads to no MSS",
            &up(beyond_the_header),
            |seen| {
                assert_eq!(mss(seen, 26), 1460);
            },
        ),
        forwarded("what looks like an MSS without SYN stays", &up(not_a_syn), |seen| {
            assert_eq!(mss(seen, 22), 1460);
        }),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table: one row a behaviour")]
fn passes() -> Vec<Case> {
    let lan = Program::Lan;
    let arp = [
        &mape_tests::table::world::LAN_MAC.0[..],
        &HOST_MAC.0,
        &[0x08, 0x06],
        &[0; 46],
    ]
    .concat();
    let too_big = up(Payload::Udp {
        from: IN_SET,
        to: 4000,
        data: vec![0; 1460 - 27],
        checksum: true,
    });
    let fits = up(Payload::Udp {
        from: IN_SET,
        to: 4000,
        data: vec![0; 1460 - 28],
        checksum: true,
    });
    let unreachable = up(Payload::Icmp {
        kind: 3,
        code: 4,
        id: 0,
        data: vec![0; 28],
    });
    let spoofed = Frame {
        from: Ipv4Addr::new(203, 0, 113, 77),
        ..up(udp(IN_SET, 4000))
    };
    vec![
        refused("ARP is not ours", lan, arp, "other-ethertype"),
        refused(
            "a frame for another MAC address is not ours",
            lan,
            Frame {
                to_mac: [2, 9, 9, 9, 9, 9],
                ..up(udp(1, 2))
            }
            .bytes(),
            "other-mac",
        ),
        refused(
            "a broadcast is not ours",
            lan,
            Frame {
                to_mac: [0xff; 6],
                ..up(udp(68, 67))
            }
            .bytes(),
            "other-mac",
        ),
        refused(
            "a VLAN tag is not looked behind",
            lan,
            Frame {
                vlan: Some(7),
                ..up(udp(1, 2))
            }
            .bytes(),
            "vlan-tagged",
        ),
        refused(
            "multicast is not ours",
            lan,
            up_to(Ipv4Addr::new(224, 0, 0, 251), udp(5353, 5353)).bytes(),
            "not-unicast",
        ),
        refused(
            "what the routing table sends elsewhere is not ours",
            lan,
            up_to(ELSEWHERE, udp(IN_SET, 4000)).bytes(),
            "not-tunnelled",
        ),
        refused(
            "nor is GRE that it sends elsewhere",
            lan,
            up_to(
                ELSEWHERE,
                Payload::Other {
                    protocol: 47,
                    bytes: vec![0; 8],
                },
            )
            .bytes(),
            "not-tunnelled",
        ),
        refused(
            "nor a reset that it sends elsewhere",
            lan,
            up_to(ELSEWHERE, tcp(IN_SET, 22, 4)).bytes(),
            "not-tunnelled",
        ),
        refused(
            "nor a LAN host's answer to the gateway's own ping",
            lan,
            up_to(GATEWAY, echo(0, 7)).bytes(),
            "not-tunnelled",
        ),
        refused(
            "nor a packet cut short that it sends elsewhere",
            lan,
            up_to(ELSEWHERE, udp(IN_SET, 4000)).bytes()[..40].to_vec(),
            "not-tunnelled",
        ),
        refused(
            "a source that is not on this LAN is the stack's to judge",
            lan,
            spoofed.bytes(),
            "source-not-lan",
        ),
        refused(
            "a last hop is answered by the stack",
            lan,
            Frame {
                ttl: 1,
                ..up(udp(IN_SET, 4000))
            }
            .bytes(),
            "ttl-expired",
        ),
        refused(
            "options go the slow way",
            lan,
            Frame {
                options: vec![7, 4, 4, 0],
                ..up(udp(IN_SET, 4000))
            }
            .bytes(),
            "ip-options",
        ),
        refused(
            "an ICMP error that quotes too little to tell whose it is",
            lan,
            unreachable.bytes(),
            "error-unusable",
        ),
        Case {
            before: vec![(lan, fits.clone())],
            ..refused(
                "a packet larger than the tunnel goes the slow way",
                lan,
                too_big.bytes(),
                "too-big",
            )
        },
        forwarded("a packet as large as the tunnel is forwarded", &fits, keeps_port),
    ]
}

fn drops() -> Vec<Case> {
    let lan = Program::Lan;
    let mut short = up(udp(IN_SET, 4000)).bytes();
    short.truncate(short.len() - 1);
    let mut long_udp = up(udp(IN_SET, 4000)).bytes();
    long_udp[39] += 1;
    let mut long_tcp = up(tcp(IN_SET, 443, ACK)).bytes();
    long_tcp[46] = 0x60;
    let mut short_header = up(udp(IN_SET, 4000)).bytes();
    short_header[14] = 0x44;
    vec![
        refused("an IPv4 packet longer than its frame", lan, short, "bad-length"),
        refused("a UDP length beyond the packet", lan, long_udp, "bad-length"),
        refused("a TCP header beyond the packet", lan, long_tcp, "bad-length"),
        refused("an IPv4 header of four words", lan, short_header, "bad-length"),
        refused(
            "a protocol without ports",
            lan,
            up(Payload::Other {
                protocol: 47,
                bytes: vec![0; 8],
            })
            .bytes(),
            "unsupported-protocol",
        ),
        refused(
            "the shared address with a port of its own set that nobody has mapped",
            lan,
            up_to(SHARED, udp(IN_SET, 2256)).bytes(),
            "no-session",
        ),
        refused(
            "an echo reply to the shared address itself",
            lan,
            up_to(SHARED, echo(0, IN_SET)).bytes(),
            "hairpin",
        ),
        refused(
            "a reset of no connection",
            lan,
            up(tcp(IN_SET, 443, RST)).bytes(),
            "reset-without-session",
        ),
        refused("an answer to no echo", lan, up(echo(0, IN_SET)).bytes(), "no-session"),
    ]
}
