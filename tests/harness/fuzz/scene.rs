//! Frames out of a fuzzer's bytes: built field by field from what a gateway knows, or raw, and changes to those that came before.

use std::net::{Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};

use super::cut::Cut;
use crate::table::{
    frame::{Frame, Outer, Payload, error},
    world::{
        CE, ELSEWHERE, GATEWAY, HOST, HOST_2, HOST_MAC, LAN_MAC, Program, RELAY, ROUTER_MAC, SERVER, SERVER_2, SHARED,
        WAN_MAC,
    },
};

/// Frames and other things that happen in one input, at most.
pub(super) const MOST: usize = 48;
/// A raw frame's bytes, at most.
const LONGEST: usize = 2_047;
/// What is kept of packets that came out, to be answered.
const TALKS: usize = 8;

/// A packet that was forwarded.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    /// It went into the tunnel.
    pub(super) is_outbound: bool,
    /// The frame that left.
    pub(super) after: Vec<u8>,
}

/// What frames are made from.
#[derive(Debug, Default)]
pub(super) struct Scene {
    /// Ports that mean something here, the set's first.
    pub(super) ports: Vec<u16>,
    /// Packets that were forwarded.
    pub(super) talks: Vec<Talk>,
    /// The frame given last.
    pub(super) last: Vec<u8>,
}

/// Hosts of the LAN, and one that is none.
pub(super) const HOSTS: [Ipv4Addr; 4] = [
    HOST,
    HOST_2,
    Ipv4Addr::new(192, 168, 10, 12),
    Ipv4Addr::new(10, 9, 8, 7),
];
const REMOTES: [Ipv4Addr; 8] = [
    SERVER,
    SERVER_2,
    Ipv4Addr::new(203, 0, 113, 99),
    SHARED,
    ELSEWHERE,
    Ipv4Addr::new(192, 0, 2, 19),
    GATEWAY,
    Ipv4Addr::new(224, 0, 0, 251),
];

impl Scene {
    /// Takes note of a packet that was forwarded.
    pub(super) fn note(&mut self, is_outbound: bool, after: &[u8]) {
        if self.talks.len() == TALKS {
            self.talks.remove(0);
        }
        self.talks.push(Talk {
            is_outbound,
            after: after.to_vec(),
        });
    }

    /// One of the packets that went that way.
    pub(super) fn talk(&self, input: &mut Unstructured<'_>, is_outbound: bool) -> Result<Option<&Talk>> {
        let number = usize::from(input.arbitrary::<u8>()?);
        let talks: Vec<_> = self
            .talks
            .iter()
            .filter(|talk| talk.is_outbound == is_outbound)
            .collect();
        Ok(number.checked_rem(talks.len()).map(|number| talks[number]))
    }

    /// A port that means something, or any.
    pub(super) fn port(&self, input: &mut Unstructured<'_>) -> Result<u16> {
        const KNOWN: [u16; 8] = [40_000, 53, 443, 123, 0, 65_535, 4_000, 80];
        let number = usize::from(input.arbitrary::<u8>()?);
        Ok(match number {
            0..192 if !self.ports.is_empty() => self.ports[number % self.ports.len()],
            0..240 => KNOWN[number % 8],
            _ => input.arbitrary()?,
        })
    }

    /// What a packet carries from one port to another.
    pub(super) fn payload(input: &mut Unstructured<'_>, from: u16, to: u16) -> Result<Payload> {
        let size = match input.arbitrary::<u8>()? {
            size @ 0..224 => usize::from(size) % 40,
            _ => usize::from(input.arbitrary::<u16>()?) % 1_600,
        };
        let data: Vec<u8> = (0..=255).cycle().take(size).collect();
        Ok(match input.arbitrary::<u8>()? % 8 {
            0 | 1 => Payload::Udp {
                from,
                to,
                data,
                checksum: true,
            },
            2 => Payload::Udp {
                from,
                to,
                data,
                checksum: false,
            },
            kind @ 3..6 => Payload::Tcp {
                from,
                to,
                flags: [2, 16, input.arbitrary()?][usize::from(kind - 3)],
                options: options(input)?,
                data,
            },
            6 => Payload::Icmp {
                kind: [8, 0, 8, 8][usize::from(input.arbitrary::<u8>()? % 4)],
                code: 0,
                id: from,
                data,
            },
            _ => Payload::Other {
                protocol: input.arbitrary()?,
                bytes: data,
            },
        })
    }

