//! Owns the packets that a check sends: a ping to the border relay, and one through the tunnel device.

use std::{
    io::Read as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// ICMPv6 echo request and reply.
const REQUEST: u8 = 128;
const REPLY: u8 = 129;
/// How long a border relay may take.
const PATIENCE: Duration = Duration::from_millis(800);
/// Where the packet through the tunnel goes: no host has this address (RFC 2544), and with a TTL of 1 it ends at the border relay.
/// Port 123 shares a port with other flows and is forgotten after a minute.
const CANARY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 123);

/// Whether an address answers a ping that is sent from another of this machine's.
pub(super) fn answers(from: Ipv6Addr, to: Ipv6Addr) -> bool {
    ask(from, to).unwrap_or(false)
}

fn ask(from: Ipv6Addr, to: Ipv6Addr) -> std::io::Result<bool> {
    let mut socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    // The address may not be there yet; any other will do then.
    let _ = socket.bind(&SockAddr::from(SocketAddrV6::new(from, 0, 0, 0)));
    socket.connect(&SockAddr::from(SocketAddrV6::new(to, 0, 0, 0)))?;
    let [high, low] = u16::try_from(std::process::id() & 0xffff).unwrap_or(0).to_be_bytes();
    // The kernel fills in the checksum.
    socket.send(&[REQUEST, 0, 0, 0, high, low, 0, 1])?;
    let end = Instant::now() + PATIENCE;
    let mut answer = [0; 64];
    while let Some(left) = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        socket.set_read_timeout(Some(left))?;
        let length = socket.read(&mut answer)?;
        if length >= 8 && answer[0] == REPLY && answer[4..6] == [high, low] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends a packet into a device.
///
/// # Errors
/// What the kernel says.
pub(super) fn canary(device: &str) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.set_ttl_v4(1)?;
    socket.send_to(&[], &SockAddr::from(CANARY)).map(|_| ())
}
