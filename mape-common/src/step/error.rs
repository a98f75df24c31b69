//! ICMP errors about packets of a session, both ways: the error's own address and the packet that it quotes are translated
//! (RFC 5508 §4, RFC 7597 §8.2).
//!
//! An error makes no session, refreshes none and ends none (RFC 4787 REQ-12, RFC 5508 REQ-6, RFC 7857 §7.1). Its checksum is updated
//! and not verified: an error that was damaged on its way stays so, and its receiver drops it.

use crate::{
    checksum::Delta,
    env::{Env, Rules, Side},
    hop::Hop,
    layout::{Config, FlowKey, SessionRef, Transport},
    nat::{session::Facts, table},
    packet::Packet,
    time::Tick,
    verdict::{Broken, Reason, Truncated, Verdict},
    wire::{
        eth::{self, EtherType},
        icmp, ipv4, ipv6,
        port::Port,
    },
};

use super::{
    admit::Arrival,
    inbound, inner, outbound,
    quoted::{self, Quoted},
    translate::End,
    tunnel::{self, Decapsulation, Encapsulation, INNER, Outer},
};

/// What will be written into an error and into the packet that it quotes. The IPv4 header's checksum is not in it, as in
/// [`super::translate::Translation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewriting {
    /// Which end of the error: its quoted packet went the other way, so there it is the other end.
    end: End,
    address: [u8; 4],
    port: Port,
    transport: Transport,
    transport_at: u8,
    has_checksum: bool,
    /// The quoted transport header's, after it.
    pub transport_checksum: u16,
    quoted_checksum: u16,
    /// ICMP's, after it.
    pub checksum: u16,
    /// What the IPv4 header's checksum changes by.
    pub header: Delta,
}

/// Plans the rewriting of an error: `end` of it and the other end of what it quotes become `address` and `port`.
#[inline(always)]
pub fn plan(
    header: &ipv4::Header,
    checksum: u16,
    quoted: &Quoted,
    end: End,
    address: [u8; 4],
    port: Port,
) -> Rewriting {
    let (outer, old_address, old_port) = match end {
        End::Source => (header.source(), quoted.header.destination(), quoted.destination_port),
        End::Destination => (header.destination(), quoted.header.source(), quoted.source_port),
    };
    let addresses = Delta::ZERO.words(old_address, address);
    let quoted_checksum = addresses.apply(quoted.header.checksum());
    let ports = Delta::ZERO.word(old_port.0, port.0);
    let transport_checksum = match quoted.transport {
        Transport::Tcp => addresses.word(old_port.0, port.0).apply(quoted.checksum),
        Transport::Udp => addresses.word(old_port.0, port.0).apply_udp(quoted.checksum),
        Transport::Icmp => ports.apply(quoted.checksum),
    };
    // ICMP's checksum covers everything that changes behind it.
    let mut message = addresses
        .word(quoted.header.checksum(), quoted_checksum)
        .word(old_port.0, port.0);
    if quoted.has_checksum {
        message = message.word(quoted.checksum, transport_checksum);
    }
    Rewriting {
        end,
        address,
        port,
        transport: quoted.transport,
        transport_at: quoted.transport_at,
        has_checksum: quoted.has_checksum,
        transport_checksum,
        quoted_checksum,
        checksum: message.apply(checksum),
        header: Delta::ZERO.words(outer, address),
    }
}

/// Writes the plan into the error at `L3`, whose quoted packet is at `AT`.
///
/// # Errors
/// [`Truncated`]: the frame is spoilt.
#[inline(always)]
pub fn write<P: Packet, const L3: usize, const AT: usize>(frame: &mut P, plan: &Rewriting) -> Result<(), Truncated> {
    let (outer, inner, port_at) = match plan.end {
        End::Source => (ipv4::SOURCE, ipv4::DESTINATION, 2),
        End::Destination => (ipv4::DESTINATION, ipv4::SOURCE, 0),
    };
    let port_at = if matches!(plan.transport, Transport::Icmp) {
        icmp::IDENTIFIER
    } else {
        port_at
    };
    frame.write(L3.wrapping_add(outer), &plan.address)?;
    frame.write(
        L3.wrapping_add(ipv4::LEN).wrapping_add(icmp::CHECKSUM),
        &plan.checksum.to_be_bytes(),
    )?;
    frame.write(AT.wrapping_add(inner), &plan.address)?;
    frame.write(AT.wrapping_add(ipv4::CHECKSUM), &plan.quoted_checksum.to_be_bytes())?;
    frame.write(quoted::place::<AT>(plan.transport_at, port_at), &plan.port.to_bytes())?;
    if plan.has_checksum {
        let at = quoted::checksum_at(plan.transport);
        frame.write(
            quoted::place::<AT>(plan.transport_at, at),
            &plan.transport_checksum.to_be_bytes(),
        )?;
    }
    Ok(())
}

