//! Owns the mapping rules in their maps: how they are found by address, read, and replaced.

use aya::{
    Pod,
    maps::{LpmTrie, MapData, lpm_trie::Key},
};
use mape_common::{
    layout::{RuleRef, maps},
    map::rule::Rule,
};

use super::maps::{TableError, Tables, reading, writing};

type Trie<const N: usize> = LpmTrie<MapData, [u8; N], RuleRef>;

/// The rules, and how they are found: prefix length, prefix, rule and next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTables {
    /// All of them.
    pub rules: Vec<Rule>,
    /// By the IPv4 address that a packet goes to.
    pub by_ipv4: Vec<(u32, [u8; 4], RuleRef)>,
    /// By the outer source address of a packet.
    pub by_ipv6: Vec<(u32, [u8; 16], RuleRef)>,
}

impl RuleTables {
    /// The rules, each with the index of its next hop; one without a next hop is only there to check sources by.
    pub fn new(rules: &[Rule], hops: &[Option<u32>]) -> Self {
        let mut tables = Self {
            rules: rules.to_vec(),
            ..Self::default()
        };
        for ((index, rule), hop) in (0..).zip(rules).zip(hops) {
            if let Some(hop) = *hop {
                tables
                    .by_ipv4
                    .push((u32::from(rule.ipv4_len()), rule.ipv4(), RuleRef { rule: index, hop }));
            }
            let found = RuleRef {
                rule: index,
                hop: hop.unwrap_or(0),
            };
            tables.by_ipv6.push((u32::from(rule.ipv6_len()), rule.ipv6(), found));
        }
        tables
    }
}

impl Tables {
    /// The rules as they are.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn rules(&self) -> Result<RuleTables, TableError> {
        let (v4, v6) = self.rule_tries()?;
        let by_ipv4 = v4
            .iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(reading(maps::RULES_V4))?;
        let by_ipv6 = v6
            .iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(reading(maps::RULES_V6))?;
        let by_ipv4: Vec<_> = by_ipv4
            .into_iter()
            .map(|(key, rule)| (key.prefix_len(), key.data(), rule))
            .collect();
        let by_ipv6: Vec<_> = by_ipv6
            .into_iter()
            .map(|(key, rule)| (key.prefix_len(), key.data(), rule))
            .collect();
        let used = by_ipv4
            .iter()
            .map(|(.., found)| found)
            .chain(by_ipv6.iter().map(|(.., found)| found));
        let count = used.map(|found| found.rule + 1).max().unwrap_or(0);
        let table = self.array::<Rule>(maps::RULES)?;
        let rules = (0..count)
            .map(|index| table.get(&index, 0).map_err(reading(maps::RULES)))
            .collect::<Result<_, _>>()?;
        Ok(RuleTables {
            rules,
            by_ipv4,
            by_ipv6,
        })
    }

    /// Replaces the rules, also while packets are forwarded by them: none that stays is missing in between.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_rules(&self, new: &RuleTables) -> Result<(), TableError> {
        let (mut v4, mut v6) = self.rule_tries()?;
        // First those that go: there is room for as many as there are.
        remove_others(&mut v4, &new.by_ipv4, maps::RULES_V4)?;
        remove_others(&mut v6, &new.by_ipv6, maps::RULES_V6)?;
        let mut table = self.array::<Rule>(maps::RULES)?;
        for (index, rule) in (0..).zip(&new.rules) {
            table.set(index, rule, 0).map_err(writing(maps::RULES))?;
        }
        insert(&mut v4, &new.by_ipv4, maps::RULES_V4)?;
        insert(&mut v6, &new.by_ipv6, maps::RULES_V6)
    }

    fn rule_tries(&self) -> Result<(Trie<4>, Trie<16>), TableError> {
        Ok((self.typed(maps::RULES_V4)?, self.typed(maps::RULES_V6)?))
    }
}

fn remove_others<K: Pod + PartialEq>(
    trie: &mut LpmTrie<MapData, K, RuleRef>,
    stay: &[(u32, K, RuleRef)],
    map: &'static str,
) -> Result<(), TableError> {
    for key in trie.keys().collect::<Result<Vec<_>, _>>().map_err(reading(map))? {
        if !stay
            .iter()
            .any(|(len, prefix, _)| (*len, *prefix) == (key.prefix_len(), key.data()))
        {
            trie.remove(&key).map_err(writing(map))?;
        }
    }
    Ok(())
}

fn insert<K: Pod>(
    trie: &mut LpmTrie<MapData, K, RuleRef>,
    entries: &[(u32, K, RuleRef)],
    map: &'static str,
) -> Result<(), TableError> {
    for (len, prefix, found) in entries {
        trie.insert(&Key::new(*len, *prefix), found, 0).map_err(writing(map))?;
    }
    Ok(())
}
