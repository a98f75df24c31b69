//! ICMP at a border relay: errors about packets of customer edges, both ways (RFC 7597 §8.2), and answers of its own to whoever
//! sends what it cannot forward.
//!
//! A relay has no sessions. Whom an error is for, and whether its sender may say it, is told by the packet that it quotes: one
//! of the ports in there is the customer edge's. Nothing in an error changes but what changes in any packet.

use crate::{
    checksum::Delta,
    env::{Env, Route},
    hop::Mac,
    packet::Packet,
    verdict::{Broken, Failure, Reason, Verdict},
    wire::{
        eth::{self, EtherType},
        icmp, ipv4, ipv6,
        tcp::Flags,
    },
};

use super::{
    admit::Arrival,
    answer::{self, Error},
    edge::admitted,
    error::{self, Message, QUOTED_INBOUND, QUOTED_OUTBOUND},
    inner::{self, Inner},
    path, relay,
    stage::Attempt,
    tunnel::{self, Encapsulation, INNER, Outer},
};

/// What goes away when a tunnel packet becomes what an ICMPv4 error quotes.
const CUT: usize = ipv6::LEN - (ipv4::LEN + icmp::LEN);

/// From the Internet: an error about a packet of a customer edge, or a packet that is too big for the tunnel.
#[inline(always)]
pub fn to_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, reason: Reason) -> Attempt {
    if matches!(reason, Reason::TooBig) {
        tell_internet(frame, env, ifindex)
    } else {
        error_to_domain(frame, env, ifindex)
    }
}

/// From the domain: an error of a customer edge, or a packet that cannot go on.
#[inline(always)]
pub fn from_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, reason: Reason) -> Attempt {
    if matches!(reason, Reason::TooBig | Reason::TtlExpired) {
        // One after the other, since all in one are more than a program's stack.
        let ahead = ahead(frame, env, ifindex);
        return tell_customer(frame, env, ifindex, reason, ahead);
    }
    let is_across = frame.read(INNER).is_ok_and(|bytes| {
        let header = ipv4::Header::from_bytes(bytes);
        env.rule_by_ipv4(header.destination()).is_some()
    });
    if is_across {
        error_across(frame, env, ifindex)
    } else {
        error_out(frame, env, ifindex)
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn error_to_domain<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match plan_to_domain(frame, env, ifindex) {
        Ok(plan) => Attempt::ended(
            tunnel::encapsulate(frame, &plan)
                .map(|()| Verdict::Forward {
                    ifindex: plan.hop.ifindex,
                })
                .map_err(Failure::from),
        ),
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn plan_to_domain<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Result<Encapsulation, Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let room = frame.len().saturating_sub(eth::LEN);
    let message = error::read::<P, { eth::LEN }, QUOTED_OUTBOUND>(frame, room)?;
    let inner = about(&message)?;
    let (far_end, hop) = relay::customer_edge(env, inner.header.destination(), inner.destination_port)?;
    tunnel::plan_encapsulation(
        arrival.config,
        &inner.header,
        Delta::ZERO,
        hop,
        far_end,
        relay::label(&inner),
        inner.excess,
    )
}

/// An error of one customer edge about a packet of another.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn error_across<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    Attempt::ended(match arrived(frame, env, ifindex) {
        Ok((arrival, outer, inner)) => relay::across(frame, env, arrival.config, &outer, &inner),
        Err(reason) => Err(reason.into()),
    })
}

/// An error of a customer edge about a packet from the Internet.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn error_out<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    Attempt::ended(match arrived(frame, env, ifindex) {
        Ok((arrival, outer, inner)) => relay::out(frame, env, &arrival, &outer, &inner),
        Err(reason) => Err(reason.into()),
    })
}

