//! Owns the host's side of a virtual machine's NIC: the queues of a TAP device.
#![expect(unsafe_code, reason = "TAP devices are opened by ioctl")]

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use anyhow::{Context, Result};

use crate::netns::Netns;

const CONTROL: &str = "/dev/net/tun";

/// Opens so many queues of a TAP device that is there. Frames carry a header about sums and segments, as virtio's do.
///
/// # Errors
/// When the kernel refuses.
pub fn open(netns: &Netns, device: &str, queues: u32) -> Result<Vec<OwnedFd>> {
    netns.enter(|| (0..queues).map(|_| queue(device)).collect())
}

fn queue(device: &str) -> Result<OwnedFd> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CONTROL)
        .with_context(|| format!("cannot open {CONTROL}"))?;
    // SAFETY: all zeros is a valid `ifreq`: byte arrays and a union of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).context("flags that fit their field")?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives here; the descriptor is open.
    let opened = unsafe { libc::ioctl(control.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if opened < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot open a queue of {device}"));
    }
    Ok(control.into())
}
