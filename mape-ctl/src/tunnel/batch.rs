//! Owns many packets in one system call: what the raw socket has received, and what it is to send.
#![expect(unsafe_code, reason = "recvmmsg and sendmmsg take pointers")]

use std::{
    io,
    mem::{self, MaybeUninit},
    ops::Range,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use bytes::BytesMut;
use mape_common::step::carry::Outbound;

/// Most packets in one call.
pub const BATCH: usize = 64;
/// Room for one packet; none is longer than 65,535 bytes.
const SLOT: usize = 1 << 16;
/// Room for the ancillary data of one packet: three numbers at most.
const CONTROL: usize = 96;

/// Ancillary data. The kernel wants it aligned as its header is.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// A call's count, or the error of one that failed.
fn checked(count: libc::c_int) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Headers that say nothing, for a call to be filled in.
fn no_messages() -> [libc::mmsghdr; BATCH] {
    // SAFETY: all zeros is a valid `mmsghdr`: null pointers and lengths of nothing.
    unsafe { mem::zeroed() }
}

fn no_vectors() -> [libc::iovec; BATCH] {
    [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; BATCH]
}

fn no_names() -> Box<[libc::sockaddr_in6]> {
    // SAFETY: all zeros is a valid `sockaddr_in6`: integers.
    let name: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    vec![name; BATCH].into_boxed_slice()
}

/// A packet that has arrived, its bytes apart.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    len: usize,
    source: [u8; 16],
    traffic_class: u8,
}

/// What the socket has received.
pub struct Received {
    buffer: BytesMut,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    arrived: Vec<Arrived>,
}

impl Default for Received {
    fn default() -> Self {
        Self {
            // Pages of it that no packet has reached are never touched, so they take no memory.
            buffer: BytesMut::zeroed(BATCH * SLOT),
            names: no_names(),
            controls: vec![Control([0; CONTROL]); BATCH].into_boxed_slice(),
            arrived: Vec::with_capacity(BATCH),
        }
    }
}

impl Received {
    /// Receives what is there, at most [`BATCH`] packets, in the place of those of before.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` where there is nothing.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.arrived.clear();
        let mut messages = no_messages();
        let mut vectors = no_vectors();
        let places = self
            .buffer
            .chunks_exact_mut(SLOT)
            .zip(&mut self.names)
            .zip(&mut self.controls);
        for ((message, vector), ((bytes, name), control)) in messages.iter_mut().zip(&mut vectors).zip(places) {
            vector.iov_base = bytes.as_mut_ptr().cast();
            vector.iov_len = bytes.len();
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = len_of::<libc::sockaddr_in6>();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        // SAFETY: every header points at a name, a vector, bytes and a control of its own, with their true lengths; all of them
        // outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH.try_into().unwrap_or(0),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = checked(count)?;
        for (message, name) in messages.iter().zip(&self.names).take(count) {
            self.arrived.push(Arrived {
                len: usize::try_from(message.msg_len).unwrap_or(0).min(SLOT),
                source: name.sin6_addr.s6_addr,
                traffic_class: traffic_class(&message.msg_hdr),
            });
        }
        Ok(count)
    }

    /// The packets, each with its outer source and traffic class.
    pub fn packets(&mut self) -> impl Iterator<Item = (&mut [u8], [u8; 16], u8)> {
        self.buffer
            .chunks_exact_mut(SLOT)
            .zip(&self.arrived)
            .filter_map(|(bytes, arrived)| Some((bytes.get_mut(..arrived.len)?, arrived.source, arrived.traffic_class)))
    }
}

/// The traffic class of a packet, which the kernel tells since it was asked to.
fn traffic_class(header: &libc::msghdr) -> u8 {
    // SAFETY: the kernel has filled the header in; its control is still there, and as long as it says.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: what CMSG_FIRSTHDR and CMSG_NXTHDR give is null or a whole header in the control.
    while let Some(control) = unsafe { next.as_ref() } {
        if (control.cmsg_level, control.cmsg_type) == (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) {
            // SAFETY: the data begins behind the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            // SAFETY: an int, as IPV6_TCLASS has; it need not be aligned.
            let value = unsafe { data.cast::<libc::c_int>().read_unaligned() };
            return u8::try_from(value).unwrap_or(0);
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    0
}

/// A packet to be sent: where its bytes are, and how it goes.
#[derive(Clone, Debug)]
pub struct Queued {
    /// In the buffer.
    pub range: Range<usize>,
    /// Where and how.
    pub way: Outbound,
}

/// Room for what the kernel is told of each packet to be sent.
pub struct Sender {
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    /// Whether packets get flow labels; not where another program on this machine has one to itself, since the kernel wants
    /// every label to be registered then.
    pub labels: bool,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            names: no_names(),
            controls: vec![Control([0; CONTROL]); BATCH].into_boxed_slice(),
            labels: true,
        }
    }
}

