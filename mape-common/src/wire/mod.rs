//! The headers on the wire: one file each, in the same order (type, constants, getters, tests with real bytes).
//!
//! A header is a copy of its bytes; reading one checks nothing but its length, each getter says what it means. Nothing
//! here writes into a frame: the steps write single fields, because a BPF program has 512 bytes of stack.

pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod port;
pub mod tcp;
pub mod udp;
