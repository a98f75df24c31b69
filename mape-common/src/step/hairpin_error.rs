//! ICMP errors about packets that went from one LAN host to another by the shared address (RFC 5508 REQ-7, RFC 7857 §12).
//!
//! The receiver has seen a packet from the sender's external end to its own; the sender has sent one from its own end to the receiver's
//! external one. So the error is translated twice, as if it had gone out and come back: it comes from the shared address, and both
//! ends of the packet in it become what its sender wrote. As any error it makes, refreshes and ends nothing.

use crate::{
    env::{Env, Side},
    hop::Hop,
    layout::FlowKey,
    packet::Packet,
    verdict::{Broken, Reason, Truncated, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv4,
    },
};

use super::{
    admit::Arrival,
    error::{self, QUOTED_OUTBOUND, Rewriting},
    quoted::Quoted,
    translate::End,
    tunnel,
};

/// Both ends, and where the error goes.
pub struct Plan {
    hop: Hop,
    receiver: Rewriting,
    sender: Rewriting,
    header_checksum: u16,
    ttl: u8,
    excess: u16,
}

/// Decides what becomes of an error whose quoted packet belongs to a session with a host of the same LAN.
///
/// # Errors
/// [`Reason::ErrorWithoutSession`], [`Reason::ErrorUnusable`], [`Reason::NextHopUnknown`], [`Reason::TooBig`], [`Reason::TtlExpired`].
#[inline(always)]
pub fn plan<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>) -> Result<Plan, Reason> {
    let room = frame.len().saturating_sub(eth::LEN);
    let message = error::read::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, room)?;
    let quoted = &message.quoted;
    let receiver = error::session(env, Side::Inside, &quoted.to_here(), arrival.now)?;
    if quoted.header.source() != message.header.destination() {
        return Err(Reason::ErrorUnusable);
    }
    let sent = FlowKey::new(
        quoted.transport,
        quoted.header.source(),
        quoted.source_port,
        receiver.external,
        receiver.external_port,
    );
    let sender = error::session(env, Side::Outside, &sent, arrival.now)?;
    let hop = env
        .hop(sender.lan_hop)
        .and_then(|hop| hop.get(sender.inside))
        .ok_or(Reason::NextHopUnknown)?;
    tunnel::fits(&message.header, &hop)?;
    let out = error::plan(
        &message.header,
        message.checksum,
        quoted,
        End::Source,
        receiver.external,
        receiver.external_port,
    );
    let back = error::plan(
        &message.header,
        out.checksum,
        &Quoted {
            header: quoted.header.with_destination(receiver.external),
            checksum: out.transport_checksum,
            ..*quoted
        },
        End::Destination,
        sender.inside,
        sender.inside_port,
    );
    let (ttl, header_checksum) = tunnel::hop_on(&message.header, out.header.and(back.header))?;
    Ok(Plan {
        hop,
        receiver: out,
        sender: back,
        header_checksum,
        ttl,
        excess: message.excess,
    })
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply<P: Packet>(frame: &mut P, plan: &Plan) -> Result<Verdict, Broken> {
    if plan.excess != 0 {
        frame.trim_end(plan.excess)?;
    }
    write(frame, plan)?;
    Ok(Verdict::Forward {
        ifindex: plan.hop.ifindex,
    })
}

#[inline(always)]
fn write<P: Packet>(frame: &mut P, plan: &Plan) -> Result<(), Truncated> {
    error::write::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, &plan.receiver)?;
    // The second one's checksums are those after both.
    error::write::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, &plan.sender)?;
    frame.write(
        0,
        &eth::Header::new(plan.hop.destination, plan.hop.source, EtherType::IPV4).to_bytes(),
    )?;
    frame.write(eth::LEN.wrapping_add(ipv4::TTL), &[plan.ttl])?;
    frame.write(
        eth::LEN.wrapping_add(ipv4::CHECKSUM),
        &plan.header_checksum.to_be_bytes(),
    )
}
