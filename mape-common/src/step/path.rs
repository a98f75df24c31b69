//! Where a new session's packets go: the routing table, the mapping rules and the next hops decide.

use crate::{
    env::{Env, Route, Rules},
    hop::{Hop, Mac, NextHop},
    layout::{Config, NEXT_HOPS, STATIC_HOPS, Transport},
    map::address::map_address,
    nat::{
        forward,
        open::{Flow, Path},
        table::Draft,
    },
    packet::Packet,
    time::Tick,
    verdict::Reason,
    wire::{eth, ipv4, port::Port},
};

use super::admit::{Arrival, is_proven};

/// Places of the next-hop table that one address may have.
const PROBES: u16 = 8;
/// Index of the border relay's next hop.
pub const RELAY_HOP: u16 = 0;

/// The path of a LAN host's packet.
///
/// # Errors
/// [`Reason::NotTunnelled`], [`Reason::SourceNotLan`], [`Reason::NextHopUnknown`], [`Reason::LinkUnproven`].
#[inline(always)]
pub fn outbound<E: Env>(env: &E, arrival: &Arrival<'_>, flow: &Flow) -> Result<Path, Reason> {
    is_tunnelled(env, arrival, flow.local, flow.remote)?;
    let mut path = Path {
        far_end: [0; 16],
        wan_hop: 0,
        lan_hop: lan_hop(env, arrival, flow)?,
    };
    far_end(env, arrival.config, flow, &mut path)?;
    Ok(path)
}

/// The path of a LAN host's packet to a host of the same LAN, by the shared address.
///
/// # Errors
/// [`Reason::SourceNotLan`], [`Reason::NextHopUnknown`].
#[inline(always)]
pub fn hairpin<E: Env>(env: &E, arrival: &Arrival<'_>, flow: &Flow) -> Result<Path, Reason> {
    Ok(Path {
        far_end: [0; 16],
        wan_hop: NextHop::HAIRPIN,
        lan_hop: lan_hop(env, arrival, flow)?,
    })
}

/// Whether the routing table sends the packet into the tunnel.
///
/// The shared address is decided before: it is on no interface, and another customer edge that has it is behind the tunnel.
///
/// # Errors
/// [`Reason::NotTunnelled`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn is_tunnelled<E: Env>(
    env: &E,
    arrival: &Arrival<'_>,
    source: [u8; 4],
    destination: [u8; 4],
) -> Result<(), Reason> {
    if arrival.config.owns(destination) {
        return Ok(());
    }
    match env.route(arrival.ifindex, source, destination).ifindex() {
        Some(ifindex) if ifindex == arrival.config.tunnel_ifindex => Ok(()),
        _ => Err(Reason::NotTunnelled),
    }
}

/// Index of the next hop towards the far end of an address: a forwarding rule's, or the border relay's.
#[inline(always)]
pub fn hop_towards<E: Env>(env: &E, remote: [u8; 4]) -> u16 {
    match env.rule_by_ipv4(remote).map(|found| u16::try_from(found.hop)) {
        Some(Ok(hop)) => hop,
        _ => RELAY_HOP,
    }
}

/// Fills in the tunnel's far end for a remote host and the next hop towards it: another customer edge where a forwarding
/// rule holds the address (RFC 7597 §5.3), else the border relay (§5.4).
///
/// An ICMP identifier is the sender's: it says nothing about which of the customer edges that share an address is meant.
///
/// # Errors
/// [`Reason::NextHopUnknown`], [`Reason::LinkUnproven`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn far_end<E: Env>(env: &E, config: &Config, flow: &Flow, path: &mut Path) -> Result<(), Reason> {
    towards(env, config, flow, path);
    let record = env.hop(path.wan_hop).ok_or(Reason::NextHopUnknown)?;
    let hop = record.get(NextHop::FAR_END).ok_or(Reason::NextHopUnknown)?;
    if !is_proven(env, hop.ifindex) {
        return Err(Reason::LinkUnproven);
    }
    Ok(())
}

