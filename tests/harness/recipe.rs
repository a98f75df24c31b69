//! Owns rules that gateways have: the usual recipe for MAP-E with the kernel's own NAT, to compare with (a rule of source NAT for each range
//! of ports), and a stateful firewall.
//!
//! It is what widespread shell scripts set up, written as nftables rules: each new connection gets a mark in turn, and each mark
//! has one contiguous range of 16 ports that source NAT picks from. Timeouts are the kernel's own. In those scripts the
//! translated packets then go into an ip6tnl device. Here they go to the Internet side by plain routes: the tunnel puts a header
//! in front of what has been translated already, so it has no part in the choice of ports.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context, Result};

use crate::{lab::Lab, plan};

const LIMIT: Duration = Duration::from_secs(20);
/// The scripts' first mark.
const FIRST_MARK: u16 = 0x11;
/// What our gateway marks packets with that belong to a session: "mape".
pub const SESSION_MARK: u32 = 0x6d61_7065;

/// Makes the CE of a lab without gateways translate by the recipe, to the address and ports that our CE would have.
///
/// # Errors
/// When `ip` or `nft` refuses.
pub fn apply(lab: &Lab) -> Result<()> {
    lab.route_plainly()?;
    let own = plan::CE_IPV4;
    for (node, line) in [
        ("ce", format!("ip -4 address add {own}/32 dev lo")),
        ("transit", format!("ip -4 route add {own}/32 via 10.0.0.1")),
        ("br", format!("ip -4 route add {own}/32 via 10.0.1.1")),
    ] {
        lab.node(node)?.tool(&line)?;
    }
    let file = lab.folder().join("recipe.nft");
    fs::write(&file, rules("lan*", "wan0")).with_context(|| format!("cannot write {}", file.display()))?;
    lab.exec("ce", &["nft", "-f", &file.to_string_lossy()], LIMIT)?
        .success()?;
    Ok(())
}

/// The port ranges of the CE, each its first and last port.
fn ranges() -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in (0..=u16::MAX).filter(|port| plan::is_own_port(*port)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    ranges
}

/// The rules: what comes by `lan` and leaves by `out` is translated.
pub fn rules(lan: &str, out: &str) -> String {
    let ranges = ranges();
    let mut rules = format!(
        "table ip recipe {{\n\
         chain turn {{\n\
         type nat hook prerouting priority dstnat;\n\
         iifname \"{lan}\" meta mark set numgen inc mod {} offset {FIRST_MARK}\n\
         }}\n\
         chain source {{\n\
         type nat hook postrouting priority srcnat;\n",
        ranges.len()
    );
    for (mark, (first, last)) in (FIRST_MARK..).zip(ranges) {
        // ICMP, TCP, UDP; by number, which needs no list of names.
        for protocol in [1, 6, 17] {
            // Writing to a string cannot fail.
            let _ = writeln!(
                rules,
                "oifname \"{out}\" meta mark {mark} ip protocol {protocol} snat to {}:{first}-{last}",
                plan::CE_IPV4
            );
        }
    }
    rules + "}\n}\n"
}

/// A stateful firewall as many gateways have it: nothing is forwarded but what a LAN host has begun, as far as the kernel has seen it; and the
/// rule by which it knows what the fast path has begun. Protocols by number (ICMP, ICMPv6): that needs no list of names.
pub fn stateful_rules() -> String {
    format!(
        "table inet filter {{
            chain input {{
                type filter hook input priority filter; policy drop;
                ct state established,related accept
                iifname lo accept
                meta l4proto {{ 1, 58 }} accept
                iifname wan0 ip6 saddr {} meta l4proto 4 accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                meta mark {SESSION_MARK:#x} counter accept
                ct state established,related accept
                iifname {{ lan0, lan1 }} accept
            }}
        }}\n",
        plan::BR_IPV6
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tables")]
    #[test]
    fn the_mark_is_the_gateways() {
        assert_eq!(SESSION_MARK, mape_common::layout::MARK);
    }

    #[test]
    fn the_ranges_are_the_port_set() {
        let ranges = ranges();
        assert_eq!(ranges.len(), 15);
        assert_eq!(ranges[0], (0x1340, 0x134f));
        let ports: usize = ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum();
        assert_eq!(ports, plan::PORTS);
    }
}
