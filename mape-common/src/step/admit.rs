//! Whether a frame is for us at all: configured, switched on, addressed to this NIC.

use crate::{
    env::Env,
    hop::{Link, Mac},
    layout::Config,
    packet::Packet,
    time::Tick,
    verdict::Reason,
    wire::eth::{self, EtherType},
};

/// A frame that is addressed to us.
pub struct Arrival<'a> {
    /// What the gateway is.
    pub config: &'a Config,
    /// Index of the NIC it came by.
    pub ifindex: u32,
    /// Who sent it on that link.
    pub source: Mac,
    /// What it carries.
    pub ether_type: EtherType,
    /// When it came.
    pub now: Tick,
}

/// Reads the Ethernet header and decides whether to go on.
///
/// # Errors
/// A reason to pass the frame to the stack.
#[inline(always)]
pub fn admit<'a, P: Packet, E: Env>(frame: &P, env: &'a E, ifindex: u32) -> Result<Arrival<'a>, Reason> {
    let (Some(config), Some(link)) = (env.config(), env.link(ifindex)) else {
        return Err(Reason::NotConfigured);
    };
    // That we run here is what `load` waits for before it opens the gate: note it first.
    if link.flags() & (Link::ALIVE | Link::DETACHED) == 0 {
        link.set_alive();
    }
    let header = eth::Header::read(frame).map_err(|_| Reason::OtherEtherType)?;
    if header.destination() != link.mac() {
        return Err(Reason::OtherMac);
    }
    let ether_type = header.ether_type();
    if ether_type == EtherType::VLAN || ether_type == EtherType::SERVICE_VLAN {
        return Err(Reason::VlanTagged);
    }
    if ether_type != EtherType::IPV4 && ether_type != EtherType::IPV6 {
        return Err(Reason::OtherEtherType);
    }
    if !env.is_gate_open() {
        return Err(Reason::GateClosed);
    }
    Ok(Arrival {
        config,
        ifindex,
        source: header.source(),
        ether_type,
        now: env.now(),
    })
}

/// The NIC that a next hop is on has shown that its program runs; redirecting to one without loses frames silently.
#[inline(always)]
pub fn is_proven<E: Env>(env: &E, ifindex: u32) -> bool {
    env.link(ifindex).is_some_and(|link| link.flags() & Link::ALIVE != 0)
}
