//! Mapping of address and port (RFC 7597): rules, port sets, MAP IPv6 addresses.
//!
//! [`psid`], [`rule`] and [`address`] run in the kernel for every packet; what turns a line's prefix into a gateway's
//! addresses runs on the host.

pub mod address;
pub mod psid;
pub mod rule;