/// An error from the domain, if its sender may say it: it, and what it quotes was sent to it (RFC 7597 §8.1).
#[inline(always)]
fn arrived<'a, P: Packet, E: Env>(frame: &P, env: &'a E, ifindex: u32) -> Result<(Arrival<'a>, Outer, Inner), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV6)?;
    let outer = tunnel::read_outer(frame, arrival.config.tunnel_address)?;
    let message = error::read::<P, INNER, QUOTED_INBOUND>(frame, usize::from(outer.payload_len))?;
    let inner = about(&message)?;
    let quoted = &message.quoted;
    path::check_source(env, &outer.source.to_bytes(), inner.header.source(), inner.source_port)?;
    // A router behind a customer edge that has more than one address may say what befell another's packet.
    if quoted.header.destination() != inner.header.source() {
        path::check_source(
            env,
            &outer.source.to_bytes(),
            quoted.header.destination(),
            inner.source_port,
        )?;
    }
    if ipv4::is_routable(inner.header.destination()) {
        Ok((arrival, outer, inner))
    } else {
        Err(Reason::NotUnicast)
    }
}

/// An error as if it were a packet of the flow that it is about, the other way.
///
/// # Errors
/// [`Reason::ErrorUnusable`] where it is not for the sender of what it quotes.
#[inline(always)]
fn about(message: &Message) -> Result<Inner, Reason> {
    let quoted = &message.quoted;
    if quoted.header.source() != message.header.destination() {
        return Err(Reason::ErrorUnusable);
    }
    Ok(Inner {
        header: message.header,
        transport: quoted.transport,
        source_port: quoted.destination_port,
        destination_port: quoted.source_port,
        checksum: message.checksum,
        flags: Flags(0),
        header_len: 8,
        excess: message.excess,
    })
}

/// Tells a host on the Internet what fits into the tunnel (RFC 1191).
#[cfg_attr(target_arch = "bpf", inline(never))]
fn tell_internet<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    match plan_for_internet(frame, env, ifindex) {
        Ok(error) => Attempt::ended(
            frame
                .grow_front::<{ answer::BEFORE }>()
                .and_then(|()| answer::write(frame, &error))
                .map(|()| Verdict::Answer(Reason::TooBig))
                .map_err(Failure::from),
        ),
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn plan_for_internet<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Result<Error, Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let link = env.link(ifindex).ok_or(Reason::TooBig)?;
    let room = frame.len().saturating_sub(eth::LEN);
    let inner = inner::read::<P, { eth::LEN }>(frame, room)?;
    let (_, hop) = relay::customer_edge(env, inner.header.destination(), inner.destination_port)?;
    let macs = (arrival.source, Mac::from_bits(link.mac()));
    let mtu = answer::largest(arrival.config.tunnel_mtu, &hop);
    let error = answer_to::<P, { eth::LEN }>(frame, &inner, Reason::TooBig, macs, link.address(), mtu)?;
    if answer::may_send(env, arrival.now) {
        Ok(error)
    } else {
        Err(Reason::TooBig)
    }
}

/// Tells a customer edge's host that the TTL ended here, or what fits into the link behind: back through the tunnel.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn tell_customer<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, reason: Reason, ahead: Ahead) -> Attempt {
    match plan_for_customer(frame, env, ifindex, reason, ahead) {
        Ok((error, plan)) => Attempt::ended(
            apply_for_customer(frame, &error, &plan)
                .map(|()| {
                    if plan.hop.ifindex == ifindex {
                        Verdict::Answer(reason)
                    } else {
                        Verdict::Forward {
                            ifindex: plan.hop.ifindex,
                        }
                    }
                })
                .map_err(Failure::from),
        ),
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn plan_for_customer<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    ifindex: u32,
    reason: Reason,
    ahead: Ahead,
) -> Result<(Error, Encapsulation), Reason> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV6)?;
    let config = arrival.config;
    // Its sender was checked before it was refused; and the answer goes to whoever has its source address and port.
    let outer = tunnel::read_outer(frame, config.tunnel_address)?;
    let inner = inner::read::<P, INNER>(frame, usize::from(outer.payload_len))?;
    let (far_end, hop) = relay::customer_edge(env, inner.header.source(), inner.source_port)?;
    // Written again with the outer header.
    let macs = (hop.destination, hop.source);
    let from = answer::own_address(env, ahead.ifindex());
    let error = answer_to::<P, INNER>(frame, &inner, reason, macs, from, ahead.mtu())?;
    if !answer::may_send(env, arrival.now) {
        return Err(reason);
    }
    let label = tunnel::flow_label(
        inner.source_port,
        inner.header.destination(),
        inner.destination_port,
        inner.transport.protocol(),
    );
    let header = ipv4::Header::from_bytes(answer::header(error.from, error.to));
    let plan = tunnel::plan_encapsulation(config, &header, Delta::ZERO, hop, far_end, label, 0)?;
    Ok((error, plan))
}

