//! Owns a tunnel device that somebody else has made: `load` takes it as it is, and nothing leaves by it when it is made anew.

use anyhow::{Context, Result, ensure};
use mape_tests::{capture::Capture, plan, traffic::ping};

use super::{
    bench::{Bench, CONFIG},
    edge,
    report::Found,
    traffic,
};

const ECHOES: u32 = 10;

/// An `ip6tnl` with a far end of its own, as netplan and systemd-networkd make it: it is taken, carries what XDP does not, and when it is made anew
/// under the gateway its packets end at the WAN's egress until the next `load`.
pub(super) fn of_others(bench: &mut Bench) -> Result<Found> {
    bench.must_ctl("unload")?;
    let (own, relay) = (plan::CE_IPV6, plan::BR_IPV6);
    let make = format!(
        "set -e
        ip link add mape0 type ip6tnl mode ipip6 local {own} remote {relay} encaplimit none
        ip link set mape0 up mtu 1460
        ip -4 address add 192.0.0.2/32 dev mape0
        ip -4 route replace default dev mape0"
    );
    bench.machine.must(&make)?;
    let said = bench.must_ctl(&format!("load --config {CONFIG}"))?;
    bench.wait_until_reachable()?;
    traffic::both_ways(bench).context("with XDP")?;
    bench.must_ctl("detach")?;
    traffic::both_ways(bench).context("without XDP")?;

    bench.machine.must(&format!("ip link delete mape0; {make}"))?;
    let capture = Capture::start(&bench.lab, "transit", "ce0")?;
    let echo = ping::ping(&bench.lab, "host1", &plan::SERVER.to_string(), ECHOES, 56)?;
    let wire = capture.judge()?;
    ensure!(
        echo.received == 0 && wire.from_ce == 0 && wire.is_clean(),
        "the device made anew: {echo:?}, {wire:?}"
    );
    let dropped = bench.refused("untranslated")?;
    ensure!(
        dropped >= u64::from(ECHOES),
        "{dropped} packets counted as untranslated at the WAN"
    );
    bench.must_ctl(&format!("load --config {CONFIG}"))?;
    bench.wait_until_reachable()?;
    traffic::both_ways(bench).context("loaded again")?;

    bench.must_ctl("unload")?;
    let left = bench.machine.must("ip -d link show mape0")?;
    ensure!(left.contains("ip6tnl"), "unload has taken another's device: {left}");
    bench.machine.must("ip link delete mape0")?;
    edge::load(bench)?;
    ensure!(said.contains("mape0"), "nothing is said of the device: {said}");
    Ok(Found::works(format!(
        "taken, carries both ways with XDP and without; made anew: {dropped} packets ended at the WAN, 0 left; loaded again: carries; unload leaves it"
    )))
}
