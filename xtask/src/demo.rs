//! Owns `cargo xtask demo`: the whole way from an empty machine to IPv4 through IPv6, told to somebody who is new to it.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use mape_tests::{
    checks::{ALL, Bench, Effort, Outcome},
    gateway::Role,
    lab::{Lab, LabOptions},
    plan,
    process::interrupted,
    servers::Servers,
};

use crate::{build::build, setup};

/// The path of a packet, and what its addresses look like on each part of it.
pub(crate) const PICTURE: &str = "
   home network (IPv4)            the provider's network (IPv6 only)           the Internet (IPv4)

  host1 192.168.10.2 --+
                       +-- ce ------------- transit ------------- br --------- internet
  host2 192.168.20.2 --+   |                   |                  |            198.51.100.1 and 255 more
                           |                   |                  |
      [IPv4 192.168...] -->| [IPv6 [IPv4 192.0.2.18, one of 240 ports]] -->| [IPv4 192.0.2.18] -->
";

const EXPLANATION: &str = "
Many providers carry only IPv6. MAP-E (RFC 7597) lets a home keep using IPv4 there:
 - ce, the home's gateway, puts each IPv4 packet into an IPv6 packet. It has to share one IPv4 address with
   255 other homes and may use 240 of its 65,536 ports; so it also rewrites addresses and ports.
 - br, the provider's border relay, takes the IPv4 packet out again, and the other way round.
Both run here as XDP programs, inside the network driver, loaded by mape-ctl. Every machine in the picture is a
network namespace of this one; what is sent between them are real packets of real programs.";

/// Sets up, builds, shows, and cleans up; fails when a check did.
pub(crate) fn demo() -> Result<()> {
    let begin = Instant::now();
    setup::everything()?;
    let program = build()?;
    println!("{PICTURE}{EXPLANATION}\n");

    let mut lab = Lab::up(&LabOptions::default()).context("making the lab")?;
    let servers = Servers::start(&lab).context("starting the servers")?;
    lab.load(&program).context("loading the gateways")?;
    println!(
        "Loaded: ce has {} and of it {} ports; br is {}.",
        plan::CE_IPV4,
        plan::PORTS,
        plan::BR_IPV6
    );
    for host in ["host1", "host2"] {
        let lost = lab.wait_until_reachable(host)?;
        println!(
            "{host} reaches {}: the first {lost} packets were lost while neighbours were looked up.",
            plan::SERVER
        );
    }

    let bench = Bench {
        lab: &lab,
        servers: &servers,
        effort: Effort::FULL,
    };
    let mut outcomes = Vec::new();
    for (name, proves, check) in ALL {
        println!("\n{name}: {proves}");
        let found = check(&bench).unwrap_or_else(|error| {
            vec![Outcome {
                what: name.to_owned(),
                result: format!("{error:#}"),
                passed: false,
            }]
        });
        if interrupted() {
            bail!("interrupted; everything is taken down again");
        }
        found.iter().for_each(print);
        outcomes.extend(found);
    }

    for role in [Role::Ce, Role::Br] {
        println!("\nWhat `mape-ctl stat` says on {}:\n", role.node());
        println!(
            "{}",
            lab.gateway(role)?
                .ctl(lab.node(role.node())?, &["stat"])?
                .success()?
                .stdout
        );
    }
    drop(servers);
    drop(lab);

    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    println!(
        "Everything is taken down again; this took {} s.",
        begin.elapsed().as_secs()
    );
    if failed > 0 {
        bail!("{failed} of {} results are not as they should be", outcomes.len());
    }
    println!("All {} results are as they should be.", outcomes.len());
    Ok(())
}

fn print(outcome: &Outcome) {
    let mark = if outcome.passed { "ok  " } else { "FAIL" };
    println!("  {mark}  {:<52} {}", outcome.what, outcome.result);
}
