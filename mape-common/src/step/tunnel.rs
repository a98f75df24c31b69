//! IPv4 in IPv6 (RFC 2473): TTL, ECN and DSCP (RFC 6040, 2983), MTU, the outer header.

use crate::{
    checksum::Delta,
    hop::Hop,
    layout::Config,
    packet::Packet,
    verdict::{Broken, Reason, Truncated},
    wire::{
        eth::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6,
        port::Port,
    },
};

/// Where the inner packet stands in a tunnelled frame.
pub const INNER: usize = eth::LEN + ipv6::LEN;
/// Where the outer source address stands.
pub const OUTER_SOURCE: usize = eth::LEN + 8;
/// Bytes that the tunnel adds to a packet.
const OUTER: u32 = 40;
/// Hop limit of the outer header.
const HOP_LIMIT: u8 = 64;
const ECN: u8 = 3;
const CE: u8 = 3;
const ECT_1: u8 = 1;

/// What will be written around and into the inner header, besides the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// Where the frame goes.
    pub hop: Hop,
    outer: ipv6::Header,
    /// The inner header's row with TTL and checksum.
    row: u32,
    excess: u16,
}

/// The parts of a session that its outer headers' flow label is made of, so that routers and NICs spread sessions (RFC 6438).
#[inline(always)]
#[expect(
    clippy::as_conversions,
    reason = "widening, and From is not const; 20 bits are left after the shift"
)]
pub const fn flow_label(external_port: Port, remote: [u8; 4], remote_port: Port, protocol: u8) -> u32 {
    // As they stand in the session's record, most of them in one word.
    let ports =
        u16::from_le_bytes(remote_port.to_bytes()) as u64 | (u16::from_le_bytes(external_port.to_bytes()) as u64) << 16;
    let hash = (u32::from_le_bytes(remote) as u64 | ports << 32) ^ ((protocol as u64) << 20);
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44) as u32
}

/// Plans the encapsulation of the packet whose header is given.
///
/// `change` is what the translation adds to the header's checksum, `excess` the padding behind the packet.
///
/// # Errors
/// [`Reason::TtlExpired`], [`Reason::TooBig`]: the stack answers those.
#[inline(always)]
pub fn plan_encapsulation(
    config: &Config,
    header: &ipv4::Header,
    change: Delta,
    hop: Hop,
    far_end: [u8; 16],
    label: u32,
    excess: u16,
) -> Result<Encapsulation, Reason> {
    let outer = (traffic_class(config, header), label);
    plan_outer(config, header, change, hop, far_end, outer, excess)
}

/// The outer traffic class: the inner ECN field (RFC 6040 §4.1), and the inner DSCP where that is wanted (RFC 2983).
#[inline(always)]
pub const fn traffic_class(config: &Config, header: &ipv4::Header) -> u8 {
    traffic_class_of(config, header.tos())
}

/// The same for an inner type of service.
#[inline(always)]
pub const fn traffic_class_of(config: &Config, tos: u8) -> u8 {
    if config.has(Config::COPY_DSCP) { tos } else { tos & ECN }
}

/// Plans a new outer header in the place of one: a border relay sends from one customer edge to another. What the way so
/// far has marked in the traffic class stays.
///
/// # Errors
/// As [`plan_encapsulation`].
#[inline(always)]
pub fn plan_exchange(
    config: &Config,
    outer: &Outer,
    header: &ipv4::Header,
    hop: Hop,
    far_end: [u8; 16],
    label: u32,
    excess: u16,
) -> Result<Encapsulation, Reason> {
    let excess = outer.excess.saturating_add(excess);
    plan_outer(
        config,
        header,
        Delta::ZERO,
        hop,
        far_end,
        (outer.traffic_class, label),
        excess,
    )
}

#[inline(always)]
fn plan_outer(
    config: &Config,
    header: &ipv4::Header,
    change: Delta,
    hop: Hop,
    far_end: [u8; 16],
    (traffic_class, label): (u8, u32),
    excess: u16,
) -> Result<Encapsulation, Reason> {
    let ttl = enters(config, header, &hop)?;
    let total = header.total_len();
    Ok(Encapsulation {
        hop,
        outer: ipv6::Header::new(
            (
                ipv6::Address::from_bytes(config.tunnel_address),
                ipv6::Address::from_bytes(far_end),
            ),
            traffic_class,
            label,
            total,
            Protocol::IPV4,
            HOP_LIMIT,
        ),
        row: header.third_row(ttl, one_hop(change).apply(header.checksum())),
        excess,
    })
}

