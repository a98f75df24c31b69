//! Owns what a gateway's configuration means in words of the maps: CONFIG, and the ports that are kept from translation.

use std::{fs::File, io, io::Read as _};

use mape_common::{
    layout::{Config, DEFAULT_SESSIONS, OVERLAP_PORTS, Timeouts, Transport},
    map::psid::PortSet,
    nat::port::PortState,
    time::Tick,
    wire::port::Port,
};

use super::programs::Sizes;
use crate::gateway::{Gateway, Nat, Role, Seconds};

/// Ports below this are not handed out to endpoints that have not asked for one by its number.
const FIRST_USER_PORT: u16 = 1_024;

/// A secret for the hashes that decide where something is noted.
///
/// # Errors
/// When the kernel gives no random numbers.
pub fn secret<const N: usize>() -> io::Result<[u64; N]> {
    let mut random = File::open("/dev/urandom")?;
    let mut secret = [0; N];
    for word in &mut secret {
        let mut bytes = [0; 8];
        random.read_exact(&mut bytes)?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(secret)
}

/// The secrets of one gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Secrets {
    /// [`Config::hash_key`].
    pub hash_key: [u64; 2],
    /// [`Config::flow_keys`].
    pub flow_keys: [u64; 3],
}

impl Secrets {
    /// New ones.
    ///
    /// # Errors
    /// As [`secret`].
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            hash_key: secret()?,
            flow_keys: secret()?,
        })
    }

    /// Those that a gateway's tables were filled by.
    pub const fn of(config: &Config) -> Self {
        Self {
            hash_key: config.hash_key,
            flow_keys: config.flow_keys,
        }
    }
}

/// What the maps' sizes follow from.
pub fn sizes(gateway: &Gateway, max_ifindex: u32) -> Sizes {
    Sizes {
        sessions: sessions(gateway),
        ports: gateway.domain.as_ref().map_or(0, |domain| domain.port_set().len()),
        max_ifindex,
        rules: u32::try_from(gateway.rules.len()).unwrap_or(u32::MAX),
        processors: aya::util::nr_cpus().map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX)),
    }
}

fn sessions(gateway: &Gateway) -> u32 {
    match gateway.role {
        Role::CustomerEdge if gateway.nat.sessions == 0 => DEFAULT_SESSIONS,
        Role::CustomerEdge => gateway.nat.sessions,
        Role::BorderRelay => 0,
    }
}

/// The gateway as its programs see it.
pub fn config(gateway: &Gateway, tunnel_ifindex: u32, secrets: Secrets) -> Config {
    let (nat, tunnel) = (&gateway.nat, &gateway.tunnel);
    let relay_address = gateway.relay.octets();
    let mut flags = if tunnel.copy_dscp { Config::COPY_DSCP } else { 0 };
    for transport in Transport::ALL {
        let policy = nat.policy(transport);
        if policy.endpoint_independent {
            flags |= Config::mapping(transport);
        }
        flags |= Config::filter(transport, policy.filtering);
    }
    let mut overlap_ports = [Port(0); OVERLAP_PORTS];
    for (to, from) in overlap_ports.iter_mut().zip(&nat.overlap_ports) {
        *to = Port(*from);
    }
    let mut config = Config {
        tunnel_address: relay_address,
        relay_address,
        hash_key: secrets.hash_key,
        flow_keys: secrets.flow_keys,
        timeouts: timeouts(nat.timeouts),
        pressed: timeouts(pressed(nat)),
        external_address: [0; 4],
        external_mask: u32::MAX,
        tunnel_ifindex,
        ports: 0,
        first_dynamic: 0,
        overlap_row_mask: 0,
        overlap_ports,
        port_set: PortSet::ALL,
        tunnel_mtu: tunnel.mtu,
        mss: tunnel.mss.unwrap_or(0),
        flags,
        sessions: sessions(gateway),
        flow_shift: Config::flow_shift(sessions(gateway)),
        sessions_high: share(sessions(gateway), nat.watermark),
        ports_high: 0,
        host_sessions: nat.host_sessions,
        host_ports: nat.host_ports,
        mapping_permissions: nat.mapping_permissions,
        quarantine: if nat.quarantine == 0 {
            Tick(0)
        } else {
            Tick::at_least_seconds(nat.quarantine)
        },
        fragment_timeout: Tick::at_least_seconds(nat.timeouts.fragment),
    };
    if let Some(domain) = &gateway.domain {
        let set = domain.port_set();
        config.tunnel_address = domain.ce_address().octets();
        config.external_address = nat.external_address.unwrap_or_else(|| domain.ipv4_address()).octets();
        config.external_mask = u32::MAX
            .checked_shl(32 - u32::from(domain.ipv4().len().min(32)))
            .unwrap_or(0);
        config.ports = set.len();
        config.ports_high = share(set.len(), nat.watermark);
        config.first_dynamic = first_dynamic(set);
        config.overlap_row_mask = Config::overlap_rows(set.len()) - 1;
        config.port_set = set;
    }
    config
}

