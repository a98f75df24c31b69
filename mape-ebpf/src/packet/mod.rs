//! Frames as the kernel hands them over.

pub(crate) mod skb;
pub(crate) mod xdp;
