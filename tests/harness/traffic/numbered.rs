//! Owns numbered UDP datagrams: counts exactly what was lost, doubled, out of order or changed on the way.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::iperf::Direction;
use crate::{lab::Lab, plan, process::interrupted};

/// Where the far side listens.
const PORT: u16 = 7001;
/// The number, and its complement at the end.
const SMALLEST: usize = 16;
/// How long the receiver waits after the last datagram was sent.
const QUIET: Duration = Duration::from_millis(500);

/// How many of what size, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Datagrams to send.
    pub count: usize,
    /// Payload of each, in bytes.
    pub size: usize,
    /// Datagrams per second.
    pub rate: u32,
}

/// What arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbered {
    /// Datagrams sent.
    pub sent: usize,
    /// Numbers that arrived at least once.
    pub arrived: usize,
    /// Numbers that never arrived.
    pub lost: usize,
    /// Arrivals of a number that had arrived before.
    pub duplicates: usize,
    /// Arrivals after a higher number.
    pub reordered: usize,
    /// Arrivals whose content is not what was sent.
    pub damaged: usize,
    /// Datagrams that the host sent before, to be known.
    pub greetings: usize,
    /// The LAN host's address as the far side sees it.
    pub seen_from: Option<SocketAddr>,
}

/// Sends a load one way. The host always speaks first, so that a NAT on the path knows the flow.
///
/// # Errors
/// When a socket fails, or the far side never hears the host.
pub fn send(lab: &Lab, host: &str, direction: Direction, load: Load) -> Result<Numbered> {
    let far = lab.node("internet")?.enter(|| socket((plan::SERVER, PORT)))?;
    let near = lab.node(host)?.enter(|| {
        let socket = socket((Ipv4Addr::UNSPECIFIED, 0))?;
        socket
            .connect((plan::SERVER, PORT))
            .context("cannot reach the server's address")?;
        Ok(socket)
    })?;
    let (seen_from, greetings) = greet(&near, &far)?;
    far.connect(seen_from)?;
    let (sender, receiver) = match direction {
        Direction::Up => (&near, &far),
        Direction::Down => (&far, &near),
    };
    Ok(Numbered {
        greetings,
        seen_from: Some(seen_from),
        ..between(sender, receiver, load)?
    })
}

/// Sends a load from one socket to another; each is connected to the other as it sees it.
///
/// # Errors
/// When a socket fails.
pub fn between(sender: &UdpSocket, receiver: &UdpSocket, load: Load) -> Result<Numbered> {
    until(sender, receiver, load, &AtomicBool::new(false))
}

/// The same, but ends early when it is told to.
///
/// # Errors
/// When a socket fails.
pub fn until(sender: &UdpSocket, receiver: &UdpSocket, load: Load, stop: &AtomicBool) -> Result<Numbered> {
    let done = AtomicBool::new(false);
    let mut result = thread::scope(|scope| {
        let counter = scope.spawn(|| receive(receiver, load, &done));
        let sent = transmit(sender, load, stop);
        done.store(true, Ordering::Relaxed);
        let mut result = counter.join().map_err(|_| anyhow!("the receiving thread panicked"))??;
        result.sent = sent?;
        Ok::<_, anyhow::Error>(result)
    })?;
    result.lost = result.sent.saturating_sub(result.arrived);
    Ok(result)
}

/// A socket that loses nothing for want of room.
///
/// # Errors
/// When it cannot be made.
pub fn socket(address: (Ipv4Addr, u16)) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {}:{}", address.0, address.1))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    // Beyond the system's maximum, as root may: a receiver that waits for a processor must not lose what has arrived.
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).context("cannot enlarge a receive buffer")?;
    Ok(socket)
}

/// Speaks until it is heard, and lets the answer settle; the greeting is too short to count.
///
/// # Errors
/// When it is never heard.
pub fn greet(near: &UdpSocket, far: &UdpSocket) -> Result<(SocketAddr, usize)> {
    let mut buffer = [0; 64];
    for greetings in 1..=50 {
        near.send(b"hello")?;
        if let Ok((_, seen_from)) = far.recv_from(&mut buffer) {
            return Ok((seen_from, greetings));
        }
    }
    bail!("the server heard no UDP from {:?}", near.local_addr())
}

