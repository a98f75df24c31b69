//! Owns the next hops of a gateway: one for each way out that its border relay and its rules have, resolved and numbered.

use std::net::Ipv6Addr;

use mape_common::{hop::NextHop, layout::STATIC_HOPS, map::rule::Rule, time::Tick};

use super::maps::RuleTables;
use crate::{
    gateway::{Gateway, Role},
    host::state::FarHop,
    netlink::{
        Netlink,
        link::Interface,
        resolve::{ResolveError, Resolved, Target, resolve},
    },
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
    /// More ways than there is room for.
    #[error("the rules lead to more than {} different routers", STATIC_HOPS)]
    TooMany,
}

/// The next hops, and the rules with theirs.
#[derive(Debug)]
pub struct Hops {
    /// Resolved, by index.
    pub resolved: Vec<Resolved>,
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
        let unreachable = if gateway.role == Role::BorderRelay {
            hops.iter().filter(|hop| hop.is_none()).count()
        } else {
            0
        };
        match first_failure {
            Some(error) if gateway.role == Role::BorderRelay && unreachable == hops.len() => {
                Err(HopsError::AllRules(error))
            }
            _ => Ok(Self {
                resolved,
                rules: RuleTables::new(&gateway.rules, &hops),
                warnings,
                unreachable,
            }),
        }
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
