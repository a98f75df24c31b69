//! Owns what the fuzzer runs: a function a target that takes any bytes and panics where something is not as it must be.
//!
//! The fuzzer itself (`tests/fuzz`, for `cargo xtask fuzz`) only calls these; `replay.rs` runs them over the inputs that are
//! kept, and over mutations of them, in every `cargo test`.

pub mod config;
pub mod cut;
pub mod hold;
pub mod map;
pub mod mutate;
pub mod passage;
pub mod relay;
mod scene;
pub mod seed;
pub mod step;
pub mod wire;

/// A function and its name, which is also that of its inputs' folder.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// Takes any bytes; panics where it finds something wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "wire",
        run: wire::run,
    },
    Target {
        name: "config",
        run: config::run,
    },
    Target {
        name: "map",
        run: map::run,
    },
    Target {
        name: "step",
        run: step::run,
    },
    Target {
        name: "relay",
        run: relay::run,
    },
    Target {
        name: "hold",
        run: hold::run,
    },
];