/// A share of a number, percent, rounded up.
fn share(of: u32, percent: u32) -> u32 {
    let share = (u64::from(of) * u64::from(percent)).div_ceil(100);
    u32::try_from(share).unwrap_or(u32::MAX)
}

/// Idle times under pressure: never longer than without.
fn pressed(nat: &Nat) -> Seconds {
    Seconds {
        udp_query: nat.pressed.udp_query.min(nat.timeouts.udp_query),
        tcp_opening: nat.pressed.tcp_opening.min(nat.timeouts.tcp_opening),
        tcp_closing: nat.pressed.tcp_closing.min(nat.timeouts.tcp_closing),
        ..nat.timeouts
    }
}

fn timeouts(seconds: Seconds) -> Timeouts {
    Timeouts {
        icmp: Tick::at_least_seconds(seconds.icmp),
        udp: Tick::at_least_seconds(seconds.udp),
        udp_query: Tick::at_least_seconds(seconds.udp_query),
        tcp_opening: Tick::at_least_seconds(seconds.tcp_opening),
        tcp_closing: Tick::at_least_seconds(seconds.tcp_closing),
        tcp_established: Tick::at_least_seconds(seconds.tcp_established),
    }
}

/// The position of the first user port; a set without any hands out what it has.
fn first_dynamic(set: PortSet) -> u32 {
    let user = |ordinal: &u32| set.port(*ordinal).is_some_and(|port| port.0 >= FIRST_USER_PORT);
    (0..set.len()).find(user).unwrap_or(0)
}

/// Positions of the ports that nobody gets: port 0, which is no port to most, and those kept for the box.
pub fn reserved_ordinals(set: &PortSet, reserved: &[u16]) -> Vec<u32> {
    let mut ordinals: Vec<u32> = reserved
        .iter()
        .chain([&0])
        .filter_map(|port| set.ordinal(Port(*port)))
        .collect();
    ordinals.sort_unstable();
    ordinals.dedup();
    ordinals
}

/// PORTS of a gateway without sessions, all of it.
pub fn fresh_ports(set: &PortSet, reserved: &[u16]) -> Vec<(u32, u64)> {
    let kept = reserved_ordinals(set, reserved);
    let word = |ordinal: u32| match kept.binary_search(&ordinal) {
        Ok(_) => PortState::Reserved.to_word(),
        Err(_) => PortState::Free.to_word(),
    };
    let row =
        |transport: Transport| (0..set.len()).map(move |ordinal| (transport.index() * set.len() + ordinal, ordinal));
    Transport::ALL
        .into_iter()
        .flat_map(row)
        .map(|(index, ordinal)| (index, word(ordinal)))
        .collect()
}

/// Whether sessions made under one configuration are still right under another.
pub fn keeps_sessions(old: &Config, new: &Config) -> bool {
    old.tunnel_address == new.tunnel_address
        && old.relay_address == new.relay_address
        && old.external_address == new.external_address
        && old.external_mask == new.external_mask
        && old.port_set == new.port_set
        && old.ports == new.ports
        && old.overlap_row_mask == new.overlap_row_mask
        && old.sessions == new.sessions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(offset: u8, psid_len: u8, psid: u16) -> PortSet {
        PortSet::new(offset, psid_len, psid).unwrap()
    }

    #[test]
    fn system_ports_are_handed_out_last() {
        assert_eq!(first_dynamic(set(4, 8, 0x34)), 0, "all above 1023");
        assert_eq!(first_dynamic(set(0, 0, 0)), 1_024);
        // PSID 0 of 64 sets without an offset: ports 0 to 1023 and no other.
        assert_eq!(first_dynamic(set(0, 6, 0)), 0);
    }

    #[test]
    fn port_zero_and_the_boxs_own_are_nobodys() {
        let all = set(0, 0, 0);
        assert_eq!(reserved_ordinals(&all, &[22, 443, 22]), [0, 22, 443]);
        let some = set(4, 8, 0x34);
        assert_eq!(reserved_ordinals(&some, &[0x1340, 22]), [0], "22 is in another set");
        let ports = fresh_ports(&some, &[0x1341]);
        assert_eq!(ports.len(), 720);
        let reserved: Vec<u32> = ports
            .iter()
            .filter(|(_, word)| *word == PortState::Reserved.to_word())
            .map(|(index, _)| *index)
            .collect();
        assert_eq!(reserved, [1, 241, 481]);
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(secret::<2>().unwrap(), secret().unwrap());
    }
}
