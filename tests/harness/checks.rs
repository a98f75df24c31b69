//! Owns what the lab must show with both gateways loaded: each check sends real traffic, and says whether the result is right.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    capture::{Capture, Report},
    gateway::Role,
    lab::Lab,
    plan,
    process::pause,
    servers::Servers,
    traffic::{
        iperf::{self, Direction},
        names, numbered, ping, ports, web,
    },
};

/// How long and how large; the tests are content with less than the demonstration shows.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seconds of each iperf3 run.
    pub seconds: u32,
    /// Mebibytes of the file.
    pub mebibytes: u64,
    /// Numbered datagrams each way.
    pub datagrams: usize,
    /// Connections to other remotes while one remote is full.
    pub connections: usize,
}

impl Effort {
    /// For the tests.
    pub const SHORT: Self = Self {
        seconds: 1,
        mebibytes: 16,
        datagrams: 20_000,
        connections: 5_000,
    };
    /// For the demonstration.
    pub const FULL: Self = Self {
        seconds: 3,
        mebibytes: 128,
        datagrams: 100_000,
        connections: 5_000,
    };
}

/// A check's outcome, worded for people.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was sent.
    pub what: String,
    /// What came of it.
    pub result: String,
    /// Whether that is right.
    pub passed: bool,
}

/// A lab that is ready: gateways loaded, servers up, neighbours known.
#[derive(Debug)]
pub struct Bench<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// What answers in it.
    pub servers: &'a Servers,
    /// How much to send.
    pub effort: Effort,
}

