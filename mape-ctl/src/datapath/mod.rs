//! Owns what stands in the kernel for one gateway: programs, links and maps, and their pins.

pub mod attach;
pub mod classify;
pub mod detach;
pub mod events;
pub mod follow;
pub mod forwards;
pub mod fragments;
pub mod gate;
pub mod hops;
pub mod hosts;
pub mod inject;
pub mod load;
pub mod mapped;
pub mod maps;
pub mod nics;
pub mod order;
pub mod pin;
pub mod ports;
pub mod programs;
pub mod prove;
pub mod rules;
pub mod sessions;
pub mod sweep;
pub mod tables;
pub mod unload;
pub mod verify;
