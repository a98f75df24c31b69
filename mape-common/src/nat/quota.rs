//! What each LAN host has, and how much it may have (RFC 6888 REQ-4, REQ-5).
//!
//! Counted by address. Addresses are never forgotten, so that a count can be taken back without asking whether it is still
//! the same one; those that come when there is no room for more share one count, as if they were one host.

use crate::{
    env::Env,
    layout::{Config, HostUse, Transport},
    verdict::Reason,
};

/// Who shares the count of those that found no room.
const OTHERS: [u8; 4] = [0; 4];

#[inline(always)]
fn of<E: Env>(env: &E, host: [u8; 4]) -> Option<&HostUse> {
    env.host_use(host).or_else(|| env.host_use(OTHERS))
}

/// Makes sure that the host is counted.
#[inline(always)]
fn begin<E: Env>(env: &E, host: [u8; 4]) {
    if env.host_use(host).is_none() {
        // First, so that there is a place for those that find none.
        env.note_host(OTHERS);
        env.note_host(host);
    }
}

/// Counts one session more.
///
/// # Errors
/// [`Reason::HostSessions`]: the host has as many as it may have; nothing is counted.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn take_session<E: Env>(env: &E, config: &Config, host: [u8; 4]) -> Result<(), Reason> {
    begin(env, host);
    let Some(word) = of(env, host).map(HostUse::sessions) else {
        return Ok(());
    };
    let before = word.add(1);
    if config.host_sessions != 0 && before >= u64::from(config.host_sessions) {
        word.add(u64::MAX);
        return Err(Reason::HostSessions);
    }
    Ok(())
}

/// Counts one session less.
#[inline(always)]
pub fn give_session<E: Env>(env: &E, host: [u8; 4]) {
    if let Some(host) = of(env, host) {
        host.sessions().add(u64::MAX);
    }
}

/// Counts one port more that the host holds alone; false, and nothing counted, where it holds as many as it may.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn take_port<E: Env>(env: &E, config: &Config, transport: Transport, host: [u8; 4]) -> bool {
    begin(env, host);
    let Some(word) = of(env, host).map(HostUse::ports) else {
        return true;
    };
    let before = HostUse::ports_of(word.add(HostUse::one_port(transport)), transport);
    if config.host_ports != 0 && before >= u64::from(config.host_ports) {
        word.add(HostUse::one_port(transport).wrapping_neg());
        return false;
    }
    true
}

/// Counts one port less.
#[inline(always)]
pub fn give_port<E: Env>(env: &E, transport: Transport, host: [u8; 4]) {
    if let Some(host) = of(env, host) {
        host.ports().add(HostUse::one_port(transport).wrapping_neg());
    }
}
