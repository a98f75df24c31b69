//! What user space asks of a direct call of a program, and what it is answered.

/// What a direct call of the sweeper shall end, beside what has expired. Zero means any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SweepOrder {
    /// LAN host's address.
    pub inside: [u8; 4],
    /// Remote address.
    pub remote: [u8; 4],
    /// LAN host's port, network order.
    pub inside_port: [u8; 2],
    /// External port, network order.
    pub external_port: [u8; 2],
    /// Remote port, network order.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 1: end what matches, expired or not. 0: only what has expired.
    pub flush: u8,
    /// First slot to look at; the call writes back where it stopped.
    pub next_slot: u32,
    /// Written by the call: records ended.
    pub ended: u32,
}

/// What an operator decides about a port of the set; carried out by a direct call of [`programs::PORT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortOrder {
    /// LAN host's address, for a forward.
    pub inside: [u8; 4],
    /// LAN host's port, network order, for a forward.
    pub inside_port: [u8; 2],
    /// The port of the set, network order.
    pub external_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// [`Self::FORWARD`] and the like; zero: nothing.
    pub action: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Written by the call: [`Self::DONE`] and the like; zero before.
    pub outcome: u32,
}

impl PortOrder {
    /// Make a static forward of the port to the LAN endpoint.
    pub const FORWARD: u8 = 1;
    /// End the port's static forward to the LAN endpoint; its sessions are to be ended by the sweeper.
    pub const UNFORWARD: u8 = 2;
    /// Keep the port from translation.
    pub const RESERVE: u8 = 3;
    /// Give a port that was kept from translation back to it.
    pub const RELEASE: u8 = 4;

    /// Done, or it was so before.
    pub const DONE: u32 = 1;
    /// The port or the LAN endpoint is in use by something else: to be ended first.
    pub const BUSY: u32 = 2;
    /// There is no such forward, or the port is not reserved.
    pub const ABSENT: u32 = 3;
    /// No record is free.
    pub const FULL: u32 = 4;
    /// The port is not of the set, or the order makes no sense.
    pub const INVALID: u32 = 5;
}
