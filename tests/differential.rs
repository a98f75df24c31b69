//! Random sequences given to the core on the host and to the programs in the kernel, each judged by a model of its own.
//!
//! Each has its own model because chance chooses the ports: what one has chosen says nothing about the other. The model is
//! told the choice and says whether it was right. Chance itself stays as it is: what is tested is what is shipped.
//!
//! `MAPE_SEQUENCES` is the number of sequences in each scene (else as many as fit into 5 s), `MAPE_SEED` where they start. A
//! failure prints both, and the shortest sequence found that still fails.
mod sequence;

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use mape_tests::{
    netns::Netns,
    table::{
        kernel::{KernelWorld, furnish},
        talk,
        world::HOST_MAC,
    },
};
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use sequence::{
    Step,
    host::Host,
    kernel::{Kernel, NEIGHBOURS},
    play::{Tally, run},
    steps,
    subject::{SCENES, Scene},
};

/// Steps of a sequence, at most.
const LONGEST: usize = 300;
/// Sequences between two looks at the clock.
const BATCH: u32 = 8;
/// How long a scene is explored, if no number of sequences is wanted.
const SHARE: Duration = Duration::from_secs(5);

/// Cuts steps out of a sequence as long as it fails; gives it and why it does. In the kernel chance may let it pass once.
fn shortest(
    mut steps: Vec<Step>,
    mut why: String,
    mut test: impl FnMut(&[Step]) -> Result<(), String>,
) -> (Vec<Step>, String) {
    loop {
        let before = steps.len();
        for at in (0..before).rev() {
            let mut fewer = steps.clone();
            fewer.remove(at);
            if let Err(other) = test(&fewer) {
                (steps, why) = (fewer, other);
            }
        }
        if steps.len() == before {
            return (steps, why);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Where chance starts.
fn seed() -> u64 {
    let seed = number("MAPE_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        now.as_secs()
    });
    println!("MAPE_SEED={seed}");
    seed
}

/// Runs sequences in a scene until their number is reached or its share of the time is over. `test` runs one.
fn explore(scene: &Scene, seed: u64, tally: &Tally, mut test: impl FnMut(&[Step]) -> Result<(), String>) {
    let wanted = number("MAPE_SEQUENCES");
    let (started, mut sequences, mut batch) = (Instant::now(), 0, seed);
    while wanted.map_or(started.elapsed() < SHARE, |wanted| sequences < wanted) {
        let cases = Cases {
            cases: BATCH,
            failure_persistence: None,
            max_shrink_iters: 2_000,
            max_shrink_time: 20_000,
            ..Cases::default()
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&batch.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(cases, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let shared = RefCell::new(&mut test);
        let outcome = runner.run(&steps(LONGEST), |steps| {
            (shared.borrow_mut())(&steps).map_err(TestCaseError::fail)
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(why, steps)) => {
                let (steps, why) = shortest(steps, why.to_string(), |steps| shared.borrow_mut()(steps));
                let list: Vec<_> = steps.iter().enumerate().map(|(n, s)| format!("  {n}: {s:?}")).collect();
                let list = list.join("\n");
                panic!(
                    "{}: {why}\n{list}\nagain by MAPE_SEED={batch} MAPE_SEQUENCES=1",
                    scene.name
                );
            }
            Err(TestError::Abort(why)) => panic!("{}: {why}", scene.name),
        }
        sequences += u64::from(BATCH);
        batch += 1;
    }
    println!("{}: {sequences} sequences in {:?}", scene.name, started.elapsed());
    *tally.borrow_mut().entry("sequences").or_default() += sequences;
}

/// Says what was seen. Sequences that only ever forward would find nothing.
fn report(tally: Tally) {
    let mut seen = tally.into_inner();
    let sequences = seen.remove("sequences").unwrap_or(0);
    let packets: u64 = seen.values().sum();
    println!("{sequences} sequences, {packets} packets: {seen:?}");
    let expected = [
        "forwarded",
        "filtered",
        "no-session",
        "ports-exhausted",
        "sessions-exhausted",
        "bad-length",
    ];
    for label in expected.iter().filter(|_| packets > 5_000) {
        assert!(seen.contains_key(label), "no packet was {label}");
    }
}

#[test]
fn the_core_does_what_the_model_says() {
    let (seed, tally) = (seed(), Tally::default());
    for scene in &SCENES {
        explore(scene, seed, &tally, |steps| {
            run(&mut Host::new(scene, false), scene, steps, &tally)
        });
    }
    report(tally);
}

/// Each packet at the NIC, or where the stack would lead it to the tunnel device: one NAT, two doors, and one model of it.
#[test]
fn by_either_door_the_core_does_what_the_model_says() {
    let (seed, tally) = (seed(), Tally::default());
    for scene in &SCENES {
        explore(scene, seed, &tally, |steps| {
            run(&mut Host::new(scene, true), scene, steps, &tally)
        });
    }
    both_doors_were_taken(&tally);
    report(tally);
}

fn both_doors_were_taken(tally: &Tally) {
    for label in ["forwarded", "translated"] {
        assert!(tally.borrow().contains_key(label), "no packet was {label}");
    }
}

/// A namespace that goes away with its test, however that ends.
struct Room(Netns);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.delete();
    }
}

#[test]
fn the_programs_in_the_kernel_do_what_the_model_says() {
    in_the_kernel("random", false);
}

#[test]
fn by_either_door_the_programs_in_the_kernel_do_what_the_model_says() {
    in_the_kernel("doors", true);
}

/// Explores each scene with the programs in the kernel, those of the tunnel device among them if it is there.
fn in_the_kernel(name: &str, has_device: bool) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let room = Room(Netns::create(&format!("mape-{name}-{}", std::process::id())).expect("a namespace"));
    furnish(&room.0).expect("devices");
    for host in NEIGHBOURS.iter().filter(|_| has_device) {
        let mac = HOST_MAC.0.map(|byte| format!("{byte:02x}")).join(":");
        let neighbour = format!("ip neigh replace {host} lladdr {mac} dev lan0 nud permanent");
        room.0.tool(&neighbour).expect("a neighbour");
    }
    let explored = room.0.enter(|| {
        let (seed, tally, tunnel) = (seed(), Tally::default(), KernelWorld::index("mape0")?);
        for scene in &SCENES {
            let wanted = scene.config(tunnel);
            let mut world = KernelWorld::with(mape_ctl::object::object(), scene.slots, |config| *config = wanted)?;
            if let Some(port) = scene.reserved {
                talk::reserve(&mut world, port);
            }
            if has_device {
                world.load_device()?;
            }
            let mut secret = seed;
            explore(scene, seed, &tally, |steps| {
                secret += 1;
                let mut subject = Kernel::new(&mut world, has_device, scene, secret);
                run(&mut subject, scene, steps, &tally)
            });
        }
        if has_device {
            both_doors_were_taken(&tally);
        }
        report(tally);
        Ok(())
    });
    explored.expect("the test");
}
