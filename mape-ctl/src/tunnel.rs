//! Owns the tunnel in user space, for kernels without their own: a TUN device on one side, a raw IPv6 socket on the other.
//!
//! What is tunnelled comes out of the device translated and goes into it untranslated: that is done by programs on the device. The
//! core decides what a packet's outer header is and who may send ([`carry`]); the kernel writes outer headers, fragments what
//! does not fit the path, and puts fragments together again before the socket sees them.

pub mod batch;
pub mod ends;
pub mod packet;
pub mod path_mtu;
pub mod process;
pub mod socket;
pub mod status;

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use mape_common::step::carry::{self, Fragments, Outbound};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    batch::{BATCH, Queued, Received, Sender},
    ends::{Ends, EndsError},
    packet::{Bytes, OFFLOAD},
    path_mtu::PathMtu,
    socket::SocketError,
    status::{Counts, Shared, Status},
};
use crate::{
    datapath::{maps::Tables, pin::PinFolder},
    host::{self, state},
    instance::Instance,
    netlink::{Netlink, NetlinkError},
    post::PostError,
    tun::{self, TunError},
};

/// Bytes of packets that are read from the device before they are sent.
const BUFFER: usize = 256 << 10;
/// No packet is longer.
const LONGEST: usize = 65_535;
/// Between two looks at what changes without being told.
const TICK: Duration = Duration::from_secs(1);
/// Most senders told in one tick that a packet is too big (RFC 1812 §4.3.2.8).
const ANSWERS: u32 = 200;
/// How long a packet waits for room in the socket; then it is lost, and the device's queue has its turn.
const ROOM: Duration = Duration::from_millis(100);

/// Why the tunnel does not run, or runs no longer.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum TunnelError {
    #[error(transparent)]
    Ends(#[from] EndsError),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("there is no device {0}; `mape-ctl load` makes it")]
    NoDevice(String),
    #[error("{0} is gone: somebody has removed it")]
    DeviceGone(String),
    #[error("cannot {action}")]
    Runtime { action: &'static str, source: io::Error },
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> TunnelError {
    move |source| TunnelError::Runtime { action, source }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a signal.
    Asked,
    /// The gateway has been loaded again, and the tunnel has another device or address now.
    Changed,
}

/// Who prints a status.
pub type Report<'a> = &'a dyn Fn(&Status<'_>);

/// A tunnel with everything open.
pub struct Tunnel<'a> {
    instance: &'a Instance,
    ends: RefCell<Ends>,
    /// Its maps, where it is a loaded gateway's.
    tables: Option<Tables>,
    /// The device's name as it was typed.
    given: Option<&'a str>,
    device: AsyncFd<OwnedFd>,
    index: u32,
    socket: AsyncFd<OwnedFd>,
    paths: RefCell<PathMtu>,
    /// The MTU that the routes have, once that has been seen to.
    route_mtu: Cell<Option<u16>>,
    fragments: [RefCell<Fragments>; 2],
    answers: Cell<u32>,
    counts: &'a Shared,
}

/// The signals that a tunnel listens to.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
}

impl Signals {
    /// Begins to listen; inside a runtime.
    ///
    /// # Errors
    /// [`TunnelError::Runtime`].
    pub fn listen() -> Result<Self, TunnelError> {
        let listen = |kind| signal(kind).map_err(failed("watch for signals"));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
            usr1: listen(SignalKind::user_defined1())?,
        })
    }
}

/// The device's index, and the interface that has the tunnel's address: none for one that is on the loopback device.
///
/// # Errors
/// [`TunnelError::NoDevice`], [`SocketError::NoAddress`].
pub fn find(netlink: &Netlink, ends: &Ends) -> Result<(u32, Option<String>), TunnelError> {
    let interfaces = netlink.interfaces()?;
    let device = interfaces.iter().find(|interface| interface.name == ends.device);
    let index = device.ok_or_else(|| TunnelError::NoDevice(ends.device.clone()))?.index;
    let near = ends.near();
    let addresses = netlink.addresses()?;
    let mut holders = addresses
        .iter()
        .filter(|assigned| assigned.address == IpAddr::V6(near))
        .filter_map(|assigned| interfaces.iter().find(|interface| interface.index == assigned.index))
        .peekable();
    if holders.peek().is_none() {
        return Err(SocketError::NoAddress(near).into());
    }
    let holder = holders.find(|interface| !interface.loopback);
    Ok((index, holder.map(|interface| interface.name.clone())))
}