impl Sender {
    /// Sends the first packets of a queue, at most [`BATCH`]; gives how many have gone.
    ///
    /// # Errors
    /// What the kernel says of the very first one; none has gone then.
    pub fn send(&mut self, socket: BorrowedFd<'_>, buffer: &[u8], queue: &[Queued]) -> io::Result<usize> {
        let mut messages = no_messages();
        let mut vectors = no_vectors();
        let places = self.names.iter_mut().zip(&mut self.controls);
        let mut count: libc::c_uint = 0;
        for (((message, vector), (name, control)), queued) in
            messages.iter_mut().zip(&mut vectors).zip(places).zip(queue)
        {
            let bytes = buffer.get(queued.range.clone()).unwrap_or(&[]);
            vector.iov_base = bytes.as_ptr().cast_mut().cast();
            vector.iov_len = bytes.len();
            name.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or(0);
            name.sin6_addr.s6_addr = queued.way.far_end;
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = len_of::<libc::sockaddr_in6>();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            let label = if self.labels { queued.way.label & 0xf_ffff } else { 0 };
            let class = libc::c_int::from(queued.way.traffic_class);
            header.msg_controllen = write_controls(
                header,
                &[
                    (libc::IPV6_TCLASS, class.to_ne_bytes()),
                    (libc::IPV6_FLOWINFO, label.to_be_bytes()),
                ],
            );
            count += 1;
        }
        // SAFETY: the first `count` headers point at a name, a vector, bytes and a control of their own, with their true lengths;
        // all of them outlive the call, which only reads them.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        checked(sent)
    }
}

/// Writes ancillary data of four bytes each into a header's control; gives how long it is.
fn write_controls(header: &libc::msghdr, values: &[(libc::c_int, [u8; 4])]) -> usize {
    let mut len = 0;
    // SAFETY: the control of the header is there, and as long as it says.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    for (kind, value) in values {
        // SAFETY: null, or a place in the control with room for a header.
        let Some(control) = (unsafe { next.as_mut() }) else {
            break;
        };
        // SAFETY: computes.
        let space = unsafe { libc::CMSG_SPACE(4) };
        // SAFETY: computes.
        let filled = unsafe { libc::CMSG_LEN(4) };
        control.cmsg_level = libc::IPPROTO_IPV6;
        control.cmsg_type = *kind;
        control.cmsg_len = usize::try_from(filled).unwrap_or(0);
        // SAFETY: the data begins behind the header.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: the control has room for three headers with four bytes each, and there are at most that many values.
        unsafe { data.cast::<[u8; 4]>().write_unaligned(*value) };
        len += usize::try_from(space).unwrap_or(0);
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    len
}

/// An ICMPv6 error about a packet of ours, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where the packet went.
    pub far_end: [u8; 16],
    /// The path's MTU, if that is what it is about.
    pub mtu: Option<u32>,
}

/// Takes one error off the socket's error queue.
///
/// # Errors
/// What the kernel says; `WouldBlock` where there is none.
pub fn next_error(socket: BorrowedFd<'_>) -> io::Result<Option<Told>> {
    let mut control = MaybeUninit::<[u64; 64]>::zeroed();
    // SAFETY: all zeros is a valid `sockaddr_in6`: integers.
    let mut name: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    // SAFETY: all zeros is a valid `msghdr`: null pointers and lengths of nothing.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = len_of::<libc::sockaddr_in6>();
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<[u64; 64]>();
    // SAFETY: name and control are here, with their true lengths; no bytes are asked for.
    let got = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut header,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled the header in; its control is still there, and as long as it says.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: what CMSG_FIRSTHDR and CMSG_NXTHDR give is null or a whole header in the control.
    while let Some(found) = unsafe { next.as_ref() } {
        if (found.cmsg_level, found.cmsg_type) == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) {
            // SAFETY: the data begins behind the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            // SAFETY: an extended error, as IPV6_RECVERR has; it need not be aligned.
            let error = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
            let is_size = error.ee_errno == u32::from_ne_bytes(libc::EMSGSIZE.to_ne_bytes());
            return Ok(Some(Told {
                far_end: name.sin6_addr.s6_addr,
                mtu: is_size.then_some(error.ee_info),
            }));
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd as _};

    use super::*;

    fn way(far_end: [u8; 16], traffic_class: u8) -> Outbound {
        Outbound {
            far_end,
            traffic_class,
            label: 0,
            len: 0,
            dont_fragment: false,
            is_error: false,
        }
    }

    /// UDP instead of a raw socket, for which no root is needed: the calls are the same.
    #[test]
    fn packets_and_their_traffic_classes_go_through_in_batches() {
        let far = socket2::Socket::from(UdpSocket::bind("[::1]:0").unwrap());
        far.set_recv_tclass_v6(true).unwrap();
        let near = UdpSocket::bind("[::1]:0").unwrap();
        let port = far.local_addr().unwrap().as_socket_ipv6().unwrap().port();
        let buffer: Vec<u8> = (0..=255).collect();
        let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
        let queue: Vec<Queued> = (0..100_usize)
            .map(|number| Queued {
                range: number..number + 20 + number % 3,
                way: way(loopback, u8::try_from(number).unwrap()),
            })
            .collect();
        let mut sender = Sender::default();
        // A raw socket has no ports.
        sender.names.iter_mut().for_each(|name| name.sin6_port = port.to_be());
        let first = sender.send(near.as_fd(), &buffer, &queue).unwrap();
        assert_eq!(first, BATCH);
        assert_eq!(sender.send(near.as_fd(), &buffer, &queue[first..]).unwrap(), 36);
        let mut received = Received::default();
        let mut seen = 0;
        for expected in [64, 36] {
            assert_eq!(received.receive(far.as_fd()).unwrap(), expected);
            for (bytes, source, class) in received.packets() {
                assert_eq!(bytes, &buffer[queue[seen].range.clone()]);
                assert_eq!((source, usize::from(class)), (loopback, seen));
                seen += 1;
            }
        }
        assert_eq!(seen, 100);
        assert_eq!(
            received.receive(far.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert_eq!(received.packets().count(), 0);
        assert_eq!(next_error(near.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
