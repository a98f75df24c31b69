//! The step tables in the kernel, and that the kernel's bytes are the host's.

mod cases;

use std::collections::BTreeMap;

use anyhow::Result;
use mape_common::layout::{Gauge, Transport};
use mape_tests::{
    netns::Netns,
    table::{
        host::HostWorld,
        kernel::{KernelWorld, furnish},
        stack::{self, AtDevice},
        world::{Forwarded, Outcome, RELAY, World as _},
    },
};

use cases::Case;

/// A namespace that goes when the test ends, however it ends.
struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

#[test]
fn every_row_holds_in_the_kernel_with_the_hosts_bytes() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-rows-{}", std::process::id())).unwrap());
    furnish(&room.0).unwrap();
    let rows = room
        .0
        .enter(|| {
            let mut rows = 0;
            let mut kernel = KernelWorld::new(mape_ctl::object::object(), 64)?;
            for (forwards, case) in cases::all() {
                kernel.flush()?;
                for transport in Transport::ALL {
                    let held = (
                        Gauge::Sessions(transport),
                        Gauge::Mappings(transport),
                        Gauge::Exclusive(transport),
                        Gauge::Shared(transport),
                        Gauge::Forwards(transport),
                    );
                    for gauge in [held.0, held.1, held.2, held.3, held.4] {
                        assert_eq!(kernel.read(gauge)?, 0, "{gauge:?} after a flush, before: {}", case.name);
                    }
                }
                let mut host = HostWorld::new(64);
                cases::prepare(&mut kernel, &forwards);
                cases::prepare(&mut host, &forwards);
                let from_kernel = case.run(&mut kernel);
                let from_host = case.run(&mut host);
                compare(case.name, from_kernel, from_host);
                rows += 1;
            }
            for case in cases::native::cases() {
                case.run(&mut kernel);
                rows += 1;
            }
            Ok(rows)
        })
        .unwrap();
    println!("{rows} rows, equal in the kernel and on the host");
}

/// The rows whose frames do not come to the tunnel device, by what the stack does with them instead.
const ELSEWHERE: [(&str, usize); 10] = [
    ("congestion that nobody can be told of: the device drops it", 1),
    (ANOTHER_SENDER, 3),
    ("its TTL ends here", 5),
    ("larger than the tunnel takes", 3),
    ("no IPv4 for the LAN NIC", 4),
    ("not a tunnel packet by itself", 4),
    ("not an IPv4 header that the stack takes", 3),
    ("not an outer header that the stack takes", 1),
    ("not from a LAN host", 1),
    ("not routed into the tunnel", 10),
];
/// The rows that do, by what the fast path makes of them and what becomes of them there.
const AT_THE_DEVICE: [(&str, &str, usize); 18] = [
    ("bad-length", "bad-length", 6),
    ("error-unusable", "error-unusable", 2),
    ("filtered", "filtered", 2),
    ("foreign-port", "foreign-port", 2),
    ("forward-unrouted", "forward-unrouted", 1),
    ("forwarded", "translated", 49),
    ("fragment-first-missing", "fragment-first-missing", 3),
    ("fragment-overlap", "fragment-overlap", 4),
    ("fragment-tiny", "fragment-tiny", 3),
    ("fragment-too-long", "fragment-too-long", 2),
    ("hairpin", "hairpin", 1),
    // Options are stepped over there; of one that is a fragment the first has not come.
    ("ip-options", "fragment-first-missing", 1),
    ("ip-options", "translated", 1),
    // To a LAN host that nobody has mapped: nothing is turned round there.
    ("no-session", "hairpin", 1),
    ("no-session", "no-session", 10),
    ("not-my-address", "not-my-address", 2),
    ("reset-without-session", "reset-without-session", 1),
    ("unsupported-protocol", "unsupported-protocol", 2),
];
/// Which no test run can say.
const ANOTHER_SENDER: &str = "from another outer source";

