//! What an operator decides about single ports of the set: static forwards, and ports that are kept from translation.
//!
//! A forward is a mapping (RFC 4787 §4.1) that never expires: a record in [`Phase::Static`] that holds its port for one LAN
//! endpoint. Anybody may send to it, whatever the protocol's policy; each remote end that does gets a member session with the
//! ordinary idle times. What the LAN endpoint itself sends leaves by the forwarded port. User space asks for one, the kernel
//! makes it by the same steps, in the same order, as a packet makes a mapping: so packets may flow meanwhile.

use super::{
    part::Part,
    port::{self, PortState},
    session::{Facts, Hold, Phase, State},
    table::{self, Draft, Ending},
};
use crate::{
    env::{Env, Side},
    layout::{Config, FlowKey, Gauge, PortOrder, SessionRef, Transport},
    verdict::Reason,
    wire::port::Port,
    word::Word,
};

/// Whether there is any forward of a protocol: a protocol without mappings is spared the search for one.
#[inline(always)]
pub fn exist<E: Env>(env: &E, transport: Transport) -> bool {
    env.gauge(Gauge::Forwards(transport)).map_or(0, Word::load) != 0
}

/// Whether a mapping is a forward.
#[inline(always)]
pub fn is_static<E: Env>(env: &E, mapping: SessionRef) -> bool {
    env.session(mapping.slot).is_some_and(|record| {
        let state = record.state();
        state.generation == mapping.generation && matches!(state.phase, Phase::Static)
    })
}

/// Carries out an order; gives what [`PortOrder::outcome`] shall be.
#[inline(always)]
pub fn carry_out<E: Env>(env: &E, config: &Config, order: &PortOrder) -> u32 {
    let external = Port::from_bytes(order.external_port);
    let (Some(transport), Some(ordinal)) = (
        Transport::from_protocol(order.protocol),
        config.port_set.ordinal(external),
    ) else {
        return PortOrder::INVALID;
    };
    let Some(word) = env.port(transport, ordinal) else {
        return PortOrder::INVALID;
    };
    match order.action {
        // An ICMP identifier is its sender's: there is none that a remote host could know.
        PortOrder::FORWARD if !matches!(transport, Transport::Icmp) && external != Port(0) => {
            add(env, config, order, transport, ordinal, word)
        }
        PortOrder::UNFORWARD => remove(env, config, order, transport),
        PortOrder::RESERVE => reserve(word),
        PortOrder::RELEASE if port::give_from(word, PortState::Reserved, None) => PortOrder::DONE,
        PortOrder::RELEASE => PortOrder::ABSENT,
        _ => PortOrder::INVALID,
    }
}

#[inline(always)]
fn reserve(word: &Word) -> u32 {
    if port::take_for(word, PortState::Reserved) || PortState::from_word(word.load()) == PortState::Reserved {
        PortOrder::DONE
    } else {
        PortOrder::BUSY
    }
}

/// Makes a forward: port, OUTSIDE, INSIDE, live; undone in reverse where a step fails.
#[inline(always)]
fn add<E: Env>(env: &E, config: &Config, order: &PortOrder, transport: Transport, ordinal: u32, word: &Word) -> u32 {
    if find(env, config, order, transport).is_some() {
        return PortOrder::DONE;
    }
    // A quarantine goes on where nothing comes of the order.
    let unused = match PortState::from_word(word.load()) {
        PortState::Quarantined(until) => Some(until),
        PortState::Free | PortState::Shared(_) | PortState::Exclusive | PortState::Static | PortState::Reserved => None,
    };
    if !port::take_for(word, PortState::Static) {
        return PortOrder::BUSY;
    }
    match enter(env, config, order, transport, ordinal) {
        Ok(()) => PortOrder::DONE,
        Err(reason) => {
            // Ours alone since it was taken.
            let _ = port::give_from(word, PortState::Static, unused);
            if matches!(reason, Reason::SessionsExhausted) {
                PortOrder::FULL
            } else {
                PortOrder::BUSY
            }
        }
    }
}

#[inline(always)]
fn enter<E: Env>(
    env: &E,
    config: &Config,
    order: &PortOrder,
    transport: Transport,
    ordinal: u32,
) -> Result<(), Reason> {
    let now = env.now();
    let draft = Draft::take(env, now)?;
    draft.record(env)?.write(&Facts {
        transport,
        hold: Hold::Mapping,
        inside: order.inside,
        inside_port: Port::from_bytes(order.inside_port),
        external: config.external_address,
        external_port: Port::from_bytes(order.external_port),
        ordinal: u16::try_from(ordinal).unwrap_or(u16::MAX),
        first: Phase::Static,
        created: now,
        ..Facts::EMPTY
    });
    if let Err(reason) = env.part(Part::EnterOutside, draft).result() {
        draft.give_back(env);
        return Err(reason);
    }
    if let Err(reason) = env.part(Part::EnterInside, draft).result() {
        table::leave_outside(env, draft);
        draft.give_back(env);
        return Err(reason);
    }
    draft.publish(env)
}

/// The forward that the order names, with the state that it is in.
#[inline(always)]
fn find<E: Env>(env: &E, config: &Config, order: &PortOrder, transport: Transport) -> Option<(SessionRef, State)> {
    let external = Port::from_bytes(order.external_port);
    let key = FlowKey::endpoint(transport, config.external_address, external);
    let (found, _) = table::find(env, Side::Outside, &key)?;
    let (state, facts) = env.session(found.slot)?.read(found.generation)?;
    let is_it = matches!(state.phase, Phase::Static)
        && facts.inside == order.inside
        && facts.inside_port == Port::from_bytes(order.inside_port);
    is_it.then_some((found, state))
}

/// Ends a forward. Its members go on until the sweeper is asked to end them; none can be added any longer.
#[inline(always)]
fn remove<E: Env>(env: &E, config: &Config, order: &PortOrder, transport: Transport) -> u32 {
    let Some((found, state)) = find(env, config, order, transport) else {
        return PortOrder::ABSENT;
    };
    // A packet that has used it since makes the caller ask again.
    if env.end(found.slot, state, Ending::Flushed(env.now())) {
        PortOrder::DONE
    } else {
        PortOrder::BUSY
    }
}
