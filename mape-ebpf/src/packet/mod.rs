//! Frames as the kernel hands them over.

pub(crate) mod xdp;
