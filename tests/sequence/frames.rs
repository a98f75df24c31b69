//! The frame that a step means, made from what the model knows when its turn comes.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_tests::{
    model::{
        Model,
        forward::Order,
        life::{End, Session},
        policy::Transport,
    },
    table::{
        frame::{Frame, Outer, Payload},
        talk::down_frame,
        world::{
            CE, ELSEWHERE, HOST, HOST_2, HOST_MAC, LAN_MAC, Program, RELAY, ROUTER_MAC, SERVER, SERVER_2, SHARED,
            WAN_MAC,
        },
    },
};

use super::{Down, DownFrom, Forward, Kind, Report, Twist, Up, UpTo, Way};

/// LAN hosts, and one that is none.
pub(crate) const HOSTS: [Ipv4Addr; 4] = [
    HOST,
    HOST_2,
    Ipv4Addr::new(192, 168, 10, 12),
    Ipv4Addr::new(10, 9, 8, 7),
];

/// Remote hosts, and what is not quite one.
pub(crate) const REMOTES: [Ipv4Addr; 8] = [
    SERVER,
    SERVER_2,
    Ipv4Addr::new(203, 0, 113, 99),
    SHARED,
    ELSEWHERE,
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::new(192, 168, 10, 1),
    HOST_2,
];

fn pick<T: Copy>(from: &[T], number: impl Into<usize>) -> Option<T> {
    let number: usize = number.into();
    from.get(number.checked_rem(from.len())?).copied()
}

/// A session of the model, if it has any.
pub(crate) fn session(model: &Model, number: u16) -> Option<&Session> {
    let number = usize::from(number).checked_rem(model.sessions.len())?;
    model.sessions.get(number)
}

/// Ports that LAN hosts send from: the first of the set, and others.
fn local_port(model: &Model, number: u8) -> u16 {
    let ports = &model.policy.ports;
    match number {
        0..4 => pick(ports, number).unwrap_or(0),
        4 => ports.last().copied().unwrap_or(0),
        _ => 40_000 + u16::from(number),
    }
}

/// The forward that a step means.
pub(crate) fn forward(model: &Model, step: &Forward) -> Order {
    let own = (
        pick(&HOSTS, step.host).unwrap_or(HOST).octets(),
        local_port(model, step.inside),
    );
    let inside = step
        .of_session
        .and_then(|number| session(model, number))
        .map_or(own, |s| {
            // The only LAN host whose neighbour the kernel's gateway knows at any time.
            (HOST.octets(), s.flow.inside.1)
        });
    let wanted = Order {
        is_wanted: step.is_wanted,
        transport: step.kind.transport(),
        port: pick(&model.policy.ports, step.port).unwrap_or(0),
        inside,
    };
    let made: Vec<_> = model.mappings.iter().filter(|m| m.is_static).collect();
    match pick(&made, step.port) {
        Some(made) if !step.is_wanted && step.inside > 0 => Order {
            transport: made.transport,
            port: made.port,
            inside: made.inside,
            ..wanted
        },
        _ => wanted,
    }
}

fn remote_port(model: &Model, number: u8) -> u16 {
    match number {
        0 => 53,
        1 => 443,
        2 => 4_000,
        3 => 5_000,
        4 => 80,
        _ => pick(&model.policy.ports, 1_u8).unwrap_or(0),
    }
}

/// The frame of a packet from the LAN.
pub(crate) fn up(model: &Model, step: &Up) -> Vec<u8> {
    let any = |host: u8, port: u8, remote: u8, to: u8| {
        let host = pick(&HOSTS, host).unwrap_or(HOST);
        let remote = pick(&REMOTES, remote).unwrap_or(SERVER);
        (
            (host.octets(), local_port(model, port)),
            (remote.octets(), remote_port(model, to)),
        )
    };
    let (from, to, kind) = match step.to {
        UpTo::Any(host, port, remote, to) => {
            let (from, to) = any(host, port, remote, to);
            (from, to, step.kind)
        }
        UpTo::Again(number) => match session(model, number) {
            Some(session) => (session.flow.inside, session.flow.remote, suited(step.kind, session)),
            None => (any(0, 0, 0, 2).0, any(0, 0, 0, 2).1, step.kind),
        },
        UpTo::Across(from, to) => match (session(model, from), session(model, to)) {
            (Some(from), Some(to)) => {
                let to = (SHARED.octets(), to.port);
                (from.flow.inside, to, suited(step.kind, from))
            }
            _ => (any(0, 0, 0, 2).0, any(0, 0, 0, 2).1, step.kind),
        },
        UpTo::Else(number, remote, port) => {
            let to = any(0, 0, remote, port).1;
            match session(model, number) {
                Some(session) => (session.flow.inside, to, suited(step.kind, session)),
                None => (any(0, 0, 0, 2).0, to, step.kind),
            }
        }
    };
    let frame = Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        ..Frame::new(
            from.0.into(),
            to.0.into(),
            payload(kind, from.1, to.1, from.1, step.twist),
        )
    };
    finish(frame, step.twist)
}

