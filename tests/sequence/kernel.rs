//! The programs in the kernel as a subject. Time passes by making records older.

use std::{
    cell::RefCell,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use mape_common::layout::{Gauge, PortOrder, SweepOrder};
use mape_tests::{
    model::{Model, life::Flow, policy::Policy},
    table::{
        kernel::KernelWorld,
        world::{Outcome, Program, RELAY, World},
    },
};

use super::frames::HOSTS;
use super::subject::{Scene, Subject, apply, key, lead, left};

/// The programs in the kernel. One world serves many sequences; each begins with nothing open.
pub(crate) struct Kernel<'a> {
    world: &'a mut KernelWorld,
    has_device: bool,
    since: Instant,
}

/// Ticks that a sequence may lag behind the clock: real time goes on.
const SLACK: u32 = 16;

/// The LAN hosts that the device's packets come from.
pub(crate) const NEIGHBOURS: &[Ipv4Addr] = match &HOSTS {
    [first @ .., _] => first,
};

impl<'a> Kernel<'a> {
    pub(crate) fn new(world: &'a mut KernelWorld, has_device: bool, scene: &Scene, secret: u64) -> Self {
        let mut subject = Self {
            world,
            has_device,
            since: Instant::now(),
        };
        subject.configure(&scene.policy(), true);
        subject.world.flush().expect("the sweeper");
        // Quarantines and shortages are over.
        subject.world.age(60_000).expect("a map");
        // Another secret: what was refused a moment ago, in another sequence, is not found.
        let mut config = subject.world.config().expect("a map");
        config.hash_key = [secret, !secret];
        subject.world.configure(config).expect("a map");
        subject
    }
}

impl Subject for Kernel<'_> {
    fn slack(&self) -> u32 {
        SLACK
    }

    fn is_stalled(&self) -> bool {
        self.since.elapsed() > Duration::from_millis(700)
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        self.world.give(program, frame)
    }

    fn give_to_stack(&mut self, program: Program, frame: &[u8]) -> Option<(Outcome, &'static str)> {
        // Of another sender than the border relay a test run could not tell.
        let at = lead(program, frame).filter(|at| self.has_device && at.from == RELAY.octets())?;
        // Whose next hop the kernel does not know has a session that the NICs leave to the stack: the model knows no such.
        let is_neighbour = |source: &[u8]| NEIGHBOURS.iter().any(|host| host.octets() == source);
        if program == Program::Lan && !at.packet.get(12..16).is_some_and(is_neighbour) {
            return None;
        }
        let seen = self.world.translate(program, &at.packet);
        Some(left(program, seen.expect("the kernel runs the program")))
    }

    fn port_of(&mut self, flow: &Flow) -> Option<u16> {
        self.world.external_port(&key(flow)).expect("a map")
    }

    fn order(&mut self, order: PortOrder) -> u32 {
        self.world.order(order)
    }

    fn wait(&mut self, ticks: u32) {
        self.world.age(ticks).expect("a map");
        self.since = Instant::now();
    }

    fn sweep(&mut self) {
        self.world.sweep(SweepOrder::default()).expect("the sweeper");
    }

    fn flush(&mut self, order: &SweepOrder) {
        self.world.sweep(*order).expect("the sweeper");
    }

    fn configure(&mut self, policy: &Policy, is_open: bool) {
        let mut config = self.world.config().expect("a map");
        apply(&mut config, policy);
        self.world.configure(config).expect("a map");
        self.world.set_gate(is_open).expect("a map");
    }

    fn check(&mut self, model: &mut Model) -> Result<(), String> {
        // What has expired may be gone.
        let shared = RefCell::new(&mut *self);
        model.reclaim(|flow, port, _| shared.borrow_mut().port_of(flow) != Some(port));
        let mut records = 0;
        for of in mape_common::layout::Transport::ALL {
            for gauge in [Gauge::Sessions(of), Gauge::Mappings(of), Gauge::Forwards(of)] {
                records += self.world.read(gauge).expect("a map");
            }
        }
        if usize::try_from(records) == Ok(model.records()) {
            return Ok(());
        }
        Err(format!("{records} records, {} in the model", model.records()))
    }

    fn check_empty(&mut self) -> Result<(), String> {
        let mut found = Vec::new();
        for of in mape_common::layout::Transport::ALL {
            for gauge in [
                Gauge::Sessions(of),
                Gauge::Mappings(of),
                Gauge::Exclusive(of),
                Gauge::Shared(of),
                Gauge::Permissions,
            ] {
                match self.world.read(gauge).expect("a map") {
                    0 => {}
                    left => found.push(format!("{gauge:?} shows {left}")),
                }
            }
        }
        if found.is_empty() {
            Ok(())
        } else {
            Err(found.join(", "))
        }
    }
}
