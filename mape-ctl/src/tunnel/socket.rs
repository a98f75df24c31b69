//! Owns the raw IPv6 socket that carries IPv4 (protocol 4), and what the kernel knows of the path to the border relay.
#![expect(unsafe_code, reason = "some options of IPv6 sockets are in no crate")]

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// What follows the outer header: IPv4.
const IPV4: i32 = 4;
/// As the data path's outer headers have it.
const HOP_LIMIT: u32 = 64;
/// Room for a burst of about a thousand large packets.
const BUFFER: usize = 4 << 20;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is not this machine's.
    #[error(
        "the tunnel's address {0} is on no interface, so no router finds it by neighbour discovery; \
         `mape-ctl load` puts it on the WAN, or: ip -6 address add {0}/128 dev WAN nodad preferred_lft 0"
    )]
    NoAddress(Ipv6Addr),
    /// Anything else.
    #[error("cannot {action} the raw IPv6 socket of the tunnel")]
    Socket {
        /// What was to be done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::Socket { action, source }
}

/// Opens the socket at the tunnel's near end, on the interface that has the address: what comes in by another, such as the LAN,
/// was not brought by the provider, whatever it says.
///
/// # Errors
/// [`SocketError`].
pub fn open(near: Ipv6Addr, interface: Option<&str>) -> Result<Socket, SocketError> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(IPV4))).map_err(failed("open"))?;
    socket.set_nonblocking(true).map_err(failed("prepare"))?;
    if let Some(interface) = interface {
        socket
            .bind_device(Some(interface.as_bytes()))
            .map_err(failed("bind to its interface"))?;
    }
    socket
        .bind(&SockAddr::from(SocketAddrV6::new(near, 0, 0, 0)))
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => SocketError::NoAddress(near),
            _ => failed("bind")(source),
        })?;
    socket.set_unicast_hops_v6(HOP_LIMIT).map_err(failed("prepare"))?;
    socket.set_recv_tclass_v6(true).map_err(failed("prepare"))?;
    for (option, value) in [
        // Packets that do not fit the path are fragmented here (RFC 2473 §7.2 b), since those that may not be are never given to it.
        (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
        // Labels are ours, or zero.
        (libc::IPV6_AUTOFLOWLABEL, 0),
        (libc::IPV6_RECVERR, 1),
    ] {
        set(socket.as_fd(), option, value).map_err(failed("prepare"))?;
    }
    set_socket_recv_buffer_size_force(&socket, BUFFER).map_err(|errno| failed("prepare")(errno.into()))?;
    set_socket_send_buffer_size_force(&socket, BUFFER).map_err(|errno| failed("prepare")(errno.into()))?;
    Ok(socket)
}

/// Has the runtime tell when something can be read from a file, or whatever else is of interest.
///
/// # Errors
/// What the kernel says.
pub fn watch(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same descriptor as long as it lives, and closes it only when it is dropped, which
    // `AsyncFd` does after it has taken it out of its poll.
    unsafe { AsyncFd::register_with_interest(file, interest) }.map_err(io::Error::from)
}

/// Has packets fragmented to this size, where the path takes less than the kernel knows; none = as the kernel knows.
///
/// # Errors
/// What the kernel says.
pub fn limit_fragments(socket: BorrowedFd<'_>, mtu: Option<u16>) -> io::Result<()> {
    set(socket, libc::IPV6_MTU, mtu.map_or(0, libc::c_int::from))
}

fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the value is an int that lives here, and its length is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The largest IPv6 packet on the path to an address as the kernel knows it: the link's and the route's MTU, and what routers have told
/// about our packets in the last ten minutes (net.ipv6.route.mtu_expires). None without a route.
pub fn path_mtu(near: Ipv6Addr, far: Ipv6Addr) -> Option<u16> {
    // Connecting sends nothing; it looks the route up.
    let socket = UdpSocket::bind(SocketAddrV6::new(near, 0, 0, 0)).ok()?;
    socket.connect(SocketAddrV6::new(far, 9, 0, 0)).ok()?;
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).ok()?;
    // SAFETY: the value is an int that lives here, and its length is given.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    (done >= 0 && value > 0).then(|| u16::try_from(value).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_to_oneself_is_the_loopback_devices() {
        let mtu = path_mtu(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        assert_eq!(mtu, Some(u16::MAX), "65,536");
        assert_eq!(
            path_mtu("2001:db8::1".parse().unwrap(), Ipv6Addr::LOCALHOST),
            None,
            "not this machine's address"
        );
    }
}
