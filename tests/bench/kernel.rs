//! Owns the kernel's own way in a chain: forwarding, with source NAT or without, and no tunnel.

use std::{env, fs, time::Duration};

use anyhow::{Context, Result};

use crate::bed::Chain;

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
    let file = env::temp_dir().join(format!("mape-bench{}.nft", std::process::id()));
    fs::write(&file, RULES).with_context(|| format!("cannot write {}", file.display()))?;
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
