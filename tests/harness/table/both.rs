//! Runs a test on the host and in the kernel.

use super::{
    host::HostWorld,
    kernel::{KernelWorld, furnish},
    world::World,
};
use crate::netns::Netns;

/// Records of each world.
const SESSIONS: u32 = 4_096;

struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

/// Runs a test on the host and, with the programs of `object`, in the kernel; there it says so where it cannot.
///
/// # Panics
/// Where the test fails, or the host's state contradicts itself after it.
pub fn in_both(object: &[u8], name: &str, test: impl Fn(&mut dyn World) + Sync) {
    let mut host = HostWorld::new(SESSIONS);
    test(&mut host);
    assert_eq!(host.env.violations(), Vec::<String>::new());
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: {name} in the kernel: loading BPF programs needs root");
        return;
    }
    in_the_kernel(object, name, test);
}

/// Runs a test with the programs of `object`, as root.
///
/// # Panics
/// Where the test fails.
pub fn in_the_kernel(object: &[u8], name: &str, test: impl Fn(&mut dyn World) + Sync) {
    let room = Room(Netns::create(&format!("mape-{name}-{}", std::process::id())).expect("a namespace"));
    furnish(&room.0).expect("devices");
    let run = room.0.enter(|| {
        test(&mut KernelWorld::new(object, SESSIONS)?);
        Ok(())
    });
    run.expect("the test in the kernel");
}