    /// A frame from the LAN, or to the domain from the Internet.
    pub(super) fn plain(input: &mut Unstructured<'_>, from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Result<Frame> {
        let frame = Frame {
            to_mac: LAN_MAC.0,
            from_mac: HOST_MAC.0,
            ..Frame::new(from, to, payload)
        };
        twisted(input, frame)
    }

    /// A frame in the tunnel.
    pub(super) fn tunnelled(
        input: &mut Unstructured<'_>,
        (outer_from, outer_to): (Ipv6Addr, Ipv6Addr),
        (from, to): (Ipv4Addr, Ipv4Addr),
        payload: Payload,
    ) -> Result<Frame> {
        let outer = Outer {
            from: outer_from,
            to: outer_to,
            class: 0,
            extension: None,
        };
        let frame = Frame {
            to_mac: WAN_MAC.0,
            from_mac: ROUTER_MAC.0,
            outer: Some(outer),
            ..Frame::new(from, to, payload)
        };
        twisted(input, frame)
    }

    /// A LAN host's packet to anybody.
    pub(super) fn up(&self, input: &mut Unstructured<'_>) -> Result<Frame> {
        let (host, remote) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
        let (from, to) = (self.port(input)?, self.port(input)?);
        let payload = Self::payload(input, from, to)?;
        let ends = (HOSTS[usize::from(host % 32) % 4], REMOTES[usize::from(remote % 8)]);
        Self::plain(input, ends.0, ends.1, payload)
    }

    /// Anybody's packet to the shared address.
    pub(super) fn down(&self, input: &mut Unstructured<'_>) -> Result<Frame> {
        let remote = REMOTES[usize::from(input.arbitrary::<u8>()? % 8)];
        let (from, to) = (self.port(input)?, self.port(input)?);
        let payload = Self::payload(input, from, to)?;
        Self::tunnelled(input, (RELAY, CE), (remote, SHARED), payload)
    }

    /// The answer to a packet that went into the tunnel: from where it went to, or nearly so.
    pub(super) fn answer(&self, input: &mut Unstructured<'_>) -> Result<Option<Frame>> {
        let Some(talk) = self.talk(input, true)? else {
            return Ok(None);
        };
        let after = talk.after.clone();
        let Some(sent) = Cut::of(&after) else { return Ok(None) };
        let Some((ours, theirs)) = sent.ports() else {
            return Ok(None);
        };
        let (mut from, mut port) = (Ipv4Addr::from(sent.destination()), theirs);
        match input.arbitrary::<u8>()? % 8 {
            0 => port = self.port(input)?,
            1 => from = REMOTES[usize::from(input.arbitrary::<u8>()? % 8)],
            _ => {}
        }
        let payload = match Self::payload(input, port, ours)? {
            Payload::Other { bytes, .. } => Payload::Other {
                protocol: sent.protocol(),
                bytes,
            },
            // An identifier stands where no port does.
            Payload::Icmp { code, data, .. } if sent.protocol() == 1 => Payload::Icmp {
                kind: 0,
                code,
                id: super::cut::word(sent.body(), 4).unwrap_or(0),
                data,
            },
            payload @ (Payload::Udp { .. } | Payload::Tcp { .. } | Payload::Icmp { .. } | Payload::Raw { .. }) => {
                payload
            }
        };
        Self::tunnelled(input, (RELAY, CE), (from, SHARED), payload).map(Some)
    }

    /// An ICMP error about a packet that left, with as much of it as the input says.
    pub(super) fn error(&self, input: &mut Unstructured<'_>, is_outbound: bool) -> Result<Option<Payload>> {
        let Some(talk) = self.talk(input, is_outbound)? else {
            return Ok(None);
        };
        let Some(sent) = Cut::of(&talk.after) else {
            return Ok(None);
        };
        let (kind, code) =
            [(3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 0)][usize::from(input.arbitrary::<u8>()? % 6)];
        let quoted = match input.arbitrary::<u8>()? {
            len @ 0..64 => usize::from(len),
            64..128 => 28,
            _ => sent.packet.len(),
        };
        let quoted = &sent.packet[..quoted.min(sent.packet.len())];
        Ok(Some(error(kind, code, quoted)))
    }

