//! Owns making others send: datagrams and pings whose only purpose is that the kernel asks for a neighbour, or that a frame comes.
//!
//! Nothing here reports failure: what counts is what arrives, and who waits for it says what did not.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The discard service: nobody minds a datagram there.
const DISCARD: u16 = 9;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// ICMPv6 echo request, identifier and sequence zero; the kernel fills in the checksum.
const ECHO_REQUEST: [u8; 8] = [128, 0, 0, 0, 0, 0, 0, 0];

/// Sends a datagram to an IPv6 neighbour: the kernel solicits its MAC address, and the host answers that nobody listens.
pub fn knock(neighbour: Ipv6Addr, interface: u32) {
    let to = SocketAddrV6::new(neighbour, DISCARD, 0, interface);
    if let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        let _ = socket.send_to(&[], to);
    }
}

/// Sends a datagram to an IPv4 neighbour.
pub fn knock_ipv4(neighbour: Ipv4Addr) {
    if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) {
        let _ = socket.send_to(&[], SocketAddrV4::new(neighbour, DISCARD));
    }
}

/// Pings everybody on a link.
pub fn ping_all(interface: u32) {
    let to = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, interface));
    if let Ok(socket) = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)) {
        let _ = socket.send_to(&ECHO_REQUEST, &to);
    }
}
