//! Owns the persistent TUN device that the routing table points at for tunnelled destinations, and its other side: who reads it.
#![expect(unsafe_code, reason = "TUN devices are made by ioctl")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt as _},
};

const CONTROL: &str = "/dev/net/tun";

/// Why the device was not made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// A name that no device can have.
    #[error("{0:?} cannot be a device's name: 1 to 15 characters, no '/', ':' or space")]
    Name(String),
    /// No TUN in this kernel, or not in this container.
    #[error("cannot open {CONTROL}; load the kernel module `tun`, or let this container have the device")]
    Control(#[source] io::Error),
    /// The kernel refuses.
    #[error("cannot make the TUN device {name}")]
    Create {
        /// The device.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else reads it.
    #[error("another program reads the TUN device {0}")]
    Busy(String),
    /// A device of another kind.
    #[error("{0} is no TUN device: whoever made it carries its packets")]
    OtherKind(String),
}

/// Whether the kernel takes this as a device's name.
pub fn is_device_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

/// A TUN device that goes when this value does, or this process.
#[derive(Debug)]
#[must_use = "the device goes when this is dropped"]
pub struct NewTun {
    control: File,
    name: String,
}

impl NewTun {
    /// Has it stay. Nobody reads it then: what the kernel sends there is lost.
    ///
    /// # Errors
    /// [`TunError::Create`].
    pub fn keep(self) -> Result<(), TunError> {
        keep(&self.control).map_err(|source| TunError::Create {
            name: self.name,
            source,
        })
    }
}

/// Makes a TUN device.
///
/// # Errors
/// [`TunError`].
pub fn create(name: &str) -> Result<NewTun, TunError> {
    if !is_device_name(name) {
        return Err(TunError::Name(name.to_owned()));
    }
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(TunError::Control)?;
    match set(&control, name, libc::IFF_TUN_EXCL) {
        Ok(()) => Ok(NewTun {
            control,
            name: name.to_owned(),
        }),
        Err(source) => Err(TunError::Create {
            name: name.to_owned(),
            source,
        }),
    }
}

/// Becomes who reads and writes a TUN device that is there: what the kernel sends there comes out of the file, a packet a read,
/// each behind ten bytes about checksum and segments (`struct virtio_net_hdr`).
///
/// # Errors
/// [`TunError`].
pub fn attach(name: &str) -> Result<File, TunError> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CONTROL)
        .map_err(TunError::Control)?;
    match set(&control, name, libc::IFF_VNET_HDR) {
        Ok(()) => Ok(control),
        Err(source) if source.raw_os_error() == Some(libc::EBUSY) => Err(TunError::Busy(name.to_owned())),
        // Of another kind, or made with other flags.
        Err(source) if source.raw_os_error() == Some(libc::EINVAL) => Err(TunError::OtherKind(name.to_owned())),
        Err(source) => Err(TunError::Create {
            name: name.to_owned(),
            source,
        }),
    }
}

fn set(control: &File, name: &str, more: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeros is a valid `ifreq`: byte arrays and a union of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | more;
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes([flags.to_ne_bytes()[0], flags.to_ne_bytes()[1]]);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives here; the descriptor is open.
    let made = unsafe { libc::ioctl(control.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Has the device stay when this process ends.
fn keep(control: &File) -> io::Result<()> {
    let yes: libc::c_ulong = 1;
    // SAFETY: TUNSETPERSIST takes a number.
    let kept = unsafe { libc::ioctl(control.as_raw_fd(), libc::TUNSETPERSIST, yes) };
    if kept < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_refuses_are_refused_before() {
        for bad in ["", "..", "a/b", "a b", "sixteen-letters-", "a:1"] {
            assert!(matches!(create(bad), Err(TunError::Name(_))), "{bad}");
        }
        assert!(is_device_name("fifteen-letters"));
    }

    #[test]
    fn flags_fit_the_request() {
        assert_eq!(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL, 0x9001);
    }
}
