//! Owns hearing of changes: the kernel's word that a link, an address, a route or a neighbour is another one than before.
//!
//! What has changed is not taken from the messages, of which some may be lost when there are many: whoever hears of a change looks
//! at everything again. So a storm of messages costs a look now and then, and a lost one costs a look.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage},
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use super::NetlinkError;
use crate::tunnel::socket;

/// What is listened to.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// Room for messages in the kernel, bytes; what does not fit is lost, and the loss is told.
const ROOM: usize = 256 << 10;
/// Between the first word of a change and the look at it: changes come in groups.
const GATHER: Duration = Duration::from_millis(30);
/// Messages thrown away in one go.
const MANY: usize = 4_096;
/// Messages are at most a page or two.
const LONGEST: usize = 32 << 10;

/// A socket that hears of changes in this network namespace.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    /// Something has changed that nobody has been told yet: who waits may stop waiting at any time.
    heard: bool,
}

impl Watch {
    /// Begins to listen; inside a runtime.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                #[expect(clippy::as_conversions, reason = "its numbers are the kernel's")]
                socket.add_membership(group as u32)?;
            }
            // The kernel's default holds as well, only for less.
            let _ = socket.set_rx_buf_sz(ROOM);
            socket.set_non_blocking(true)?;
            socket::watch(socket.as_fd().try_clone_to_owned()?, Interest::READABLE)
        };
        open()
            .map(|socket| Self {
                socket,
                buffer: vec![0; LONGEST],
                heard: false,
            })
            .map_err(|source| NetlinkError {
                action: "listen to changes of the network configuration".to_owned(),
                source,
            })
    }

    /// Waits until something has changed. Of neighbours, of which a busy network has many, only IPv6 ones on these interfaces count.
    ///
    /// # Errors
    /// When the socket is of no use any longer.
    pub async fn changed(&mut self, neighbours_on: &[u32]) -> io::Result<()> {
        while !self.heard {
            self.heard = self.hear(neighbours_on).await?;
        }
        sleep(GATHER).await;
        // All of them are seen by the look that follows; what is left over only leads to one more.
        for _ in 0..MANY {
            match take(self.socket.get_ref(), &mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {}
            }
        }
        self.heard = false;
        Ok(())
    }

    /// Waits for messages; true where one of them may matter.
    async fn hear(&mut self, neighbours_on: &[u32]) -> io::Result<bool> {
        let mut ready = self.socket.readable().await?;
        let heard = ready.try_io(|socket| take(socket.get_ref(), &mut self.buffer));
        match heard {
            Ok(Ok(len)) => Ok(matters(self.buffer.get(..len).unwrap_or(&[]), neighbours_on)),
            // Messages were lost: what they said is not known.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }
}

fn take(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (len, _) = recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(len)
}

/// Whether one of a datagram's messages may matter.
fn matters(datagram: &[u8], neighbours_on: &[u32]) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            // What cannot be read may be anything.
            return true;
        };
        if is_wanted(&message.payload, neighbours_on) {
            return true;
        }
        let len = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
        rest = match rest.get(len.max(4)..) {
            Some(rest) => rest,
            None => return false,
        };
    }
    false
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of the kernel's many messages only these are left out"
)]
fn is_wanted(payload: &NetlinkPayload<RouteNetlinkMessage>, neighbours_on: &[u32]) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message),
        ) => message.header.family == AddressFamily::Inet6 && neighbours_on.contains(&message.header.ifindex),
        // A new IPv4 route takes nothing away from the tunnel that the data path does not see by itself.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => {
            message.header.address_family == AddressFamily::Inet6
        }
        NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{link::LinkMessage, neighbour::NeighbourMessage, route::RouteMessage};

    use super::*;

    fn datagram(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message);
            message.finalize();
            let mut one = vec![0; message.buffer_len()];
            message.serialize(&mut one);
            bytes.extend(one);
        }
        bytes
    }

    fn neighbour(family: AddressFamily, ifindex: u32) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = ifindex;
        RouteNetlinkMessage::NewNeighbour(message)
    }

    fn route(family: AddressFamily) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message
    }

    #[test]
    fn neighbours_of_the_lan_and_new_ipv4_routes_do_not_matter() {
        let quiet = || {
            [
                neighbour(AddressFamily::Inet, 2),
                neighbour(AddressFamily::Inet6, 3),
                RouteNetlinkMessage::NewRoute(route(AddressFamily::Inet)),
            ]
        };
        assert!(!matters(&datagram(quiet()), &[2]));
        for loud in [
            neighbour(AddressFamily::Inet6, 2),
            RouteNetlinkMessage::NewRoute(route(AddressFamily::Inet6)),
            RouteNetlinkMessage::DelRoute(route(AddressFamily::Inet)),
            RouteNetlinkMessage::NewLink(LinkMessage::default()),
        ] {
            let messages = quiet().into_iter().chain([loud]);
            assert!(matters(&datagram(messages), &[2]));
        }
    }

    #[test]
    fn what_cannot_be_read_matters() {
        assert!(matters(&[7, 0, 0], &[]));
        assert!(!matters(&[], &[]));
    }
}