/// An error and the packet that it quotes.
pub struct Message {
    /// Its IPv4 header.
    pub header: ipv4::Header,
    /// ICMP's checksum.
    pub checksum: u16,
    /// Bytes of the frame after the packet's end.
    pub excess: u16,
    /// The packet that it is about.
    pub quoted: Quoted,
}

/// Reads the error at `L3`, whose quoted packet is at `AT`.
///
/// # Errors
/// As [`inner::whole`] and [`quoted::read`]; [`Reason::ErrorElsewhere`] where it is no error.
#[inline(always)]
pub fn read<P: Packet, const L3: usize, const AT: usize>(frame: &P, room: usize) -> Result<Message, Reason> {
    let packet = inner::whole::<P, L3>(frame, room)?;
    let Ok(bytes) = frame.read(L3.wrapping_add(ipv4::LEN)) else {
        return Err(Reason::BadLength);
    };
    let icmp = icmp::Header::from_bytes(bytes);
    if !icmp.is_error() {
        return Err(Reason::ErrorElsewhere);
    }
    let Some(room) = packet.payload.checked_sub(icmp::LEN) else {
        return Err(Reason::BadLength);
    };
    Ok(Message {
        header: packet.header,
        checksum: icmp.checksum(),
        excess: packet.excess,
        quoted: quoted::read::<P, AT>(frame, room)?,
    })
}

/// The live session that a quoted packet belongs to.
///
/// # Errors
/// [`Reason::ErrorWithoutSession`].
#[inline(always)]
pub fn session<E: Env>(env: &E, side: Side, key: &FlowKey, now: Tick) -> Result<Facts, Reason> {
    let config = env.config().ok_or(Reason::NotConfigured)?;
    match table::live(env, config, side, key, now) {
        Some((_, facts)) => Ok(facts),
        None => Err(Reason::ErrorWithoutSession),
    }
}

/// Where the packet that an error from the LAN quotes begins.
pub const QUOTED_OUTBOUND: usize = eth::LEN + ipv4::LEN + icmp::LEN;
/// The same for one in the tunnel.
pub const QUOTED_INBOUND: usize = INNER + ipv4::LEN + icmp::LEN;

/// LAN to WAN: translates an error of a LAN host, or of a router on the LAN, about a packet that came out of the tunnel.
///
/// # Errors
/// Why it is not forwarded.
#[inline(always)]
pub fn translate_outbound<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<(Message, Facts, Rewriting), Reason> {
    let room = frame.len().saturating_sub(eth::LEN);
    let message = read::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, room)?;
    let facts = session(env, Side::Inside, &message.quoted.to_here(), arrival.now)?;
    if message.quoted.header.source() != message.header.destination() {
        return Err(Reason::ErrorUnusable);
    }
    let rewriting = plan(
        &message.header,
        message.checksum,
        &message.quoted,
        End::Source,
        facts.external,
        facts.external_port,
    );
    Ok((message, facts, rewriting))
}

/// LAN to WAN: an error's IPv4 header, and the session that it belongs to.
///
/// # Errors
/// As [`translate_outbound`].
#[inline(always)]
pub fn find_outbound<P: Packet, E: Env>(frame: &P, env: &E) -> Result<(ipv4::Header, SessionRef), Reason> {
    let room = frame.len().saturating_sub(eth::LEN);
    let message = read::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, room)?;
    match table::find(env, Side::Inside, &message.quoted.to_here()) {
        Some((found, _)) => Ok((message.header, found)),
        None => Err(Reason::ErrorWithoutSession),
    }
}

/// LAN to WAN: translates and encapsulates.
///
/// # Errors
/// Why it is not forwarded.
#[inline(always)]
pub fn plan_outbound<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<(Rewriting, Encapsulation), Reason> {
    let (message, facts, rewriting) = translate_outbound(frame, env, arrival)?;
    let encapsulation = tunnel::plan_encapsulation(
        arrival.config,
        &message.header,
        rewriting.header,
        outbound::way(env, facts.wan_hop, arrival.now)?,
        facts.far_end,
        outbound::label(&facts),
        message.excess,
    )?;
    Ok((rewriting, encapsulation))
}

