//! Frames as the kernel hands them over.

pub mod xdp;