/// Fills in the far end that the rules have for a remote host, and the number of the next hop towards it.
#[inline(always)]
pub fn towards<R: Rules>(rules: &R, config: &Config, flow: &Flow, path: &mut Path) {
    path.far_end = config.relay_address;
    path.wan_hop = RELAY_HOP;
    if let Some(found) = rules.rule_by_ipv4(flow.remote)
        && let Some(rule) = rules.rule(found.rule)
        && !(matches!(flow.transport, Transport::Icmp) && rule.psid_len() > 0)
        && let Some(address) = map_address(rule, flow.remote, flow.remote_port)
        && let Ok(hop) = u16::try_from(found.hop)
    {
        path.far_end = address;
        path.wan_hop = hop;
    }
}

/// The next hop back to the LAN host: the routing table's, with the frame's sender where the kernel has no neighbour entry.
///
/// The packet must have come by the interface that leads back to its source (RFC 3704, strict).
#[inline(always)]
fn lan_hop<E: Env>(env: &E, arrival: &Arrival<'_>, flow: &Flow) -> Result<u16, Reason> {
    let mut hop = Hop {
        ifindex: 0,
        mtu: 0,
        destination: arrival.source,
        source: arrival.source,
    };
    way_back(env, arrival, flow, &mut hop)?;
    note_lan_hop(env, flow.local, &hop, arrival.now)
}

/// Fills in the neighbour and the NIC towards the packet's source.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn way_back<E: Env>(env: &E, arrival: &Arrival<'_>, flow: &Flow, way: &mut Hop) -> Result<(), Reason> {
    let hop = match env.route(arrival.config.tunnel_ifindex, flow.remote, flow.local) {
        Route::Resolved(hop) => hop,
        Route::Unresolved { ifindex } => learned(env, arrival, ifindex)?,
        Route::Other => return Err(Reason::SourceNotLan),
    };
    if hop.ifindex != arrival.ifindex {
        return Err(Reason::SourceNotLan);
    }
    *way = hop;
    Ok(())
}

/// The frame's sender as a next hop.
#[inline(always)]
fn learned<E: Env>(env: &E, arrival: &Arrival<'_>, ifindex: u32) -> Result<Hop, Reason> {
    let link = env.link(ifindex).ok_or(Reason::SourceNotLan)?;
    Ok(Hop {
        ifindex,
        mtu: link.mtu(),
        destination: arrival.source,
        source: Mac::from_bits(link.mac()),
    })
}

/// Finds or makes the record of a LAN host's next hop; gives its index.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn note_lan_hop<E: Env>(env: &E, address: [u8; 4], hop: &Hop, now: Tick) -> Result<u16, Reason> {
    for probe in 0..PROBES {
        let Some(index) = place(address, probe) else { continue };
        let Some(record) = env.hop(index) else { continue };
        if record.is_for(address, hop.ifindex) {
            if record.get(address) == Some(*hop) {
                record.confirm(now);
                return Ok(index);
            }
            return if record.assign(address, hop, now) {
                Ok(index)
            } else {
                Err(Reason::Contended)
            };
        }
        if record.is_free(now) && record.assign(address, hop, now) {
            return Ok(index);
        }
    }
    Err(Reason::NextHopUnknown)
}

/// Finds the way to the LAN host of a session that somebody else opens, where it is a static forward's: that host need not have
/// sent anything yet. The routing table says, with what a frame has taught where the kernel has no neighbour entry.
///
/// A step of its own, after the draft: the routing table takes more stack than there is below that.
///
/// # Errors
/// [`Reason::ForwardUnrouted`], [`Reason::NextHopUnknown`], [`Reason::LinkUnproven`]; the draft is free again.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn find_host<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let record = draft.record(env)?;
    let facts = record.facts();
    if !forward::is_static(env, facts.mapping) {
        return Ok(());
    }
    match towards_host(env, config.tunnel_ifindex, facts.remote, facts.inside, facts.created) {
        Ok(lan_hop) => {
            record.set_hops(&facts, facts.wan_hop, lan_hop);
            Ok(())
        }
        Err(reason) => {
            draft.give_back(env);
            Err(reason)
        }
    }
}