/// The frame of a packet from the WAN.
pub(crate) fn down(model: &Model, step: &Down) -> Vec<u8> {
    let any = |port: u16, remote: u8, from: u8| {
        let port = pick(&model.policy.ports, port).unwrap_or(0);
        let remote = pick(&REMOTES, remote).unwrap_or(SERVER);
        ((remote.octets(), remote_port(model, from)), port, step.kind)
    };
    let number = match step.from {
        DownFrom::Answer(number) | DownFrom::OtherPort(number, _) | DownFrom::OtherHost(number, ..) => number,
        DownFrom::Any(..) => 0,
    };
    let (from, port, kind): (End, u16, Kind) = match (step.from, session(model, number)) {
        (DownFrom::Any(port, remote, from), _) => any(port, remote, from),
        (_, None) => any(number, 0, 0),
        (DownFrom::Answer(_), Some(session)) => (session.flow.remote, session.port, suited(step.kind, session)),
        (DownFrom::OtherPort(_, from), Some(session)) => (
            (session.flow.remote.0, remote_port(model, from)),
            session.port,
            suited(step.kind, session),
        ),
        (DownFrom::OtherHost(_, remote, from), Some(session)) => {
            let (remote, _, _) = any(0, remote, from);
            (remote, session.port, suited(step.kind, session))
        }
    };
    let frame = down_frame(from.0.into(), payload(kind, from.1, port, port, step.twist));
    finish(frame, step.twist)
}

/// The frame of an ICMP error, and the program that gets it; none where there is no session.
pub(crate) fn report(model: &Model, step: &Report) -> Option<(Program, Vec<u8>)> {
    let session = session(model, step.session)?;
    let kind = suited(Kind::Udp, session);
    let inside = session.flow.inside;
    let own_port = if step.quoted.is_foreign { 40_001 } else { session.port };
    let (lan_end, outside, remote) = (inside, (SHARED, own_port), session.flow.remote);
    let quoted = |from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), id: u16| {
        let twist = if step.quoted.checksum {
            Twist::None
        } else {
            Twist::NoChecksum
        };
        let packet = Frame {
            options: vec![1; usize::from(step.quoted.options) * 4],
            fragment: step.quoted.fragment,
            ..Frame::new(from.0, to.0, payload(kind, from.1, to.1, id, twist))
        };
        let mut bytes = packet.packet();
        bytes.truncate(step.quoted.len.into());
        bytes
    };
    let error = |bytes: Vec<u8>| {
        let [a, b, c, d] = step.mtu.to_be_bytes();
        let data = [&[c, d], &bytes[..]].concat();
        Payload::Raw {
            start: [step.kind.0, step.kind.1],
            rest: [&[a, b], &data[..]].concat(),
        }
    };
    let remote_host = (Ipv4Addr::from(remote.0), remote.1);
    match step.way {
        Way::Lan => {
            let lan_port = if step.quoted.is_foreign { 40_001 } else { lan_end.1 };
            let bytes = quoted(remote_host, (lan_end.0.into(), lan_port), lan_port);
            let from = pick(&HOSTS, step.from).unwrap_or(HOST);
            let frame = Frame {
                to_mac: LAN_MAC.0,
                from_mac: HOST_MAC.0,
                ..Frame::new(from, remote_host.0, error(bytes))
            };
            Some((Program::Lan, finish(frame, step.twist)))
        }
        Way::Internet => {
            let from = pick(&REMOTES, step.from).unwrap_or(SERVER);
            let frame = Frame {
                to_mac: WAN_MAC.0,
                from_mac: ROUTER_MAC.0,
                outer: Some(Outer {
                    from: RELAY,
                    to: CE,
                    class: 0,
                    extension: None,
                }),
                ..Frame::new(from, SHARED, error(quoted(outside, remote_host, outside.1)))
            };
            Some((Program::Wan, finish(frame, step.twist)))
        }
        Way::Tunnel => Some((
            Program::Wan,
            tunnel_error(step, &quoted(outside, remote_host, outside.1)),
        )),
    }
}

/// An ICMPv6 error about a packet in the tunnel. Nobody sums it: what it quotes says whether it counts.
fn tunnel_error(step: &Report, inner: &[u8]) -> Vec<u8> {
    let router = Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 1);
    let header = |len: usize, next: u8, from: Ipv6Addr, to: Ipv6Addr| {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        header.extend([next, 64]);
        header.extend(from.octets());
        header.extend(to.octets());
        header
    };
    let far_end = if step.quoted.is_foreign && step.from.is_multiple_of(2) {
        router
    } else {
        RELAY
    };
    let mut frame = [WAN_MAC.0, ROUTER_MAC.0].concat();
    frame.extend([0x86, 0xdd]);
    frame.extend(header(48 + inner.len(), 58, router, CE));
    frame.extend([step.kind.0, step.kind.1, 0, 0]);
    frame.extend(step.mtu.to_be_bytes());
    frame.extend(header(inner.len(), 4, CE, far_end));
    frame.extend(inner);
    distort(&mut frame, 102, step.twist);
    frame
}

