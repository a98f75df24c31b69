//! Owns bursts of TCP connections, all begun in one moment, each from a source port of its own: what a page load does.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with},
};

use super::ports::allow_sockets;
use crate::{lab::Lab, plan, process::interrupted, servers::page};

/// Who waits longer for a page has given up.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// An answer that takes so long has cost a SYN that was not taken: Linux sends the next one after a second.
const LATE: Duration = Duration::from_millis(900);
/// A question for the address of www.lab.example.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x03lab\x07example\0\0\x01\0\x01";
/// So often a signal is looked for.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Which side ends a connection; the other follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// The LAN host, whose port then stays in TIME_WAIT.
    Client,
    /// The server, where the address and port it has seen then stay in TIME_WAIT.
    Server,
}

/// Connections begun together.
#[derive(Debug, Clone)]
pub struct Burst {
    /// Servers, visited in turn.
    pub servers: Vec<Ipv4Addr>,
    /// How many connections.
    pub connections: u16,
    /// Source port of the first; the others have the next ones.
    pub first_port: u16,
    /// Whether all stay open until each has its answer.
    pub held: bool,
    /// Who closes.
    pub closer: Closer,
    /// Whether names are asked for in between, by UDP, now and then.
    pub names: bool,
}

/// What became of one or several bursts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Connections begun.
    pub tried: usize,
    /// Those without an answer or a proper end, by reason.
    pub failed: BTreeMap<String, usize>,
    /// Those with another answer than theirs, or one that reports an address or port that is not the CE's.
    pub wrong: usize,
    /// Two at one server at the same time from the same port, as far as the burst was held open.
    pub doubled: usize,
    /// From the beginning of each to its whole answer.
    took: Vec<Duration>,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.tried += other.tried;
        for (reason, count) in other.failed {
            *self.failed.entry(reason).or_default() += count;
        }
        self.wrong += other.wrong;
        self.doubled += other.doubled;
        self.took.extend(other.took);
        self.took.sort_unstable();
    }

    /// How many had no answer or no proper end.
    pub fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// Whether every connection was as it should be.
    pub fn is_clean(&self) -> bool {
        self.tried > 0 && (self.failures(), self.wrong, self.doubled) == (0, 0, 0)
    }

    /// The middle one of the times to the whole answer.
    pub fn median(&self) -> Duration {
        self.took.get(self.took.len() / 2).copied().unwrap_or_default()
    }

    /// How many answers were whole only after a second or more.
    pub fn late(&self) -> usize {
        self.took.iter().filter(|took| **took >= LATE).count()
    }

    /// The longest time to the whole answer.
    pub fn longest(&self) -> Duration {
        self.took.last().copied().unwrap_or_default()
    }
}

/// Where a connection stands.
#[derive(Debug)]
enum State {
    /// The SYN is out.
    Opening,
    /// The request is out, and this much of the answer has come.
    Asking(Vec<u8>),
    /// The answer is there; the others' are waited for.
    Holding,
    /// The end is asked for, and the server's is awaited.
    Leaving,
    /// All went well.
    Over,
    /// Why it did not.
    Failed(String),
}

/// One connection.
#[derive(Debug)]
struct Visit {
    stream: TcpStream,
    server: Ipv4Addr,
    request: [u8; page::REQUEST],
    begun: Instant,
    /// When patience ends.
    end: Instant,
    took: Option<Duration>,
    /// What the server says that it sees; none while there is no answer, or when it is wrong.
    seen: Option<SocketAddrV4>,
    state: State,
}

/// Opens a burst from a host, waits for the answers and closes; returns when all have ended or given up.
///
/// # Errors
/// When sockets fail for a reason of this machine's, not of the path's.
pub fn send(lab: &Lab, host: &str, burst: &Burst) -> Result<Tally> {
    allow_sockets(usize::from(burst.connections))?;
    // A socket stays in the namespace it was made in.
    let mut visits = lab.node(host)?.enter(|| begin(burst))?;
    drive(&mut visits, |visit| {
        if !burst.held {
            visit.leave(burst.closer);
        }
    })?;
    for visit in &mut visits {
        if matches!(visit.state, State::Holding) {
            visit.leave(burst.closer);
        }
    }
    drive(&mut visits, |_| ())?;
    Ok(count(visits, burst.held))
}

fn begin(burst: &Burst) -> Result<Vec<Visit>> {
    let mut visits = Vec::with_capacity(usize::from(burst.connections));
    let mut chance = u64::from(burst.first_port) << 32 | 1;
    for (port, server) in (burst.first_port..)
        .zip(burst.servers.iter().cycle())
        .take(burst.connections.into())
    {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).context("cannot make a socket")?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
            .with_context(|| format!("cannot use source port {port}"))?;
        let begun = Instant::now();
        let state = match connect(&socket, &SocketAddrV4::new(*server, page::PORT)) {
            Ok(()) | Err(Errno::INPROGRESS) => State::Opening,
            Err(error) => State::Failed(error.to_string()),
        };
        let ([high, low], [.., last]) = (port.to_be_bytes(), server.octets());
        visits.push(Visit {
            stream: TcpStream::from(socket),
            server: *server,
            request: [b'p', b'a', b'g', b'e', 0, last, high, low],
            begun,
            end: begun + PATIENCE,
            took: None,
            seen: None,
            state,
        });
        if burst.names && heads(&mut chance) {
            let question = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket")?;
            question
                .send_to(QUESTION, (plan::DNS, 53))
                .context("cannot ask for a name")?;
        }
    }
    Ok(visits)
}

