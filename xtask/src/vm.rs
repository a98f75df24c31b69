//! Virtual machines that run Debian's kernels with a file system made here, under QEMU: no host kernel module, no disk. One kind does
//! its steps and switches itself off, and needs neither root nor a network; the other stays on, with NICs that end in network
//! namespaces, and does what it is told.
//!
//! Emulated unless the processor itself can run them: the machines that build and test this are often virtual themselves. Everything
//! fetched is kept in `target/vm`.

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
