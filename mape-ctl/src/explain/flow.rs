//! Owns making a frame of a flow in words: whatever is not said is an ordinary packet's.

use std::net::Ipv6Addr;

use clap::{CommandFactory as _, error::ErrorKind};
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, TcpHeader, TcpOptionElement,
};
use mape_common::hop::Mac;

use crate::cli::{Cli, Endpoint, ExplainArgs, Protocol, TcpFlag};

/// A source port that an ordinary host might choose.
const SOURCE_PORT: u16 = 50_000;
const TTL: u8 = 64;
const MSS: u16 = 1_460;

/// Which way a packet in words goes: where it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// IPv4, as a LAN host sends it.
    Plain,
    /// In the tunnel, between these two.
    Tunnelled {
        /// Outer source.
        from: Ipv6Addr,
        /// Outer destination.
        to: Ipv6Addr,
    },
}

/// Ends that have ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Protocol.
    pub protocol: Protocol,
    /// Source; for ICMP the port is the identifier.
    pub source: Endpoint,
    /// Destination.
    pub destination: Endpoint,
}

/// The ends that the arguments name.
///
/// # Errors
/// What is missing, as wrong usage.
pub fn ends(args: &ExplainArgs) -> Result<Ends, clap::Error> {
    let wrong = |message: &str| Cli::command().error(ErrorKind::MissingRequiredArgument, message);
    let (Some(protocol), Some(source), Some(destination)) = (args.protocol, args.source, args.destination) else {
        return Err(wrong(
            "say which packet: PROTOCOL SOURCE DESTINATION, or --pcap FILE, or --hex BYTES",
        ));
    };
    if protocol != Protocol::Icmp && destination.port.is_none() {
        return Err(wrong(&format!(
            "{} needs a port: {}:PORT",
            mape_common::layout::Transport::from(protocol).name(),
            destination.address
        )));
    }
    Ok(Ends {
        protocol,
        source,
        destination,
    })
}

/// The frame of those ends; it goes from one MAC address to the other.
///
/// # Errors
/// A length that such a packet cannot have, as wrong usage.
pub fn frame(args: &ExplainArgs, ends: &Ends, way: Way, from: Mac, to: Mac) -> Result<Vec<u8>, clap::Error> {
    let packet = packet(args, ends)?;
    let mut frame = Vec::new();
    let ether_type = match way {
        Way::Plain => EtherType::IPV4,
        Way::Tunnelled { .. } => EtherType::IPV6,
    };
    let ethernet = Ethernet2Header {
        source: from.0,
        destination: to.0,
        ether_type,
    };
    frame.extend(ethernet.to_bytes());
    if let Way::Tunnelled { from, to } = way {
        let outer = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::default(),
            payload_length: u16::try_from(packet.len()).unwrap_or(u16::MAX),
            next_header: IpNumber::IPV4,
            hop_limit: TTL,
            source: from.octets(),
            destination: to.octets(),
        };
        frame.extend(outer.to_bytes());
    }
    frame.extend(packet);
    Ok(frame)
}

fn packet(args: &ExplainArgs, ends: &Ends) -> Result<Vec<u8>, clap::Error> {
    let wrong = |message: String| Cli::command().error(ErrorKind::ValueValidation, message);
    let source_port = ends.source.port.unwrap_or(SOURCE_PORT);
    let destination_port = ends.destination.port.unwrap_or(source_port);
    let mut header = Ipv4Header::new(
        0,
        args.ttl.unwrap_or(TTL),
        IpNumber::UDP,
        ends.source.address.octets(),
        ends.destination.address.octets(),
    )
    .map_err(|error| wrong(error.to_string()))?;
    header.dont_fragment = !args.may_fragment;
    header.fragment_offset = IpFragOffset::ZERO;
    let ip = PacketBuilder::ip(IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()));
    let mut bytes = Vec::new();
    let room = |header: usize, usual: usize| {
        let length = args.length.map_or(usual, usize::from);
        length
            .checked_sub(header)
            .map(|data| vec![0x5a; data])
            .ok_or_else(|| wrong(format!("--length {length}: such a packet has at least {header} bytes")))
    };
    let written = match ends.protocol {
        Protocol::Udp => {
            let data = room(28, 60)?;
            ip.udp(source_port, destination_port).write(&mut bytes, &data)
        }
        Protocol::Icmp if args.inbound || args.echo_reply => {
            // What comes back to a LAN host's ping is a reply; the identifier is the external one.
            let data = room(28, 84)?;
            ip.icmpv4_echo_reply(destination_port, 1).write(&mut bytes, &data)
        }
        Protocol::Icmp => {
            let data = room(28, 84)?;
            ip.icmpv4_echo_request(source_port, 1).write(&mut bytes, &data)
        }
        Protocol::Tcp => {
            let flags: &[TcpFlag] = if args.flags.is_empty() {
                &[TcpFlag::Syn]
            } else {
                &args.flags
            };
            let mut tcp = TcpHeader::new(source_port, destination_port, 1_000_000, 65_535);
            tcp.syn = flags.contains(&TcpFlag::Syn);
            tcp.ack = flags.contains(&TcpFlag::Ack);
            tcp.fin = flags.contains(&TcpFlag::Fin);
            tcp.rst = flags.contains(&TcpFlag::Rst);
            tcp.psh = flags.contains(&TcpFlag::Psh);
            if tcp.syn {
                let options = [TcpOptionElement::MaximumSegmentSize(args.mss.unwrap_or(MSS))];
                tcp.set_options(&options).map_err(|error| wrong(error.to_string()))?;
            }
            let data = room(20 + tcp.header_len(), 20 + tcp.header_len())?;
            ip.tcp_header(tcp).write(&mut bytes, &data)
        }
    };
    written.map_err(|error| wrong(error.to_string()))?;
    Ok(bytes)
}
