//! The fuzzer's targets without the fuzzer: over the inputs that are kept, over every bug that one of them has found, and
//! over mutations of them.
//!
//! `MAPE_SEED` is where chance starts (else 1: the same inputs each time), `MAPE_MUTATIONS` how many inputs each target gets.
//! `MAPE_WRITE_SEEDS=1` writes the inputs that the step tables make to `tests/fuzz/corpus`.
#[expect(dead_code, reason = "steps.rs runs the rows; here only their frames are wanted")]
mod cases;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mape_tests::fuzz::{
    TARGETS, Target,
    cut::digits,
    mutate::Chance,
    seed::{self, Row},
};

/// An input's bytes, at most.
const LONGEST: usize = 4_096;
/// Inputs that are made up, each target.
const MUTATIONS: [(&str, u64); 6] = [
    ("wire", 400_000),
    ("config", 6_000),
    ("map", 400_000),
    ("step", 5_000),
    ("relay", 8_000),
    ("hold", 100_000),
];
/// A slow machine makes fewer.
const SHARE: Duration = Duration::from_secs(10);

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(kind)
        .join(target.name)
}

/// The files of a folder by name; none where there is no such folder.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).expect("its bytes")))
        .collect();
    files.sort();
    files
}

fn rows() -> Vec<Row> {
    let row = |case: &cases::Case| {
        let before = case.before.iter().map(|(program, frame)| (*program, frame.bytes()));
        before.chain([(case.program, case.given.clone())]).collect()
    };
    cases::all().iter().map(|(_, case)| row(case)).collect()
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target")
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Gives a target an input; fails with the input where the target does.
fn give(target: &Target, name: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let digits = digits(input);
        panic!(
            "{}: {name} of {} bytes found what stands above: {digits}",
            target.name,
            input.len()
        );
    }
}

fn run(name: &str) {
    let target = target(name);
    let seeds = seed::inputs(name, &rows());
    let (mut inputs, mut kept) = (Vec::new(), 0);
    for kind in ["regressions", "corpus"] {
        for (path, input) in files(&folder(kind, target)) {
            give(target, &path.display().to_string(), &input);
            inputs.push(input);
            kept += 1;
        }
    }
    assert!(kept >= 10, "{name}: only {kept} inputs are kept");
    for input in seeds {
        give(target, "an input made from the step tables", &input);
        inputs.push(input);
    }
    let seed = number("MAPE_SEED").unwrap_or(1);
    let usual = MUTATIONS
        .iter()
        .find(|(of, _)| *of == name)
        .map_or(0, |(_, count)| *count);
    let wanted = number("MAPE_MUTATIONS").unwrap_or(usual);
    let (mut chance, mut made, begin) = (Chance::new(seed), 0, Instant::now());
    let is_bounded = env::var_os("MAPE_MUTATIONS").is_none();
    while made < wanted && !(is_bounded && begin.elapsed() > SHARE) {
        give(target, "a mutation", &chance.mutation(&inputs, LONGEST));
        made += 1;
    }
    println!(
        "{name}: {kept} kept inputs, {made} mutations of them in {:?}, MAPE_SEED={seed}",
        begin.elapsed()
    );
}

#[test]
fn wire() {
    run("wire");
}

#[test]
fn config() {
    run("config");
}

#[test]
fn map() {
    run("map");
}

#[test]
fn step() {
    run("step");
}

#[test]
fn relay() {
    run("relay");
}

#[test]
fn hold() {
    run("hold");
}

/// The inputs that are kept hold what the step tables have: they may grow, and a row that is new is written here.
#[test]
fn seeds_are_kept() {
    let rows = rows();
    for target in &TARGETS {
        let seeds = seed::inputs(target.name, &rows);
        assert!(!seeds.is_empty(), "{} has no inputs to begin with", target.name);
        if env::var_os("MAPE_WRITE_SEEDS").is_some() {
            let folder = folder("corpus", target);
            fs::create_dir_all(&folder).expect("a folder");
            for (number, seed) in seeds.iter().enumerate() {
                fs::write(folder.join(format!("seed-{number:03}")), seed).expect("written");
            }
        }
    }
}
