//! Owns what the tunnel is: its ends, its rules and its device, of a loaded gateway or of a configuration.

use std::net::Ipv6Addr;

use mape_common::{
    env::Rules,
    layout::{Config, RuleRef},
    map::rule::Rule,
};

use crate::{
    datapath::{
        maps::{TableError, Tables},
        pin::PinFolder,
        rules::RuleTables,
        tables::{self, Secrets},
    },
    gateway::{Gateway, Role},
    host::state::{MadeRoute, State},
    instance::Instance,
};

/// Why it is not known what the tunnel is.
#[derive(Debug, thiserror::Error)]
pub enum EndsError {
    /// Nothing is loaded.
    #[error(
        "instance {0} is not loaded; `mape-ctl load` first, or give its configuration: mape-ctl tunnel --config FILE"
    )]
    NotLoaded(Instance),
    /// The border relay's XDP programs do everything.
    #[error("instance {0} is a border relay, which has no tunnel device")]
    Relay(Instance),
    /// Loaded where its devices are not.
    #[error("instance {0} is loaded in another network namespace")]
    Elsewhere(Instance),
    /// Its maps.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The rules, longest prefixes first.
#[derive(Debug, Default)]
pub struct RuleBook {
    rules: Vec<Rule>,
    by_ipv4: Vec<(u32, u32, RuleRef)>,
    by_ipv6: Vec<(u32, u128, RuleRef)>,
}

impl RuleBook {
    /// The same rules as in the maps.
    pub fn new(tables: RuleTables) -> Self {
        let mut book = Self {
            rules: tables.rules,
            by_ipv4: tables
                .by_ipv4
                .into_iter()
                .map(|(len, prefix, found)| (len, u32::from_be_bytes(prefix), found))
                .collect(),
            by_ipv6: tables
                .by_ipv6
                .into_iter()
                .map(|(len, prefix, found)| (len, u128::from_be_bytes(prefix), found))
                .collect(),
        };
        book.by_ipv4.sort_by_key(|(len, ..)| std::cmp::Reverse(*len));
        book.by_ipv6.sort_by_key(|(len, ..)| std::cmp::Reverse(*len));
        book
    }
}

impl Rules for RuleBook {
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef> {
        let address = u32::from_be_bytes(address);
        let is_in =
            |len: u32, prefix: u32| (address ^ prefix).checked_shr(32_u32.saturating_sub(len)).unwrap_or(0) == 0;
        let found = self.by_ipv4.iter().find(|(len, prefix, _)| is_in(*len, *prefix));
        found.map(|(.., found)| *found)
    }

    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef> {
        let address = u128::from_be_bytes(address);
        let is_in =
            |len: u32, prefix: u128| (address ^ prefix).checked_shr(128_u32.saturating_sub(len)).unwrap_or(0) == 0;
        let found = self.by_ipv6.iter().find(|(len, prefix, _)| is_in(*len, *prefix));
        found.map(|(.., found)| *found)
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(index).ok()?)
    }
}

/// What the tunnel is.
pub struct Ends {
    /// As the data path has it.
    pub config: Config,
    /// The rules.
    pub rules: RuleBook,
    /// The device.
    pub device: String,
    /// The routes that were made into it.
    pub routes: Vec<MadeRoute>,
}

impl Ends {
    /// Of a loaded gateway.
    ///
    /// # Errors
    /// [`EndsError`].
    pub fn loaded(instance: &Instance, device: Option<&str>) -> Result<Self, EndsError> {
        let pins = PinFolder::new(instance);
        let state = State::read(instance);
        let (true, Some(state)) = (pins.exists(), state) else {
            return Err(EndsError::NotLoaded(instance.clone()));
        };
        if Some(state.network_namespace) != crate::kernel::network_namespace() {
            return Err(EndsError::Elsewhere(instance.clone()));
        }
        let Some(record) = state.tunnel else {
            return Err(EndsError::Relay(instance.clone()));
        };
        let tables = Tables::new(&pins);
        Ok(Self {
            config: tables.config()?,
            rules: RuleBook::new(tables.rules()?),
            device: device.map_or(record.device, str::to_owned),
            routes: record.routes,
        })
    }

    /// Of a configuration.
    ///
    /// # Errors
    /// [`EndsError::Relay`].
    pub fn configured(instance: &Instance, gateway: &Gateway) -> Result<Self, EndsError> {
        if gateway.role == Role::BorderRelay {
            return Err(EndsError::Relay(instance.clone()));
        }
        // What stands in the place of the next hop matters to the data path only.
        let hops = vec![Some(0); gateway.rules.len()];
        Ok(Self {
            // Nothing is translated here: the key is for nothing.
            config: tables::config(gateway, 0, Secrets::default()),
            rules: RuleBook::new(RuleTables::new(&gateway.rules, &hops)),
            device: gateway.tunnel.device.clone(),
            routes: Vec::new(),
        })
    }

    /// This customer edge's end.
    pub fn near(&self) -> Ipv6Addr {
        self.config.tunnel_address.into()
    }

    /// The border relay's.
    pub fn relay(&self) -> Ipv6Addr {
        self.config.relay_address.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(rule: u32) -> RuleRef {
        RuleRef { rule, hop: 0 }
    }

    #[test]
    fn the_longest_prefix_is_found_whatever_the_order() {
        let book = RuleBook::new(RuleTables {
            rules: Vec::new(),
            by_ipv4: vec![
                (0, [0; 4], reference(0)),
                (24, [192, 0, 2, 0], reference(1)),
                (32, [192, 0, 2, 7], reference(2)),
            ],
            by_ipv6: vec![(
                40,
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).octets(),
                reference(3),
            )],
        });
        let by_ipv4 = |address| book.rule_by_ipv4(address).map(|found| found.rule);
        assert_eq!(by_ipv4([192, 0, 2, 7]), Some(2));
        assert_eq!(by_ipv4([192, 0, 2, 8]), Some(1));
        assert_eq!(by_ipv4([198, 51, 100, 1]), Some(0));
        let by_ipv6 = |text: &str| {
            let address: Ipv6Addr = text.parse().unwrap();
            book.rule_by_ipv6(address.octets()).map(|found| found.rule)
        };
        assert_eq!(by_ipv6("2001:db8:ff::1"), Some(3));
        assert_eq!(by_ipv6("2001:db8:100::1"), None);
        assert!(book.rule(0).is_none());
    }
}
