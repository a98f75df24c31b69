//! What must not leave by the WAN: a packet of the tunnel's that nobody has translated.
//!
//! The tunnel device's program translates or drops. A device that was made anew by somebody else has no program until the next `load`;
//! one with a far end of its own then sends what it gets as it is. Here is where that would come out.

use crate::{
    env::Env,
    packet::Packet,
    wire::{
        eth::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6,
    },
};

/// Extension headers that the kernel puts before the inner packet: the encapsulation limit (RFC 2473 §4.1.1), a fragment header.
const EXTENSIONS: usize = 2;

/// Whether a frame that the stack sends carries an IPv4 packet out of the tunnel address whose source is not the shared address.
///
/// Later fragments of a tunnel packet say nothing about that, and are of no use without their first.
#[inline(always)]
pub fn is_untranslated<P: Packet, E: Env>(frame: &P, env: &E) -> bool {
    let Some(config) = env.config() else { return false };
    // A border relay forwards for others.
    if config.tunnel_address == config.relay_address {
        return false;
    }
    let Ok(ethernet) = eth::Header::read(frame) else {
        return false;
    };
    if ethernet.ether_type() != EtherType::IPV6 {
        return false;
    }
    let Ok(outer) = ipv6::Header::read(frame, eth::LEN) else {
        return false;
    };
    if !outer.is_ipv6() || !outer.source().is(config.tunnel_address) {
        return false;
    }
    let Some(inner) = inner_packet(frame, outer.next_header()) else {
        return false;
    };
    frame
        .read(inner)
        .is_ok_and(|bytes| !config.owns(ipv4::Header::from_bytes(bytes).source()))
}

/// Where the inner packet begins, if it is IPv4 and begins in this frame.
#[inline(always)]
fn inner_packet<P: Packet>(frame: &P, mut next: Protocol) -> Option<usize> {
    let mut at = eth::LEN.wrapping_add(ipv6::LEN);
    for _ in 0..EXTENSIONS {
        let fragment = match next.0 {
            44 => true,
            60 => false,
            _ => break,
        };
        let [following, words, high, low] = frame.read_told(at).ok()?;
        if fragment && u16::from_be_bytes([high, low]) >> 3 != 0 {
            return None;
        }
        // Of a fragment header these eight bits are reserved.
        let more = if fragment { 0 } else { usize::from(words) };
        at = at.wrapping_add(more.wrapping_add(1).wrapping_mul(8));
        next = Protocol(following);
    }
    (next == Protocol::IPV4).then_some(at)
}
