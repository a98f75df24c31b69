//! A flow without a session gets one: the slow part of translation, a few times per connection.

use super::{
    forward,
    index::same,
    mapping,
    overlap::Fingerprint,
    part::{Done, Part},
    pressure, quota,
    refusal::Refusal,
    session::{Facts, Hold, Phase, Session},
    table::{self, Draft},
};
use crate::{
    env::{Env, Side},
    layout::{Config, FlowKey, Gauge, SessionRef, Transport},
    time::Tick,
    verdict::Reason,
    wire::port::Port,
};

/// A packet's five-tuple as NAT sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Protocol.
    pub transport: Transport,
    /// This side: the LAN host (outbound), the external address (inbound).
    pub local: [u8; 4],
    /// Its port or query identifier.
    pub local_port: Port,
    /// The other side.
    pub remote: [u8; 4],
    /// Its port; zero for ICMP.
    pub remote_port: Port,
}

impl Flow {
    /// The flow's key in the table of its side.
    #[inline(always)]
    pub const fn key(&self) -> FlowKey {
        FlowKey::new(
            self.transport,
            self.local,
            self.local_port,
            self.remote,
            self.remote_port,
        )
    }
}

/// Where a session's packets go, found by the routing table and the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The tunnel's far end for this remote.
    pub far_end: [u8; 16],
    /// Next hop towards it.
    pub wan_hop: u16,
    /// Next hop towards the LAN host.
    pub lan_hop: u16,
}

/// Takes a record and writes whose session it shall be; it starts its life in the phase `first`.
///
/// # Errors
/// [`Reason::SessionsExhausted`], [`Reason::Contended`].
#[inline(always)]
pub fn draft<E: Env>(
    env: &E,
    config: &Config,
    flow: &Flow,
    path: &Path,
    first: Phase,
    now: Tick,
) -> Result<Draft, Reason> {
    let draft = Draft::take(env, now)?;
    let record = draft.record(env)?;
    write_ends(record, config.external_address, flow, first);
    write_ways(record, path, now);
    Ok(draft)
}

/// One of two functions, because all of a record's bytes at once do not fit on a BPF program's stack. True, see `step::edge`.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn write_ends(record: &Session, external: [u8; 4], flow: &Flow, first: Phase) -> bool {
    record.write_ends(&Facts {
        transport: flow.transport,
        inside: flow.local,
        inside_port: flow.local_port,
        external,
        first,
        remote: flow.remote,
        remote_port: flow.remote_port,
        ..Facts::EMPTY
    });
    true
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn write_ways(record: &Session, path: &Path, now: Tick) -> bool {
    let Path {
        far_end,
        wan_hop,
        lan_hop,
    } = *path;
    record.write_ways(&Facts {
        far_end,
        wan_hop,
        lan_hop,
        created: now,
        ..Facts::EMPTY
    });
    true
}

/// Whether a LAN host was refused this destination less than a second ago.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn was_refused<E: Env>(env: &E, config: &Config, flow: &Flow, now: Tick) -> bool {
    refusal(config, flow).is_recent(env, now)
}

/// Whether that was so some seconds before, too.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn is_refused_again<E: Env>(env: &E, config: &Config, flow: &Flow) -> bool {
    refusal(config, flow).is_repeated(env)
}

#[inline(always)]
fn refusal(config: &Config, flow: &Flow) -> Refusal {
    Refusal::new(
        config,
        flow.local,
        Fingerprint::new(config, flow.transport, flow.remote, flow.remote_port),
    )
}

/// Opens the session of a LAN host's packet: finds its port, by a mapping or shared, and makes its entries.
///
/// # Errors
/// Why there is none: [`Reason::PortsExhausted`], [`Reason::SessionsExhausted`], [`Reason::Contended`]; the draft is free again.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn outbound<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let opened = within_quota(env, config, draft, |env| {
        take_port(env, config, draft)?;
        env.part(Part::Finish, draft).result()
    });
    match opened {
        Ok(()) => {
            let record = draft.record(env)?;
            let facts = record.facts();
            if matches!(facts.hold, Hold::Member) {
                mapping::permit(env, config, record, facts.created);
            }
            pressure::measure(env, config, facts.transport, facts.created);
            Ok(())
        }
        Err(reason) => {
            if matches!(reason, Reason::PortsExhausted | Reason::HostSessions) {
                note_refusal(env, config, draft);
            }
            draft.give_back(env);
            Err(reason)
        }
    }
}

/// Remembers that the draft's host was refused its destination; true, see `step::edge`.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn note_refusal<E: Env>(env: &E, config: &Config, draft: Draft) -> bool {
    if let Ok((flow, now)) = flow(env, draft) {
        refusal(config, &flow).note(env, now);
    }
    true
}

