//! Fragments through a customer edge: the first goes the way of any packet of its session and is noted, later ones follow it.
//!
//! Where the session is not in use, the opening stage looks after it or opens it, and hands the fragment back. Nothing has been
//! written into the frame until then.

use crate::{
    checksum::Delta,
    env::Env,
    hop::Hop,
    nat::{
        fragment::{self as table, Fragment, Note},
        session::Facts,
    },
    packet::Packet,
    step::{
        Stop,
        admit::Arrival,
        edge::admitted,
        inbound, outbound,
        stage::{Attempt, Stage},
        translate::End,
        tunnel::{self, Encapsulation, INNER, OUTER_SOURCE},
    },
    verdict::{Action, Broken, Direction, Failure, Reason, Verdict},
    wire::eth::{self, EtherType},
};

/// LAN to WAN.
#[inline(always)]
pub fn outbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let attempt = if super::is_first::<P, { eth::LEN }>(frame) {
        let mut note = Note::EMPTY;
        // One after the other, since all in one are more than a program's stack.
        match look_outbound(frame, env, ifindex, &mut note) {
            Ok(()) => {
                match super::note::<P, E, { eth::LEN }, { super::NO_OUTER }>(frame, env, Direction::Outbound, &mut note)
                {
                    Ok(()) => outbound_first(frame, env, ifindex, note.identification()),
                    Err(reason) => Attempt::refused(reason),
                }
            }
            Err(Stop::Unsettled) => Attempt::go_on(Stage::OutboundOpen, Reason::Contended),
            Err(Stop::Refused(reason)) => Attempt::refused(reason),
        }
    } else {
        outbound_later(frame, env, ifindex)
    };
    match attempt.outcome() {
        // Whose packet it is depends on the routing table, which is asked only where it matters.
        Ok(Err(Failure::Refused(reason))) if matches!(reason.action(), Action::Drop) => {
            match admitted(frame, env, ifindex, EtherType::IPV4) {
                Ok(arrival) => Attempt::refused(outbound::ours_or_not(frame, env, &arrival, reason)),
                Err(reason) => Attempt::refused(reason),
            }
        }
        Ok(_) | Err(_) => attempt,
    }
}

/// WAN to LAN.
#[inline(always)]
pub fn inbound<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    if !super::is_first::<P, INNER>(frame) {
        return inbound_later(frame, env, ifindex);
    }
    let mut note = Note::EMPTY;
    match look_inbound(frame, env, ifindex, &mut note) {
        Ok(()) => match super::note::<P, E, INNER, OUTER_SOURCE>(frame, env, Direction::Inbound, &mut note) {
            Ok(()) => inbound_first(frame, env, ifindex),
            Err(reason) => Attempt::refused(reason),
        },
        Err(Stop::Unsettled) => Attempt::go_on(Stage::InboundOpen, Reason::Contended),
        Err(Stop::Refused(reason)) => Attempt::refused(reason),
    }
}

/// What is to be noted of a packet by what became of its first fragment. Where that is left to the stack, as it will be found once
/// more when it is to be forwarded, those after it shall be too, and in their order.
#[inline(always)]
fn note_of(found: Result<Note, Stop>, note: &mut Note) -> Result<(), Stop> {
    *note = match found {
        Err(Stop::Refused(Reason::TooBig | Reason::NextHopUnknown | Reason::LinkUnproven)) => Note::LEFT_TO_STACK,
        found => found?,
    };
    Ok(())
}

/// Finds the session of a first fragment, if it is in use and the fragment may enter the tunnel, and an identification.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_outbound<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32, note: &mut Note) -> Result<(), Stop> {
    note_of(find_outbound(frame, env, ifindex), note)
}

