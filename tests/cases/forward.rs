//! Ports that an operator has forwarded, both ways.

use std::net::Ipv4Addr;

use mape_common::layout::Transport;
use mape_tests::table::{
    frame::{Frame, Seen, echo, syn, tcp, udp},
    world::{Forwarded, HOST, HOST_2, HOST_MAC, IN_SET, LAN_MAC, Program, SERVER, SERVER_2},
};

use super::{Case, down, down_from, refused, up};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;
const RST: u8 = 4;
/// What the server on the LAN host listens on.
const SERVICE: u16 = 80;

fn to(transport: Transport, inside: Ipv4Addr) -> Vec<Forwarded> {
    vec![Forwarded {
        transport,
        external: IN_SET,
        inside: (inside, SERVICE),
    }]
}

fn reaches_service(seen: &Seen) {
    assert_eq!(seen.outer, None, "decapsulated");
    assert_eq!(seen.macs, (HOST_MAC.0, LAN_MAC.0));
    assert_eq!((seen.addresses.1, seen.ports.1), (HOST, SERVICE));
}

fn leaves_by_the_forwarded_port(seen: &Seen) {
    assert_eq!(seen.ports.0, IN_SET);
}

fn forwarded(name: &'static str, program: Program, frame: &Frame, check: fn(&Seen)) -> Case {
    Case {
        name,
        before: Vec::new(),
        program,
        given: frame.bytes(),
        counted: "forwarded",
        check,
    }
}

pub(super) fn cases() -> Vec<(Vec<Forwarded>, Case)> {
    [inbound(), outbound()].into_iter().flatten().collect()
}

fn inbound() -> Vec<(Vec<Forwarded>, Case)> {
    let wan = Program::Wan;
    let (tcp_forward, udp_forward) = (to(Transport::Tcp, HOST), to(Transport::Udp, HOST));
    let both = [&tcp_forward[..], &udp_forward[..]].concat();
    let opened = || vec![(wan, down(syn(4000, IN_SET, 1200)))];
    vec![
        (
            udp_forward.clone(),
            forwarded(
                "a stranger's datagram to a forwarded port, whose host has never sent anything",
                wan,
                &down_from(SERVER_2, udp(4000, IN_SET)),
                reaches_service,
            ),
        ),
        (
            tcp_forward.clone(),
            forwarded(
                "a stranger's SYN, although TCP has no mappings",
                wan,
                &down(syn(4000, IN_SET, 1200)),
                reaches_service,
            ),
        ),
        (
            tcp_forward.clone(),
            Case {
                before: opened(),
                ..forwarded(
                    "the same SYN again",
                    wan,
                    &down(syn(4000, IN_SET, 1200)),
                    reaches_service,
                )
            },
        ),
        (
            tcp_forward.clone(),
            refused(
                "to a forwarded port, a segment of no connection",
                wan,
                down(tcp(4000, IN_SET, ACK)).bytes(),
                "no-session",
            ),
        ),
        (
            tcp_forward.clone(),
            refused(
                "to a forwarded port, a reset of no connection",
                wan,
                down(tcp(4000, IN_SET, RST)).bytes(),
                "no-session",
            ),
        ),
        (
            tcp_forward,
            refused(
                "a port that is forwarded for TCP only",
                wan,
                down(udp(4000, IN_SET)).bytes(),
                "no-session",
            ),
        ),
        (
            both,
            refused(
                "an echo request to the number of a forwarded port",
                wan,
                down(echo(8, IN_SET)).bytes(),
                "no-session",
            ),
        ),
        (
            to(Transport::Udp, Ipv4Addr::new(172, 16, 0, 5)),
            refused(
                "a forward to an address that is not on the LAN",
                wan,
                down(udp(4000, IN_SET)).bytes(),
                "forward-unrouted",
            ),
        ),
    ]
}

fn outbound() -> Vec<(Vec<Forwarded>, Case)> {
    let lan = Program::Lan;
    let (tcp_forward, udp_forward) = (to(Transport::Tcp, HOST), to(Transport::Udp, HOST));
    vec![
        (
            tcp_forward.clone(),
            Case {
                before: vec![(Program::Wan, down(syn(4000, IN_SET, 1200)))],
                ..forwarded(
                    "the server's answer to a stranger",
                    lan,
                    &up(tcp(SERVICE, 4000, SYN_ACK)),
                    |seen| {
                        leaves_by_the_forwarded_port(seen);
                        assert_eq!((seen.addresses.1, seen.ports.1), (SERVER, 4000));
                    },
                )
            },
        ),
        (
            udp_forward.clone(),
            forwarded(
                "what the server sends by itself",
                lan,
                &up(udp(SERVICE, 4000)),
                leaves_by_the_forwarded_port,
            ),
        ),
        (
            udp_forward,
            forwarded(
                "the same towards a port whose endpoints overlap",
                lan,
                &up(udp(SERVICE, 443)),
                leaves_by_the_forwarded_port,
            ),
        ),
        (
            tcp_forward.clone(),
            forwarded(
                "the same over TCP, which has no mappings",
                lan,
                &up(tcp(SERVICE, 443, SYN)),
                leaves_by_the_forwarded_port,
            ),
        ),
        (
            tcp_forward,
            forwarded(
                "another port of the server's host gets a port like any other",
                lan,
                &up(tcp(SERVICE + 1, 443, SYN)),
                |seen| assert_ne!(seen.ports.0, IN_SET),
            ),
        ),
        (
            to(Transport::Udp, HOST_2),
            forwarded(
                "a host whose own number is forwarded to another gets a port like any other",
                lan,
                &up(udp(IN_SET, 4000)),
                |seen| assert_ne!(seen.ports.0, IN_SET),
            ),
        ),
    ]
}
