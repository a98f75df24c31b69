//! Owns the traffic checks: each sends something real through the lab and returns figures, judging nothing.

pub mod iperf;
pub mod names;
mod noise;
pub mod numbered;
pub mod peers;
pub mod ping;
pub mod ports;
pub mod script;
pub mod snmp;
pub mod storm;
pub mod stun;
pub mod trace;
pub mod web;
