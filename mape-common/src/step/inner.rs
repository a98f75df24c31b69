//! The IPv4 packet: its header, its transport header, and whether their lengths agree with each other and with the frame.

use crate::{
    layout::Transport,
    packet::Packet,
    verdict::Reason,
    wire::{
        icmp,
        ipv4::{self, Protocol},
        port::Port,
        tcp, udp,
    },
};

/// What the steps need to know of an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// The IPv4 header.
    pub header: ipv4::Header,
    /// What it carries.
    pub transport: Transport,
    /// Source port, or an echo message's identifier.
    pub source_port: Port,
    /// Destination port, or an echo message's identifier.
    pub destination_port: Port,
    /// The transport header's checksum.
    pub checksum: u16,
    /// TCP's control bits; for ICMP, [`QUERY`] or none.
    pub flags: tcp::Flags,
    /// Bytes of the transport header.
    pub header_len: u8,
    /// Bytes of the frame after the packet's end: Ethernet's padding.
    pub excess: u16,
}

/// The flags of an ICMP query.
pub const QUERY: tcp::Flags = tcp::Flags(1);

/// Reads the packet that starts at `L3` and may not be longer than `room` bytes.
///
/// # Errors
/// [`Reason::BadLength`], or why a packet that is whole is not for the fast path: [`Reason::IpOptions`],
/// [`Reason::Fragment`], [`Reason::IcmpError`], [`Reason::UnsupportedProtocol`].
#[inline(always)]
pub fn read<P: Packet, const L3: usize>(frame: &P, room: usize) -> Result<Inner, Reason> {
    read_part::<P, L3, false>(frame, room)
}

/// The same for a whole packet or, where `FIRST` says so, its first fragment, which has the ports.
///
/// # Errors
/// As [`read`]; and [`Reason::FragmentTiny`] where the first fragment does not hold the whole transport header.
#[inline(always)]
pub fn read_part<P: Packet, const L3: usize, const FIRST: bool>(frame: &P, room: usize) -> Result<Inner, Reason> {
    let Whole {
        header,
        payload,
        excess,
    } = part::<P, L3, FIRST>(frame, room)?;
    let is_part = FIRST && header.is_fragment();
    let short = if is_part {
        Reason::FragmentTiny
    } else {
        Reason::BadLength
    };
    // No header is shorter, and all but the last fragment of a packet hold a multiple of eight bytes.
    if is_part && payload < udp::LEN {
        return Err(short);
    }
    if is_part && payload & 7 != 0 {
        return Err(Reason::BadLength);
    }
    let l4 = L3.wrapping_add(ipv4::LEN);
    match header.protocol() {
        Protocol::TCP => {
            let tcp = tcp::Header::read(frame, l4).map_err(|_| short)?;
            let header_len = tcp.header_len();
            if usize::from(header_len) < tcp::LEN {
                return Err(Reason::BadLength);
            }
            if usize::from(header_len) > payload {
                return Err(short);
            }
            Ok(Inner {
                header,
                transport: Transport::Tcp,
                source_port: tcp.source(),
                destination_port: tcp.destination(),
                checksum: tcp.checksum(),
                flags: tcp.flags(),
                header_len,
                excess,
            })
        }
        Protocol::UDP => {
            let udp = udp::Header::from_bytes(frame.read(l4).map_err(|_| Reason::BadLength)?);
            // A fragment's is the whole datagram's.
            let is_longer = !is_part && usize::from(udp.length()) > payload;
            if usize::from(udp.length()) < udp::LEN || is_longer {
                return Err(Reason::BadLength);
            }
            Ok(Inner {
                header,
                transport: Transport::Udp,
                source_port: udp.source(),
                destination_port: udp.destination(),
                checksum: udp.checksum(),
                flags: tcp::Flags(0),
                header_len: 8,
                excess,
            })
        }
        Protocol::ICMP => {
            let icmp = icmp::Header::from_bytes(frame.read(l4).map_err(|_| Reason::BadLength)?);
            if payload < icmp::LEN {
                return Err(Reason::BadLength);
            }
            if !icmp.is_echo_request() && !icmp.is_echo_reply() {
                return Err(Reason::IcmpError);
            }
            Ok(Inner {
                header,
                transport: Transport::Icmp,
                source_port: icmp.identifier(),
                destination_port: icmp.identifier(),
                checksum: icmp.checksum(),
                flags: if icmp.is_echo_request() { QUERY } else { tcp::Flags(0) },
                header_len: 8,
                excess,
            })
        }
        _ => Err(Reason::UnsupportedProtocol),
    }
}

/// An IPv4 packet without options that is no fragment, whatever it carries.
pub struct Whole {
    /// Its header.
    pub header: ipv4::Header,
    /// Bytes after the header.
    pub payload: usize,
    /// Bytes of the frame after the packet's end.
    pub excess: u16,
}

/// Reads the header of the packet that starts at `L3` and may not be longer than `room` bytes.
///
/// # Errors
/// [`Reason::BadLength`], [`Reason::IpOptions`], [`Reason::Fragment`].
#[inline(always)]
pub fn whole<P: Packet, const L3: usize>(frame: &P, room: usize) -> Result<Whole, Reason> {
    part::<P, L3, false>(frame, room)
}

/// The same, for the first fragment of a packet, too, where `FIRST` says so.
#[inline(always)]
fn part<P: Packet, const L3: usize, const FIRST: bool>(frame: &P, room: usize) -> Result<Whole, Reason> {
    let header = ipv4::Header::read(frame, L3).map_err(|_| Reason::BadLength)?;
    let total = usize::from(header.total_len());
    if !header.is_ipv4() || header.is_short() || total > room {
        return Err(Reason::BadLength);
    }
    let excess = room.wrapping_sub(total);
    if header.has_options() {
        return Err(Reason::IpOptions);
    }
    if header.is_fragment() && !(FIRST && header.offset() == 0) {
        return Err(Reason::Fragment);
    }
    let Some(payload) = total.checked_sub(ipv4::LEN) else {
        return Err(Reason::BadLength);
    };
    let Ok(excess) = u16::try_from(excess) else {
        return Err(Reason::BadLength);
    };
    Ok(Whole {
        header,
        payload,
        excess,
    })
}
