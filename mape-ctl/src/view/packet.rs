//! A frame as people see it: outer header, addresses, ports, and what else tells one packet from another.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TcpOptionElement, TransportSlice};
use mape_common::wire::icmp;
use serde_json::{Value, json};

/// The tunnel's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// Flow label.
    pub flow_label: u32,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

/// The IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The protocol's name, or its number.
    pub protocol: String,
    /// Source.
    pub source: Ipv4Addr,
    /// Its port, or the identifier of an echo request.
    pub source_port: Option<u16>,
    /// Destination.
    pub destination: Ipv4Addr,
    /// Its port, or the identifier of an echo reply.
    pub destination_port: Option<u16>,
    /// What the packet is beside that: TCP flags, ICMP type, a fragment.
    pub what: String,
    /// TTL.
    pub ttl: u8,
    /// Total length.
    pub length: u16,
    /// MSS option.
    pub mss: Option<u16>,
}

/// A frame, taken apart as far as it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The tunnel's header, if it has one.
    pub outer: Option<Outer>,
    /// The IPv4 packet, if there is one.
    pub inner: Option<Inner>,
    /// What it is where it is neither.
    pub other: String,
}

impl Seen {
    /// Takes a frame apart; it may end anywhere.
    pub fn frame(frame: &[u8]) -> Self {
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
            return Self::other("a frame that is too short");
        };
        if !packet.link_exts.is_empty() {
            return Self::other("a frame with an 802.1Q tag");
        }
        match &packet.net {
            Some(LaxNetSlice::Ipv4(_)) => Self {
                inner: inner(&packet),
                ..Self::default()
            },
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let outer = Outer {
                    source: header.source_addr(),
                    destination: header.destination_addr(),
                    flow_label: header.flow_label().value(),
                    traffic_class: header.traffic_class(),
                    hop_limit: header.hop_limit(),
                };
                let payload = ip.payload();
                if payload.ip_number == IpNumber::IPV4
                    && let Ok(packet) = LaxSlicedPacket::from_ip(payload.payload)
                {
                    return Self {
                        outer: Some(outer),
                        inner: inner(&packet),
                        other: String::new(),
                    };
                }
                Self::other(format!(
                    "IPv6 {} > {}, {}",
                    outer.source,
                    outer.destination,
                    protocol(payload.ip_number)
                ))
            }
            Some(LaxNetSlice::Arp(_)) => Self::other("ARP"),
            None => match frame.get(12..14) {
                Some([high, low]) => Self::other(format!("EtherType 0x{high:02x}{low:02x}")),
                _ => Self::other("a frame that is too short"),
            },
        }
    }

    fn other(what: impl Into<String>) -> Self {
        Self {
            other: what.into(),
            ..Self::default()
        }
    }

    /// With stable keys.
    pub fn json(&self) -> Value {
        json!({
            "outer": self.outer.map(|outer| json!({
                "source": outer.source,
                "destination": outer.destination,
                "flow_label": outer.flow_label,
                "traffic_class": outer.traffic_class,
                "hop_limit": outer.hop_limit,
            })),
            "inner": self.inner.as_ref().map(|inner| json!({
                "protocol": inner.protocol,
                "source": inner.source,
                "source_port": inner.source_port,
                "destination": inner.destination,
                "destination_port": inner.destination_port,
                "what": inner.what,
                "ttl": inner.ttl,
                "length": inner.length,
                "mss": inner.mss,
            })),
            "other": (!self.other.is_empty()).then_some(&self.other),
        })
    }
}

/// The packet on one line; the outer header is another.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Some(inner) => inner.fmt(f),
            None if self.outer.is_some() => f.write_str("IPv4 in IPv6, cut off"),
            None => f.write_str(&self.other),
        }
    }
}

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source, self.destination)
    }
}

/// An address with its port where it has one.
pub fn end(address: impl fmt::Display, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{address}:{port}"),
        None => address.to_string(),
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} > {}",
            self.protocol,
            end(self.source, self.source_port),
            end(self.destination, self.destination_port)
        )?;
        if !self.what.is_empty() {
            write!(f, " {}", self.what)?;
        }
        Ok(())
    }
}