#[inline(always)]
fn find_outbound<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Result<Note, Stop> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV4)?;
    let config = arrival.config;
    let found = outbound::find::<P, E, true, false>(frame, env, &arrival)?;
    let header = &found.inner.header;
    tunnel::enters(config, header, &found.hop)?;
    let chosen = table::identification(env, config, header);
    Ok(Note::of_session(
        found.session,
        chosen.unwrap_or(header.identification()),
    ))
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn outbound_first<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32, identification: u16) -> Attempt {
    let plan = admitted(frame, env, ifindex, EtherType::IPV4)
        .map_err(Stop::from)
        .and_then(|arrival| {
            let found = outbound::find::<P, E, true, false>(frame, env, &arrival)?;
            let change = Delta::ZERO.word(found.inner.header.identification(), identification);
            Ok(outbound::plan_found(frame, arrival.config, &found, change)?)
        });
    match plan {
        Ok(plan) => Attempt::ended(
            super::identify::<P, { eth::LEN }>(frame, identification)
                .map_err(Broken::from)
                .and_then(|()| outbound::apply(frame, &plan))
                .map_err(Failure::from),
        ),
        Err(Stop::Unsettled) => Attempt::refused(Reason::Contended),
        Err(Stop::Refused(reason)) => Attempt::refused(reason),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn outbound_later<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let plan =
        admitted(frame, env, ifindex, EtherType::IPV4).and_then(|arrival| plan_outbound_later(frame, env, &arrival));
    match plan {
        Ok((rewriting, encapsulation)) => Attempt::ended(
            super::apply::<P, { eth::LEN }>(frame, &rewriting)
                .map_err(Broken::from)
                .and_then(|()| tunnel::encapsulate(frame, &encapsulation))
                .map(|()| Verdict::Forward {
                    ifindex: encapsulation.hop.ifindex,
                })
                .map_err(Failure::from),
        ),
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn plan_outbound_later<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<(super::Rewriting, Encapsulation), Reason> {
    let config = arrival.config;
    let room = frame.len().saturating_sub(eth::LEN);
    let piece = super::read::<P, { eth::LEN }>(frame, room)?;
    let header = &piece.header;
    let fragment = Fragment::new(Direction::Outbound, [0; 16], header);
    let mut note = Note::EMPTY;
    table::follow::<E, false>(env, config, &fragment, &mut note, arrival.now)?;
    let facts = facts(env, &note)?;
    let hop = outbound::way(env, facts.wan_hop, arrival.now)?;
    let rewriting = super::plan(header, End::Source, facts.external, note.identification());
    let encapsulation = tunnel::plan_encapsulation(
        config,
        header,
        rewriting.header,
        hop,
        facts.far_end,
        outbound::label(&facts),
        piece.excess,
    )?;
    Ok((rewriting, encapsulation))
}

/// The session that a fragment follows; its end is its fragments' too.
///
/// # Errors
/// [`Reason::NoSession`].
#[inline(always)]
pub fn facts<E: Env>(env: &E, note: &Note) -> Result<Facts, Reason> {
    let session = note.session();
    env.session(session.slot)
        .and_then(|record| record.read(session.generation))
        .map(|(_, facts)| facts)
        .ok_or(Reason::NoSession)
}

/// Finds the session of a first fragment, if it is in use and the fragment fits the LAN.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_inbound<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32, note: &mut Note) -> Result<(), Stop> {
    note_of(find_inbound(frame, env, ifindex), note)
}

#[inline(always)]
fn find_inbound<P: Packet, E: Env>(frame: &P, env: &E, ifindex: u32) -> Result<Note, Stop> {
    let arrival = admitted(frame, env, ifindex, EtherType::IPV6)?;
    let found = inbound::find::<P, E, true, false>(frame, env, &arrival)?;
    let header = &found.inner.header;
    tunnel::fits(header, &found.hop)?;
    Ok(Note::of_session(found.session, header.identification()))
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn inbound_first<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let plan = admitted(frame, env, ifindex, EtherType::IPV6)
        .map_err(Stop::from)
        .and_then(|arrival| inbound::plan_part::<P, E, true, false>(frame, env, &arrival));
    match plan {
        Ok(plan) => Attempt::ended(inbound::apply(frame, &plan).map_err(Failure::from)),
        Err(Stop::Unsettled) => Attempt::refused(Reason::Contended),
        Err(Stop::Refused(reason)) => Attempt::refused(reason),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn inbound_later<P: Packet, E: Env>(frame: &mut P, env: &E, ifindex: u32) -> Attempt {
    let plan =
        admitted(frame, env, ifindex, EtherType::IPV6).and_then(|arrival| plan_inbound_later(frame, env, &arrival));
    match plan {
        Ok((rewriting, decapsulation, hop)) => {
            let header = eth::Header::new(hop.destination, hop.source, EtherType::IPV4);
            Attempt::ended(
                super::apply::<P, INNER>(frame, &rewriting)
                    .map_err(Broken::from)
                    .and_then(|()| tunnel::decapsulate(frame, &decapsulation, &header))
                    .map(|()| Verdict::Forward { ifindex: hop.ifindex })
                    .map_err(Failure::from),
            )
        }
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn plan_inbound_later<P: Packet, E: Env>(
    frame: &P,
    env: &E,
    arrival: &Arrival<'_>,
) -> Result<(super::Rewriting, tunnel::Decapsulation, Hop), Reason> {
    let config = arrival.config;
    let outer = tunnel::read_outer(frame, config.tunnel_address)?;
    let piece = super::read::<P, INNER>(frame, usize::from(outer.payload_len))?;
    let header = &piece.header;
    if !config.owns(header.destination()) {
        return Err(Reason::NotMyAddress);
    }
    let fragment = Fragment::new(Direction::Inbound, outer.source.to_bytes(), header);
    let mut note = Note::EMPTY;
    table::follow::<E, false>(env, config, &fragment, &mut note, arrival.now)?;
    let facts = facts(env, &note)?;
    let hop = env
        .hop(facts.lan_hop)
        .and_then(|hop| hop.get(facts.inside))
        .ok_or(Reason::NextHopUnknown)?;
    tunnel::fits(header, &hop)?;
    let rewriting = super::plan(header, End::Destination, facts.inside, note.identification());
    let decapsulation = tunnel::plan_decapsulation(&outer, header, rewriting.header, piece.excess)?;
    Ok((rewriting, decapsulation, hop))
}