/// The next hop of a LAN host whose packet came by the stack, if the fast path could use it now; this machine has none.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn lan_host<E: Env>(env: &E, config: &Config, flow: &Flow, now: Tick) -> u16 {
    towards_host(env, config.tunnel_ifindex, flow.remote, flow.local, now).unwrap_or(NextHop::UNKNOWN)
}

#[inline(always)]
fn towards_host<E: Env>(env: &E, tunnel: u32, remote: [u8; 4], host: [u8; 4], now: Tick) -> Result<u16, Reason> {
    let route = env.route(tunnel, remote, host);
    let ifindex = route.ifindex().filter(|ifindex| *ifindex != tunnel);
    let ifindex = ifindex.ok_or(Reason::ForwardUnrouted)?;
    if !is_proven(env, ifindex) {
        return Err(Reason::LinkUnproven);
    }
    match route {
        Route::Resolved(hop) => note_lan_hop(env, host, &hop, now),
        Route::Unresolved { .. } | Route::Other => known_lan_hop(env, host, ifindex),
    }
}

/// The next hop of a LAN host that has been noted before.
#[inline(always)]
fn known_lan_hop<E: Env>(env: &E, address: [u8; 4], ifindex: u32) -> Result<u16, Reason> {
    for probe in 0..PROBES {
        if let Some(index) = place(address, probe)
            && env.hop(index).is_some_and(|record| record.is_for(address, ifindex))
        {
            return Ok(index);
        }
    }
    Err(Reason::NextHopUnknown)
}

/// Where the record of a LAN host's next hop may be.
#[inline(always)]
fn place(address: [u8; 4], probe: u16) -> Option<u16> {
    let start = u32::from_be_bytes(address).wrapping_mul(0x9e37_79b1) >> 16;
    let offset = start
        .wrapping_add(u32::from(probe))
        .checked_rem(NEXT_HOPS.saturating_sub(STATIC_HOPS))
        .unwrap_or(0);
    u16::try_from(offset.wrapping_add(STATIC_HOPS)).ok()
}

/// Whether the inner source of a packet may have come from its outer source (RFC 7597 §8.1).
///
/// # Errors
/// [`Reason::InvalidV6`] where no rule holds the outer source, [`Reason::InvalidV4`] where its rule gives it another
/// address or port set.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn check_source<R: Rules>(rules: &R, outer: &[u8; 16], inner: [u8; 4], port: Port) -> Result<(), Reason> {
    let Some(rule) = rules.rule_by_ipv6(*outer).and_then(|found| rules.rule(found.rule)) else {
        return Err(Reason::InvalidV6);
    };
    match map_address(rule, inner, port) {
        Some(address) if address == *outer => Ok(()),
        _ => Err(Reason::InvalidV4),
    }
}

/// Lets a packet ask after a router that has been silent; a whole one, since fragments keep to one path.
///
/// # Errors
/// [`Reason::NextHopSilent`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn ask<P: Packet, E: Env>(frame: &P, env: &E, hop: u16) -> Result<(), Reason> {
    let is_whole = frame
        .read(eth::LEN)
        .is_ok_and(|bytes| !ipv4::Header::from_bytes(bytes).is_fragment());
    if is_whole && env.hop(hop).is_some_and(|record| record.asks(env.now())) {
        Err(Reason::NextHopSilent)
    } else {
        Ok(())
    }
}

/// Whether a frame came from the neighbour of a next hop: then that neighbour is alive.
#[inline(always)]
pub fn confirm<E: Env>(env: &E, index: u16, sender: Mac, now: Tick) {
    if let Some(hop) = env.hop(index)
        && now.since(hop.confirmed()) >= Tick::STALE
        && hop.destination() == sender.to_bits()
    {
        hop.confirm(now);
    }
}
