//! Owns the tests with real clients on 240 ports: what a STUN client calls our NAT, a storm of page loads, many connections to
//! one server; and the same with the kernel's NAT by the usual recipe, side by side.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    plan,
    process::watch_signals,
    recipe,
    servers::Servers,
    traffic::{
        storm::{self, Burst, Closer, Tally},
        stun::{self, Behaviour},
    },
};

/// Bursts of each kind.
const BURSTS: u16 = 10;
/// Connections of one page load, and the servers they go to.
const PAGE: (u16, u8) = (500, 40);
/// Connections that one server holds at once, of 240 that it could tell apart.
const AT_ONE: u16 = 200;
/// For this long RFC 5382 REQ-5 has a closed connection remembered.
const TRANSITORY: Duration = Duration::from_mins(4);
/// Source ports begin here, end below Linux's ephemeral ones, and are used once.
const FIRST_PORT: u16 = 20_000;

/// A lab with both gateways; `nat` is added to the CE's configuration.
fn with_gateways(nat: &str) -> Result<Lab> {
    let mut lab = Lab::up(&LabOptions::default())?;
    lab.load(&gateway::program()?)?;
    if !nat.is_empty() {
        let ce = lab.gateway(Role::Ce)?;
        let text = fs::read_to_string(ce.config())?;
        // The [nat] section is the file's last.
        fs::write(ce.config(), format!("{text}{nat}\n"))?;
        ce.load(lab.node(Role::Ce.node())?)?;
    }
    lab.wait_until_reachable("host1")?;
    Ok(lab)
}

/// A lab whose CE is the kernel with the usual rules.
fn with_recipe() -> Result<Lab> {
    let lab = Lab::up(&LabOptions::default())?;
    recipe::apply(&lab)?;
    lab.wait_until_reachable("host1")?;
    Ok(lab)
}

fn classify(lab: &Lab) -> Result<Behaviour> {
    stun::Server::start(lab)?.classify(lab, "host1")
}

/// What one kind of gateway did with all of it.
struct Results {
    behaviour: Behaviour,
    /// What was sent, and what became of it.
    storms: Vec<(&'static str, Tally)>,
}

/// What is sent: its name, how often, and the burst; source ports and who closes differ from one to the next.
fn storms() -> Vec<(&'static str, u16, Burst)> {
    let page_load = Burst {
        servers: (0..PAGE.1).map(|n| Ipv4Addr::new(198, 51, 100, 100 + n)).collect(),
        connections: PAGE.0,
        first_port: FIRST_PORT,
        held: false,
        closer: Closer::Server,
        names: false,
    };
    let at_one = Burst {
        servers: vec![plan::SERVER],
        connections: AT_ONE,
        held: true,
        ..page_load.clone()
    };
    let mixed = Burst {
        names: true,
        ..at_one.clone()
    };
    vec![
        ("500 connections to 40 servers, 10 times", BURSTS, page_load),
        ("200 held open at one server, 10 times", BURSTS, at_one),
        ("the same among questions for names, twice", 2, mixed),
    ]
}

impl Results {
    fn of(name: &str, lab: &Lab) -> Result<Self> {
        let servers = Servers::start(lab)?;
        let mut port = FIRST_PORT;
        let mut storms_seen = Vec::new();
        for (what, bursts, burst) in storms() {
            let begin = Instant::now();
            let mut all = Tally::default();
            for number in 0..bursts {
                // By turns, since that decides which side's TIME_WAIT the next burst meets.
                let closer = if number % 2 == 0 {
                    Closer::Server
                } else {
                    Closer::Client
                };
                let burst = Burst {
                    first_port: port,
                    closer,
                    ..burst.clone()
                };
                let tally = storm::send(lab, "host1", &burst)?;
                port += burst.connections;
                println!("{name}: {what}: {number}, {closer:?} closes: {}", sentence(&tally));
                all.add(tally);
            }
            let took = begin.elapsed();
            ensure!(
                took < TRANSITORY,
                "{name}: {what} took {took:?}, too long to show anything"
            );
            storms_seen.push((what, all));
        }
        if let Ok(gateway) = lab.gateway(Role::Ce)
            && storms_seen.iter().any(|(_, tally)| !tally.is_clean())
        {
            println!("{}", gateway.ctl(lab.node(Role::Ce.node())?, &["stat"])?.stdout);
        }
        drop(servers);
        Ok(Self {
            behaviour: classify(lab)?,
            storms: storms_seen,
        })
    }
}

fn sentence(tally: &Tally) -> String {
    format!(
        "{} of {} failed {:?}, {} wrong, {} late; median {} ms, longest {} ms",
        tally.failures(),
        tally.tried,
        tally.failed,
        tally.wrong + tally.doubled,
        tally.late(),
        tally.median().as_millis(),
        tally.longest().as_millis()
    )
}

/// The table of `docs/ports.md`.
fn print(ours: &Results, recipe: &Results) {
    println!("| what | | this gateway | usual recipe |\n|---|---|---|---|");
    for ((what, ours), (_, recipe)) in ours.storms.iter().zip(&recipe.storms) {
        let milliseconds = |time: Duration| format!("{} ms", time.as_millis());
        let row = |what: &str, name: &str, cell: &dyn Fn(&Tally) -> String| {
            println!("| {what} | {name} | {} | {} |", cell(ours), cell(recipe));
        };
        row(what, "connections tried", &|tally| tally.tried.to_string());
        row("", "failed", &|tally| tally.failures().to_string());
        row("", "wrong answer or port", &|tally| {
            (tally.wrong + tally.doubled).to_string()
        });
        row("", "took a second or more", &|tally| tally.late().to_string());
        row("", "median, longest", &|tally| {
            format!("{}, {}", milliseconds(tally.median()), milliseconds(tally.longest()))
        });
    }
    let (ours, recipe) = (&ours.behaviour, &recipe.behaviour);
    println!(
        "| UDP, by turnutils_natdiscovery | mapping | {} | {} |",
        ours.mapping, recipe.mapping
    );
    println!("| | filtering | {} | {} |", ours.filtering, recipe.filtering);
}

#[test]
fn a_stun_client_finds_endpoint_independent_mapping_and_address_dependent_filtering() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let found = classify(&with_gateways("").unwrap()).unwrap();
    assert_eq!(found.mapping, "NAT with Endpoint Independent Mapping!");
    assert_eq!(found.filtering, "NAT with Address Dependent Filtering!");
}

#[test]
fn the_same_client_sees_another_nat_where_udp_overlaps() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let found = classify(&with_gateways("udp-mapping = \"overlap\"").unwrap()).unwrap();
    println!("{found:?}");
    assert_ne!(found.mapping, "NAT with Endpoint Independent Mapping!");
    assert_eq!(found.filtering, "NAT with Address and Port Dependent Filtering!");
}

#[test]
fn storms_of_connections_lose_nothing_side_by_side_with_the_kernels_nat() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let ours = Results::of("this gateway", &with_gateways("").unwrap()).unwrap();
    let recipe = Results::of("the usual recipe", &with_recipe().unwrap()).unwrap();
    print(&ours, &recipe);
    for (what, tally) in &ours.storms {
        assert!(tally.is_clean(), "{what}: {}", sentence(tally));
    }
    // The proof that the rules were there, and in turn.
    assert_eq!(recipe.behaviour.mapping, "NAT with Address and Port Dependent Mapping!");
    for (what, tally) in &recipe.storms {
        assert_eq!((tally.wrong, tally.doubled), (0, 0), "{what}: {}", sentence(tally));
    }
}
