//! Owns taking early frames off a NIC's queue: an AF_XDP socket, its rings and its memory.
#![expect(unsafe_code, reason = "rings and frames are memory shared with the kernel")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use xdp::{
    CompletionRing, FillRing, RingConfigBuilder, RxRing, Umem,
    nic::NicIndex,
    slab::{HeapSlab, Slab as _},
    socket::{SocketError, XdpSocket, XdpSocketBuilder},
    umem::{FrameSize, UmemCfgBuilder},
};

/// Frames that wait to be taken, of one queue.
const FRAMES: u32 = 64;
const BATCH: usize = 64;

/// How long the socket before may take to let go of a queue.
const LET_GO: Duration = Duration::from_secs(1);

enum OpenError {
    /// Somebody else's socket has the queue.
    Busy,
    /// In words.
    Other(String),
}

fn other(error: impl Into<Box<dyn std::error::Error>>) -> OpenError {
    OpenError::Other(error.into().to_string())
}

/// One queue.
pub(super) struct EarlyQueue {
    // Dropped in this order: the socket first, so that the kernel writes into the memory no longer when it goes.
    socket: XdpSocket,
    taken: RxRing,
    free: FillRing,
    _sent: CompletionRing,
    memory: Umem,
    batch: HeapSlab,
    lost: u64,
}

impl EarlyQueue {
    /// Opens the socket of a queue, waiting until the one before has let go of it: the kernel takes its time.
    ///
    /// # Errors
    /// What the kernel says, in words.
    pub(super) fn open(ifindex: u32, queue: u32) -> Result<Self, String> {
        let end = Instant::now() + LET_GO;
        loop {
            match Self::try_open(ifindex, queue) {
                Err(OpenError::Busy) if Instant::now() < end => thread::sleep(Duration::from_millis(10)),
                Err(OpenError::Busy) => return Err("another program takes frames off its queue".to_owned()),
                Err(OpenError::Other(why)) => return Err(why),
                Ok(opened) => return Ok(opened),
            }
        }
    }

    /// Opens the socket. Frames are copied, which every driver can: there are few.
    fn try_open(ifindex: u32, queue: u32) -> Result<Self, OpenError> {
        let memory = UmemCfgBuilder {
            frame_size: FrameSize::FourK,
            frame_count: FRAMES,
            ..UmemCfgBuilder::default()
        };
        let mut memory = Umem::map(memory.build().map_err(other)?).map_err(other)?;
        let rings = RingConfigBuilder {
            rx_count: FRAMES,
            tx_count: 0,
            fill_count: FRAMES,
            completion_count: 2,
        };
        let mut socket = XdpSocketBuilder::new().map_err(other)?;
        let rings = socket.build_rings(&memory, rings.build().map_err(other)?);
        let (rings, mut flags) = rings.map_err(other)?;
        flags.force_copy();
        let mut free = rings.fill_ring;
        // SAFETY: `memory` is dropped after the socket, both here and as a field of this.
        unsafe { free.enqueue(&mut memory, BATCH) };
        let socket = match socket.bind(NicIndex::new(ifindex), queue, flags) {
            Err(SocketError::Bind(error)) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(OpenError::Busy);
            }
            bound => bound.map_err(other)?,
        };
        Ok(Self {
            socket,
            taken: rings
                .rx_ring
                .ok_or_else(|| other("the socket has no ring to receive"))?,
            free,
            _sent: rings.completion_ring,
            memory,
            batch: HeapSlab::with_capacity(BATCH),
            lost: 0,
        })
    }

    /// What to put into the map of those who hold frames.
    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Waits for frames, and for the end of the NIC.
    pub(super) fn poll(&self) -> PollFd<'_> {
        // SAFETY: the socket is open as long as it is borrowed here.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        PollFd::from_borrowed_fd(socket, PollFlags::IN)
    }

    /// Takes what has come, at most [`BATCH`] frames; gives how many.
    pub(super) fn take(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        // SAFETY: every frame goes back to `memory` below, before this returns.
        let count = unsafe { self.taken.recv(&self.memory, &mut self.batch) };
        while let Some(frame) = self.batch.pop_back() {
            each(&frame);
            self.memory.free_packet(frame);
        }
        if count > 0 {
            // SAFETY: as in `open`.
            unsafe { self.free.enqueue(&mut self.memory, BATCH) };
        }
        count
    }

    /// Frames that the kernel had no room for since the last question.
    pub(super) fn newly_lost(&mut self) -> u64 {
        let Ok(seen) = self.socket.statistics() else { return 0 };
        // For want of memory, which is counted by itself too, and for want of room in the ring.
        let lost = seen.rx_dropped + seen.rx_ring_full;
        lost - std::mem::replace(&mut self.lost, lost).min(lost)
    }
}
