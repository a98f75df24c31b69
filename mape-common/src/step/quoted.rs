//! The packet that an ICMP error is about, as far as the error quotes it (RFC 792, RFC 1812 §4.3.2.3).

use crate::{
    checksum::Delta,
    layout::{FlowKey, Transport},
    packet::Packet,
    verdict::Reason,
    wire::{icmp, ipv4, port::Port, tcp, udp},
};

/// What an error says of the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The packet's IPv4 header.
    pub header: ipv4::Header,
    /// What it carried.
    pub transport: Transport,
    /// Source port, or an echo message's identifier.
    pub source_port: Port,
    /// Destination port, or an echo message's identifier.
    pub destination_port: Port,
    /// Bytes from the start of the packet to its transport header: 20 to 60.
    pub transport_at: u8,
    /// Whether the transport header's checksum is quoted and there is one.
    pub has_checksum: bool,
    /// That checksum.
    pub checksum: u16,
}

/// Where the checksum of a transport header is.
#[inline(always)]
pub const fn checksum_at(transport: Transport) -> usize {
    match transport {
        Transport::Udp => udp::CHECKSUM,
        Transport::Tcp => tcp::CHECKSUM,
        Transport::Icmp => icmp::CHECKSUM,
    }
}

/// A place in the quoted transport header, from the frame's first byte. The mask changes nothing (a header has at most 60 bytes); it
/// tells the verifier so.
#[inline(always)]
pub fn place<const AT: usize>(transport_at: u8, offset: usize) -> usize {
    AT.wrapping_add(usize::from(transport_at & 63)).wrapping_add(offset)
}

/// Reads the packet that is quoted at `AT`, of which `room` bytes are there.
///
/// # Errors
/// [`Reason::ErrorUnusable`] where that is too little to tell a flow, or no packet that a session could have sent;
/// [`Reason::ErrorElsewhere`] where it carries what has no ports.
#[inline(always)]
pub fn read<P: Packet, const AT: usize>(frame: &P, room: usize) -> Result<Quoted, Reason> {
    let header = ipv4::Header::read(frame, AT).map_err(|_| Reason::ErrorUnusable)?;
    if !header.is_ipv4() || header.is_short() || header.is_later_fragment() {
        return Err(Reason::ErrorUnusable);
    }
    let Some(transport) = Transport::from_protocol(header.protocol().0) else {
        return Err(Reason::ErrorElsewhere);
    };
    let transport_at = header.header_len();
    let quoted = room.saturating_sub(usize::from(transport_at));
    // An error quotes at least eight bytes after the IP header.
    if quoted < 8 {
        return Err(Reason::ErrorUnusable);
    }
    let Ok([a, b, c, d, e, f, g, h]) = frame.read_told::<8>(place::<AT>(transport_at, 0)) else {
        return Err(Reason::ErrorUnusable);
    };
    let (source_port, destination_port, checksum) = match transport {
        Transport::Udp => ([a, b], [c, d], u16::from_be_bytes([g, h])),
        // What is quoted ends before TCP's checksum, unless more than the least is.
        Transport::Tcp => ([a, b], [c, d], 0),
        Transport::Icmp if matches!(a, 0 | 8) => ([e, f], [e, f], u16::from_be_bytes([c, d])),
        // Nobody tells an error of an error (RFC 1122 §3.2.2).
        Transport::Icmp => return Err(Reason::ErrorUnusable),
    };
    let mut has_checksum = matches!(transport, Transport::Icmp) || checksum != 0;
    let mut checksum = checksum;
    if matches!(transport, Transport::Tcp)
        && quoted >= tcp::CHECKSUM.wrapping_add(2)
        && let Ok(bytes) = frame.read_told::<2>(place::<AT>(transport_at, tcp::CHECKSUM))
    {
        has_checksum = true;
        checksum = u16::from_be_bytes(bytes);
    }
    Ok(Quoted {
        header,
        transport,
        source_port: Port::from_bytes(source_port),
        destination_port: Port::from_bytes(destination_port),
        transport_at,
        has_checksum,
        checksum,
    })
}

impl Quoted {
    /// The flow's key where the packet's source is this side: its own NAT's external end, or a LAN host.
    #[inline(always)]
    pub const fn from_here(&self) -> FlowKey {
        FlowKey::new(
            self.transport,
            self.header.source(),
            self.source_port,
            self.header.destination(),
            self.remote(self.destination_port),
        )
    }

    /// The flow's key where the packet's destination is this side.
    #[inline(always)]
    pub const fn to_here(&self) -> FlowKey {
        FlowKey::new(
            self.transport,
            self.header.destination(),
            self.destination_port,
            self.header.source(),
            self.remote(self.source_port),
        )
    }

    /// The first eight bytes of the transport header as a LAN host sent them, from what was translated to `bytes`: its port or
    /// identifier, and the checksum where it is among them.
    #[inline(always)]
    pub const fn restored(&self, bytes: [u8; 8], address: [u8; 4], port: Port) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h] = bytes;
        let [p, q] = port.to_bytes();
        let ports = Delta::ZERO.word(self.source_port.0, port.0);
        match self.transport {
            Transport::Tcp => [p, q, c, d, e, f, g, h],
            Transport::Udp => {
                let [g, h] = ports
                    .words(self.header.source(), address)
                    .apply_udp(self.checksum)
                    .to_be_bytes();
                [p, q, c, d, e, f, g, h]
            }
            Transport::Icmp => {
                let [c, d] = ports.apply(self.checksum).to_be_bytes();
                [a, b, c, d, p, q, g, h]
            }
        }
    }

    /// An identifier is the LAN host's own: the remote has none.
    #[inline(always)]
    const fn remote(&self, port: Port) -> Port {
        match self.transport {
            Transport::Icmp => Port(0),
            Transport::Udp | Transport::Tcp => port,
        }
    }
}
