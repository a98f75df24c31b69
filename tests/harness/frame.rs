//! Builds frames from the fields that a case cares about; everything else is an ordinary packet's.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The Internet checksum over parts that follow each other, each but the last of whole words (RFC 1071).
///
/// # Panics
/// Never: what is left has sixteen bits.
pub fn sum_of<const N: usize>(parts: [&[u8]; N]) -> u16 {
    let words = parts.into_iter().flat_map(|part| part.chunks(2));
    let mut sum: u64 = words
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// What an IPv4 packet carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Ports and data; without a checksum where `checksum` is false.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// What follows the header.
        data: Vec<u8>,
        /// Whether it has a checksum.
        checksum: bool,
    },
    /// Ports, control bits, options (padded to four bytes), data.
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// Control bits.
        flags: u8,
        /// Options, not yet padded.
        options: Vec<u8>,
        /// What follows the header.
        data: Vec<u8>,
    },
    /// Type, code, identifier, data.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Identifier.
        id: u16,
        /// What follows the header.
        data: Vec<u8>,
    },
    /// An ICMP message: type and code, and what follows the checksum, which is right.
    Raw {
        /// Type and code.
        start: [u8; 2],
        /// What follows the checksum.
        rest: Vec<u8>,
    },
    /// A protocol number and its bytes.
    Other {
        /// Protocol number.
        protocol: u8,
        /// What follows the IPv4 header.
        bytes: Vec<u8>,
    },
}

/// The outer header of a tunnelled packet.
#[derive(Clone, Debug)]
pub struct Outer {
    /// Source address.
    pub from: Ipv6Addr,
    /// Destination address.
    pub to: Ipv6Addr,
    /// Traffic class.
    pub class: u8,
    /// Next header and what stands between it and the inner packet.
    pub extension: Option<(u8, Vec<u8>)>,
}

/// A frame in the making.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Ethernet destination.
    pub to_mac: [u8; 6],
    /// Ethernet source.
    pub from_mac: [u8; 6],
    /// VLAN identifier of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// Tunnel header.
    pub outer: Option<Outer>,
    /// IPv4 source.
    pub from: Ipv4Addr,
    /// IPv4 destination.
    pub to: Ipv4Addr,
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset as they stand in the header.
    pub fragment: u16,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What is carried.
    pub payload: Payload,
    /// Bytes after the packet.
    pub padding: Vec<u8>,
}

