//! Owns peers that are made of the kernel alone: its own tunnel device, its routes, and the usual rules of source NAT.

use anyhow::Result;
use mape_tests::{
    plan, recipe,
    traffic::trace::{self, Probe},
};

use super::{bench::Bench, report::Found, traffic};

/// A customer edge of the kernel's tunnel and NAT in the machine, the border relay outside ours.
pub(super) fn customer_edge(bench: &mut Bench) -> Result<Found> {
    let (own, relay, address) = (plan::CE_IPV6, plan::BR_IPV6, plan::CE_IPV4);
    let rules = recipe::rules("lan0", "peer0");
    bench.must_ctl("unload")?;
    // The hand-overs' firewall would not know what this tunnel carries.
    bench.machine.must(&format!(
        "set -e
        nft flush ruleset
        ip link add peer0 type ip6tnl mode ipip6 local {own} remote {relay} encaplimit none
        ip link set peer0 up mtu 1460
        ip -4 address add {address}/32 dev peer0
        ip -4 route replace default dev peer0
        nft -f - <<'EOF'\n{rules}EOF\n"
    ))?;
    let passed = bench.wait_until_reachable().and_then(|_| traffic::both_ways(bench));
    bench.machine.must("ip link delete peer0; nft flush ruleset")?;
    passed.map(|said| Found::works(format!("ip6tnl and nftables in the machine, our border relay: {said}")))
}

/// A border relay of the kernel's tunnel and routes in the machine, the customer edge outside ours.
pub(super) fn border_relay(bench: &mut Bench) -> Result<Found> {
    let (own, edge, address) = (plan::BR_IPV6, plan::CE_IPV6, plan::CE_IPV4);
    bench.machine.must(&format!(
        "set -e
        ip link add peer0 type ip6tnl mode ipip6 local {own} remote {edge} encaplimit none
        ip link set peer0 up mtu 1460
        ip -4 route add {address}/32 dev peer0"
    ))?;
    bench.wait_until_reachable()?;
    let said = traffic::both_ways(bench)?;
    let fragments = traffic::in_fragments(bench)?;
    traffic::options_both_ways(bench)?;
    let hops = trace::traceroute(&bench.lab, "host1", plan::SERVER, Probe::Icmp)?;
    let shown: Vec<String> = hops
        .iter()
        .map(|hop| hop.from.map_or_else(|| "*".to_owned(), |address| address.to_string()))
        .collect();
    Ok(Found::works(format!(
        "our customer edge, ip6tnl and routes in the machine: {said}; {fragments}; timestamps; traceroute {}",
        shown.join(" ")
    )))
}
