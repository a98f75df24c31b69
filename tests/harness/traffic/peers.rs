//! Owns hosts behind address translators that talk to each other: a server tells each the other's external endpoint, and both send.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt::set_socket_reuseaddr},
};

use super::{
    noise::Noise,
    numbered::{self, Load, Numbered},
};
use crate::{
    lab::Lab,
    netns::Netns,
    plan,
    process::{pause, wait_for},
};

/// Where hosts are introduced to each other; no port whose endpoints share.
const PORT: u16 = 7002;
/// Below what counts as a numbered datagram.
const HELLO: &[u8] = b"hello";
/// Rounds of greetings before two hosts give up.
const MOST_ROUNDS: usize = 50;
/// Longer than three SYNs take.
const OPENING: Duration = Duration::from_secs(10);
/// Far longer than a packet's way to where it is filtered.
const MOMENT: Duration = Duration::from_millis(50);
/// No peer in the lab is slower than this.
const IO_LIMIT: Duration = Duration::from_secs(20);
const BLOCK: usize = 64 << 10;

/// Two hosts' UDP sockets, each connected to the other's external endpoint: from elsewhere they take nothing.
#[derive(Debug)]
pub struct UdpPair {
    sockets: [UdpSocket; 2],
    external: [SocketAddr; 2],
}

/// How two hosts came to hear each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punched {
    /// Whether the second heard the first before it had sent anything itself.
    pub at_once: bool,
    /// Rounds in which both have sent, until both have heard.
    pub rounds: usize,
}

impl UdpPair {
    /// Lets two hosts find out each other's external endpoint.
    ///
    /// # Errors
    /// When the server does not hear one of them.
    pub fn introduce(lab: &Lab, hosts: [&str; 2]) -> Result<Self> {
        let [(first, near), (second, far)] = [meet_udp(lab, hosts[0])?, meet_udp(lab, hosts[1])?];
        first.connect(far)?;
        second.connect(near)?;
        Ok(Self {
            sockets: [first, second],
            external: [near, far],
        })
    }

    /// The endpoints as the server and the other one see them.
    pub fn external(&self) -> [SocketAddr; 2] {
        self.external
    }

    /// The first sends, then both do until both have heard.
    ///
    /// # Errors
    /// When they never do.
    pub fn punch(&self) -> Result<Punched> {
        let [first, second] = &self.sockets;
        say(first)?;
        let at_once = hears(second)?;
        for rounds in 1..=MOST_ROUNDS {
            say(second)?;
            let back = hears(first)?;
            say(first)?;
            if hears(second)? && back {
                return Ok(Punched { at_once, rounds });
            }
        }
        bail!(
            "{} and {} do not hear each other after {MOST_ROUNDS} rounds",
            self.external[0],
            self.external[1]
        )
    }

    /// Sends a load from the first to the second, then as much back.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn exchange(&self, load: Load) -> Result<[Numbered; 2]> {
        let [first, second] = &self.sockets;
        Ok([
            numbered::between(first, second, load)?,
            numbered::between(second, first, load)?,
        ])
    }
}

fn meet_udp(lab: &Lab, host: &str) -> Result<(UdpSocket, SocketAddr)> {
    let server = lab.node("internet")?.enter(|| numbered::socket((plan::SERVER, PORT)))?;
    let socket = lab.node(host)?.enter(|| numbered::socket((Ipv4Addr::UNSPECIFIED, 0)))?;
    socket.connect((plan::SERVER, PORT))?;
    let (external, _) = numbered::greet(&socket, &server).with_context(|| format!("from {host}"))?;
    Ok((socket, external))
}

fn say(socket: &UdpSocket) -> Result<()> {
    match socket.send(HELLO) {
        Ok(_) => Ok(()),
        // An ICMP error about an earlier one.
        Err(error) if numbered::is_passing(&error) => Ok(()),
        Err(error) => Err(error).context("cannot send"),
    }
}

/// Whether something comes within the socket's patience.
fn hears(socket: &UdpSocket) -> Result<bool> {
    match socket.recv(&mut [0; 64]) {
        Ok(_) => Ok(true),
        Err(error) if numbered::is_passing(&error) => Ok(false),
        Err(error) => Err(error).context("cannot receive"),
    }
}

/// Two hosts' TCP endpoints: ports that they have told a server of, and that they open connections to each other from.
#[derive(Debug)]
pub struct TcpPair([TcpEnd; 2]);

#[derive(Debug)]
struct TcpEnd {
    node: Netns,
    local: SocketAddrV4,
    external: SocketAddr,
    /// Both ends of the connection to the server, which stays open.
    _introduction: [TcpStream; 2],
}

impl TcpPair {
    /// Lets two hosts find out each other's external endpoint.
    ///
    /// # Errors
    /// When one of them has no connection to the server.
    pub fn introduce(lab: &Lab, hosts: [&str; 2]) -> Result<Self> {
        Ok(Self([meet_tcp(lab, hosts[0])?, meet_tcp(lab, hosts[1])?]))
    }