/// Counts the draft's session for its LAN host, if it may have one more and `open` succeeds.
#[inline(always)]
fn within_quota<E: Env>(
    env: &E,
    config: &Config,
    draft: Draft,
    open: impl FnOnce(&E) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let host = draft.record(env)?.facts().inside;
    quota::take_session(env, config, host)?;
    let opened = open(env);
    if opened.is_err() {
        quota::give_session(env, host);
    }
    opened
}

/// Opens the session of a remote host's packet, drafted as a member of a mapping that has sent to that host before.
///
/// # Errors
/// [`Reason::SessionsExhausted`], [`Reason::Contended`]; the draft is free again.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn inbound<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let mapping = draft.record(env)?.facts().mapping;
    let opened = within_quota(env, config, draft, |env| {
        join(env, draft, mapping)?;
        env.part(Part::Finish, draft).result()
    });
    if opened.is_err() {
        draft.give_back(env);
    }
    opened
}

#[inline(always)]
fn flow<E: Env>(env: &E, draft: Draft) -> Result<(Flow, Tick), Reason> {
    let facts = draft.record(env)?.facts();
    let flow = Flow {
        transport: facts.transport,
        local: facts.inside,
        local_port: facts.inside_port,
        remote: facts.remote,
        remote_port: facts.remote_port,
    };
    Ok((flow, facts.created))
}

#[inline(always)]
fn take_port<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    let transport = draft.record(env)?.transport();
    let endpoint_independent = config.endpoint_independent(transport);
    if endpoint_independent || forward::exist(env, transport) {
        // An endpoint that has a mapping uses it for everything, also towards client-server ports.
        if let Some(joined) = join_own(env, draft).outcome() {
            return joined;
        }
    }
    if endpoint_independent
        && (!matches!(transport, Transport::Udp) || !overlaps(config, draft.record(env)?.facts().remote_port))
    {
        match env.part(Part::Map, draft).result() {
            Err(Reason::PortsExhausted) => env.raise(Gauge::Degraded(transport)),
            outcome => return outcome,
        }
    }
    env.part(Part::Share, draft).result()
}

/// Makes the draft a member of the mapping that its LAN endpoint has, if it has one.
///
/// A function of its own for the sake of the stack.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn join_own<E: Env>(env: &E, draft: Draft) -> Joined {
    let Some(config) = env.config() else {
        return Joined::NOT;
    };
    let Ok((flow, now)) = flow(env, draft) else {
        return Joined::NOT;
    };
    match mapping::find(env, config, Side::Inside, &flow, now) {
        Some(mapping) => Joined(Done::new(join(env, draft, mapping)).0),
        None => Joined::NOT,
    }
}

/// Whether there was a mapping to join, and what joining came to; one number, see `step::stage`.
#[derive(Clone, Copy)]
struct Joined(u32);

impl Joined {
    const NOT: Self = Self(u32::MAX);

    #[inline(always)]
    const fn outcome(self) -> Option<Result<(), Reason>> {
        match self.0 {
            u32::MAX => None,
            number => Some(Done(number).result()),
        }
    }
}

/// Whether new endpoints that send to this port share a port although their protocol has mappings.
#[inline(always)]
fn overlaps(config: &Config, remote_port: Port) -> bool {
    let mut found = 0;
    for port in &config.overlap_ports {
        found |= same(port.0.into(), remote_port.0.into());
    }
    found != 0 && remote_port != Port(0)
}

/// Makes the draft a member of a mapping and makes its entry in OUTSIDE.
///
/// # Errors
/// [`Reason::SessionsExhausted`], [`Reason::Contended`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn join<E: Env>(env: &E, draft: Draft, mapping: SessionRef) -> Result<(), Reason> {
    let record = draft.record(env)?;
    let of = env.session(mapping.slot).ok_or(Reason::Contended)?.facts();
    record.set_member(mapping, of.external_port, of.ordinal);
    // After the facts were read: it says that the mapping was still itself.
    let config = env.config().ok_or(Reason::NotConfigured)?;
    let facts = record.facts();
    if !mapping::touch(env, config, mapping, facts.created, facts.first.is_answered()) {
        return Err(Reason::Contended);
    }
    env.part(Part::EnterOutside, draft).result()
}

/// Makes the last entry and the record live; undoes what was done before where that fails.
///
/// # Errors
/// [`Reason::SessionsExhausted`], [`Reason::Contended`].
#[inline(always)]
pub fn finish<E: Env>(env: &E, config: &Config, draft: Draft) -> Result<(), Reason> {
    if let Err(reason) = env.part(Part::EnterInside, draft).result() {
        table::leave_outside(env, draft);
        let record = draft.record(env)?;
        table::release_port(env, config, record, record.facts().created);
        return Err(reason);
    }
    draft.publish(env)
}