/// The name of a protocol that has ports, else its number.
pub fn protocol(number: IpNumber) -> String {
    match number {
        IpNumber::UDP => "udp".to_owned(),
        IpNumber::TCP => "tcp".to_owned(),
        IpNumber::ICMP => "icmp".to_owned(),
        IpNumber::IPV6_ICMP => "icmpv6".to_owned(),
        IpNumber(number) => format!("protocol {number}"),
    }
}

fn inner(packet: &LaxSlicedPacket<'_>) -> Option<Inner> {
    let Some(LaxNetSlice::Ipv4(ip)) = &packet.net else {
        return None;
    };
    let header = ip.header();
    let mut inner = Inner {
        protocol: protocol(header.protocol()),
        source: header.source_addr(),
        source_port: None,
        destination: header.destination_addr(),
        destination_port: None,
        what: String::new(),
        ttl: header.ttl(),
        length: header.total_len(),
        mss: None,
    };
    if header.is_fragmenting_payload() {
        inner.what = format!("fragment at {}", header.fragments_offset().byte_offset());
    }
    match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            inner.source_port = Some(udp.source_port());
            inner.destination_port = Some(udp.destination_port());
        }
        Some(TransportSlice::Tcp(tcp)) => {
            inner.source_port = Some(tcp.source_port());
            inner.destination_port = Some(tcp.destination_port());
            let flags = [
                (tcp.syn(), "syn"),
                (tcp.fin(), "fin"),
                (tcp.rst(), "rst"),
                (tcp.psh(), "psh"),
                (tcp.ack(), "ack"),
            ];
            let names: Vec<&str> = flags
                .into_iter()
                .filter_map(|(set, name)| set.then_some(name))
                .collect();
            inner.what = format!("[{}]", names.join(","));
            inner.mss = tcp.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
                _ => None,
            });
        }
        Some(TransportSlice::Icmpv4(message)) => {
            let [a, b, ..] = message.bytes5to8();
            let id = Some(u16::from_be_bytes([a, b]));
            match (message.type_u8(), message.code_u8()) {
                (8, _) => {
                    inner.source_port = id;
                    "echo request".clone_into(&mut inner.what);
                }
                (0, _) => {
                    inner.destination_port = id;
                    "echo reply".clone_into(&mut inner.what);
                }
                (icmp::UNREACHABLE, icmp::TOO_BIG) => {
                    let [.., c, d] = message.bytes5to8();
                    inner.what = format!("fragmentation needed, MTU {}", u16::from_be_bytes([c, d]));
                }
                (kind, code) => inner.what = format!("type {kind} code {code}"),
            }
        }
        Some(TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) | None => {}
    }
    Some(inner)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 168, 1, 2], [198, 51, 100, 7], 63)
            .tcp(5_000, 443, 1, 1_000)
            .syn()
            .options(&[TcpOptionElement::MaximumSegmentSize(1_460)])
            .unwrap()
            .write(&mut frame, &[])
            .unwrap();
        frame
    }

    #[test]
    fn a_packet_is_named_by_its_ends_and_what_it_is() {
        let seen = Seen::frame(&frame());
        assert_eq!(seen.to_string(), "tcp 192.168.1.2:5000 > 198.51.100.7:443 [syn]");
        let inner = seen.inner.unwrap();
        assert_eq!((inner.ttl, inner.mss, seen.outer), (63, Some(1_460), None));
    }

    #[test]
    fn a_frame_may_end_anywhere() {
        let frame = frame();
        for len in 0..frame.len() {
            let text = Seen::frame(&frame[..len]).to_string();
            assert!(!text.is_empty(), "{len}");
        }
    }

    #[test]
    fn what_is_no_ipv4_says_what_it_is() {
        let mut arp = vec![0xff; 12];
        arp.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.resize(60, 0);
        assert_eq!(Seen::frame(&arp).to_string(), "ARP");
        let mut tagged = vec![2; 12];
        tagged.extend([0x81, 0x00, 0, 5, 0x08, 0]);
        tagged.resize(60, 0);
        assert_eq!(Seen::frame(&tagged).to_string(), "a frame with an 802.1Q tag");
    }
}
