//! Owns the tests of what lives on ICMP errors, with the real programs: traceroute, mtr and tracepath show the routers that they
//! show through the kernel's NAT, and who sends too large packets is told what fits.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    plan::{self, Shape},
    process::watch_signals,
    recipe,
    servers::Servers,
    traffic::{
        iperf::Direction,
        ping,
        trace::{self, Probe},
        web,
    },
};
use serde_json::Value;

/// The narrow link's MTU, and what of it is left in the tunnel.
const NARROW: u16 = 1400;
const INNER: u16 = NARROW - 40;
const PROBES: [Probe; 3] = [Probe::Udp, Probe::Icmp, Probe::Tcp];

/// A lab with a server behind a router on the Internet.
fn lab() -> Result<Lab> {
    let lab = Lab::up(&LabOptions {
        shape: Shape::FarServer,
        ..LabOptions::default()
    })?;
    for node in Shape::FarServer.nodes() {
        // Three programs ask each router in turn: the kernel would leave some without an answer.
        lab.node(node)?.sysctl("ipv4/icmp_ratelimit", "0")?;
    }
    Ok(lab)
}

/// A lab with both gateways, in which the link between the provider's router and the border relay has become narrow. The relay's
/// operator has seen to it; the customer edge's does not know.
fn narrow_lab() -> Result<Lab> {
    let mut lab = lab()?;
    lab.load(&gateway::program()?)?;
    for (node, device) in [("transit", "br0"), ("br", "wan0")] {
        lab.node(node)?.tool(&format!("ip link set {device} mtu {NARROW}"))?;
    }
    let relay = lab.gateway(Role::Br)?;
    let text = fs::read_to_string(relay.config())?;
    let narrow = text.replace("mtu = 1460", &format!("mtu = {INNER}"));
    ensure!(narrow != text, "the lab's configuration has another MTU: {text}");
    fs::write(relay.config(), narrow)?;
    relay.load(lab.node("br")?)?;
    lab.wait_until_reachable("host1")?;
    Ok(lab)
}

/// Whose address it is that a trace shows to a host on the first LAN.
fn node(address: Ipv4Addr) -> Result<&'static str> {
    Ok(match address.octets() {
        [192, 168, 10, 1] => "ce",
        [10, 0, 0, 2] => "transit",
        [10, 0, 1, 2] | [203, 0, 113, 1] => "br",
        [203, 0, 113, 2] => "internet",
        _ if address == plan::FAR_SERVER => "farserver",
        _ => anyhow::bail!("nobody has {address}"),
    })
}

fn nodes(hops: impl IntoIterator<Item = Option<Ipv4Addr>>) -> Result<Vec<&'static str>> {
    hops.into_iter().map(|hop| hop.map_or(Ok("nobody"), node)).collect()
}

/// The routers and the server, as each program shows them.
fn traces(lab: &Lab) -> Result<BTreeMap<String, Vec<&'static str>>> {
    let mut found = BTreeMap::new();
    for probe in PROBES {
        let hops = trace::traceroute(lab, "host1", plan::FAR_SERVER, probe)?;
        ensure!(hops.iter().all(|hop| !hop.is_refusal), "{probe:?}: {hops:?}");
        found.insert(format!("traceroute {probe:?}"), nodes(hops.iter().map(|hop| hop.from))?);
        let report = trace::mtr(lab, "host1", plan::FAR_SERVER, probe, 3)?;
        ensure!(report.iter().all(|line| line.lost == 0.0), "{probe:?}: {report:?}");
        found.insert(format!("mtr {probe:?}"), nodes(report.iter().map(|line| line.from))?);
    }
    let way = trace::tracepath(lab, "host1", plan::FAR_SERVER)?;
    ensure!(way.is_reached, "{way:?}");
    found.insert("tracepath".to_owned(), nodes(way.hops)?);
    Ok(found)
}

#[test]
fn traces_show_the_routers_that_they_show_through_the_kernels_nat() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let kernel = {
        let lab = lab().unwrap();
        recipe::apply(&lab).unwrap();
        traces(&lab).unwrap()
    };
    for (program, shown) in &kernel {
        assert_eq!(
            *shown,
            ["ce", "transit", "br", "internet", "farserver"],
            "{program} through the kernel"
        );
    }
    let mut lab = lab().unwrap();
    lab.load(&gateway::program().unwrap()).unwrap();
    lab.wait_until_reachable("host1").unwrap();
    let mut expected = kernel;
    for shown in expected.values_mut() {
        // The tunnel is one hop, whatever is on its way.
        shown.retain(|node| *node != "transit");
    }
    assert_eq!(traces(&lab).unwrap(), expected, "{}", stats(&lab));
}