/// A socket of a host's and one of the server's at this port, connected to each other through the gateway.
///
/// # Errors
/// When they never hear each other.
pub fn pair(lab: &Lab, host: &str, port: u16) -> Result<(UdpSocket, UdpSocket)> {
    let far = lab.node("internet")?.enter(|| socket((plan::SERVER, port)))?;
    let near = lab.node(host)?.enter(|| {
        let near = socket((Ipv4Addr::UNSPECIFIED, 0))?;
        near.connect((plan::SERVER, port)).context("cannot reach the server")?;
        Ok(near)
    })?;
    let (seen_from, _) = greet(&near, &far)?;
    far.connect(seen_from)?;
    Ok((near, far))
}

/// How many of `count` datagrams have come to a socket that hold nothing but their number; until the last of them, or until none is left.
///
/// # Errors
/// When one comes after a later one, or is of another length.
pub fn in_order(socket: &UdpSocket, count: u32) -> Result<u32> {
    let (mut arrived, mut next) = (0, 0);
    let mut buffer = [0; 64];
    while next < count
        && let Ok(len) = socket.recv(&mut buffer)
    {
        let number = buffer.get(..len).and_then(|bytes| bytes.try_into().ok());
        let number = u32::from_be_bytes(number.context("a datagram of another length")?);
        ensure!(number >= next, "{number} came where {next} was the least that could");
        next = number + 1;
        arrived += 1;
    }
    Ok(arrived)
}

/// Room for half a second at the highest rate any check uses.
const RECEIVE_BUFFER: usize = 32 << 20;
/// The largest burst, in frames: a veth holds 256 redirected frames and drops the next, which would be the lab's loss, not the path's.
const BURST: usize = 32;
/// Bytes of a datagram that a fragment of it carries, at least.
const FRAGMENT: usize = 1_300;

/// Sends what is due about every half millisecond, and after a pause that the scheduler made catches up in small bursts.
fn transmit(socket: &UdpSocket, load: Load, stop: &AtomicBool) -> Result<usize> {
    let begin = Instant::now();
    let burst = (BURST / load.size.div_ceil(FRAGMENT).max(1)).max(1);
    let mut sent = 0;
    while sent < load.count && !interrupted() && !stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_secs_f64() * f64::from(load.rate);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive count far below 2^52"
        )]
        let due = (due as usize).min(load.count).min(sent + burst);
        while sent < due {
            match socket.send(&datagram(sent, load.size)) {
                Ok(_) => sent += 1,
                // An ICMP error about an earlier datagram, or a full queue: this one was not sent.
                Err(error) if is_passing(&error) => break,
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, load: Load, done: &AtomicBool) -> Result<Numbered> {
    let mut result = Numbered::default();
    let mut seen = vec![false; load.count];
    let (mut highest, mut last) = (0, Instant::now());
    let mut buffer = vec![0; 65_536];
    while result.arrived < load.count && !interrupted() {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_passing(&error) => {
                if done.load(Ordering::Relaxed) && last.elapsed() > QUIET {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error).context("cannot receive"),
        };
        last = Instant::now();
        let Some(number) = number_of(&buffer[..length]) else {
            continue;
        };
        if number >= load.count || buffer[..length] != datagram(number, load.size) {
            result.damaged += 1;
            continue;
        }
        if std::mem::replace(&mut seen[number], true) {
            result.duplicates += 1;
            continue;
        }
        result.arrived += 1;
        if number < highest {
            result.reordered += 1;
        }
        highest = highest.max(number);
    }
    Ok(result)
}

pub(super) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut, WouldBlock};
    let passing = [
        WouldBlock,
        TimedOut,
        Interrupted,
        ConnectionRefused,
        HostUnreachable,
        NetworkUnreachable,
    ]
    .contains(&error.kind());
    // No room in the device's queue.
    passing || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// The number, then bytes that depend on it.
fn datagram(number: usize, size: usize) -> Vec<u8> {
    let bytes = (number as u64).to_be_bytes();
    let size = size.max(SMALLEST);
    bytes
        .iter()
        .copied()
        .chain(bytes.iter().map(|byte| !byte).cycle())
        .take(size)
        .collect()
}

/// None for a greeting.
fn number_of(payload: &[u8]) -> Option<usize> {
    if payload.len() < SMALLEST {
        return None;
    }
    usize::try_from(u64::from_be_bytes(*payload.first_chunk()?)).ok()
}
