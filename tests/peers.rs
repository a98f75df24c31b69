//! Owns the tests with hosts that talk to each other by their external addresses: behind customer edges that share an address
//! and ones that do not, through the border relay and directly, and behind one customer edge (hairpinning).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    capture::Capture,
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone},
    plan::{self, Shape, edges},
    process::{pause, watch_signals},
    traffic::{
        numbered::Load,
        peers::{TcpPair, UdpPair, dial, transfer},
        ping,
    },
};

/// Sent each way between each two hosts.
const LOAD: Load = Load {
    count: 2_000,
    size: 333,
    rate: 5_000,
};
const MEBIBYTES: usize = 2;
/// TCP hosts can be introduced only where a port is the same towards everybody.
const STEADY: [&str; 2] = ["--tcp-mapping", "endpoint-independent"];
/// The lab's rule, as one by which customer edges send to each other.
const FORWARDING: [&str; 2] = ["--rule", "2001:db8::/40,192.0.2.0/24,16,4,fmr"];
/// Pings to the Internet while captures run: a capture that sees none of them sees nothing, whatever the rest of it says.
const PINGS: u32 = 5;
/// A port of the customer edge's set.
const FORWARDED: u16 = 0x1340;
/// One round is enough; a busy machine may be late.
const MOST_ROUNDS: usize = 3;

/// A lab with its gateways loaded, customer edges again with `flags`; none without the privilege for it.
fn lab(shape: Shape, flags: &[&str]) -> Result<Option<Lab>> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return Ok(None);
    }
    watch_signals()?;
    let mut lab = Lab::up(&LabOptions {
        shape,
        ..LabOptions::default()
    })?;
    lab.load(&gateway::program()?)?;
    for node in shape.gateways().iter().filter(|node| **node != "br") {
        lab.load_again(node, flags)?;
    }
    Ok(Some(lab))
}