impl Frame {
    /// An ordinary packet between two hosts.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Self {
        Self {
            to_mac: [0; 6],
            from_mac: [0; 6],
            vlan: None,
            outer: None,
            from,
            to,
            tos: 0,
            ttl: 64,
            id: 0x1c46,
            fragment: 0x4000,
            options: Vec::new(),
            payload,
            padding: Vec::new(),
        }
    }

    /// The bytes.
    ///
    /// # Panics
    /// Where a length does not fit its field.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to_mac);
        frame.extend(self.from_mac);
        if let Some(id) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(id.to_be_bytes());
        }
        let packet = self.packet();
        match &self.outer {
            None => frame.extend([0x08, 0x00]),
            Some(outer) => {
                frame.extend([0x86, 0xdd, 0x60 | outer.class >> 4, outer.class << 4, 0, 0]);
                let (next, between) = outer.extension.clone().unwrap_or((4, Vec::new()));
                frame.extend(u16_of(between.len() + packet.len()).to_be_bytes());
                frame.extend([next, 60]);
                frame.extend(outer.from.octets());
                frame.extend(outer.to.octets());
                frame.extend(between);
            }
        }
        frame.extend(packet);
        frame.extend(&self.padding);
        frame
    }

    /// The fragments that the packet is sent in, in order: each but the last holds that many bytes after its IPv4 header.
    ///
    /// # Panics
    /// Where that is no multiple of eight.
    pub fn split(&self, size: usize) -> Vec<Self> {
        assert_eq!(size % 8, 0, "offsets are counted in eights");
        let (protocol, body) = self.body();
        let count = body.len().div_ceil(size);
        let piece = |(number, bytes): (usize, &[u8])| {
            let more = if number + 1 < count { 0x2000 } else { 0 };
            Self {
                fragment: more | u16_of(number * size / 8),
                payload: Payload::Other {
                    protocol,
                    bytes: bytes.to_vec(),
                },
                ..self.clone()
            }
        };
        body.chunks(size).enumerate().map(piece).collect()
    }

    /// A fragment of the packet: so many eights of bytes from that one on, as far as there are any. Whether more follow it says as it
    /// is, unless it `lies`.
    #[must_use]
    pub fn piece(&self, start: usize, count: usize, lies: bool) -> Self {
        let (protocol, body) = self.body();
        let end = body.len().min((start + count) * 8);
        let bytes = body.get(start * 8..end).unwrap_or(&[]).to_vec();
        let is_last = end == body.len();
        Self {
            fragment: if is_last == lies { 0x2000 } else { 0 } | u16_of(start),
            payload: Payload::Other { protocol, bytes },
            ..self.clone()
        }
    }

    /// The IPv4 packet, without what is around it.
    ///
    /// # Panics
    /// Where a length does not fit its field.
    pub fn packet(&self) -> Vec<u8> {
        let (protocol, body) = self.body();
        let header_len = 20 + self.options.len();
        let mut header = vec![0x40 | u8::try_from(header_len / 4).expect("at most 60 bytes"), self.tos];
        header.extend(u16_of(header_len + body.len()).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        header.extend(&self.options);
        let sum = sum_of([&header[..]]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(body);
        header
    }

    fn body(&self) -> (u8, Vec<u8>) {
        match &self.payload {
            Payload::Udp {
                from,
                to,
                data,
                checksum,
            } => {
                let mut body = Vec::new();
                body.extend(from.to_be_bytes());
                body.extend(to.to_be_bytes());
                body.extend(u16_of(8 + data.len()).to_be_bytes());
                body.extend([0, 0]);
                body.extend(data);
                if *checksum {
                    let sum = match self.transport_sum(17, &body) {
                        0 => 0xffff,
                        sum => sum,
                    };
                    body[6..8].copy_from_slice(&sum.to_be_bytes());
                }
                (17, body)
            }
            Payload::Tcp {
                from,
                to,
                flags,
                options,
                data,
            } => {
                let mut body = Vec::new();
                body.extend(from.to_be_bytes());
                body.extend(to.to_be_bytes());
                body.extend([0, 0, 0, 1, 0, 0, 0, 2]);
                let words = 5 + options.len().div_ceil(4);
                body.extend([
                    u8::try_from(words).expect("at most 15") << 4,
                    *flags,
                    0xfa,
                    0xf0,
                    0,
                    0,
                    0,
                    0,
                ]);
                body.extend(options);
                body.resize(words * 4, 0);
                body.extend(data);
                let sum = self.transport_sum(6, &body);
                body[16..18].copy_from_slice(&sum.to_be_bytes());
                (6, body)
            }
            Payload::Icmp { kind, code, id, data } => {
                let mut body = vec![*kind, *code, 0, 0];
                body.extend(id.to_be_bytes());
                body.extend([0, 1]);
                body.extend(data);
                let sum = sum_of([&body[..]]);
                body[2..4].copy_from_slice(&sum.to_be_bytes());
                (1, body)
            }
            Payload::Raw { start, rest } => {
                let mut body = [&start[..], &[0, 0], rest].concat();
                let sum = sum_of([&body[..]]);
                body[2..4].copy_from_slice(&sum.to_be_bytes());
                (1, body)
            }
            Payload::Other { protocol, bytes } => (*protocol, bytes.clone()),
        }
    }

    fn transport_sum(&self, protocol: u8, body: &[u8]) -> u16 {
        let mut pseudo = Vec::new();
        pseudo.extend(self.from.octets());
        pseudo.extend(self.to.octets());
        pseudo.extend([0, protocol]);
        pseudo.extend(u16_of(body.len()).to_be_bytes());
        sum_of([&pseudo[..], body])
    }
}

/// A UDP datagram.
pub fn udp(from: u16, to: u16) -> Payload {
    Payload::Udp {
        from,
        to,
        data: b"numbered datagram".to_vec(),
        checksum: true,
    }
}

/// A TCP segment without options.
pub fn tcp(from: u16, to: u16, flags: u8) -> Payload {
    Payload::Tcp {
        from,
        to,
        flags,
        options: Vec::new(),
        data: Vec::new(),
    }
}

/// A SYN that asks for this segment size.
pub fn syn(from: u16, to: u16, mss: u16) -> Payload {
    let [high, low] = mss.to_be_bytes();
    Payload::Tcp {
        from,
        to,
        flags: 2,
        options: vec![2, 4, high, low, 1, 3, 3, 7],
        data: Vec::new(),
    }
}

/// An echo request or reply.
pub fn echo(kind: u8, id: u16) -> Payload {
    Payload::Icmp {
        kind,
        code: 0,
        id,
        data: (0..32).collect(),
    }
}

/// An ICMP error that quotes a packet's bytes.
pub fn error(kind: u8, code: u8, quoted: &[u8]) -> Payload {
    Payload::Icmp {
        kind,
        code,
        id: 0,
        data: quoted.to_vec(),
    }
}

fn u16_of(len: usize) -> u16 {
    u16::try_from(len).expect("a packet has at most 65535 bytes")
}

/// Puts the fragments of one packet together as they came out, in order, and reads the whole: every checksum with it.
///
/// # Panics
/// Where they are no packet's, or a checksum is wrong.
pub fn join(frames: &[Vec<u8>]) -> Seen {
    let first = frames.first().expect("a fragment");
    let ip = if first[12..14] == [0x08, 0x00] { 14 } else { 54 };
    let mut whole = first[..ip + 20].to_vec();
    for frame in frames {
        let seen = Seen::of(frame);
        assert_eq!(&frame[ip + 4..ip + 6], &whole[ip + 4..ip + 6], "one identification");
        assert_eq!(
            &frame[ip + 12..ip + 20],
            &whole[ip + 12..ip + 20],
            "one pair of addresses"
        );
        assert_eq!(
            usize::from(seen.fragment.1 & 0x1fff) * 8,
            whole.len() - ip - 20,
            "in order"
        );
        whole.extend(seen.rest);
    }
    let total = u16_of(whole.len() - ip);
    whole[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
    whole[ip + 6..ip + 8].copy_from_slice(&[0, 0]);
    whole[ip + 10..ip + 12].copy_from_slice(&[0, 0]);
    let sum = sum_of([&whole[ip..ip + 20]]);
    whole[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    if ip == 54 {
        whole[18..20].copy_from_slice(&total.to_be_bytes());
    }
    Seen::of(&whole)
}

/// What a frame holds, read without the code under test; addresses and ports of the inner packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Ethernet destination and source.
    pub macs: ([u8; 6], [u8; 6]),
    /// Outer source and destination, traffic class, flow label, hop limit.
    pub outer: Option<(Ipv6Addr, Ipv6Addr, u8, u32, u8)>,
    /// IPv4 source and destination.
    pub addresses: (Ipv4Addr, Ipv4Addr),
    /// Source and destination port; the identifier twice for ICMP.
    pub ports: (u16, u16),
    /// Identification, flags and fragment offset as they stand in the header.
    pub fragment: (u16, u16),
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// What follows the ports, or of a fragment all that follows the header.
    pub rest: Vec<u8>,
}

impl Seen {
    /// Reads a frame and checks every length and checksum in it.
    ///
    /// # Panics
    /// Where one is wrong: the code under test made a bad frame.
    pub fn of(frame: &[u8]) -> Self {
        let macs = (frame[..6].try_into().expect("6"), frame[6..12].try_into().expect("6"));
        let (outer, packet) = match &frame[12..14] {
            [0x08, 0x00] => (None, &frame[14..]),
            [0x86, 0xdd] => {
                let header = &frame[14..54];
                assert_eq!(header[0] >> 4, 6, "IPv6");
                assert_eq!(
                    usize::from(u16::from_be_bytes([header[4], header[5]])),
                    frame.len() - 54,
                    "IPv6 payload length"
                );
                assert_eq!(header[6], 4, "no extension header, IPv4 inside");
                let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("16"));
                let word = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
                let class = u8::try_from(word >> 20 & 0xff).expect("8 bits");
                (
                    Some((address(8), address(24), class, word & 0xf_ffff, header[7])),
                    &frame[54..],
                )
            }
            other => panic!("type {other:02x?}"),
        };
        let header_len = usize::from(packet[0] & 15) * 4;
        assert_eq!(sum_of([&packet[..header_len]]), 0, "IPv4 header checksum");
        assert_eq!(
            usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            packet.len(),
            "IPv4 total length"
        );
        let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let body = &packet[header_len..];
        let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let fragment = (word(4), word(6));
        if fragment.1 & 0x3fff != 0 {
            return Self {
                macs,
                outer,
                addresses: (address(12), address(16)),
                ports: (0, 0),
                fragment,
                tos: packet[1],
                ttl: packet[8],
                rest: body.to_vec(),
            };
        }
        let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        let mut pseudo = packet[12..20].to_vec();
        pseudo.extend([0, packet[9]]);
        pseudo.extend(u16_of(body.len()).to_be_bytes());
        let ports = match packet[9] {
            1 => {
                assert_eq!(sum_of([body]), 0, "ICMP checksum");
                (port(4), port(4))
            }
            6 => {
                assert_eq!(sum_of([&pseudo[..], body]), 0, "TCP checksum");
                (port(0), port(2))
            }
            17 => {
                if port(6) != 0 {
                    assert_eq!(sum_of([&pseudo[..], body]), 0, "UDP checksum");
                }
                (port(0), port(2))
            }
            protocol => panic!("protocol {protocol}"),
        };
        Self {
            macs,
            outer,
            addresses: (address(12), address(16)),
            ports,
            fragment,
            tos: packet[1],
            ttl: packet[8],
            rest: body[4..].to_vec(),
        }
    }
}
