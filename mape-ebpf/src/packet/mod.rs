//! Frames as the kernel hands them over.

pub(crate) mod skb;
mod words;
pub(crate) mod xdp;
