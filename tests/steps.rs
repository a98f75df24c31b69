//! The step tables on the host: every row, no privileges.

mod cases;

use std::collections::BTreeSet;

use mape_common::verdict::Reason;
use mape_tests::table::host::HostWorld;

#[test]
fn every_row_holds_on_the_host() {
    for (forwards, case) in cases::all() {
        let mut world = HostWorld::new(64);
        cases::prepare(&mut world, &forwards);
        case.run(&mut world);
        assert_eq!(world.env.violations(), Vec::<String>::new(), "{}", case.name);
    }
}

#[test]
fn every_row_of_native_ipv6_holds_on_the_host() {
    for case in cases::native::cases() {
        case.run(&mut HostWorld::new(16));
    }
}

#[test]
fn every_reason_that_a_frame_alone_can_have_has_a_row() {
    let mut covered: BTreeSet<_> = cases::all().iter().map(|(_, case)| case.counted).collect();
    covered.extend(cases::native::cases().iter().map(|case| case.counted));
    // Reasons that depend on state which a row of frames cannot make; the tests named there make it.
    let elsewhere = [
        ("not-configured", "tests/nat.rs"),
        ("gate-closed", "tests/nat.rs"),
        ("no-rule", "tests/relay.rs"),
        ("next-hop-unknown", "tests/nat.rs"),
        ("next-hop-silent", "tests/neighbour.rs"),
        ("link-unproven", "tests/nat.rs"),
        ("security-invalid-v4", "tests/relay.rs"),
        ("ports-exhausted", "tests/nat.rs"),
        ("sessions-exhausted", "tests/nat.rs"),
        ("recently-refused", "tests/nat.rs"),
        ("host-sessions", "tests/policy.rs"),
        ("icmp-error", "only where the stage that it is for is missing"),
        ("error-elsewhere", "tests/icmp.rs"),
        ("error-without-session", "tests/icmp.rs"),
        ("tunnel-error", "tests/icmp.rs"),
        ("contended", "tests/nat.rs"),
        ("fragment", "handed on; only where a stage is missing"),
        ("fragments-exhausted", "tests/fragment.rs"),
        ("fragment-by-stack", "tests/slow.rs"),
        ("untranslated", "tests/neighbour.rs"),
        ("native-asks", "before each row of native IPv6"),
        ("no-headroom", "needs a NIC that leaves no room before frames"),
        ("write-failed", "impossible by construction"),
    ];
    for reason in Reason::ALL {
        let known = covered.contains(reason.label()) || elsewhere.iter().any(|(label, _)| *label == reason.label());
        assert!(known, "no row for {}", reason.label());
    }
}
