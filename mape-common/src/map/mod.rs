//! MAP-E mapping rules (RFC 7597 §5–§6): from an IPv4 address and port to the IPv6 address of who owns them, and which
//! ports a customer edge owns.
//!
//! What runs per packet is in [`psid`], [`rule`] and [`address`]; reading, checking and choosing rules is the host's.

pub mod address;
#[cfg(any(test, feature = "host"))]
pub mod domain;
#[cfg(any(test, feature = "host"))]
pub mod prefix;
pub mod psid;
pub mod rule;
#[cfg(any(test, feature = "host"))]
pub mod select;
#[cfg(any(test, feature = "host"))]
pub mod spec;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod vectors;