/// The TTL of a packet that enters the tunnel, if it may and fits.
///
/// # Errors
/// [`Reason::TtlExpired`], [`Reason::TooBig`].
#[inline(always)]
pub fn enters(config: &Config, header: &ipv4::Header, hop: &Hop) -> Result<u8, Reason> {
    let total = header.total_len();
    match lowered(header) {
        Ok(_) if total > config.tunnel_mtu || OUTER.saturating_add(u32::from(total)) > u32::from(hop.mtu) => {
            Err(Reason::TooBig)
        }
        ttl => ttl,
    }
}

/// Puts the outer header and the Ethernet header before the packet that starts at [`eth::LEN`].
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn encapsulate<P: Packet>(frame: &mut P, plan: &Encapsulation) -> Result<(), Broken> {
    if plan.excess != 0 {
        frame.trim_end(plan.excess)?;
    }
    frame.grow_front::<{ ipv6::LEN }>()?;
    Ok(write_outer(frame, plan)?)
}

/// Puts the new outer header in the place of the old one.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn exchange<P: Packet>(frame: &mut P, plan: &Encapsulation) -> Result<(), Broken> {
    if plan.excess != 0 {
        frame.trim_end(plan.excess)?;
    }
    Ok(write_outer(frame, plan)?)
}

#[inline(always)]
fn write_outer<P: Packet>(frame: &mut P, plan: &Encapsulation) -> Result<(), Truncated> {
    frame.write(
        0,
        &eth::Header::new(plan.hop.destination, plan.hop.source, EtherType::IPV6).to_bytes(),
    )?;
    frame.write(eth::LEN, &plan.outer.to_bytes())?;
    frame.write(INNER.wrapping_add(ipv4::TTL), &plan.row.to_be_bytes())
}

/// The outer header of a tunnelled packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Who sent it.
    pub source: ipv6::Address,
    /// Traffic class.
    pub traffic_class: u8,
    /// Bytes that the inner packet may have.
    pub payload_len: u16,
    /// Bytes of the frame after the outer packet's end.
    pub excess: u16,
}

/// Reads the outer header of a frame whose type is IPv6.
///
/// # Errors
/// [`Reason::OtherIpv6`] where it is no IPv4-in-IPv6 for `address`, [`Reason::OuterExtension`], [`Reason::BadLength`].
#[inline(always)]
pub fn read_outer<P: Packet>(frame: &P, address: [u8; 16]) -> Result<Outer, Reason> {
    let header = ipv6::Header::read(frame, eth::LEN).map_err(|_| Reason::OtherIpv6)?;
    if !header.is_ipv6() || !header.destination().is(address) {
        return Err(Reason::OtherIpv6);
    }
    if header.next_header() != Protocol::IPV4 {
        return Err(if header.has_extension() {
            Reason::OuterExtension
        } else if header.next_header() == Protocol::ICMPV6 {
            Reason::Icmpv6
        } else {
            Reason::OtherIpv6
        });
    }
    let Some(room) = frame.len().checked_sub(INNER) else {
        return Err(Reason::BadLength);
    };
    let Some(excess) = room.checked_sub(usize::from(header.payload_len())) else {
        return Err(Reason::BadLength);
    };
    let Ok(excess) = u16::try_from(excess) else {
        return Err(Reason::BadLength);
    };
    Ok(Outer {
        source: header.source(),
        traffic_class: header.traffic_class(),
        payload_len: header.payload_len(),
        excess,
    })
}

/// What will be written into the inner header when the outer one is taken off, besides the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulation {
    /// The inner header's rows with the type of service.
    rows: u64,
    /// That with TTL and checksum.
    row: u32,
    excess: u16,
}

/// Plans the decapsulation of the packet whose header is given.
///
/// # Errors
/// [`Reason::TtlExpired`], [`Reason::EcnInvalid`].
#[inline(always)]
pub fn plan_decapsulation(
    outer: &Outer,
    header: &ipv4::Header,
    change: Delta,
    excess: u16,
) -> Result<Decapsulation, Reason> {
    let ttl = lowered(header)?;
    let tos = merged_tos(header, outer.traffic_class)?;
    let change = tos_change(header, tos, change);
    Ok(Decapsulation {
        rows: header.first_rows(tos),
        row: header.third_row(ttl, one_hop(change).apply(header.checksum())),
        excess: outer.excess.saturating_add(excess),
    })
}

