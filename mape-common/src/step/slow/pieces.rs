//! Fragments at the tunnel device: the first is noted, as one whose packet takes the slow path, and later ones follow it.

use crate::{
    checksum::Delta,
    env::{Env, Side},
    nat::fragment::{self as table, Fragment, Note},
    packet::Packet,
    step::{
        fragment, inbound, outbound,
        stage::Attempt,
        translate::{self, End},
        tunnel::INNER,
    },
    verdict::{Direction, Reason},
    wire::{eth, ipv4},
};

use super::{Arriving, Leaving, arrived, done, finish_header, lead, outer, plan_inbound, session, write};

/// Into the tunnel: a fragment. Its first is noted, later ones follow it.
#[inline(always)]
pub(super) fn outbound<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E) -> Attempt {
    let mut note = Note::EMPTY;
    if fragment::is_first::<_, { eth::LEN }>(packet) {
        let noted = look_outbound(packet, env, &mut note).and_then(|()| {
            fragment::note::<_, E, { eth::LEN }, { fragment::NO_OUTER }>(packet, env, Direction::Outbound, &mut note)
        });
        match noted {
            Ok(()) => first_outbound(packet, env, note.identification()),
            Err(reason) => Attempt::refused(reason),
        }
    } else {
        let mut tos = 0;
        let followed = follow_outbound(packet, env, &mut note, &mut tos).and_then(|()| {
            if lead::is_external(env) {
                lead::session(env, note.session(), tos)
            } else {
                Ok(())
            }
        });
        match followed {
            Ok(()) => later_outbound(packet, env, &note),
            Err(reason) => Attempt::refused(reason),
        }
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_outbound<P: Packet, E: Env>(packet: &Leaving<'_, P>, env: &E, note: &mut Note) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let config = arrival.config;
    let (inner, flow) = outbound::read_part::<_, true>(packet)?;
    let (found, _) = session(env, config, Side::Inside, &flow, arrival.now)?;
    let chosen = table::identification(env, config, &inner.header);
    *note = Note::of_session(found, chosen.unwrap_or(inner.header.identification())).by_stack();
    Ok(())
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn first_outbound<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E, identification: u16) -> Attempt {
    let planned = arrived(env).and_then(|arrival| {
        let (inner, flow) = outbound::read_part::<_, true>(packet)?;
        let (_, facts) = session(env, arrival.config, Side::Inside, &flow, arrival.now)?;
        let change = Delta::ZERO.word(inner.header.identification(), identification);
        let plan = translate::plan::<_, { eth::LEN }>(
            packet,
            &inner,
            End::Source,
            facts.external,
            facts.external_port,
            || Ok(0),
        )?;
        Ok((plan, change))
    });
    match planned {
        Ok((plan, change)) => match fragment::identify::<_, { eth::LEN }>(packet, identification) {
            Ok(()) => write::<_, { eth::LEN }>(packet, &plan, plan.header.and(change)),
            broken @ Err(_) => done(broken),
        },
        Err(reason) => Attempt::refused(reason),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn follow_outbound<P: Packet, E: Env>(
    packet: &Leaving<'_, P>,
    env: &E,
    note: &mut Note,
    tos: &mut u8,
) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let room = packet.len().saturating_sub(eth::LEN);
    let header = fragment::read::<_, { eth::LEN }>(packet, room)?.header;
    *tos = header.tos();
    let piece = Fragment::new(Direction::Outbound, [0; 16], &header);
    table::follow::<E, true>(env, arrival.config, &piece, note, arrival.now)
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn later_outbound<P: Packet, E: Env>(packet: &mut Leaving<'_, P>, env: &E, note: &Note) -> Attempt {
    let room = packet.len().saturating_sub(eth::LEN);
    let planned = fragment::read::<_, { eth::LEN }>(packet, room).and_then(|read| {
        let facts = fragment::customer::facts(env, note)?;
        Ok(fragment::plan(
            &read.header,
            End::Source,
            facts.external,
            note.identification(),
        ))
    });
    match planned {
        Ok(plan) => write_later::<_, { eth::LEN }>(packet, &plan),
        Err(reason) => Attempt::refused(reason),
    }
}

/// Out of the tunnel: a fragment. Its first is noted, later ones follow it.
#[inline(always)]
pub(super) fn inbound<P: Packet, E: Env>(packet: &mut Arriving<'_, P>, env: &E, from: &[u8; 16]) -> Attempt {
    if fragment::is_first::<_, INNER>(packet) {
        let mut note = Note::EMPTY;
        // One after the other, since both in one are more than a program's stack.
        match look_inbound(packet, env, &mut note).and_then(|()| note_inbound(packet, env, from, &mut note)) {
            Ok(()) => first_inbound(packet, env),
            Err(reason) => Attempt::refused(reason),
        }
    } else {
        later_inbound(packet, env, from)
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn look_inbound<P: Packet, E: Env>(packet: &Arriving<'_, P>, env: &E, note: &mut Note) -> Result<(), Reason> {
    let arrival = arrived(env)?;
    let config = arrival.config;
    let outer = outer(packet, &config.relay_address);
    let (inner, flow) = inbound::read_inner::<_, E, false, true>(packet, env, config, &outer)?;
    let (found, _) = session(env, config, Side::Outside, &flow, arrival.now)?;
    *note = Note::of_session(found, inner.header.identification()).by_stack();
    Ok(())
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn note_inbound<P: Packet, E: Env>(
    packet: &Arriving<'_, P>,
    env: &E,
    from: &[u8; 16],
    note: &mut Note,
) -> Result<(), Reason> {
    let config = env.config().ok_or(Reason::NotConfigured)?;
    let header = ipv4::Header::from_bytes(packet.read(INNER).map_err(|_| Reason::BadLength)?);
    let piece = Fragment::new(Direction::Inbound, *from, &header);
    table::note(env, config, &piece, note, env.now())
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn first_inbound<P: Packet, E: Env>(packet: &mut Arriving<'_, P>, env: &E) -> Attempt {
    match plan_inbound::<P, E, true>(packet, env) {
        Ok(plan) => write::<_, INNER>(packet, &plan, plan.header),
        Err(reason) => Attempt::refused(reason),
    }
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn later_inbound<P: Packet, E: Env>(packet: &mut Arriving<'_, P>, env: &E, from: &[u8; 16]) -> Attempt {
    let planned = arrived(env).and_then(|arrival| {
        let config = arrival.config;
        let outer = outer(packet, from);
        let header = fragment::read::<_, INNER>(packet, usize::from(outer.payload_len))?.header;
        if !config.owns(header.destination()) {
            return Err(Reason::NotMyAddress);
        }
        let piece = Fragment::new(Direction::Inbound, outer.source.to_bytes(), &header);
        let mut note = Note::EMPTY;
        table::follow::<E, true>(env, config, &piece, &mut note, arrival.now)?;
        let facts = fragment::customer::facts(env, &note)?;
        Ok(fragment::plan(
            &header,
            End::Destination,
            facts.inside,
            note.identification(),
        ))
    });
    match planned {
        Ok(plan) => write_later::<_, INNER>(packet, &plan),
        Err(reason) => Attempt::refused(reason),
    }
}

#[inline(always)]
fn write_later<P: Packet, const L3: usize>(packet: &mut P, plan: &fragment::Rewriting) -> Attempt {
    done(fragment::apply::<_, L3>(packet, plan).and_then(|()| finish_header::<_, L3>(packet, plan.header)))
}
