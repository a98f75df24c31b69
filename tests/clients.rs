//! Owns the tests with real clients on 240 ports: what a STUN client calls our NAT, a storm of page loads, many connections to
//! one server; and the same with the kernel's NAT by the usual recipe, side by side.

use std::{
    fs,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions},
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
const TRANSITORY: Duration = Duration::from_secs(240);
/// Source ports begin here, end below Linux's ephemeral ones, and are used once.
const FIRST_PORT: u16 = 20_000;

/// One lab at a time: two would share the processors and spoil each other's figures.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the reason in the form that `cargo xtask test` counts, and says whether the test can run.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: network namespaces need root");
    }
    root
}

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
    page_loads: Tally,
    at_one: Tally,
}

impl Results {
    fn of(name: &str, lab: &Lab) -> Result<Self> {
        let servers = Servers::start(lab)?;
        let many: Vec<Ipv4Addr> = (0..PAGE.1).map(|n| Ipv4Addr::new(198, 51, 100, 100 + n)).collect();
        let mut port = FIRST_PORT;
        let begin = Instant::now();
        let mut run = |what: &str, burst: Burst| -> Result<Tally> {
            let mut all = Tally::default();
            for number in 0..BURSTS {
                // Which side's TIME_WAIT the next burst's connections meet.
                let closer = if number % 2 == 0 {
                    Closer::Server
                } else {
                    Closer::Client
                };
                let begin = Instant::now();
                let tally = storm::send(
                    lab,
                    "host1",
                    &Burst {
                        first_port: port,
                        closer,
                        ..burst.clone()
                    },
                )?;
                port += burst.connections;
                println!(
                    "{name}: {what} {number}, closed by the {closer:?}: {} failed {:?}, {} wrong, {} doubled; median {:?}, longest {:?}; {:?}",
                    tally.failures(),
                    tally.failed,
                    tally.wrong,
                    tally.doubled,
                    tally.median(),
                    tally.longest(),
                    begin.elapsed()
                );
                all.add(tally);
            }
            Ok(all)
        };
        let page_loads = run(
            "page load",
            Burst {
                servers: many,
                connections: PAGE.0,
                first_port: 0,
                held: false,
                closer: Closer::Server,
            },
        )?;
        ensure!(
            begin.elapsed() < TRANSITORY,
            "{name}: {:?} is too long to show anything",
            begin.elapsed()
        );
        let begin = Instant::now();
        let at_one = run(
            "at one server",
            Burst {
                servers: vec![plan::SERVER],
                connections: AT_ONE,
                first_port: 0,
                held: true,
                closer: Closer::Server,
            },
        )?;
        ensure!(
            begin.elapsed() < TRANSITORY,
            "{name}: {:?} is too long to show anything",
            begin.elapsed()
        );
        drop(servers);
        Ok(Self {
            behaviour: classify(lab)?,
            page_loads,
            at_one,
        })
    }
}

fn print(ours: &Results, recipe: &Results) {
    println!("| | this gateway | the kernel's NAT, usual recipe |\n|---|---|---|");
    for (what, one) in [
        (
            "page loads",
            &(|results: &Results| results.page_loads.clone()) as &dyn Fn(&Results) -> Tally,
        ),
        ("at one server", &|results| results.at_one.clone()),
    ] {
        let (a, b) = (one(ours), one(recipe));
        println!("| {what}: connections tried | {} | {} |", a.tried, b.tried);
        println!("| failed | {} | {} |", a.failures(), b.failures());
        println!(
            "| wrong answer or port | {} | {} |",
            a.wrong + a.doubled,
            b.wrong + b.doubled
        );
        println!("| median time | {:?} | {:?} |", a.median(), b.median());
        println!("| longest time | {:?} | {:?} |", a.longest(), b.longest());
    }
    println!(
        "| UDP, by natdiscovery | {:?} | {:?} |",
        ours.behaviour, recipe.behaviour
    );
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
    assert!(ours.page_loads.is_clean() && ours.at_one.is_clean());
}
