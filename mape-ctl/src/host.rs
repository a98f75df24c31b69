//! Owns what a gateway needs of the machine around it: NICs, tunnel device, addresses, forwarding, and the record of what was made.

pub mod address;
pub mod neighbour;
pub mod nic;
pub mod processor;
pub mod state;
pub mod tunnel;
pub mod virtio;
