//! Owns asking the kernel what native IPv6 has to pass where the stack forwards it, and hearing of new chains: whoever forwards it in the
//! stack's place would let it pass by.
//!
//! The kernel itself is asked, not a program: that is there wherever chains are, and its answer is one that nothing has come after.

use std::{
    fmt, fs, io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use rtnetlink::sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_XFRM},
};
use rustix::net::{
    RecvFlags, recv,
    sockopt::{Timeout, set_socket_timeout},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::NetlinkError;
use crate::tunnel::socket;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// A dump during which something was changed is asked for again so many times.
const TRIES: u32 = 5;
/// Larger than any message of the kernel's.
const LONGEST: usize = 64 << 10;
/// Messages thrown away in one go.
const MANY: u32 = 4_096;

// <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>, <linux/xfrm.h>
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const NFTABLES: u16 = 10 << 8;
const GROUP_NFTABLES: u32 = 7;
const NEW_CHAIN: u16 = NFTABLES | 3;
const GET_CHAIN: u16 = NFTABLES | 4;
/// Tables and chains, made, changed or deleted: the messages up to this one.
const DELETE_CHAIN: u16 = NFTABLES | 5;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const GET_POLICY_COUNTS: u16 = 0x25;
const POLICY_COUNTS: u16 = 1;

/// Something that native IPv6 has to pass where the stack forwards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The kernel forwards none.
    NoForwarding,
    /// A base chain of nf_tables.
    Chain {
        /// `ip6`, `inet` or `netdev`.
        family: &'static str,
        /// Its table.
        table: String,
        /// Its name.
        name: String,
        /// Where packets come by it.
        hook: &'static str,
    },
    /// A table of ip6tables-legacy.
    Table(String),
    /// So many policies of IPsec.
    Policies(u32),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoForwarding => f.write_str("the kernel does not forward IPv6 (net.ipv6.conf.all.forwarding = 0)"),
            Self::Chain {
                family,
                table,
                name,
                hook,
            } => write!(f, "the chain {family} {table} {name} (hook {hook}) is for it, too"),
            Self::Table(name) => write!(f, "ip6tables-legacy has the table {name}, which may be for it"),
            Self::Policies(count) => write!(f, "there are {count} IPsec policies, which may be for it"),
        }
    }
}

/// What there is in this network namespace.
///
/// # Errors
/// [`NetlinkError`]: it is not known.
pub fn obstacles() -> Result<Vec<Obstacle>, NetlinkError> {
    let failed = |what: &str| {
        let action = format!("ask the kernel for {what}");
        move |source| NetlinkError { action, source }
    };
    let mut found = Vec::new();
    let forwarding = fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap_or_default();
    if forwarding.trim() != "1" {
        found.push(Obstacle::NoForwarding);
    }
    found.extend(chains().map_err(failed("its nf_tables chains"))?);
    let tables = match fs::read_to_string("/proc/net/ip6_tables_names") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(failed("the tables of ip6tables-legacy"))?,
    };
    found.extend(tables.lines().map(|name| Obstacle::Table(name.to_owned())));
    let policies = policies().map_err(failed("the number of its IPsec policies"))?;
    found.extend((policies > 0).then_some(Obstacle::Policies(policies)));
    Ok(found)
}

/// Base chains that packets come by on their way through the machine.
fn chains() -> io::Result<Vec<Obstacle>> {
    // Of any family.
    let request = message(GET_CHAIN, REQUEST | DUMP, &[0; 4]);
    for _ in 0..TRIES {
        let mut found = Vec::new();
        let asked = ask(NETLINK_NETFILTER, &request, |kind, body| {
            if kind == NEW_CHAIN {
                found.extend(chain(body));
            }
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A kernel without nf_tables, or without nfnetlink, has no chain.
            Err(error) if is_unknown(&error) => return Ok(Vec::new()),
            Ok(()) => return Ok(found),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// A chain of a message, if it is in the way.
fn chain(body: &[u8]) -> Option<Obstacle> {
    let (header, rest) = body.split_first_chunk::<4>()?;
    let hook = attribute(rest, CHAIN_HOOK)?;
    let number = u32::from_be_bytes(*attribute(hook, HOOK_NUMBER)?.first_chunk()?);
    let (family, hook) = match (header[0], number) {
        (1, 0) => ("inet", "prerouting"),
        (1, 2) => ("inet", "forward"),
        (1, 4) => ("inet", "postrouting"),
        (1, 5) => ("inet", "ingress"),
        (10, 0) => ("ip6", "prerouting"),
        (10, 2) => ("ip6", "forward"),
        (10, 4) => ("ip6", "postrouting"),
        (5, 0) => ("netdev", "ingress"),
        (5, 1) => ("netdev", "egress"),
        // Of other protocols, or of what is for this machine or comes from it.
        _ => return None,
    };
    let text = |kind| {
        let bytes = attribute(rest, kind).unwrap_or(&[]);
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    };
    Some(Obstacle::Chain {
        family,
        table: text(CHAIN_TABLE),
        name: text(CHAIN_NAME),
        hook,
    })
}

/// IPsec policies for packets that leave or are forwarded, of both protocols.
fn policies() -> io::Result<u32> {
    let request = message(GET_POLICY_COUNTS, REQUEST, &[0; 4]);
    let mut count = 0;
    let asked = ask(NETLINK_XFRM, &request, |_, body| {
        let counts = body
            .get(4..)
            .and_then(|rest| attribute(rest, POLICY_COUNTS))
            .unwrap_or(&[]);
        // In, out, forwarded.
        count = counts
            .chunks_exact(4)
            .skip(1)
            .take(2)
            .filter_map(|word| word.try_into().ok().map(u32::from_ne_bytes))
            .sum();
    });
    match asked {
        Err(error) if is_unknown(&error) => Ok(0),
        asked => asked.map(|()| count),
    }
}

/// What the kernel says where it has no such thing at all.
fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Asks, and hands over the answer's messages.
fn ask(protocol: isize, request: &[u8], mut answer: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let is_dump = request.get(6..8) == Some(&(REQUEST | DUMP).to_ne_bytes());
    let mut buffer = vec![0; LONGEST];
    loop {
        let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for (kind, flags, body) in Messages(buffer.get(..len).unwrap_or(&[])) {
            if flags & DUMP_INTERRUPTED != 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match kind {
                DONE => return Ok(()),
                ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                kind => answer(kind, body),
            }
        }
        if !is_dump {
            return Ok(());
        }
    }
}

/// The messages of a datagram: kind, flags, body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [a, b, c, d, e, f, g, h, ..] = *header;
        let len = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
        let body = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([e, f]), u16::from_ne_bytes([g, h]), body))
    }
}

