//! The core of the MAP-E gateway: bytes and decisions, with no kernel call, no allocation and no panic.
//!
//! The same code runs in XDP, in tc and on the host. What it needs from outside comes through two traits,
//! [`packet::Packet`] (a frame) and [`env::Env`] (sessions, rules, clock, next hops).
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "the BPF target has no AtomicU64::compare_exchange")
)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]
#![expect(
    clippy::inline_always,
    reason = "the verifier follows offsets only through inlined leaves (docs/design)"
)]

pub mod checksum;
pub mod env;
pub mod hop;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod inquiry;
pub mod layout;
pub mod map;
pub mod nat;
pub mod packet;
pub mod step;
pub mod time;
pub mod trace;
pub mod verdict;
pub mod wire;
pub mod word;
