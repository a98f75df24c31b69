//! Owns the tests of a router that changes its MAC address while traffic flows, without any daemon on the customer edge: silently, and with
//! an announcement.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    process::watch_signals,
    traffic::numbered,
};
use serde_json::Value;

/// Where the far side listens.
const PORT: u16 = 7_003;
const ROUTER: &str = "2001:db8:12:3400::1";
const SUCCESSOR: &str = "02:00:5e:00:53:07";

struct Bench {
    lab: Lab,
    near: std::net::UdpSocket,
    far: std::net::UdpSocket,
}

impl Bench {
    fn new() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        lab.load(&gateway::program()?)?;
        lab.wait_until_reachable("host1")?;
        let (near, far) = numbered::pair(&lab, "host1", PORT)?;
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        }
        Ok(Some(Self { lab, near, far }))
    }

    /// One datagram there and back again.
    fn is_answered(&self) -> Result<bool> {
        let mut buffer = [0; 64];
        self.near.send(b"there")?;
        if self.far.recv(&mut buffer).is_err() {
            return Ok(false);
        }
        self.far.send(b"back")?;
        Ok(self.near.recv(&mut buffer).is_ok())
    }

    fn settle(&self) -> Result<()> {
        for _ in 0..100 {
            if !self.is_answered()? {
                bail!("a datagram was lost on an ordinary way");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The stack of the customer edge has not heard of the router for half a minute, since the fast path has all its traffic.
    fn grow_stale(&self) -> Result<()> {
        let ce = self.lab.node("ce")?;
        let mac = self.next_hop()?;
        ce.tool(&format!("ip -6 neigh change {ROUTER} dev wan0 lladdr {mac} nud stale"))?;
        Ok(())
    }

    /// The router has another MAC address from now on, and says so (RFC 4861 §7.2.6) or not.
    fn change_router(&self, is_announced: bool) -> Result<()> {
        let transit = self.lab.node("transit")?;
        transit.sysctl("ipv6/conf/ce0/ndisc_notify", if is_announced { "1" } else { "0" })?;
        transit.tool(&format!("ip link set ce0 address {SUCCESSOR}"))?;
        Ok(())
    }

    /// How long until three datagrams in a row are answered again.
    fn time_to_recover(&self, limit: Duration) -> Result<Duration> {
        let begin = Instant::now();
        let mut in_a_row = 0;
        while begin.elapsed() < limit {
            in_a_row = if self.is_answered()? { in_a_row + 1 } else { 0 };
            if in_a_row == 3 {
                return Ok(begin.elapsed());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let stat = self.lab.gateway(Role::Ce)?.ctl(self.lab.node("ce")?, &["stat"])?;
        bail!("no recovery within {limit:?}\n{}", stat.stdout)
    }

    /// The MAC address that the fast path sends to.
    fn next_hop(&self) -> Result<String> {
        let stat = self.lab.gateway(Role::Ce)?.stat(self.lab.node("ce")?)?;
        let mac = stat.pointer("/next_hops/0/mac").and_then(Value::as_str);
        Ok(mac.context("no next hop")?.to_owned())
    }
}

#[test]
fn a_router_that_changes_silently_is_found_again() {
    let _alone = alone();
    let Some(bench) = Bench::new().unwrap() else { return };
    bench.settle().unwrap();
    bench.grow_stale().unwrap();
    bench.change_router(false).unwrap();
    let time = bench.time_to_recover(Duration::from_secs(30)).unwrap();
    println!("a silent change: {time:?}");
    assert!(time < Duration::from_secs(15), "{time:?}");
    assert_eq!(bench.next_hop().unwrap(), SUCCESSOR);
    bench.settle().unwrap();
}

#[test]
fn a_router_that_announces_its_change_is_followed_at_once() {
    let _alone = alone();
    let Some(bench) = Bench::new().unwrap() else { return };
    bench.settle().unwrap();
    bench.change_router(true).unwrap();
    let time = bench.time_to_recover(Duration::from_secs(30)).unwrap();
    println!("an announced change: {time:?}");
    // A session is looked after once a second, 1.07 s at most, and it is then that one asks.
    assert!(time < Duration::from_secs(2), "{time:?}");
    assert_eq!(bench.next_hop().unwrap(), SUCCESSOR);
}