/// Sends traffic and returns what came of it.
pub type Check = fn(&Bench<'_>) -> Result<Vec<Outcome>>;

/// Every check: its name, what it proves, and itself.
pub const ALL: [(&str, &str, Check); 8] = [
    (
        "ping",
        "packets find their way through the tunnel and back, from both LANs",
        echo,
    ),
    ("names", "small questions and answers, each from a new port", dns),
    (
        "file",
        "nothing is changed on the way: the file's hash is the same",
        file,
    ),
    ("tcp", "throughput and how often TCP had to send again", tcp),
    (
        "udp",
        "every datagram is counted: none lost, doubled, reordered or changed",
        udp,
    ),
    (
        "counts",
        "sender, both gateways and receiver have counted the same",
        counts,
    ),
    (
        "ports",
        "240 shared ports carry thousands of connections, never one too many to the same place",
        port_use,
    ),
    (
        "wire",
        "a capture between the two gateways: every frame as RFC 7597 wants it",
        wire,
    ),
];

fn echo(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let server = plan::SERVER.to_string();
    let one = |(host, size): (&str, u32)| {
        let ping = ping::ping(bench.lab, host, &server, 50, size)?;
        let mean = ping
            .mean_ms
            .map_or_else(|| "no answer".to_owned(), |mean| format!("{mean:.3} ms round trip"));
        Ok(Outcome {
            what: format!("{host}: {} pings of {size} bytes", ping.sent),
            result: format!("{} answered, {mean}", ping.received),
            passed: ping.sent == 50 && ping.received == 50 && ping.duplicates == 0,
        })
    };
    [("host1", 56), ("host2", 56), ("host1", 1400)]
        .into_iter()
        .map(one)
        .collect()
}

fn dns(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let one = |over_tcp| {
        let names = names::query(bench.lab, "host1", 50, over_tcp)?;
        Ok(Outcome {
            what: format!(
                "host1: {} DNS queries over {}",
                names.asked,
                if over_tcp { "TCP" } else { "UDP" }
            ),
            result: format!("{} answered rightly", names.answered),
            passed: names.answered == names.asked,
        })
    };
    [false, true].into_iter().map(one).collect()
}

fn file(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let one = |direction| {
        let file = web::transfer(bench.lab, bench.servers, "host1", direction, bench.effort.mebibytes)?;
        let hash = if file.is_intact() {
            "same SHA-256"
        } else {
            "ANOTHER SHA-256"
        };
        Ok(Outcome {
            what: format!("host1: curl, {} MiB {}", file.bytes >> 20, arrow(direction)),
            result: format!("{hash}, {}", rate(file.bits_per_second)),
            passed: file.is_intact(),
        })
    };
    [Direction::Down, Direction::Up].into_iter().map(one).collect()
}

fn tcp(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let one = |(direction, streams): (Direction, u32)| {
        let tcp = iperf::tcp(bench.lab, "host1", direction, streams, bench.effort.seconds)?;
        Ok(Outcome {
            what: format!(
                "host1: iperf3, {streams} TCP {} {}",
                plural(streams, "stream"),
                arrow(direction)
            ),
            result: format!("{}, {} sent again", rate(tcp.bits_per_second), tcp.retransmits),
            // The speed is this machine's; that it flows is ours.
            passed: tcp.bits_per_second > 10e6,
        })
    };
    let runs = [
        (Direction::Up, 1),
        (Direction::Down, 1),
        (Direction::Up, 4),
        (Direction::Down, 4),
    ];
    runs.into_iter().map(one).collect()
}

fn udp(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for direction in [Direction::Up, Direction::Down] {
        let udp = iperf::udp(bench.lab, "host2", direction, 100, 1200, bench.effort.seconds)?;
        outcomes.push(Outcome {
            what: format!("host2: iperf3, UDP at 100 Mbit/s {}", arrow(direction)),
            result: format!(
                "{} of {} lost on the way and {} at the receiver, {} out of order",
                udp.lost, udp.sent, udp.unread, udp.out_of_order
            ),
            passed: udp.sent > 0 && udp.lost == 0,
        });
        let load = numbered::Load {
            count: bench.effort.datagrams,
            size: 200,
            rate: 20_000,
        };
        let count = numbered::send(bench.lab, "host1", direction, load)?;
        outcomes.push(Outcome {
            what: format!("host1: {} numbered datagrams {}", count.sent, arrow(direction)),
            result: format!(
                "{} lost, {} twice, {} out of order, {} changed; seen from {}",
                count.lost,
                count.duplicates,
                count.reordered,
                count.damaged,
                count
                    .seen_from
                    .map_or_else(|| "nowhere".to_owned(), |address| address.to_string())
            ),
            passed: count.sent == load.count
                && (count.lost, count.duplicates, count.reordered, count.damaged) == (0, 0, 0, 0)
                && count
                    .seen_from
                    .is_some_and(|from| from.ip() == plan::CE_IPV4 && plan::is_own_port(from.port())),
        });
    }
    Ok(outcomes)
}

/// Nothing else crosses the tunnel meanwhile, so the gateways' own counters must rise by exactly what was sent.
fn counts(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    // By either path: one packet of a flow that nothing answers is left to the stack every two seconds.
    let carried = |role: Role| {
        let [[out, into], [slow_out, slow_into]] = bench.lab.gateway(role)?.by_path(bench.lab.node(role.node())?)?;
        Ok::<_, anyhow::Error>([out + slow_out, into + slow_into])
    };
    let one = |direction| {
        let before = (carried(Role::Ce)?, carried(Role::Br)?);
        let load = numbered::Load {
            count: bench.effort.datagrams / 4,
            size: 600,
            rate: 10_000,
        };
        let count = numbered::send(bench.lab, "host1", direction, load)?;
        let after = (carried(Role::Ce)?, carried(Role::Br)?);
        // The host's greetings go up in both runs.
        let (way, greetings) = match direction {
            Direction::Up => (0, count.greetings as u64),
            Direction::Down => (1, 0),
        };
        // Outbound is into the tunnel: what goes out at the CE comes in at the BR.
        let ce = after.0[way] - before.0[way] - greetings;
        let br = after.1[1 - way] - before.1[1 - way] - greetings;
        Ok(Outcome {
            what: format!("host1: {} datagrams {}", count.sent, arrow(direction)),
            result: format!("sender {}, ce {ce}, br {br}, receiver {}", count.sent, count.arrived),
            passed: [ce, br, count.arrived as u64] == [count.sent as u64; 3] && count.sent > 0,
        })
    };
    [Direction::Up, Direction::Down].into_iter().map(one).collect()
}

fn port_use(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let wanted = bench.effort.connections;
    let ports = ports::exhaust(bench.lab, bench.servers, "host1", plan::PORTS, wanted)?;
    let mut outcomes = vec![
        Outcome {
            what: format!("host1: {} connections to one server's port", plan::PORTS),
            result: format!(
                "{} open, on {} different ports",
                ports.to_one_remote, ports.ports_at_one_remote
            ),
            passed: ports.to_one_remote == plan::PORTS && ports.ports_at_one_remote == plan::PORTS,
        },
        Outcome {
            what: "host1: one more to the same".to_owned(),
            result: match &ports.refusal {
                Some(reason) => format!("refused after {} ms: {reason}", ports.refusal_took.as_millis()),
                None => "NOT refused: two connections cannot be told apart".to_owned(),
            },
            passed: ports.refusal.is_some(),
        },
        Outcome {
            what: format!("host1: {wanted} more to other servers meanwhile"),
            result: format!("{} open", ports.to_others),
            passed: ports.to_others == wanted,
        },
    ];
    let opened = ports.to_one_remote + ports.to_others;
    outcomes.push(Outcome {
        what: format!("internet: data on all {opened} of them"),
        result: format!(
            "{} right, {} from outside the port set",
            ports.verified,
            ports.outside_set.len()
        ),
        passed: ports.verified == opened && ports.outside_set.is_empty(),
    });
    Ok(outcomes)
}

/// A little of everything in both directions while tcpdump looks on.
fn wire(bench: &Bench<'_>) -> Result<Vec<Outcome>> {
    let capture = Capture::start(bench.lab, "transit", "ce0")?;
    let short = Bench {
        effort: Effort {
            mebibytes: 2,
            ..bench.effort
        },
        ..*bench
    };
    echo(&short)?;
    dns(&short)?;
    file(&short)?;
    for direction in [Direction::Up, Direction::Down] {
        // Odd sizes, and smaller than Ethernet's least: padding and odd sums are where checksums go wrong.
        for size in [17, 18, 255, 1401] {
            let load = numbered::Load {
                count: 200,
                size,
                rate: 2_000,
            };
            numbered::send(bench.lab, "host1", direction, load)?;
        }
    }
    // What is still on its way to the file.
    pause(Duration::from_millis(300))?;
    let report = capture.judge().context("the capture on the transit link")?;
    Ok(vec![describe(&report)])
}

fn describe(report: &Report) -> Outcome {
    let faults: Vec<String> = report
        .faults
        .iter()
        .map(|(fault, frames)| format!("{frames} x {fault}"))
        .collect();
    let verdict = if faults.is_empty() {
        "no fault in any".to_owned()
    } else {
        faults.join("; ")
    };
    Outcome {
        what: format!("transit: {} frames dissected by tshark", report.frames),
        result: format!(
            "{verdict} ({} from, {} to the CE, {} flow labels)",
            report.from_ce, report.to_ce, report.flow_labels
        ),
        passed: report.is_clean() && report.from_ce > 500 && report.to_ce > 500 && report.flow_labels > 10,
    }
}

fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

fn plural(count: u32, noun: &str) -> String {
    if count == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}

fn rate(bits_per_second: f64) -> String {
    format!("{:.0} Mbit/s", bits_per_second / 1e6)
}
