//! The step tables in the kernel, and that the kernel's bytes are the host's.

mod cases;

use mape_common::layout::{Gauge, Transport};
use mape_tests::{
    netns::Netns,
    table::{
        host::HostWorld,
        kernel::{KernelWorld, furnish},
    },
};

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
            Ok(rows)
        })
        .unwrap();
    println!("{rows} rows, equal in the kernel and on the host");
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