#[test]
fn every_row_that_comes_to_the_tunnel_device_holds_there_in_the_kernel_with_the_hosts_bytes() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-device-{}", std::process::id())).unwrap());
    furnish(&room.0).unwrap();
    let (mut elsewhere, mut seen) = (BTreeMap::new(), BTreeMap::new());
    let run = room.0.enter(|| {
        let mut kernel = KernelWorld::new(mape_ctl::object::object(), 64)?;
        kernel.load_device()?;
        for (forwards, case) in cases::all() {
            let at = match stack::lead(case.program, &case.given) {
                Ok(at) if at.from == RELAY.octets() => at,
                Ok(_) => {
                    *elsewhere.entry(ANOTHER_SENDER).or_insert(0) += 1;
                    continue;
                }
                Err(why) => {
                    *elsewhere.entry(why).or_insert(0) += 1;
                    continue;
                }
            };
            let by_nic = at_device(&mut kernel, &forwards, &case, &at, false)?;
            let by_device = at_device(&mut kernel, &forwards, &case, &at, true)?;
            assert_eq!(by_nic, by_device, "{}, by the door of the frames before it", case.name);
            *seen.entry((case.counted, by_device)).or_insert(0) += 1;
        }
        Ok(())
    });
    run.unwrap();
    let seen: Vec<_> = seen
        .into_iter()
        .map(|((fast, slow), rows)| (fast, slow, rows))
        .collect();
    let elsewhere: Vec<_> = elsewhere.into_iter().collect();
    let rows: usize = seen.iter().map(|(.., rows)| rows).sum();
    println!("{rows} rows at the tunnel device, equal in the kernel and on the host: {seen:?}");
    println!("elsewhere: {elsewhere:?}");
    assert_eq!(seen, AT_THE_DEVICE);
    assert_eq!(elsewhere, ELSEWHERE);
}

/// One row at the device, the frames before it by the NICs, or there too where the stack would lead them there; how it was counted.
fn at_device(
    kernel: &mut KernelWorld,
    forwards: &[Forwarded],
    case: &Case,
    at: &AtDevice,
    is_begun_there: bool,
) -> Result<&'static str> {
    kernel.flush()?;
    let mut host = HostWorld::new(64);
    cases::prepare(kernel, forwards);
    cases::prepare(&mut host, forwards);
    for (program, frame) in &case.before {
        let frame = frame.bytes();
        let labels = match stack::lead(*program, &frame) {
            Ok(at) if is_begun_there => {
                let (_, label) = kernel.translate(*program, &at.packet)?;
                [label, stack::translate(&host.env, *program, &at).1, "translated"]
            }
            _ => [
                kernel.give(*program, &frame).1,
                host.give(*program, &frame).1,
                "forwarded",
            ],
        };
        assert!(
            labels.iter().all(|label| *label == labels[2]),
            "{}: {labels:?}",
            case.name
        );
    }
    let (seen, label) = kernel.translate(case.program, &at.packet)?;
    let expected = stack::translate(&host.env, case.program, at);
    assert_eq!((kind(&seen), label), (kind(&expected.0), expected.1), "{}", case.name);
    let bytes = |outcome| match outcome {
        Outcome::Forwarded(bytes) => Some(bytes),
        Outcome::Answered(_) | Outcome::Passed(_) | Outcome::Dropped => None,
    };
    compare(case.name, bytes(seen), bytes(expected.0));
    Ok(label)
}

/// What became of a packet, without its bytes; of what is passed they are as they were.
const fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Forwarded(_) => "forwarded",
        Outcome::Answered(_) => "answered",
        Outcome::Passed(_) => "passed",
        Outcome::Dropped => "dropped",
    }
}

/// Bytes are equal but for what chance decides: an external port that is not the host's own, and what it changes.
fn compare(name: &str, kernel: Option<Vec<u8>>, host: Option<Vec<u8>>) {
    match (kernel, host) {
        (Some(kernel), Some(host))
            if !name.contains("gets one of the set")
                && !name.contains("gets a port")
                && !name.contains("second packet") =>
        {
            assert_eq!(kernel, host, "{name}");
        }
        (Some(kernel), Some(host)) => assert_eq!(kernel.len(), host.len(), "{name}"),
        (None, None) => {}
        (kernel, host) => panic!("{name}: kernel {kernel:02x?}, host {host:02x?}"),
    }
}