/// The wanted kind if the session's protocol can have it, else an ordinary packet of that protocol.
fn suited(kind: Kind, session: &Session) -> Kind {
    if kind.transport() == session.flow.transport {
        return kind;
    }
    match session.flow.transport {
        Transport::Udp => Kind::Udp,
        Transport::Tcp => Kind::Tcp(16),
        Transport::Icmp => Kind::Echo(true),
    }
}

/// `identifier` is an echo message's: on either side that of the gateway's end, for the remote host has none.
fn payload(kind: Kind, from: u16, to: u16, identifier: u16, twist: Twist) -> Payload {
    let size = if let Twist::Size(size) = twist {
        usize::from(size)
    } else if matches!(twist, Twist::Piece(_)) {
        // The last fragment ends at no multiple of eight.
        61
    } else {
        11
    };
    let data: Vec<u8> = (0..=255).cycle().skip(usize::from(from & 0xff)).take(size).collect();
    match kind {
        Kind::Udp => Payload::Udp {
            from,
            to,
            data,
            checksum: !matches!(twist, Twist::NoChecksum),
        },
        Kind::Tcp(flags) => Payload::Tcp {
            from,
            to,
            flags,
            options: if let Twist::Mss(mss, before) = twist {
                let mut options = vec![1; usize::from(before)];
                options.extend([2, 4]);
                options.extend(mss.to_be_bytes());
                options
            } else {
                Vec::new()
            },
            data,
        },
        Kind::Echo(is_query) => Payload::Icmp {
            kind: if is_query { 8 } else { 0 },
            code: 0,
            id: identifier,
            data,
        },
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a twist is about one thing")]
fn finish(mut frame: Frame, twist: Twist) -> Vec<u8> {
    match twist {
        Twist::Ttl(ttl) => frame.ttl = ttl,
        Twist::Tos(tos) => frame.tos = tos,
        Twist::Padding(bytes) => frame.padding = vec![0xa5; usize::from(bytes)],
        Twist::Options => frame.options = vec![1, 1, 1, 1],
        Twist::Fragment(word) => frame.fragment = word,
        Twist::Piece(piece) => {
            frame.id = 0x1c40 | u16::from(piece.identification);
            frame = frame.piece(piece.start.into(), piece.count.into(), piece.lies);
        }
        Twist::OtherMac => frame.to_mac = [2, 9, 9, 9, 9, 9],
        Twist::Vlan => frame.vlan = Some(7),
        Twist::Class(class) => {
            frame.tos = class & 3;
            if let Some(outer) = &mut frame.outer {
                outer.class = class >> 2;
            }
        }
        Twist::Stranger => {
            if let Some(outer) = &mut frame.outer {
                outer.from = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1);
            }
        }
        Twist::Extension => {
            if let Some(outer) = &mut frame.outer {
                outer.extension = Some((60, vec![4, 0, 1, 4, 0, 0, 0, 0]));
            }
        }
        _ => {}
    }
    let mut bytes = frame.bytes();
    let at = if frame.outer.is_some() { 54 } else { 14 };
    if let (Twist::Inner(by), Payload::Tcp { .. }) = (twist, &frame.payload) {
        bytes[at + 32] = bytes[at + 32].wrapping_add_signed(by);
    } else {
        distort(&mut bytes, at, twist);
    }
    bytes
}

/// Changes bytes of a frame whose IPv4 header is at `at`.
#[expect(clippy::wildcard_enum_match_arm, reason = "a twist is about one thing")]
fn distort(bytes: &mut Vec<u8>, at: usize, twist: Twist) {
    match twist {
        Twist::Cut(cut) => bytes.truncate(bytes.len().saturating_sub(usize::from(cut)).max(14)),
        Twist::Length(by) => add(bytes, at + 2, by),
        Twist::Inner(by) => add(bytes, at + 24, by),
        Twist::Flip(bit) => {
            // Not the sender's MAC address: the kernel learns it.
            let bit = usize::from(bit) % ((bytes.len() - 12) * 8);
            bytes[12 + bit / 8] ^= 1 << (bit % 8);
        }
        _ => {}
    }
}

fn add(bytes: &mut [u8], at: usize, by: i8) {
    if bytes.len() < at + 2 {
        return;
    }
    let value = u16::from_be_bytes([bytes[at], bytes[at + 1]]).wrapping_add_signed(by.into());
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
