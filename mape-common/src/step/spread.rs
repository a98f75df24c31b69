//! Which processor takes a packet from the tunnel, where the NIC cannot choose: all of them have the same outer addresses.
//!
//! What a NIC does by its indirection table for flows that it can tell apart (receive-side scaling) is done here by the inner
//! packet: its ends are hashed to a place of a table of processors. So a flow stays on one processor, and in its order. Only whole
//! TCP and UDP packets are handed on; the others are rare, need every stage there is, and stay where they came.

use crate::{
    packet::Packet,
    wire::{
        eth::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6,
    },
};

/// Places of the table of processors, a power of two.
pub const PLACES: u32 = 256;
/// In the table: the packet stays on the processor that has received it. Else it is the kernel's number of one.
pub const HERE: u32 = u32::MAX;
/// How many of the hash's bits are a place.
const SHIFT: u32 = 64 - PLACES.trailing_zeros();
/// Where the outer header, the inner one and the ports begin.
const OUTER: usize = eth::LEN;
const INNER: usize = OUTER + ipv6::LEN;
const PORTS: usize = INNER + ipv4::LEN;
/// Odd, with ones all over (multiply-shift hashing); no secret, for who sends one flow has one processor anyhow.
const ADDRESSES_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const PORTS_FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// The packet's place in the table, by its inner addresses and ports; none where it is to stay on this processor. Everything else
/// about it is looked at by who forwards it.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the bits that are left are fewer than 32"
)]
pub fn place<P: Packet>(frame: &P) -> Option<u32> {
    // The end of it first: then all of it is there.
    let ports = u32::from_ne_bytes(frame.read(PORTS).ok()?);
    if EtherType(frame.read(eth::TYPE).ok()?) != EtherType::IPV6 {
        return None;
    }
    let outer = u64::from_be_bytes(frame.read(OUTER).ok()?);
    if Protocol((outer >> 8) as u8) != Protocol::IPV4 {
        return None;
    }
    let header = ipv4::Header::read(frame, INNER).ok()?;
    let is_plain = header.is_ipv4() && !header.has_options() && !header.is_short() && !header.is_fragment();
    if !is_plain || !matches!(header.protocol(), Protocol::TCP | Protocol::UDP) {
        return None;
    }
    let [a, b, c, d] = header.source();
    let [e, f, g, h] = header.destination();
    let addresses = u64::from_ne_bytes([a, b, c, d, e, f, g, h]).wrapping_mul(ADDRESSES_FACTOR);
    let hash = addresses.wrapping_add(u64::from(ports).wrapping_mul(PORTS_FACTOR));
    // Sums and products alone would put ports that follow each other at equal distances.
    let mixed = (hash ^ hash >> 32).wrapping_mul(ADDRESSES_FACTOR);
    Some((mixed >> SHIFT) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::VecPacket;

    /// A UDP datagram in the tunnel, from one port to another.
    fn frame(source: [u8; 4], from: u16, to: u16) -> Vec<u8> {
        let mut bytes = vec![0; PORTS + 8];
        bytes[eth::TYPE..OUTER].copy_from_slice(&[0x86, 0xdd]);
        bytes[OUTER] = 0x60;
        bytes[OUTER + 6] = 4;
        bytes[INNER] = 0x45;
        bytes[INNER + 3] = 28;
        bytes[INNER + 9] = 17;
        bytes[INNER + 12..INNER + 16].copy_from_slice(&source);
        bytes[INNER + 16..PORTS].copy_from_slice(&[203, 0, 113, 7]);
        bytes[PORTS..PORTS + 2].copy_from_slice(&from.to_be_bytes());
        bytes[PORTS + 2..PORTS + 4].copy_from_slice(&to.to_be_bytes());
        bytes
    }

    /// How many of the flows are in the fullest place and in the emptiest, of `parts` equal shares.
    fn extremes(flows: impl Iterator<Item = Vec<u8>>, parts: u32) -> (u32, u32) {
        let mut shares = vec![0; usize::try_from(parts).unwrap()];
        for flow in flows {
            let place = place(&VecPacket(flow)).unwrap();
            assert!(place < PLACES);
            shares[usize::try_from(place % parts).unwrap()] += 1;
        }
        (*shares.iter().max().unwrap(), *shares.iter().min().unwrap())
    }

    #[test]
    fn flows_are_shared_out_evenly_whatever_they_differ_in() {
        let servers = (0..4_000_u32).map(|n| frame((0xc633_6400 + n).to_be_bytes(), 443, 1_232));
        let remote_ports = (0..4_000).map(|n| frame([198, 51, 100, 7], 10_000 + n, 1_232));
        // A line's own ports: sixteen in a row, every 4,096.
        let ports = (0..15).flat_map(|block| (0..16).map(move |n| (block + 1) * 4_096 + 0x4d0 + n));
        let own_ports = ports.flat_map(|port| (0..16).map(move |n| frame([198, 51, 100, n], 443, port)));
        for (name, flows) in [
            ("servers", Box::new(servers) as Box<dyn Iterator<Item = Vec<u8>>>),
            ("remote ports", Box::new(remote_ports)),
            ("own ports", Box::new(own_ports)),
        ] {
            let flows: Vec<_> = flows.collect();
            for parts in [2, 3, 4, 8] {
                let mean = u32::try_from(flows.len()).unwrap() / parts;
                let (most, least) = extremes(flows.iter().cloned(), parts);
                assert!(
                    most * 4 < mean * 5 && least * 4 > mean * 3,
                    "{name} to {parts}: {least} to {most} about {mean}"
                );
            }
        }
    }

    #[test]
    fn a_flow_stays_where_it_is() {
        let first = frame([198, 51, 100, 7], 443, 1_232);
        let mut later = first.clone();
        // Traffic class, flow label, hop limit; TOS, identification, TTL, sums: what a flow's packets differ in.
        for at in [
            OUTER + 1,
            OUTER + 3,
            OUTER + 7,
            INNER + 1,
            INNER + 5,
            INNER + 8,
            INNER + 11,
        ] {
            later[at] ^= 0x5a;
        }
        later.extend([0xaa; 100]);
        assert_eq!(place(&VecPacket(first)), place(&VecPacket(later)));
    }

    #[test]
    fn only_whole_tcp_and_udp_packets_in_the_tunnel_are_handed_on() {
        let whole = frame([198, 51, 100, 7], 443, 1_232);
        assert!(place(&VecPacket(whole.clone())).is_some());
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = whole.clone();
            for (at, byte) in changes {
                bytes[*at] = *byte;
            }
            place(&VecPacket(bytes))
        };
        assert!(with(&[(INNER + 9, 6)]).is_some(), "TCP");
        assert!(with(&[(INNER + 6, 0x40)]).is_some(), "may not be fragmented");
        for (what, changes) in [
            ("IPv4", &[(eth::TYPE, 8), (eth::TYPE + 1, 0)][..]),
            ("native TCP", &[(OUTER + 6, 6)]),
            ("ICMPv6", &[(OUTER + 6, 58)]),
            ("an outer fragment", &[(OUTER + 6, 44)]),
            ("ICMP", &[(INNER + 9, 1)]),
            ("options", &[(INNER, 0x46)]),
            ("a header too short", &[(INNER, 0x44)]),
            ("IPv6 in it", &[(INNER, 0x65)]),
            ("a first fragment", &[(INNER + 6, 0x20)]),
            ("a later fragment", &[(INNER + 7, 1)]),
        ] {
            assert_eq!(with(changes), None, "{what}");
        }
        assert_eq!(place(&VecPacket(whole[..PORTS + 3].to_vec())), None, "cut off");
    }
}