/// The NIC that a packet would leave by, and the largest packet that goes there: one number, `ifindex << 32 | MTU`.
#[derive(Clone, Copy)]
struct Ahead(u64);

impl Ahead {
    #[inline(always)]
    fn new(ifindex: u32, mtu: u16) -> Self {
        Self((u64::from(ifindex) << 32) | u64::from(mtu))
    }

    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the upper half")]
    const fn ifindex(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the lowest 16 bits"
    )]
    const fn mtu(self) -> u16 {
        self.0 as u16
    }
}

/// Where a packet from the domain goes on.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn ahead<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Ahead {
    let Some(config) = env.config() else {
        return Ahead::new(ifindex, 0);
    };
    let known = Ahead::new(ifindex, config.tunnel_mtu);
    let Ok(inner) = inner::read::<P, INNER>(frame, frame.len().saturating_sub(INNER)) else {
        return known;
    };
    let destination = inner.header.destination();
    if env.rule_by_ipv4(destination).is_some() {
        let hop = relay::customer_edge(env, destination, inner.destination_port);
        return hop.map_or(known, |(_, hop)| {
            Ahead::new(ifindex, answer::largest(config.tunnel_mtu, &hop))
        });
    }
    match env.route(ifindex, inner.header.source(), destination) {
        Route::Resolved(hop) => Ahead::new(hop.ifindex, hop.mtu),
        Route::Unresolved { ifindex } => Ahead::new(ifindex, config.tunnel_mtu),
        Route::Other => known,
    }
}

/// What there is to say to a packet's sender.
#[inline(always)]
fn answer_to<P: Packet, const L3: usize>(
    frame: &P,
    inner: &Inner,
    reason: Reason,
    macs: (Mac, Mac),
    from: [u8; 4],
    mtu: u16,
) -> Result<Error, Reason> {
    let is_too_big = matches!(reason, Reason::TooBig);
    // Without the mark the stack fragments it.
    if is_too_big && !inner.header.dont_fragment() {
        return Err(reason);
    }
    if !ipv4::is_routable(inner.header.source()) {
        return Err(Reason::NotUnicast);
    }
    let Ok(payload) = frame.read::<8>(L3.wrapping_add(ipv4::LEN)) else {
        return Err(reason);
    };
    let (kind, code, mtu) = if is_too_big {
        (icmp::UNREACHABLE, icmp::TOO_BIG, mtu)
    } else {
        (icmp::TIME_EXCEEDED, 0, 0)
    };
    Ok(Error {
        macs,
        from,
        to: inner.header.source(),
        kind,
        code,
        mtu,
        quoted: inner.header,
        payload,
    })
}

/// The packet becomes what an ICMPv4 error quotes, and that goes into the tunnel.
#[inline(always)]
fn apply_for_customer<P: Packet>(frame: &mut P, error: &Error, plan: &Encapsulation) -> Result<(), Broken> {
    frame.shrink_front::<CUT>()?;
    answer::write(frame, error)?;
    tunnel::encapsulate(frame, plan)
}
