//! What each LAN host has, and how much it may have (RFC 6888 REQ-4, REQ-5).
//!
//! Counted in a table that has a place for every address and no keys, so that nobody has to be entered or forgotten: a host
//! that is gone leaves zeros, which are anybody's, and a count is taken back where it was made.

use crate::{
    env::Env,
    layout::{Config, HostUse, LAN_HOSTS, Transport},
    verdict::Reason,
};

/// Where a LAN host is counted, an index into HOSTS.
///
/// The hosts of any /16 have different places. Those of two /16 may have the same, and share one count then.
#[inline(always)]
pub const fn place(host: [u8; 4]) -> u32 {
    let address = u32::from_be_bytes(host);
    // Odd, so that each upper half moves the lower ones by another pattern.
    (address ^ (address >> 16).wrapping_mul(0x9e3b)) & LAN_HOSTS.wrapping_sub(1)
}

#[inline(always)]
fn of<E: Env>(env: &E, host: [u8; 4]) -> Option<&HostUse> {
    env.host_use(place(host))
}

/// Counts one session more.
///
/// # Errors
/// [`Reason::HostSessions`]: the host has as many as it may have; nothing is counted.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn take_session<E: Env>(env: &E, config: &Config, host: [u8; 4]) -> Result<(), Reason> {
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
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn give_session<E: Env>(env: &E, host: [u8; 4]) {
    if let Some(host) = of(env, host) {
        host.sessions().add(u64::MAX);
    }
}

/// Counts one port more that the host holds alone; false, and nothing counted, where it holds as many as it may.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn take_port<E: Env>(env: &E, config: &Config, transport: Transport, host: [u8; 4]) -> bool {
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
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn give_port<E: Env>(env: &E, transport: Transport, host: [u8; 4]) {
    if let Some(host) = of(env, host) {
        host.ports().add(HostUse::one_port(transport).wrapping_neg());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn hosts_of_a_network_and_of_usual_ones_side_by_side_have_places_of_their_own() {
        let whole: HashSet<u32> = (0..=u16::MAX)
            .map(|low| {
                let [c, d] = low.to_be_bytes();
                place([192, 168, c, d])
            })
            .collect();
        assert_eq!(whole.len(), usize::try_from(LAN_HOSTS).unwrap());
        let networks = [
            [192, 168, 0],
            [192, 168, 1],
            [192, 168, 10],
            [192, 168, 178],
            [10, 0, 0],
            [10, 0, 1],
            [10, 1, 1],
            [172, 16, 0],
            [100, 64, 0],
        ];
        let places: HashSet<u32> = networks
            .into_iter()
            .flat_map(|[a, b, c]| (0..=255).map(move |d| place([a, b, c, d])))
            .collect();
        assert_eq!(places.len(), networks.len() * 256);
    }
}