/// Writes what [`translate_outbound`] has planned, all but the IPv4 header's checksum.
///
/// # Errors
/// [`Truncated`]: the frame is spoilt.
#[inline(always)]
pub fn write_outbound<P: Packet>(frame: &mut P, rewriting: &Rewriting) -> Result<(), Truncated> {
    write::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, rewriting)
}

/// Whether an error out of the tunnel is about a packet of this customer edge.
///
/// # Errors
/// [`Reason::NotMyAddress`], [`Reason::ErrorUnusable`], [`Reason::ForeignPort`].
#[inline(always)]
pub fn is_ours(config: &Config, header: &ipv4::Header, quoted: &Quoted) -> Result<(), Reason> {
    if !config.owns(header.destination()) {
        return Err(Reason::NotMyAddress);
    }
    if quoted.header.source() != header.destination() {
        return Err(Reason::ErrorUnusable);
    }
    if !config.port_set.contains(quoted.source_port) {
        return Err(Reason::ForeignPort);
    }
    Ok(())
}

/// Whether an outer source may send this error. Any router may have sent what comes from the relay. Another customer edge tells
/// of packets to itself only, and its port in them is one of its own (RFC 7597 §8.1).
///
/// # Errors
/// As [`inbound::may_send`].
#[inline(always)]
pub fn may_send<R: Rules>(
    rules: &R,
    config: &Config,
    outer: ipv6::Address,
    header: &ipv4::Header,
    quoted: &Quoted,
) -> Result<(), Reason> {
    inbound::may_send(rules, config, outer, header.source(), quoted.destination_port)
}

/// Carries [`plan_outbound`] out.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply_outbound<P: Packet>(
    frame: &mut P,
    rewriting: &Rewriting,
    encapsulation: &Encapsulation,
) -> Result<Verdict, Broken> {
    write_outbound(frame, rewriting)?;
    tunnel::encapsulate(frame, encapsulation)?;
    Ok(Verdict::Forward {
        ifindex: encapsulation.hop.ifindex,
    })
}

/// WAN to LAN: translates an error of any router or host on the way of a packet that a session has sent.
///
/// # Errors
/// Why it is not forwarded.
#[inline(always)]
pub fn translate_inbound<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
    outer: &Outer,
) -> Result<(Message, Facts, Rewriting), Reason> {
    let config = arrival.config;
    let message = read::<P, INNER, QUOTED_INBOUND>(frame, usize::from(outer.payload_len))?;
    let quoted = &message.quoted;
    is_ours(config, &message.header, quoted)?;
    may_send(env, config, outer.source, &message.header, quoted)?;
    let facts = session(env, Side::Outside, &quoted.from_here(), arrival.now)?;
    let rewriting = plan(
        &message.header,
        message.checksum,
        quoted,
        End::Destination,
        facts.inside,
        facts.inside_port,
    );
    Ok((message, facts, rewriting))
}

/// WAN to LAN: translates and decapsulates.
///
/// # Errors
/// Why it is not forwarded.
#[inline(always)]
pub fn plan_inbound<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<(Rewriting, Decapsulation, Hop), Reason> {
    let outer = tunnel::read_outer(frame, arrival.config.tunnel_address)?;
    let (message, facts, rewriting) = translate_inbound(frame, env, arrival, &outer)?;
    let hop = env
        .hop(facts.lan_hop)
        .and_then(|hop| hop.get(facts.inside))
        .ok_or(Reason::NextHopUnknown)?;
    tunnel::fits(&message.header, &hop)?;
    let decapsulation = tunnel::plan_decapsulation(&outer, &message.header, rewriting.header, message.excess)?;
    Ok((rewriting, decapsulation, hop))
}

/// Writes what [`translate_inbound`] has planned, all but the IPv4 header's checksum.
///
/// # Errors
/// [`Truncated`]: the frame is spoilt.
#[inline(always)]
pub fn write_inbound<P: Packet>(frame: &mut P, rewriting: &Rewriting) -> Result<(), Truncated> {
    write::<P, INNER, QUOTED_INBOUND>(frame, rewriting)
}

/// Carries [`plan_inbound`] out.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply_inbound<P: Packet>(
    frame: &mut P,
    rewriting: &Rewriting,
    decapsulation: &Decapsulation,
    hop: &Hop,
) -> Result<Verdict, Broken> {
    write_inbound(frame, rewriting)?;
    let header = eth::Header::new(hop.destination, hop.source, EtherType::IPV4);
    tunnel::decapsulate(frame, decapsulation, &header)?;
    Ok(Verdict::Forward { ifindex: hop.ifindex })
}
