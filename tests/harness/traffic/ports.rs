//! Owns the exhaustion check: how many TCP connections a port set carries to one remote port, and to many.

use std::{
    collections::HashSet,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    lab::Lab,
    plan,
    process::{interrupted, wait_for},
    servers::{HOLD_PORT, Servers},
};

/// Both ends of every connection are sockets of this process.
const SOCKETS_PER_CONNECTION: u64 = 2;
/// A connection through the lab takes well under a millisecond.
const CONNECT: Duration = Duration::from_secs(2);

/// What the check showed.
#[derive(Debug, Clone)]
pub struct PortUse {
    /// Connections that one remote address and port got, until one failed or the wanted number was reached.
    pub to_one_remote: usize,
    /// How the next one failed; none when it did not.
    pub refusal: Option<String>,
    /// How long that took.
    pub refusal_took: Duration,
    /// Connections to all the other remotes together.
    pub to_others: usize,
    /// Different ports seen by the one remote.
    pub ports_at_one_remote: usize,
    /// Connections on which the server's data arrived and named the port the server saw.
    pub verified: usize,
    /// Source addresses and ports outside the port set, as the servers saw them.
    pub outside_set: Vec<SocketAddr>,
}

/// Raises this process's limit of open files to what the check needs.
///
/// # Errors
/// When the limit is too low and cannot be raised, with the figures.
pub fn allow_sockets(connections: usize) -> Result<()> {
    let needed = SOCKETS_PER_CONNECTION * connections as u64 + 500;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(needed),
            maximum,
        },
    )
    .with_context(|| format!("{needed} open files are needed, and the limit is {limit:?}"))
}

/// Opens `wanted` connections to one remote port, tries one more, then opens `others` to many remotes, and looks
/// at all of them from the servers' side.
///
/// # Errors
/// When sockets fail for a reason of this machine's, not of the path's.
pub fn exhaust(lab: &Lab, servers: &Servers, host: &str, wanted: usize, others: usize) -> Result<PortUse> {
    allow_sockets(wanted + others)?;
    servers.held().clear();
    let one = SocketAddr::from((plan::SERVER, HOLD_PORT));
    let mut connections = Vec::with_capacity(wanted + others);
    let (refusal, refusal_took) = lab.node(host)?.enter(|| {
        connections.extend(connect(std::iter::repeat_n(one, wanted))?);
        if connections.len() < wanted {
            return Ok((
                Some(format!("only {} of {wanted} came", connections.len())),
                Duration::ZERO,
            ));
        }
        let begin = Instant::now();
        let refusal = TcpStream::connect_timeout(&one, CONNECT)
            .err()
            .map(|error| error.to_string());
        Ok((refusal, begin.elapsed()))
    })?;
    let to_one_remote = connections.len();
    lab.node(host)?.enter(|| {
        connections.extend(connect(remotes().take(others))?);
        Ok(())
    })?;
    let opened = connections.len();
    // The server's last handshakes may be a moment behind the client's. Where nobody refused one more, the server holds that, too.
    let held = opened + usize::from(refusal.is_none());
    wait_for("all connections at the server", CONNECT, || {
        Ok(servers.held().len() >= held)
    })?;
    let pairs = servers.held().pairs()?;
    let at_one: HashSet<u16> = pairs
        .iter()
        .filter(|(own, _)| *own == one)
        .map(|(_, peer)| peer.port())
        .collect();
    let outside_set = pairs
        .iter()
        .map(|(_, peer)| *peer)
        .filter(|peer| !is_in_set(peer))
        .collect();
    servers.held().greet()?;
    let seen: HashSet<(SocketAddr, u16)> = pairs.iter().map(|(own, peer)| (*own, peer.port())).collect();
    let verified = connections
        .iter_mut()
        .filter(|connection| is_greeted(connection, &seen))
        .count();
    servers.held().clear();
    Ok(PortUse {
        to_one_remote,
        refusal,
        refusal_took,
        to_others: opened - to_one_remote,
        ports_at_one_remote: at_one.len(),
        verified,
        outside_set,
    })
}

/// All the other addresses of the Internet side, over and over.
fn remotes() -> impl Iterator<Item = SocketAddr> {
    let addresses = (100..200).map(|last| SocketAddr::from((Ipv4Addr::new(198, 51, 100, last), HOLD_PORT)));
    addresses.cycle()
}

/// Opens one after the other; ends early at the first that fails.
fn connect(remotes: impl Iterator<Item = SocketAddr>) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for remote in remotes {
        if interrupted() {
            bail!("interrupted");
        }
        match TcpStream::connect_timeout(&remote, CONNECT) {
            Ok(stream) => streams.push(stream),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                return Err(error).context("this process may not open more files");
            }
            Err(_) => break,
        }
    }
    Ok(streams)
}

fn is_in_set(peer: &SocketAddr) -> bool {
    peer.ip() == plan::CE_IPV4 && plan::is_own_port(peer.port())
}

/// Whether the greeting arrived, and names a port with which this server has a connection.
fn is_greeted(mut connection: &TcpStream, seen: &HashSet<(SocketAddr, u16)>) -> bool {
    let mut port = [0; 2];
    let remote = connection.peer_addr();
    let arrived = connection
        .set_read_timeout(Some(CONNECT))
        .and_then(|()| connection.read_exact(&mut port));
    arrived.is_ok() && remote.is_ok_and(|remote| seen.contains(&(remote, u16::from_be_bytes(port))))
}