/// The first attribute of a kind.
fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// The highest bits say how it is written.
    const KIND: u16 = 0x3fff;
    let mut rest = bytes;
    loop {
        let [a, b, c, d] = *rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let body = rest.get(4..len)?;
        if u16::from_ne_bytes([c, d]) & KIND == wanted {
            return Some(body);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

/// A socket that hears of tables and chains of nf_tables that are made, changed or deleted in this network namespace.
#[derive(Debug)]
pub struct ChainWatch {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl ChainWatch {
    /// Begins to listen, inside a runtime; none where the kernel cannot have any.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn open() -> Result<Option<Self>, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(GROUP_NFTABLES)?;
            socket.set_non_blocking(true)?;
            socket::watch(socket.as_fd().try_clone_to_owned()?, Interest::READABLE)
        };
        match open() {
            Ok(socket) => Ok(Some(Self {
                socket,
                buffer: vec![0; LONGEST],
            })),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(source) => Err(NetlinkError {
                action: "listen to changes of nf_tables".to_owned(),
                source,
            }),
        }
    }

    /// Waits until there may be other chains than before.
    ///
    /// # Errors
    /// When the socket is of no use any longer.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut heard = false;
            // All that is there: one look sees all of it.
            for _ in 0..MANY {
                match ready.try_io(|socket| Ok(recv(socket.get_ref(), &mut self.buffer[..], RecvFlags::DONTWAIT)?)) {
                    Ok(Ok((len, _))) => heard |= matters(self.buffer.get(..len).unwrap_or(&[])),
                    // Messages were lost: what they said is not known.
                    Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(Err(error)) => return Err(error),
                    Err(_) => break,
                }
            }
            if heard {
                return Ok(());
            }
        }
    }
}

/// Whether one of a datagram's messages is about tables or chains.
fn matters(datagram: &[u8]) -> bool {
    Messages(datagram).any(|(kind, ..)| (NFTABLES..=DELETE_CHAIN).contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + body.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn body(family: u8, hook: Option<u32>) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(written(CHAIN_TABLE, b"filter\0"));
        body.extend(written(2, &[0; 8]));
        body.extend(written(CHAIN_NAME, b"fwd\0"));
        if let Some(hook) = hook {
            let inside = [written(HOOK_NUMBER, &hook.to_be_bytes()), written(2, &[0; 4])].concat();
            body.extend(written(CHAIN_HOOK | 0x8000, &inside));
        }
        body
    }

    #[test]
    fn a_chain_is_in_the_way_where_forwarded_ipv6_comes_by() {
        for (family, hook, expected) in [
            (
                1,
                Some(2),
                Some("the chain inet filter fwd (hook forward) is for it, too"),
            ),
            (
                10,
                Some(0),
                Some("the chain ip6 filter fwd (hook prerouting) is for it, too"),
            ),
            (
                10,
                Some(4),
                Some("the chain ip6 filter fwd (hook postrouting) is for it, too"),
            ),
            (
                5,
                Some(0),
                Some("the chain netdev filter fwd (hook ingress) is for it, too"),
            ),
            (1, Some(1), None),
            (10, Some(3), None),
            (2, Some(2), None),
            (7, Some(2), None),
            (1, None, None),
        ] {
            let found = chain(&body(family, hook)).map(|chain| chain.to_string());
            assert_eq!(found.as_deref(), expected, "{family} {hook:?}");
        }
        let whole = body(1, Some(2));
        for len in 0..whole.len() - 8 {
            assert_eq!(chain(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn tables_and_chains_matter_and_rules_do_not() {
        let datagram =
            |kinds: &[u16]| -> Vec<u8> { kinds.iter().flat_map(|kind| message(*kind, 0, &[0; 5])).collect() };
        let padded = |mut bytes: Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        assert!(!matters(&datagram(&[NFTABLES | 6])));
        for kind in [0, 2, 3, 5] {
            assert!(matters(&datagram(&[NFTABLES | kind])), "{kind}");
            let both = [padded(datagram(&[NFTABLES | 15])), datagram(&[NFTABLES | kind])].concat();
            assert!(matters(&both), "{kind} behind another");
        }
        assert!(!matters(&[]));
        assert!(!matters(&[0; 40]));
    }
}