    /// The endpoints as the server sees them.
    pub fn external(&self) -> [SocketAddr; 2] {
        let [first, second] = &self.0;
        [first.external, second.external]
    }

    /// The endpoints as the hosts know them.
    pub fn local(&self) -> [SocketAddrV4; 2] {
        let [first, second] = &self.0;
        [first.local, second.local]
    }

    /// Both connect, the second a moment later (RFC 9293 §3.5, simultaneous open).
    ///
    /// # Errors
    /// When that does not lead to a connection.
    pub fn open_from_both(&self) -> Result<[TcpStream; 2]> {
        let [first, second] = &self.0;
        let near = first.node.enter(|| begin(first.local, second.external))?;
        pause(MOMENT)?;
        let far = second.node.enter(|| begin(second.local, first.external))?;
        for (stream, end) in [(&near, first), (&far, second)] {
            wait_until_open(stream).with_context(|| format!("from {}", end.external))?;
        }
        Ok([near, far])
    }

    /// The second listens at the port that the server knows, and the first connects from a new one.
    ///
    /// # Errors
    /// When there is no connection in time.
    pub fn dial(&self, patience: Duration) -> Result<[TcpStream; 2]> {
        let [first, second] = &self.0;
        dial([&first.node, &second.node], second.local, second.external, patience)
    }
}

/// The second node listens at an address of its own, and the first connects from a new port to what leads there.
///
/// # Errors
/// When there is no connection in time.
pub fn dial(
    [first, second]: [&Netns; 2],
    local: SocketAddrV4,
    external: SocketAddr,
    patience: Duration,
) -> Result<[TcpStream; 2]> {
    let listener = second.enter(|| {
        let listener = TcpListener::bind(local).with_context(|| format!("cannot listen at {local}"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let near = first.enter(|| {
        TcpStream::connect_timeout(&external, patience).with_context(|| format!("no connection to {external}"))
    })?;
    let mut far = None;
    wait_for("the accepted connection", OPENING, || match listener.accept() {
        Ok((stream, _)) => {
            far = Some(stream);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("cannot accept"),
    })?;
    let far = far.context("nothing was accepted")?;
    wait_until_open(&near)?;
    wait_until_open(&far)?;
    Ok([near, far])
}

fn meet_tcp(lab: &Lab, host: &str) -> Result<TcpEnd> {
    let server = SocketAddrV4::new(plan::SERVER, PORT);
    let listener = lab
        .node("internet")?
        .enter(|| TcpListener::bind(server).with_context(|| format!("cannot listen at {server}")))?;
    let node = lab.node(host)?.clone();
    let near = node.enter(|| begin(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), server.into()))?;
    wait_until_open(&near).with_context(|| format!("from {host} to the server"))?;
    let (far, external) = listener.accept().context("cannot accept")?;
    let SocketAddr::V4(local) = near.local_addr()? else {
        bail!("{host} has no IPv4 address");
    };
    Ok(TcpEnd {
        node,
        local,
        external,
        _introduction: [near, far],
    })
}

/// Begins to connect from a port that may have other connections.
fn begin(local: SocketAddrV4, remote: SocketAddr) -> Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).context("cannot make a socket")?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &local).with_context(|| format!("cannot use {local}"))?;
    match connect(&socket, &remote) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error).with_context(|| format!("cannot connect to {remote}")),
    }
}

fn wait_until_open(stream: &TcpStream) -> Result<()> {
    wait_for("an open connection", OPENING, || {
        if let Some(error) = stream.take_error()? {
            return Err(error).context("the connection failed");
        }
        Ok(stream.peer_addr().is_ok())
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    Ok(())
}

/// Sends so many mebibytes through a connection and returns how many bytes arrived as they were sent, one after the other.
///
/// # Errors
/// When the connection fails or stalls.
pub fn transfer(mut from: &TcpStream, mut to: &TcpStream, mebibytes: usize) -> Result<usize> {
    let blocks = (mebibytes << 20) / BLOCK;
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            let mut noise = Noise::default();
            for _ in 0..blocks {
                from.write_all(&noise.block(BLOCK)).context("cannot send")?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let (mut noise, mut arrived) = (Noise::default(), 0);
        let mut block = vec![0; BLOCK];
        for _ in 0..blocks {
            to.read_exact(&mut block)
                .with_context(|| format!("nothing more after {arrived} bytes"))?;
            if block != noise.block(BLOCK) {
                break;
            }
            arrived += BLOCK;
        }
        if arrived < blocks * BLOCK {
            // The sender need not wait for a reader that has given up.
            to.shutdown(std::net::Shutdown::Both)?;
        }
        let sent = sending.join().map_err(|_| anyhow!("the sending thread panicked"))?;
        if arrived == blocks * BLOCK {
            sent?;
        }
        Ok(arrived)
    })
}
