//! Owns the step tables' tools: frames built field by field, and two worlds (host memory, the kernel) that run the same
//! sequence of frames.

pub mod both;
pub mod domain;
pub mod doors;
pub mod host;
pub mod kernel;
pub mod runner;
pub mod stack;
pub mod talk;
pub mod world;

pub use crate::frame;
