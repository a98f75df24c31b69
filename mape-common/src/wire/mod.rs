//! The headers on the wire: one file each, all in the same order (type, offsets, getters, setters, tests with real bytes).

pub mod port;