/// Heads or tails (xorshift), the same in every run.
fn heads(state: &mut u64) -> bool {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.is_multiple_of(2)
}

/// Goes on with all of them until each is held, over or failed; `answered` is told when an answer is whole.
fn drive(visits: &mut [Visit], mut answered: impl FnMut(&mut Visit)) -> Result<()> {
    loop {
        if interrupted() {
            bail!("interrupted");
        }
        let now = Instant::now();
        for visit in visits.iter_mut() {
            if visit.waits_for().is_some() && now >= visit.end {
                visit.state = State::Failed(format!("{} for {} s", visit.doing(), PATIENCE.as_secs()));
            }
        }
        let waiting: Vec<usize> = (0..visits.len())
            .filter(|index| visits[*index].waits_for().is_some())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut polled: Vec<PollFd<'_>> = waiting
            .iter()
            .filter_map(|index| {
                let visit = &visits[*index];
                Some(PollFd::new(&visit.stream, visit.waits_for()?))
            })
            .collect();
        match poll(&mut polled, Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for sockets"),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        for (index, _) in waiting.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            let visit = &mut visits[index];
            if let Err(error) = visit.advance() {
                visit.state = State::Failed(format!("{}: {error}", visit.doing()));
            }
            if matches!(visit.state, State::Holding) {
                answered(visit);
            }
        }
    }
}

impl Visit {
    /// What must happen to the socket for this connection to go on; nothing when it waits for no packet.
    fn waits_for(&self) -> Option<PollFlags> {
        match self.state {
            State::Opening => Some(PollFlags::OUT),
            State::Asking(_) | State::Leaving => Some(PollFlags::IN),
            State::Holding | State::Over | State::Failed(_) => None,
        }
    }

    fn doing(&self) -> &'static str {
        match self.state {
            State::Opening => "opening",
            State::Asking(_) => "waiting for the answer",
            State::Holding | State::Leaving | State::Over | State::Failed(_) => "closing",
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Opening => {
                if let Some(error) = self.stream.take_error()? {
                    return Err(error);
                }
                self.stream.write_all(&self.request)?;
                self.state = State::Asking(Vec::with_capacity(page::ANSWER));
            }
            State::Asking(answer) => {
                let mut bytes = [0; page::ANSWER];
                let room = page::ANSWER - answer.len();
                let Some(arrived) = read(&self.stream, &mut bytes[..room])? else {
                    return Ok(());
                };
                if arrived == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                answer.extend(&bytes[..arrived]);
                if answer.len() == page::ANSWER {
                    self.took = Some(self.begun.elapsed());
                    self.seen = page::seen_in(answer, self.request);
                    self.state = State::Holding;
                }
            }
            State::Leaving => match read(&self.stream, &mut [0])? {
                None => {}
                Some(0) => self.state = State::Over,
                Some(_) => return Err(io::Error::other("more than the answer")),
            },
            State::Holding | State::Over | State::Failed(_) => {}
        }
        Ok(())
    }

    /// Closes, or asks the server to.
    fn leave(&mut self, closer: Closer) {
        self.end = Instant::now() + PATIENCE;
        let left = match closer {
            Closer::Client => self.stream.shutdown(Shutdown::Write),
            Closer::Server => self.stream.write_all(&[0]),
        };
        self.state = match left {
            Ok(()) => State::Leaving,
            Err(error) => State::Failed(format!("{}: {error}", self.doing())),
        };
    }
}

/// How many bytes came; none when nothing has yet.
fn read(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(bytes) {
        Ok(arrived) => Ok(Some(arrived)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn count(visits: Vec<Visit>, held: bool) -> Tally {
    let mut tally = Tally {
        tried: visits.len(),
        ..Tally::default()
    };
    let mut together = HashSet::new();
    for visit in visits {
        if visit.took.is_some() {
            let own = |seen: &SocketAddrV4| *seen.ip() == plan::CE_IPV4 && plan::is_own_port(seen.port());
            match visit.seen.filter(own) {
                None => tally.wrong += 1,
                Some(seen) if held && !together.insert((visit.server, seen)) => tally.doubled += 1,
                Some(_) => {}
            }
        }
        tally.took.extend(visit.took);
        if let State::Failed(reason) = visit.state {
            *tally.failed.entry(reason).or_default() += 1;
        }
    }
    tally.took.sort_unstable();
    tally
}
