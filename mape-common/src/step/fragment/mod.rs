//! A fragment of an IPv4 packet: its lengths, and rewriting one that has no ports (RFC 7597 §8.3).
//!
//! What is here knows the packet by where it starts, and nothing of the frame around it. [`customer`] and [`relay`] make of it
//! the ways through a customer edge and a border relay.

pub mod customer;
pub mod relay;

use super::{
    translate::End,
    tunnel::{INNER, OUTER_SOURCE},
};
use crate::{
    checksum::Delta,
    env::Env,
    nat::fragment::{self as table, Fragment, Note},
    packet::Packet,
    verdict::{Direction, Reason, Truncated},
    wire::{
        eth::{self, EtherType},
        ipv4::{self, Header},
    },
};

/// Most bytes of a packet (RFC 791).
const LONGEST: u32 = 65_535;

/// A fragment whose lengths agree with each other and with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The IPv4 header.
    pub header: Header,
    /// Bytes of the frame after the packet's end: Ethernet's padding.
    pub excess: u16,
}

/// Reads the fragment, not the first, that starts at `L3` and may not be longer than `room` bytes.
///
/// # Errors
/// [`Reason::BadLength`], [`Reason::IpOptions`], [`Reason::FragmentTooLong`] where it ends beyond the largest packet.
#[inline(always)]
pub fn read<P: Packet, const L3: usize>(frame: &P, room: usize) -> Result<Piece, Reason> {
    let header = Header::read(frame, L3).map_err(|_| Reason::BadLength)?;
    if !header.is_ipv4() || header.is_short() {
        return Err(Reason::BadLength);
    }
    let Some(excess) = room.checked_sub(usize::from(header.total_len())) else {
        return Err(Reason::BadLength);
    };
    let Ok(excess) = u16::try_from(excess) else {
        return Err(Reason::BadLength);
    };
    if header.has_options() {
        return Err(Reason::IpOptions);
    }
    // All but the last fragment hold a multiple of eight bytes, and each holds some.
    let len = header.payload_len();
    if len == 0 || (header.has_more() && len & 7 != 0) {
        return Err(Reason::BadLength);
    }
    if u32::from(header.offset()).saturating_add(u32::from(header.total_len())) > LONGEST {
        return Err(Reason::FragmentTooLong);
    }
    Ok(Piece { header, excess })
}

/// Reads a frame that ended as [`Reason::FragmentFirstMissing`]: which packet it is a later fragment of.
///
/// # Errors
/// As [`read`]; [`Reason::OtherEtherType`] where it is neither IPv4 nor IPv6.
pub fn late<P: Packet>(frame: &P) -> Result<Fragment, Reason> {
    let ether_type = EtherType(frame.read(eth::TYPE).map_err(|_| Reason::BadLength)?);
    if ether_type == EtherType::IPV4 {
        let room = frame.len().saturating_sub(eth::LEN);
        let header = read::<P, { eth::LEN }>(frame, room)?.header;
        return Ok(Fragment::new(Direction::Outbound, [0; 16], &header));
    }
    if ether_type != EtherType::IPV6 {
        return Err(Reason::OtherEtherType);
    }
    let room = frame.len().saturating_sub(INNER);
    let header = read::<P, INNER>(frame, room)?.header;
    let outer = outer_source::<P, INNER, OUTER_SOURCE>(frame)?;
    Ok(Fragment::new(Direction::Inbound, outer, &header))
}

/// Whether the fragment at `L3` holds the beginning of its packet; what cannot be read is looked at, and refused, as one.
#[inline(always)]
pub fn is_first<P: Packet, const L3: usize>(frame: &P) -> bool {
    frame
        .read(L3)
        .is_ok_and(|bytes| Header::from_bytes(bytes).offset() == 0)
}

/// Nothing stands before the packet that says who sent it.
pub const NO_OUTER: usize = usize::MAX;

/// Who sent the packet at `L3`, if that stands before it: at `OUTER`.
#[inline(always)]
fn outer_source<P: Packet, const L3: usize, const OUTER: usize>(frame: &P) -> Result<[u8; 16], Reason> {
    if OUTER < L3 {
        frame.read(OUTER).map_err(|_| Reason::BadLength)
    } else {
        Ok([0; 16])
    }
}

/// Notes the packet whose first fragment, at `L3`, is to be let through; `note` becomes what was noted before where it has come
/// twice. Its outer source is at `OUTER`, if it has one.
///
/// # Errors
/// As [`table::note`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn note<P: Packet, E: Env, const L3: usize, const OUTER: usize>(
    frame: &P,
    env: &E,
    direction: Direction,
    note: &mut Note,
) -> Result<(), Reason> {
    let config = env.config().ok_or(Reason::NotConfigured)?;
    let header = Header::read(frame, L3).map_err(|_| Reason::BadLength)?;
    let fragment = Fragment::new(direction, outer_source::<P, L3, OUTER>(frame)?, &header);
    table::note(env, config, &fragment, note, env.now())
}

/// What will be written into a fragment without ports: one end's address, and the identification. The IPv4 header's checksum
/// is not in it, as in [`super::translate::Translation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewriting {
    end: End,
    address: [u8; 4],
    identification: u16,
    /// What the IPv4 header's checksum changes by.
    pub header: Delta,
}

/// Plans the rewriting of one end of a fragment that is not the first.
#[inline(always)]
pub const fn plan(header: &Header, end: End, address: [u8; 4], identification: u16) -> Rewriting {
    let old = match end {
        End::Source => header.source(),
        End::Destination => header.destination(),
    };
    Rewriting {
        end,
        address,
        identification,
        header: Delta::ZERO
            .words(old, address)
            .word(header.identification(), identification),
    }
}

/// Writes the plan into the fragment at `L3`, all but the IPv4 header's checksum.
///
/// # Errors
/// [`Truncated`]: the frame is spoilt.
#[inline(always)]
pub fn apply<P: Packet, const L3: usize>(frame: &mut P, plan: &Rewriting) -> Result<(), Truncated> {
    let address_at = match plan.end {
        End::Source => ipv4::SOURCE,
        End::Destination => ipv4::DESTINATION,
    };
    frame.write(L3.wrapping_add(address_at), &plan.address)?;
    identify::<P, L3>(frame, plan.identification)
}

/// Writes the identification of the packet at `L3`.
///
/// # Errors
/// [`Truncated`]: the frame is spoilt.
#[inline(always)]
pub fn identify<P: Packet, const L3: usize>(frame: &mut P, identification: u16) -> Result<(), Truncated> {
    frame.write(L3.wrapping_add(ipv4::IDENTIFICATION), &identification.to_be_bytes())
}