impl<'a> Tunnel<'a> {
    /// Opens device and socket; inside a runtime.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub fn open(
        instance: &'a Instance,
        ends: Ends,
        (index, interface): (u32, Option<&str>),
        (is_loaded, given): (bool, Option<&'a str>),
        counts: &'a Shared,
    ) -> Result<Self, TunnelError> {
        let device = tun::attach(&ends.device)?;
        let socket = socket::open(ends.near(), interface)?;
        let watched = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
        let paths = PathMtu::new(ends.config.tunnel_mtu, ends.config.relay_address);
        let tunnel = Self {
            instance,
            ends: RefCell::new(ends),
            tables: is_loaded.then(|| Tables::new(&PinFolder::new(instance))),
            given,
            device: socket::watch(device.into(), Interest::READABLE).map_err(failed("watch the device"))?,
            index,
            socket: socket::watch(socket.into(), watched).map_err(failed("watch the socket"))?,
            paths: RefCell::new(paths),
            route_mtu: Cell::new(None),
            fragments: Default::default(),
            answers: Cell::new(ANSWERS),
            counts,
        };
        tunnel.look_at_paths();
        Ok(tunnel)
    }

    /// Carries packets until a signal asks for the end.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub async fn run(&self, signals: &mut Signals, report: Report<'_>) -> Result<End, TunnelError> {
        let (outbound, inbound, errors) = (self.carry_out(), self.carry_in(), self.hear());
        tokio::select! {
            end = self.attend(signals, report) => end,
            error = outbound => Err(error),
            error = inbound => Err(error),
            error = errors => Err(error),
        }
    }

    /// What the tunnel has done and is.
    pub fn report(&self, report: Report<'_>) {
        let (ends, paths) = (self.ends.borrow(), self.paths.borrow());
        report(&Status {
            instance: self.instance.as_ref(),
            device: &ends.device,
            near: ends.near().to_string(),
            relay: ends.relay().to_string(),
            mtu: paths.relay(),
            path_mtu: paths.outer(),
            counts: self.counts.with(|counts| counts.clone()),
        });
    }

    /// Signals, and what has to be looked at again and again.
    async fn attend(&self, signals: &mut Signals, report: Report<'_>) -> Result<End, TunnelError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = signals.term.recv() => return Ok(End::Asked),
                _ = signals.int.recv() => return Ok(End::Asked),
                _ = signals.usr1.recv() => self.report(report),
                _ = signals.hup.recv() => if self.look_again()? { return Ok(End::Changed) },
                _ = ticks.tick() => {
                    self.answers.set(ANSWERS);
                    self.look_at_paths();
                }
            }
            self.set_route_mtu().await;
        }
    }

    /// Reads rules and settings again; true where device or address are others than before.
    fn look_again(&self) -> Result<bool, TunnelError> {
        if self.tables.is_none() {
            return Ok(false);
        }
        let ends = Ends::loaded(self.instance, self.given)?;
        let mut known = self.ends.borrow_mut();
        if ends.device != known.device || ends.near() != known.near() {
            return Ok(true);
        }
        *self.paths.borrow_mut() = PathMtu::new(ends.config.tunnel_mtu, ends.config.relay_address);
        *known = ends;
        drop(known);
        // `load` has given the routes the tunnel's whole MTU.
        self.route_mtu.set(None);
        self.look_at_paths();
        Ok(false)
    }

    /// Asks kernel and data path how large the path to the border relay is.
    fn look_at_paths(&self) {
        let (near, relay) = {
            let ends = self.ends.borrow();
            (ends.near(), ends.relay())
        };
        let noted = self.tables.as_ref().and_then(noted_mtu);
        let mut paths = self.paths.borrow_mut();
        let before = paths.fragments();
        paths.note_relay(socket::path_mtu(near, relay), noted, Instant::now());
        if paths.fragments() != before
            && let Err(error) = socket::limit_fragments(self.socket.get_ref().as_fd(), paths.fragments())
        {
            eprintln!("mape-ctl: warning: cannot change the size of fragments: {error}");
        }
    }

    /// Has the IPv4 layer fragment, or answer, what does not fit the path, before it is translated: gives the routes that MTU.
    async fn set_route_mtu(&self) {
        let mtu = self.paths.borrow().relay();
        if self.route_mtu.replace(Some(mtu)) == Some(mtu) {
            return;
        }
        let (routes, index) = (self.ends.borrow().routes.clone(), self.index);
        // The conversation with the kernel has a runtime of its own, so a thread of its own, too.
        let changed = tokio::task::spawn_blocking(move || {
            let netlink = Netlink::open()?;
            host::tunnel::set_route_mtu(&netlink, &routes, index, mtu)
        });
        if let Ok(Err(error)) = changed.await {
            eprintln!("mape-ctl: warning: the routes keep their MTU: {error}");
        }
    }

    /// Errors that routers have sent about our packets.
    async fn hear(&self) -> TunnelError {
        loop {
            let mut ready = match self.socket.ready(Interest::ERROR).await {
                Ok(ready) => ready,
                Err(source) => return failed("watch the socket")(source),
            };
            // Before they are taken, so that one that comes meanwhile is told anew.
            ready.clear_ready();
            let mut is_news = false;
            loop {
                match batch::next_error(self.socket.get_ref().as_fd()) {
                    Ok(Some(told)) => {
                        if let Some(mtu) = told.mtu {
                            self.paths.borrow_mut().note(told.far_end, mtu, Instant::now());
                            is_news = true;
                        }
                    }
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
            if is_news {
                self.look_at_paths();
                self.set_route_mtu().await;
            }
        }
    }

    /// Out of the device into the tunnel.
    async fn carry_out(&self) -> TunnelError {
        let mut buffer = BytesMut::zeroed(BUFFER);
        let mut queue = Vec::with_capacity(BATCH);
        let mut sender = Sender::default();
        loop {
            let mut guard = match self.device.readable().await {
                Ok(guard) => guard,
                Err(source) => return failed("watch the device")(source),
            };
            let mut at = 0;
            let now = Instant::now();
            let tick = state::now();
            while queue.len() < BATCH
                && let Some(room) = buffer.get_mut(at..at + OFFLOAD + LONGEST)
            {
                let len = match guard.try_io(|device| Ok(rustix::io::read(device.get_ref(), &mut *room)?)) {
                    Ok(Ok(len)) => len,
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Ok(Err(error)) => return self.device_error(error),
                    Err(_) => break,
                };
                let Some(packet) = room.get_mut(OFFLOAD..len) else {
                    break;
                };
                if let Some(way) = self.decide(packet, tick, now) {
                    queue.push(Queued {
                        range: at + OFFLOAD..at + OFFLOAD + usize::from(way.len),
                        way,
                    });
                    at += len;
                }
            }
            self.send(&mut sender, &buffer, &queue).await;
            queue.clear();
            // The other direction has its turn.
            tokio::task::yield_now().await;
        }
    }

    /// How a packet of the device goes into the tunnel, if it does; otherwise it is counted, and perhaps answered.
    fn decide(&self, packet: &mut [u8], tick: mape_common::time::Tick, now: Instant) -> Option<Outbound> {
        let ends = self.ends.borrow();
        let [fragments, _] = &self.fragments;
        let packet = Bytes(packet);
        let decided = carry::outbound(&packet, &ends.rules, &ends.config, &mut fragments.borrow_mut(), tick);
        let way = match decided {
            Ok(way) => way,
            Err(refusal) => {
                self.counts.with(|counts| counts.drop(refusal.label()));
                return None;
            }
        };
        let mtu = self.paths.borrow().inner(&way.far_end, now);
        if way.len <= mtu || !way.dont_fragment {
            return Some(way);
        }
        if !way.is_error
            && self.answers.get() > 0
            && let Some(planned) = carry::too_big(&packet, mtu)
            && let Ok(error) = packet::error(&planned)
            && self.give([0; OFFLOAD], &error).is_ok()
        {
            self.answers.set(self.answers.get() - 1);
            self.counts.with(|counts| counts.answered += 1);
        } else {
            self.counts.with(|counts| counts.drop("too-big"));
        }
        None
    }

    /// Sends all of a queue, but for what the kernel refuses.
    async fn send(&self, sender: &mut Sender, buffer: &[u8], queue: &[Queued]) {
        let mut rest = queue;
        while let Some(first) = rest.first() {
            let sent = sender.send(self.socket.get_ref().as_fd(), buffer, rest);
            match sent {
                Ok(sent) => {
                    let (gone, left) = rest.split_at(sent.min(rest.len()));
                    self.counts.with(|counts| {
                        counts.outbound.batches += 1;
                        counts.outbound.packets += u64::try_from(gone.len()).unwrap_or(0);
                        counts.outbound.bytes += gone.iter().map(|queued| u64::from(queued.way.len)).sum::<u64>();
                    });
                    rest = left;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait_for_room().await {
                        self.counts.with(|counts| counts.drop("socket-full"));
                        rest = rest.get(1..).unwrap_or(&[]);
                    }
                }
                // Another program has a flow label to itself: ours would have to be registered, too.
                Err(error)
                    if sender.labels
                        && first.way.label != 0
                        && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) =>
                {
                    sender.labels = false;
                }
                Err(error) => {
                    self.counts.with(|counts| counts.drop(refused(&error)));
                    rest = rest.get(1..).unwrap_or(&[]);
                }
            }
        }
    }

    async fn wait_for_room(&self) -> bool {
        let room = async {
            let mut ready = self.socket.ready(Interest::WRITABLE).await?;
            ready.clear_ready_matching(tokio::io::Ready::WRITABLE);
            // Room may have come before it was asked for again.
            sleep(Duration::from_millis(1)).await;
            Ok::<_, io::Error>(())
        };
        matches!(timeout(ROOM, room).await, Ok(Ok(())))
    }

    /// Out of the tunnel into the device.
    async fn carry_in(&self) -> TunnelError {
        let mut received = Received::default();
        loop {
            let mut guard = match self.socket.ready(Interest::READABLE).await {
                Ok(guard) => guard,
                Err(source) => return failed("watch the socket")(source),
            };
            match guard.try_io(|socket| received.receive(socket.get_ref().as_fd())) {
                // An error about an earlier packet, which its queue tells of.
                Err(_) | Ok(Err(_)) => continue,
                Ok(Ok(_)) => {}
            }
            let tick = state::now();
            self.counts.with(|counts| counts.inbound.batches += 1);
            for (packet, source, traffic_class) in received.packets() {
                if let Err(error) = self.take_in(packet, &source, traffic_class, tick) {
                    return error;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn take_in(
        &self,
        packet: &mut [u8],
        source: &[u8; 16],
        traffic_class: u8,
        tick: mape_common::time::Tick,
    ) -> Result<(), TunnelError> {
        let ends = self.ends.borrow();
        let [_, fragments] = &self.fragments;
        let decided = carry::inbound(
            &Bytes(packet),
            &ends.rules,
            &ends.config,
            &mut fragments.borrow_mut(),
            (source, traffic_class),
            tick,
        );
        let plan = match decided {
            Ok(plan) => plan,
            Err(refusal) => {
                self.counts.with(|counts| counts.drop(refusal.label()));
                return Ok(());
            }
        };
        let Ok(packet) = packet::finish(packet, &plan) else {
            self.counts.with(|counts| counts.drop("write-failed"));
            return Ok(());
        };
        match self.give(packet::offload(packet, ends.config.tunnel_mtu), packet) {
            Ok(_) => self.counts.with(|counts: &mut Counts| {
                counts.inbound.packets += 1;
                counts.inbound.bytes += u64::from(plan.len);
            }),
            Err(error) if is_gone(&error) => return Err(self.device_error(error)),
            // The device is switched off, or its queue is full.
            Err(_) => self.counts.with(|counts| counts.drop("device-refused")),
        }
        Ok(())
    }

    /// Gives the kernel a packet, as one that the device has received.
    fn give(&self, offload: [u8; OFFLOAD], packet: &[u8]) -> io::Result<usize> {
        let parts = [IoSlice::new(&offload), IoSlice::new(packet)];
        Ok(rustix::io::writev(self.device.get_ref(), &parts)?)
    }

    fn device_error(&self, source: io::Error) -> TunnelError {
        if is_gone(&source) {
            TunnelError::DeviceGone(self.ends.borrow().device.clone())
        } else {
            failed("read from the device")(source)
        }
    }
}

/// Whether the device of a file has been removed.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

/// Why the kernel has not sent a packet, in a report's word.
fn refused(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => "too-big",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => "no-route",
        Some(libc::ENOBUFS) => "link-full",
        _ => "send-failed",
    }
}

/// The narrowest path to a far end that the data path has noted.
fn noted_mtu(tables: &Tables) -> Option<u16> {
    // A moment in which the maps cannot be read is no news about the path.
    tables.narrowest_path(state::now()).ok()?
}