/// Two hosts that a server has told each other's endpoints.
struct Friends {
    hosts: [&'static str; 2],
    udp: UdpPair,
    tcp: TcpPair,
}

impl Friends {
    fn introduce(lab: &Lab, hosts: [&'static str; 2]) -> Result<Self> {
        Ok(Self {
            hosts,
            udp: UdpPair::introduce(lab, hosts)?,
            tcp: TcpPair::introduce(lab, hosts)?,
        })
    }

    fn external(&self) -> [[SocketAddr; 2]; 2] {
        [self.udp.external(), self.tcp.external()]
    }

    /// UDP: both send, and every datagram is counted. TCP: both connect, and every byte is compared.
    fn talk(&self) -> Result<()> {
        let hosts = self.hosts;
        let punched = self.udp.punch().with_context(|| format!("{hosts:?}"))?;
        // The first packet of the first to send is filtered, and opens its own side (RFC 7597 §10).
        ensure!(
            !punched.at_once && punched.rounds <= MOST_ROUNDS,
            "{hosts:?}: {punched:?}"
        );
        for count in self.udp.exchange(LOAD)? {
            println!("{hosts:?}: {count:?}");
            let bad = (count.lost, count.duplicates, count.reordered, count.damaged);
            ensure!(count.sent == LOAD.count && bad == (0, 0, 0, 0), "{hosts:?}: {count:?}");
        }
        let [near, far] = self.tcp.open_from_both().with_context(|| format!("{hosts:?}"))?;
        ensure!([far.peer_addr()?, near.peer_addr()?] == self.tcp.external());
        for (from, to) in [(&near, &far), (&far, &near)] {
            let arrived = transfer(from, to, MEBIBYTES).with_context(|| format!("{hosts:?}"))?;
            ensure!(arrived == MEBIBYTES << 20, "{hosts:?}: another byte after {arrived}");
        }
        println!("{hosts:?}: {MEBIBYTES} MiB each way, every byte the same");
        Ok(())
    }
}

type Tunnels = BTreeMap<(Ipv6Addr, Ipv6Addr), usize>;

/// Every two of the three hosts talk while each link is captured; what was in tunnels on the links to the customer edges and
/// on the one to the border relay.
fn all_talk(flags: &[&str]) -> Result<Option<([Tunnels; 3], Tunnels)>> {
    let Some(lab) = lab(Shape::ThreeEdges, flags)? else {
        return Ok(None);
    };
    for edge in edges::ALL {
        lab.wait_until_reachable(edge.host)?;
    }
    let mut friends = Vec::new();
    for [near, far] in [[0, 1], [0, 2], [1, 2]] {
        let ends = [edges::ALL[near], edges::ALL[far]];
        let pair = Friends::introduce(&lab, ends.map(|edge| edge.host))?;
        for external in pair.external() {
            for (edge, endpoint) in ends.iter().zip(external) {
                ensure!(edge.owns(endpoint), "{} is seen as {endpoint}", edge.host);
            }
        }
        friends.push(pair);
    }
    // The introductions went by the relay in any case.
    let links = edges::ALL.map(|edge| edge.link);
    let mut captures = Vec::new();
    for link in links.iter().chain(&["br0"]) {
        captures.push((link, Capture::start(&lab, "transit", link)?));
    }
    for pair in &friends {
        pair.talk()?;
    }
    for edge in edges::ALL {
        ping_the_internet(&lab, edge.host)?;
    }
    // What is still on its way to the files.
    pause(Duration::from_millis(300))?;
    let mut reports = Vec::new();
    for (link, capture) in captures {
        let report = capture.judge_among(&edges::ALL).with_context(|| (*link).to_owned())?;
        println!("{link}: {} frames, {:?}", report.frames, report.tunnels);
        ensure!(report.is_clean(), "{link}: {report:?}");
        reports.push(report.tunnels);
    }
    let relay = reports.pop().context("no capture")?;
    let edges = <[Tunnels; 3]>::try_from(reports).map_err(|_| anyhow::anyhow!("not one capture a link"))?;
    Ok(Some((edges, relay)))
}

fn ping_the_internet(lab: &Lab, host: &str) -> Result<()> {
    let echo = ping::ping(lab, host, &plan::SERVER.to_string(), PINGS, 56)?;
    ensure!((echo.sent, echo.received) == (PINGS, PINGS), "{host}: {echo:?}");
    Ok(())
}

/// The pings alone, between some customer edges and the border relay.
fn pings(edges: &[edges::Edge]) -> Tunnels {
    let ends: Vec<Ipv6Addr> = edges.iter().map(|edge| edge.ipv6).collect();
    let both = both_ways(plan::BR_IPV6, &ends).into_iter();
    both.map(|tunnel| (tunnel, PINGS as usize)).collect()
}

/// Between which ends there was traffic.
fn ends(tunnels: &Tunnels) -> BTreeSet<(Ipv6Addr, Ipv6Addr)> {
    tunnels.keys().copied().collect()
}

/// Both ways between one end and each of others.
fn both_ways(one: Ipv6Addr, others: &[Ipv6Addr]) -> BTreeSet<(Ipv6Addr, Ipv6Addr)> {
    others.iter().flat_map(|other| [(one, *other), (*other, one)]).collect()
}

#[test]
fn in_a_mesh_three_customer_edges_send_to_each_other_and_nothing_through_the_relay() {
    let _alone = alone();
    let Some((links, relay)) = all_talk(&[STEADY, FORWARDING].concat()).unwrap() else {
        return;
    };
    assert_eq!(relay, pings(&edges::ALL), "through the relay");
    for (own, edge) in edges::ALL.iter().enumerate() {
        let others = edges::ALL.iter().filter(|other| *other != edge);
        let all: Vec<Ipv6Addr> = others.map(|other| other.ipv6).chain([plan::BR_IPV6]).collect();
        assert_eq!(ends(&links[own]), both_ways(edge.ipv6, &all), "{}", edge.link);
        for (far, other) in edges::ALL.iter().enumerate().filter(|(far, _)| *far != own) {
            let tunnel = (edge.ipv6, other.ipv6);
            let (left, arrived) = (links[own][&tunnel], links[far][&tunnel]);
            assert_eq!(left, arrived, "{tunnel:?}");
            assert!(left > LOAD.count, "{tunnel:?}: {left}");
        }
    }
}

#[test]
fn without_forwarding_rules_they_send_to_each_other_through_the_relay() {
    let _alone = alone();
    let Some((links, relay)) = all_talk(&STEADY).unwrap() else {
        return;
    };
    assert_eq!(
        ends(&relay),
        both_ways(plan::BR_IPV6, &edges::ALL.map(|edge| edge.ipv6))
    );
    for (tunnels, edge) in links.iter().zip(edges::ALL) {
        assert_eq!(ends(tunnels), both_ways(edge.ipv6, &[plan::BR_IPV6]), "{}", edge.link);
        for (tunnel, frames) in tunnels {
            assert_eq!(
                relay.get(tunnel),
                Some(frames),
                "{tunnel:?}: on its link and on the relay's"
            );
            // Each has talked to two others.
            assert!(*frames > 2 * LOAD.count, "{tunnel:?}: {frames}");
        }
    }
}

/// A port of the set that is forwarded to the second host is reached by the first at the shared address.
fn a_forward_is_reached(lab: &Lab, hosts: [&str; 2], server: Ipv4Addr) -> Result<()> {
    let ctl = |words: &[&str]| lab.gateway(Role::Ce)?.ctl(lab.node("ce")?, words)?.success();
    let (server, port) = (SocketAddrV4::new(server, 8080), FORWARDED.to_string());
    ctl(&["forward", "add", "tcp", &port, &server.to_string()])?;
    let external = SocketAddr::from((plan::CE_IPV4, FORWARDED));
    let nodes = [lab.node(hosts[0])?, lab.node(hosts[1])?];
    let [near, far] = dial(nodes, server, external, Duration::from_secs(5))?;
    let seen = far.peer_addr()?;
    ensure!(edges::FIRST.owns(seen) && seen != external, "seen as {seen}");
    for (from, to) in [(&near, &far), (&far, &near)] {
        ensure!(transfer(from, to, MEBIBYTES)? == MEBIBYTES << 20);
    }
    ctl(&["forward", "del", "tcp", &port])?;
    Ok(())
}

/// Each pair of hosts behind the only customer edge talks by its shared address, and nothing of that goes into the tunnel. Then
/// one opens a connection to a port of another, which is let in where the configuration says so.
fn talk_behind_one_edge(shape: Shape, pairs: &[[&'static str; 2]]) -> Result<()> {
    let Some(lab) = lab(shape, &STEADY)? else {
        return Ok(());
    };
    for host in ["host1", "host2"] {
        lab.wait_until_reachable(host)?;
    }
    let mut friends = Vec::new();
    for hosts in pairs {
        let pair = Friends::introduce(&lab, *hosts)?;
        let external = pair.external();
        ensure!(
            external.iter().flatten().all(|endpoint| edges::FIRST.owns(*endpoint)),
            "{hosts:?}: seen as {external:?}"
        );
        // The friends let each other in; these have sent nothing to each other.
        friends.push((pair, TcpPair::introduce(&lab, *hosts)?));
    }
    // Only the introductions went through the tunnel.
    let capture = Capture::start(&lab, "transit", "ce0")?;
    for (pair, _) in &friends {
        pair.talk()?;
    }
    for (pair, strangers) in &friends {
        let hosts = pair.hosts;
        let refused = strangers.dial(Duration::from_millis(2_500));
        ensure!(refused.is_err(), "{hosts:?}: not filtered");
        let open = [&STEADY[..], &["--tcp-filtering", "endpoint-independent"]].concat();
        lab.load_again("ce", &open)?;
        let [near, far] = strangers
            .dial(Duration::from_secs(5))
            .with_context(|| format!("{hosts:?}"))?;
        let (seen, known) = (far.peer_addr()?, strangers.external());
        ensure!(
            edges::FIRST.owns(seen) && !known.contains(&seen),
            "{hosts:?}: seen as {seen}"
        );
        for (from, to) in [(&near, &far), (&far, &near)] {
            ensure!(transfer(from, to, MEBIBYTES)? == MEBIBYTES << 20, "{hosts:?}");
        }
        lab.load_again("ce", &STEADY)?;
        let server = *strangers.local()[1].ip();
        a_forward_is_reached(&lab, hosts, server).with_context(|| format!("{hosts:?}"))?;
    }
    ping_the_internet(&lab, "host1")?;
    pause(Duration::from_millis(300))?;
    let report = capture.judge()?;
    ensure!(report.is_clean(), "{report:?}");
    ensure!(
        report.tunnels == pings(&[edges::FIRST]),
        "in the tunnel: {:?}",
        report.tunnels
    );
    Ok(())
}

#[test]
fn hosts_on_two_lans_reach_each_other_by_the_shared_address() {
    let _alone = alone();
    talk_behind_one_edge(Shape::TwoLans, &[["host1", "host2"]]).unwrap();
}

#[test]
fn hosts_on_one_interface_reach_each_other_and_themselves_by_the_shared_address() {
    let _alone = alone();
    talk_behind_one_edge(Shape::OneArm, &[["host1", "host2"], ["host1", "host1"]]).unwrap();
}
