//! Owns the kernel's own way in a chain: forwarding, with source NAT or without, with a tunnel where the kernel has one.

use std::{env, fs, time::Duration};

use anyhow::{Context, Result};

use mape_tests::{plan, recipe};

use crate::bed::{Chain, ROUTER_MAC, mac};

const LIMIT: Duration = Duration::from_secs(20);
/// Longer than a run: a flow that nobody answers is forgotten after 30 s else.
const KEEP: &str = "600";

/// One rule of source NAT for all ports, the cheapest that there is: MAP-E's usual recipe has one for each range of ports.
const RULES: &str = "table ip nat {
    chain source {
        type nat hook postrouting priority srcnat;
        oifname \"wan0\" meta l4proto { tcp, udp, icmp } snat to 10.0.0.1:1024-65535
    }
}
";

/// Has the middle translate what it forwards.
pub(crate) fn translate(chain: &Chain) -> Result<()> {
    use_rules(chain, RULES)
}

/// Has the middle carry what it forwards into the kernel's tunnel, translated by a rule for each range of ports, as it is usual for MAP-E.
pub(crate) fn tunnel(chain: &Chain) -> Result<()> {
    let (own, relay, address) = (plan::CE_IPV6, plan::BR_IPV6, plan::CE_IPV4);
    for line in [
        format!("ip link add tunnel0 type ip6tnl mode ipip6 local {own} remote {relay} encaplimit none"),
        "ip link set tunnel0 up mtu 1460".to_owned(),
        format!("ip -4 address add {address}/32 dev tunnel0"),
        "ip -4 route add default dev tunnel0".to_owned(),
        format!(
            "ip -6 neigh replace 2001:db8:12:3400::1 lladdr {} dev wan0 nud permanent",
            mac(ROUTER_MAC)
        ),
    ] {
        chain.middle().tool(&line)?;
    }
    use_rules(chain, &recipe::rules("lan0", "tunnel0"))
}

fn use_rules(chain: &Chain, rules: &str) -> Result<()> {
    let file = env::temp_dir().join(format!("mape-bench{}.nft", std::process::id()));
    fs::write(&file, rules).with_context(|| format!("cannot write {}", file.display()))?;
    let done = chain
        .middle()
        .run(&["nft", "-f", &file.to_string_lossy()], LIMIT)
        .and_then(mape_tests::process::Finished::success);
    // Nobody else needs it.
    let _ = fs::remove_file(&file);
    done?;
    for timeout in ["udp_timeout", "udp_timeout_stream"] {
        chain
            .middle()
            .sysctl(&format!("netfilter/nf_conntrack_{timeout}"), KEEP)?;
    }
    // Latency is measured by a time in the payload, which no checksum knows of: such a packet would pass untranslated.
    chain.middle().sysctl("netfilter/nf_conntrack_checksum", "0")
}

/// Forgets all connections.
pub(crate) fn forget(chain: &Chain) -> Result<()> {
    chain.middle().tool("conntrack --flush").map(drop)
}

/// Most connections that the kernel keeps.
pub(crate) fn most() -> Result<u32> {
    let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").context("no connection tracking")?;
    Ok(text.trim().parse()?)
}
