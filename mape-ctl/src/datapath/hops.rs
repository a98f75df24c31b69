//! Owns the next hops of a gateway: one for each way out that its border relay and its rules have, resolved and numbered, and
//! written anew where the kernel's tables have changed.

use std::{collections::BTreeMap, net::Ipv6Addr};

use mape_common::{
    hop::{Mac, NextHop},
    layout::STATIC_HOPS,
    map::rule::Rule,
    time::Tick,
};

use super::{
    maps::{TableError, Tables},
    rules::RuleTables,
};
use crate::{
    gateway::{Gateway, Role},
    host::state::FarHop,
    netlink::{
        Netlink, NetlinkError,
        link::Interface,
        resolve::{ResolveError, Resolved, Target, resolve, towards},
    },
    provoke,
    view::text::mac,
};

/// Why the gateway has no way out.
#[derive(Debug, thiserror::Error)]
pub enum HopsError {
    /// Towards the border relay.
    #[error("no way to the border relay")]
    Relay(#[source] ResolveError),
    /// Towards every rule of a border relay.
    #[error("no way to any of the rules' customer edges; the first one's is missing because")]
    AllRules(#[source] ResolveError),
    /// The kernel did not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// More ways than there is room for.
    #[error("the rules lead to more than {} different routers", STATIC_HOPS)]
    TooMany,
}

/// The next hops, and the rules with theirs.
#[derive(Clone, Debug)]
pub struct Hops {
    /// Resolved, by index.
    pub resolved: Vec<Resolved>,
    /// The index of each rule's, if it has one.
    by_rule: Vec<Option<u32>>,
    /// The rules.
    pub rules: RuleTables,
    /// What is not as it should be.
    pub warnings: Vec<String>,
    /// Rules of a border relay to which nothing can be sent.
    pub unreachable: usize,
}

impl Hops {
    /// Resolves all of them. A customer edge's packets go by the border relay where a rule has no next hop.
    ///
    /// # Errors
    /// [`HopsError`].
    pub fn resolve(netlink: &Netlink, gateway: &Gateway, wan: &Interface) -> Result<Self, HopsError> {
        let mut resolved = Vec::new();
        let mut warnings = Vec::new();
        if gateway.role == Role::CustomerEdge {
            resolved.push(resolve(netlink, wan, gateway.relay, Target::Host).map_err(HopsError::Relay)?);
        }
        let mut first_failure = None;
        let mut hops = Vec::new();
        for rule in &gateway.rules {
            hops.push(match resolve(netlink, wan, target(rule), Target::Prefix) {
                Ok(found) => Some(number(&mut resolved, found)?),
                Err(error) => {
                    warnings.push(complaint(gateway.role, rule, &error));
                    first_failure.get_or_insert(error);
                    None
                }
            });
        }
        let found = Self::new(gateway, resolved, hops, warnings);
        match first_failure {
            Some(error) if gateway.role == Role::BorderRelay && found.unreachable == found.by_rule.len() => {
                Err(HopsError::AllRules(error))
            }
            _ => Ok(found),
        }
    }

    fn new(gateway: &Gateway, resolved: Vec<Resolved>, by_rule: Vec<Option<u32>>, warnings: Vec<String>) -> Self {
        let unreachable = if gateway.role == Role::BorderRelay {
            by_rule.iter().filter(|hop| hop.is_none()).count()
        } else {
            0
        };
        Self {
            resolved,
            rules: RuleTables::new(&gateway.rules, &by_rule),
            by_rule,
            warnings,
            unreachable,
        }
    }

    /// The next hops as the kernel's tables have them at this moment. Nobody is waited for: a router that the kernel does not know,
    /// or not yet, is knocked at, and what goes by another one until then goes on so.
    ///
    /// # Errors
    /// [`HopsError::TooMany`], or the kernel does not answer.
    pub fn look_again(&self, netlink: &Netlink, gateway: &Gateway, wan: &Interface) -> Result<Self, HopsError> {
        let known: BTreeMap<Ipv6Addr, Mac> = netlink.ipv6_neighbours(wan.index)?.into_iter().collect();
        let mut warnings = Vec::new();
        let mut resolved = Vec::new();
        if let Some(before) = self.resolved.first().filter(|_| gateway.role == Role::CustomerEdge) {
            resolved.push(
                match look(netlink, wan, &known, (gateway.relay, Target::Host), Some(before)) {
                    Ok((hop, silent)) => {
                        warnings.extend(silent.map(|error| error.to_string()));
                        hop
                    }
                    // There is no better way than the last one.
                    Err(error) => {
                        warnings.push(format!("no way to the border relay: {error}"));
                        *before
                    }
                },
            );
        }
        let mut by_rule = Vec::new();
        for (rule, index) in gateway.rules.iter().zip(&self.by_rule) {
            let before = index.and_then(|index| self.resolved.get(usize::try_from(index).ok()?));
            by_rule.push(
                match look(netlink, wan, &known, (target(rule), Target::Prefix), before) {
                    Ok((hop, silent)) => {
                        warnings.extend(silent.map(|error| error.to_string()));
                        Some(number(&mut resolved, hop)?)
                    }
                    Err(ResolveError::Netlink(error)) => return Err(error.into()),
                    Err(error) => {
                        warnings.push(complaint(gateway.role, rule, &error));
                        None
                    }
                },
            );
        }
        warnings.dedup();
        Ok(Self::new(gateway, resolved, by_rule, warnings))
    }

    /// Writes what is not as it was before; gives a line for each change. Packets are forwarded meanwhile.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn write_changes(&self, tables: &Tables, before: &Self, now: Tick) -> Result<Vec<String>, TableError> {
        let mut lines = Vec::new();
        for (index, found) in (0..).zip(&self.resolved) {
            let old = usize::try_from(index)
                .ok()
                .and_then(|index: usize| before.resolved.get(index));
            if old == Some(found) {
                continue;
            }
            let mut words = NextHop::words(NextHop::FAR_END, &found.hop, now);
            // What is known of the path holds as long as the router is the same.
            if old.is_some_and(|old| old.neighbour == found.neighbour) {
                words[3] |= tables.far_hop(index)?[3] & !u64::from(u32::MAX);
            }
            tables.set_far_hop(index, words)?;
            lines.push(difference(old, found));
        }
        if self.rules != before.rules {
            tables.set_rules(&self.rules)?;
            lines.push(format!(
                "rules: {} of {} have a next hop of their own",
                self.by_rule.iter().flatten().count(),
                self.by_rule.len()
            ));
        }
        for index in self.resolved.len()..before.resolved.len() {
            tables.set_far_hop(u32::try_from(index).unwrap_or(u32::MAX), [0; 4])?;
        }
        Ok(lines)
    }

    /// As HOPS holds them.
    pub fn words(&self, now: Tick) -> Vec<[u64; 4]> {
        self.resolved
            .iter()
            .map(|found| NextHop::words(NextHop::FAR_END, &found.hop, now))
            .collect()
    }

    /// As the record of the machine holds them.
    pub fn records(&self) -> Vec<FarHop> {
        (0..)
            .zip(&self.resolved)
            .map(|(index, found)| FarHop {
                index,
                neighbour: found.neighbour,
            })
            .collect()
    }
}

/// A next hop as it is at this moment, and why it is not known better: where its router is silent, what is known of it holds, or
/// what was there before.
fn look(
    netlink: &Netlink,
    wan: &Interface,
    known: &BTreeMap<Ipv6Addr, Mac>,
    (target, kind): (Ipv6Addr, Target),
    before: Option<&Resolved>,
) -> Result<(Resolved, Option<ResolveError>), ResolveError> {
    let towards = towards(netlink, wan, target, kind)?;
    let neighbour = towards.neighbour;
    if let Some(mac) = known.get(&neighbour) {
        return Ok((towards.hop(*mac), None));
    }
    provoke::knock(neighbour, wan.index);
    let silent = ResolveError::Silent {
        neighbour,
        wan: wan.name.clone(),
    };
    match before {
        Some(before) if before.neighbour == neighbour => Ok((towards.hop(before.hop.destination), Some(silent))),
        Some(before) => Ok((*before, Some(silent))),
        None => Err(silent),
    }
}

/// What is to be said of a next hop that is another one now.
fn difference(old: Option<&Resolved>, new: &Resolved) -> String {
    let Resolved { neighbour, hop } = new;
    let mut parts = Vec::new();
    match old {
        Some(old) if old.neighbour == *neighbour => {
            if old.hop.destination != hop.destination {
                parts.push(format!(
                    "MAC address {} (was {})",
                    mac(hop.destination),
                    mac(old.hop.destination)
                ));
            }
            if old.hop.mtu != hop.mtu {
                parts.push(format!("MTU {} (was {})", hop.mtu, old.hop.mtu));
            }
            if old.hop.source != hop.source {
                parts.push(format!(
                    "from MAC address {} (was {})",
                    mac(hop.source),
                    mac(old.hop.source)
                ));
            }
        }
        Some(old) => parts.push(format!(
            "takes the place of {}, MAC address {}, MTU {}",
            old.neighbour,
            mac(hop.destination),
            hop.mtu
        )),
        None => parts.push(format!("new, MAC address {}, MTU {}", mac(hop.destination), hop.mtu)),
    }
    format!("router {neighbour}: {}", parts.join(", "))
}

/// An address of the rule: the first one that is not the prefix itself, which routers answer for (RFC 4291 §2.6.1).
pub(crate) fn target(rule: &Rule) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::from(rule.ipv6()).to_bits() | 1)
}

