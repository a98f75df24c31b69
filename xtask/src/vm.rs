//! Virtual machines that run Debian's kernels with a file system made here, under QEMU's emulator: no host kernel module, no
//! root, no disk, no network.
//!
//! Emulated, not accelerated: the machines that build and test this are often virtual themselves. Everything fetched is kept
//! in `target/vm`.

pub(crate) mod boot;
pub(crate) mod guest;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod live;
pub(crate) mod modules;
pub(crate) mod packages;
pub(crate) mod qemu;

use std::path::PathBuf;

/// Where packages, kernels and logs are kept.
pub(crate) fn folder() -> PathBuf {
    crate::cargo::target().join("vm")
}
