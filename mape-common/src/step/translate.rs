//! Rewriting one end of an IPv4 packet: address, port or identifier, and the checksums that cover them.

use crate::{
    checksum::{Change, Delta},
    layout::Transport,
    packet::Packet,
    verdict::{Reason, Truncated},
    wire::{icmp, ipv4, port::Port, tcp, udp},
};

use super::{
    inner::Inner,
    mss::{self, Clamp},
};

/// Which end is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sender: outbound.
    Source,
    /// The receiver: inbound.
    Destination,
}

/// What will be written. The IPv4 header's checksum is not in it: `header` is what the change adds to it, so that the tunnel
/// step can add its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    transport: Transport,
    end: End,
    address: [u8; 4],
    port: Port,
    checksum: Change,
    clamp: Clamp,
    /// What the IPv4 header's checksum changes by.
    pub header: Delta,
}

/// Plans the rewriting of one end of `inner`, the packet at `L3`. `limit` gives the largest MSS let through, zero for any; it is asked
/// for packets that may have the option.
///
/// # Errors
/// Those of `limit`.
#[inline(always)]
pub fn plan<P: Packet, const L3: usize>(
    frame: &P,
    inner: &Inner,
    end: End,
    address: [u8; 4],
    port: Port,
    limit: impl FnOnce() -> Result<u16, Reason>,
) -> Result<Translation, Reason> {
    let (old_address, old_port) = match end {
        End::Source => (inner.header.source(), inner.source_port),
        End::Destination => (inner.header.destination(), inner.destination_port),
    };
    let header = Delta::ZERO.words(old_address, address);
    let (mut clamp, mut clamp_delta) = (Clamp::NONE, Delta::ZERO);
    if mss::is_candidate(inner) {
        let limit = limit()?;
        if limit != 0 {
            (clamp, clamp_delta) = mss::plan(frame, L3.wrapping_add(ipv4::LEN), inner.header_len, limit);
        }
    }
    // TCP's and UDP's checksums cover a pseudo-header with the addresses; ICMP's covers the message alone.
    let checksum = Change {
        old: inner.checksum,
        pseudo: if matches!(inner.transport, Transport::Icmp) {
            Delta::ZERO
        } else {
            header
        },
        own: clamp_delta.word(old_port.0, port.0),
        is_udp: matches!(inner.transport, Transport::Udp),
    };
    Ok(Translation {
        transport: inner.transport,
        end,
        address,
        port,
        checksum,
        clamp,
        header,
    })
}

/// Writes the plan into the packet at `L3`, all but the IPv4 header's checksum.
///
/// # Errors
/// [`Truncated`]: the frame is spoilt.
#[inline(always)]
pub fn apply<P: Packet, const L3: usize>(frame: &mut P, plan: &Translation) -> Result<(), Truncated> {
    let l4 = L3.wrapping_add(ipv4::LEN);
    let (address_at, port_at) = match plan.end {
        End::Source => (ipv4::SOURCE, 0),
        End::Destination => (ipv4::DESTINATION, 2),
    };
    frame.write(L3.wrapping_add(address_at), &plan.address)?;
    let port = plan.port.to_bytes();
    match plan.transport {
        Transport::Tcp => {
            frame.write(l4.wrapping_add(port_at), &port)?;
            frame.change_checksum(l4.wrapping_add(tcp::CHECKSUM), &plan.checksum)?;
            if plan.clamp.offset != 0 {
                // Masked for the verifier, as in `mss::plan`.
                let at = usize::from(plan.clamp.offset & 63);
                frame.write(l4.wrapping_add(at), &plan.clamp.value.to_be_bytes())?;
            }
        }
        Transport::Udp => {
            frame.write(l4.wrapping_add(port_at), &port)?;
            frame.change_checksum(l4.wrapping_add(udp::CHECKSUM), &plan.checksum)?;
        }
        Transport::Icmp => {
            frame.write(l4.wrapping_add(icmp::IDENTIFIER), &port)?;
            frame.change_checksum(l4.wrapping_add(icmp::CHECKSUM), &plan.checksum)?;
        }
    }
    Ok(())
}