/// For who reads of a failure.
fn stats(lab: &Lab) -> String {
    let stat = |role: Role| {
        let gateway = lab.gateway(role)?;
        Ok::<_, anyhow::Error>(gateway.ctl(lab.node(role.node())?, &["stat"])?.stdout)
    };
    [Role::Ce, Role::Br]
        .map(|role| stat(role).unwrap_or_else(|error| error.to_string()))
        .concat()
}

/// What the customer edge knows of the way to the border relay.
fn path_mtu(lab: &Lab) -> Result<Option<u64>> {
    let stat = lab.gateway(Role::Ce)?.stat(lab.node("ce")?)?;
    let mtu = stat
        .pointer("/next_hops/0/path_mtu")
        .context("`mape-ctl stat --json` shows no path MTU")?;
    Ok(Value::as_u64(mtu))
}

/// ICMP errors that a gateway has sent.
fn errors_of(lab: &Lab, role: Role) -> Result<u64> {
    let stat = lab.gateway(role)?.stat(lab.node(role.node())?)?;
    let sent = stat.pointer("/icmp_errors/sent").and_then(Value::as_u64);
    sent.context("`mape-ctl stat --json` shows no errors sent")
}

/// Files both ways in the narrow lab, in which nobody has learned yet what fits. The first sender is told it by the gateway that
/// its packets come to: that is the customer edge where the provider's router has told that one.
fn transfer(first: Direction) -> Result<()> {
    let lab = narrow_lab()?;
    let servers = Servers::start(&lab)?;
    let (teller, other) = match first {
        Direction::Up => (Role::Ce, Direction::Down),
        Direction::Down => (Role::Br, Direction::Up),
    };
    ensure!(
        path_mtu(&lab)?.is_none() && errors_of(&lab, teller)? == 0,
        "something large was sent before"
    );
    for direction in [first, other] {
        let file = web::transfer(&lab, &servers, "host1", direction, 4)
            .with_context(|| format!("{direction:?}\n{}", stats(&lab)))?;
        println!(
            "narrow, {first:?} first, {direction:?}: {:.0} Mbit/s",
            file.bits_per_second / 1e6
        );
        ensure!(file.is_intact(), "{file:?}");
    }
    ensure!(errors_of(&lab, teller)? > 0, "{}", stats(&lab));
    if first == Direction::Up {
        ensure!(path_mtu(&lab)? == Some(u64::from(NARROW)), "{}", stats(&lab));
    }
    Ok(())
}

#[test]
fn a_file_gets_through_a_narrow_link_from_the_host_first() {
    let _alone = alone();
    if is_root() {
        watch_signals().unwrap();
        transfer(Direction::Up).unwrap();
    }
}

#[test]
fn a_file_gets_through_a_narrow_link_to_the_host_first() {
    let _alone = alone();
    if is_root() {
        watch_signals().unwrap();
        transfer(Direction::Down).unwrap();
    }
}

#[test]
fn who_pings_with_too_much_is_told_what_fits() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let lab = narrow_lab().unwrap();
    let ce = Ipv4Addr::new(192, 168, 10, 1);
    // Twenty bytes of IPv4 and eight of ICMP are around what ping sends.
    let largest = u32::from(INNER) - 28;
    // Larger than the tunnel, then larger than the narrow link; a host remembers by destination what it was told.
    for (target, size, mtu) in [
        ("198.51.100.7", 1472, 1460),
        ("198.51.100.8", 1432, INNER),
        ("198.51.100.9", largest + 1, INNER),
    ] {
        let reached = ping::whole(&lab, "host1", target, size).unwrap();
        assert_eq!(
            (reached.received, reached.told),
            (0, Some((ce, mtu))),
            "{size} bytes\n{}",
            stats(&lab)
        );
    }
    let reached = ping::whole(&lab, "host1", "198.51.100.10", largest).unwrap();
    assert_eq!((reached.received, reached.told), (3, None), "{}", stats(&lab));
    let far = plan::FAR_SERVER;
    let way = trace::tracepath(&lab, "host1", far).unwrap();
    assert!(way.is_reached, "{way:?}\n{}", stats(&lab));
    assert_eq!((way.mtu, way.hops.last()), (INNER, Some(&Some(far))), "{way:?}");
}