/// The largest packet that leaves by a next hop.
///
/// # Errors
/// [`Reason::TooBig`].
#[inline(always)]
pub const fn fits(header: &ipv4::Header, hop: &Hop) -> Result<(), Reason> {
    if header.total_len() > hop.mtu {
        Err(Reason::TooBig)
    } else {
        Ok(())
    }
}

/// Writes what changes in the inner header, takes the outer one off and puts the Ethernet header before it.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn decapsulate<P: Packet>(frame: &mut P, plan: &Decapsulation, header: &eth::Header) -> Result<(), Broken> {
    write_inner(frame, plan)?;
    if plan.excess != 0 {
        frame.trim_end(plan.excess)?;
    }
    frame.shrink_front::<{ ipv6::LEN }>()?;
    frame.write(0, &header.to_bytes())?;
    Ok(())
}

#[inline(always)]
fn write_inner<P: Packet>(frame: &mut P, plan: &Decapsulation) -> Result<(), Truncated> {
    frame.write(INNER, &ipv4::three_rows(plan.rows, plan.row))
}

/// What becomes of the inner ECN field when the outer header is taken off (RFC 6040 §4.2, figure 4).
///
/// # Errors
/// [`Reason::EcnInvalid`] for congestion on a packet that cannot say so.
#[inline(always)]
pub const fn merge_ecn(inner: u8, outer: u8) -> Result<u8, Reason> {
    match (inner, outer) {
        (0, CE) => Err(Reason::EcnInvalid),
        (0, _) => Ok(0),
        (_, CE) | (CE, _) => Ok(CE),
        (_, ECT_1) => Ok(ECT_1),
        (inner, _) => Ok(inner),
    }
}

/// The inner type of service once the outer header with this traffic class is taken off.
///
/// # Errors
/// As [`merge_ecn`].
#[inline(always)]
pub const fn merged_tos(header: &ipv4::Header, traffic_class: u8) -> Result<u8, Reason> {
    match merge_ecn(header.tos() & ECN, traffic_class & ECN) {
        Ok(ecn) => Ok((header.tos() & !ECN) | ecn),
        Err(reason) => Err(reason),
    }
}

/// `change`, and what the header's checksum changes by with another type of service.
#[inline(always)]
pub fn tos_change(header: &ipv4::Header, tos: u8, change: Delta) -> Delta {
    // The word before the length. What version and header length are does not matter, as long as they stay.
    change.word(0x4500 | u16::from(header.tos()), 0x4500 | u16::from(tos))
}

/// The TTL one lower, and the header's checksum after that and `change`.
///
/// # Errors
/// [`Reason::TtlExpired`].
#[inline(always)]
pub const fn hop_on(header: &ipv4::Header, change: Delta) -> Result<(u8, u16), Reason> {
    match lowered(header) {
        Ok(ttl) => Ok((ttl, one_hop(change).apply(header.checksum()))),
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
const fn lowered(header: &ipv4::Header) -> Result<u8, Reason> {
    match header.ttl() {
        0 | 1 => Err(Reason::TtlExpired),
        ttl => Ok(ttl.wrapping_sub(1)),
    }
}

/// `change`, and what the header's checksum changes by with a TTL one lower, whatever it was and whatever stands beside it.
#[inline(always)]
const fn one_hop(change: Delta) -> Delta {
    change.word(u16::from_be_bytes([1, 0]), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_is_merged_as_rfc_6040_figure_4_says() {
        const NOT: u8 = 0;
        const ECT0: u8 = 2;
        let table = [
            (NOT, [Ok(NOT), Ok(NOT), Ok(NOT), Err(Reason::EcnInvalid)]),
            (ECT0, [Ok(ECT0), Ok(ECT0), Ok(ECT_1), Ok(CE)]),
            (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
            (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
        ];
        for (inner, row) in table {
            for (outer, merged) in [NOT, ECT0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(merge_ecn(inner, outer), merged, "inner {inner} outer {outer}");
            }
        }
    }

    #[test]
    fn flow_labels_have_twenty_bits_and_differ() {
        let label = |port| flow_label(Port(port), [198, 51, 100, 7], Port(443), 6);
        let labels: std::collections::HashSet<_> = (0..1000).map(label).collect();
        assert!(labels.iter().all(|l| *l < 1 << 20));
        assert!(labels.len() > 990, "{}", labels.len());
    }
}