fn number(resolved: &mut Vec<Resolved>, found: Resolved) -> Result<u32, HopsError> {
    let place = resolved.iter().position(|known| *known == found).unwrap_or_else(|| {
        resolved.push(found);
        resolved.len() - 1
    });
    u32::try_from(place)
        .ok()
        .filter(|index| *index < STATIC_HOPS)
        .ok_or(HopsError::TooMany)
}

fn complaint(side: Role, rule: &Rule, error: &ResolveError) -> String {
    let prefix = format!("{}/{}", Ipv6Addr::from(rule.ipv6()), rule.ipv6_len());
    match side {
        Role::CustomerEdge => format!("packets to other customers of {prefix} go by the border relay: {error}"),
        Role::BorderRelay => format!("nothing can be sent to the customers of {prefix}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use mape_common::hop::{Hop, Mac};

    use super::*;

    fn found(last: u16) -> Resolved {
        let neighbour = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
        Resolved {
            neighbour,
            hop: Hop {
                ifindex: 2,
                mtu: 1500,
                destination: Mac([2, 0, 0, 0, 0, 9]),
                source: Mac([2, 0, 0, 0, 0, 1]),
            },
        }
    }

    #[test]
    fn a_change_is_told_with_what_was_before() {
        let old = found(1);
        let mut new = old;
        new.hop.destination = Mac([2, 0, 0, 0, 0, 8]);
        new.hop.mtu = 1400;
        assert_eq!(
            difference(Some(&old), &new),
            "router fe80::1: MAC address 02:00:00:00:00:08 (was 02:00:00:00:00:09), MTU 1400 (was 1500)"
        );
        assert_eq!(
            difference(Some(&old), &found(2)),
            "router fe80::2: takes the place of fe80::1, MAC address 02:00:00:00:00:09, MTU 1500"
        );
    }

    #[test]
    fn rules_behind_the_same_router_share_its_number() {
        let mut resolved = vec![found(1)];
        assert_eq!(number(&mut resolved, found(1)).unwrap(), 0);
        assert_eq!(number(&mut resolved, found(2)).unwrap(), 1);
        assert_eq!(number(&mut resolved, found(1)).unwrap(), 0);
        for last in 3..=64 {
            number(&mut resolved, found(last)).unwrap();
        }
        assert!(matches!(number(&mut resolved, found(65)), Err(HopsError::TooMany)));
    }
}
