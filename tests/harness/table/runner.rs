//! Runs one loaded program again and again from one thread, without allocating and without looking at counters: for tests
//! in which several processors are to meet.
#![expect(unsafe_code, reason = "the bpf system call, and a table shared with the kernel")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    ptr, slice,
};

use anyhow::{Context as _, Result, ensure};
use mape_common::nat::session::Session;

const BPF_PROG_TEST_RUN: libc::c_int = 10;
/// Larger than any frame of these tests with its outer header.
const ROOM: usize = 256;
const XDP_REDIRECT: u32 = 4;

/// The kernel's `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct Request {
    program: u32,
    action: u32,
    len_in: u32,
    len_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_len_in: u32,
    context_len_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch: u32,
    reserved: u32,
}

/// A program and the interface that its frames claim to have come by.
pub struct Runner {
    program: OwnedFd,
    ingress: u32,
    out: [u8; ROOM],
}

impl Runner {
    /// For a loaded program; its descriptor is copied. `ingress` 0: no interface.
    ///
    /// # Errors
    /// When the descriptor cannot be copied.
    pub fn new(program: BorrowedFd<'_>, ingress: u32) -> Result<Self> {
        Ok(Self {
            program: program.try_clone_to_owned()?,
            ingress,
            out: [0; ROOM],
        })
    }

    /// Gives the program a frame; the frame that leaves by another NIC, or none where none does.
    ///
    /// # Errors
    /// When the kernel refuses the call.
    pub fn run(&mut self, frame: &[u8]) -> Result<Option<&[u8]>> {
        let len = u32::try_from(frame.len())?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = [0, len, 0, self.ingress, 0, 0];
        let with_context = self.ingress != 0;
        let mut request = Request {
            program: u32::try_from(self.program.as_raw_fd())?,
            len_in: len,
            len_out: u32::try_from(ROOM)?,
            data_in: address(&raw const *frame),
            data_out: address(&raw mut self.out),
            repeat: 1,
            context_len_in: if with_context {
                u32::try_from(size_of_val(&context))?
            } else {
                0
            },
            context_in: if with_context { address(&raw const context) } else { 0 },
            ..Request::default()
        };
        let size = size_of::<Request>();
        // SAFETY: the request says where frame, context and room for the answer are and how long; all outlive the call.
        let code = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut request, size) };
        ensure!(code == 0, "test run: {}", io::Error::last_os_error());
        let forwarded = request.action == XDP_REDIRECT;
        let len = usize::try_from(request.len_out)?;
        Ok(self.out.get(..len).filter(|_| forwarded))
    }
}

fn address<T: ?Sized>(pointer: *const T) -> u64 {
    u64::try_from(pointer.addr()).expect("addresses have 64 bits")
}

/// The session table, mapped into memory; tests let records grow old there.
pub struct Records {
    memory: ptr::NonNull<Session>,
    count: usize,
}

// SAFETY: records are `Word`s, which any thread may read and change.
unsafe impl Send for Records {}
// SAFETY: as above.
unsafe impl Sync for Records {}

impl Records {
    /// Maps the table of `count` records.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(table: BorrowedFd<'_>, count: usize) -> Result<Self> {
        let (bytes, protection) = (count * Session::SIZE, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping, at an address of the kernel's choice, of a descriptor that is open during the call.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                table.as_raw_fd(),
                0,
            )
        };
        ensure!(
            memory != libc::MAP_FAILED,
            "mapping SESSIONS: {}",
            io::Error::last_os_error()
        );
        let memory = ptr::NonNull::new(memory.cast()).context("a mapping at address 0")?;
        Ok(Self { memory, count })
    }

    /// The records.
    pub fn all(&self) -> &[Session] {
        // SAFETY: the mapping holds that many records, page-aligned, until `self` is dropped; they are all `Word`s.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.count) }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, whose records nobody can borrow any longer.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.count * Session::SIZE) };
    }
}