    /// An ICMPv6 error about a tunnel packet.
    pub(super) fn tunnel_error(&self, input: &mut Unstructured<'_>) -> Result<Option<Vec<u8>>> {
        let Some(talk) = self.talk(input, true)? else {
            return Ok(None);
        };
        let (kind, mtu) = (input.arbitrary::<u8>()? % 6, input.arbitrary::<u16>()?);
        let [high, low] = mtu.to_be_bytes();
        let mut message = vec![kind, 0, 0, 0, 0, 0, high, low];
        let keep = usize::from(input.arbitrary::<u16>()?).min(1_232);
        message.extend(talk.after.iter().skip(14).take(keep));
        let mut frame = [&WAN_MAC.0[..], &ROUTER_MAC.0, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
        frame.extend(u16::try_from(message.len()).unwrap_or(0).to_be_bytes());
        frame.extend([58, 64]);
        frame.extend(ROUTER.octets());
        frame.extend(CE.octets());
        frame.extend(message);
        Ok(Some(frame))
    }

    /// Bytes as they are.
    pub(super) fn raw(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let len = usize::from(input.arbitrary::<u16>()?) & LONGEST;
        Ok(input.bytes(len.min(input.len()))?.to_vec())
    }

    /// The last frame with some bytes changed, cut or grown.
    pub(super) fn mutated(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let mut frame = self.last.clone();
        for _ in 0..=input.arbitrary::<u8>()? & 3 {
            let (place, byte) = (usize::from(input.arbitrary::<u8>()?), input.arbitrary::<u8>()?);
            match (place, frame.get_mut(place)) {
                (250.., _) => frame.truncate(frame.len().saturating_sub(usize::from(byte & 31))),
                (240..250, _) => frame.extend(std::iter::repeat_n(byte, usize::from(byte & 31))),
                (_, Some(at)) => *at = byte,
                (_, None) => {}
            }
        }
        Ok(frame)
    }

    /// A packet's fragments in an order that the input says, some missing and some twice.
    pub(super) fn fragments(input: &mut Unstructured<'_>, frame: &Frame) -> Result<Vec<Vec<u8>>> {
        let size = 8 * (1 + usize::from(input.arbitrary::<u8>()? % 32));
        let pieces = frame.split(size);
        let mut order = Vec::new();
        for _ in 0..=input.arbitrary::<u8>()? & 7 {
            let number = usize::from(input.arbitrary::<u8>()?);
            order.extend(number.checked_rem(pieces.len()).map(|number| pieces[number].bytes()));
        }
        Ok(order)
    }
}

/// A router on the provider's network.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 1);

/// TCP options that end within the header.
fn options(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let flags: u8 = input.arbitrary()?;
    let mut options = vec![1; usize::from(flags & 3)];
    if flags & 4 != 0 {
        options.extend([8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    if flags & 8 != 0 {
        let [high, low] = input.arbitrary::<u16>()?.to_be_bytes();
        options.extend([2, 4, high, low]);
    }
    if flags & 16 != 0 {
        let len = usize::from(flags >> 5) * 2;
        options.extend(input.bytes(len.min(input.len()))?);
    }
    Ok(options)
}

/// What may be unusual about a packet.
fn twisted(input: &mut Unstructured<'_>, mut frame: Frame) -> Result<Frame> {
    match input.arbitrary::<u8>()? {
        0 => frame.ttl = input.arbitrary::<u8>()? & 3,
        1 => frame.tos = input.arbitrary()?,
        2 => frame.padding = vec![0xa5; usize::from(input.arbitrary::<u8>()? & 63)],
        3 => frame.options = vec![1; 4 * (1 + usize::from(input.arbitrary::<u8>()? % 10))],
        4 => frame.fragment = input.arbitrary()?,
        5 => frame.id = input.arbitrary()?,
        6 => frame.vlan = Some(7),
        7 => frame.fragment = 0,
        8 => {
            let class = input.arbitrary()?;
            if let Some(outer) = &mut frame.outer {
                outer.class = class;
            }
        }
        9 => {
            if let Some(outer) = &mut frame.outer {
                outer.from = Ipv6Addr::from(input.arbitrary::<[u8; 16]>()?);
            }
        }
        10 => {
            if let Some(outer) = &mut frame.outer {
                outer.extension = Some((60, vec![4, 0, 1, 4, 0, 0, 0, 0]));
            }
        }
        11 => frame.to_mac = [0xff; 6],
        12 => frame.from = Ipv4Addr::from(input.arbitrary::<[u8; 4]>()?),
        13 => frame.to = Ipv4Addr::from(input.arbitrary::<[u8; 4]>()?),
        _ => {}
    }
    Ok(frame)
}

/// Which program a byte means.
pub(super) const fn program(number: u8) -> Program {
    if number & 1 == 0 { Program::Lan } else { Program::Wan }
}
