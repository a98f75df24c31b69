//! `kill -9` in the midst of load, reload and unload: at moments nobody has chosen, and at chosen system calls.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mape_tests::lab::alone;

use crate::{PATIENCE, Site, flow::Flow, random::Random};

/// How long the whole command takes when nobody kills it.
fn duration(site: &Site, words: &[String]) -> Result<Duration> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let begin = Instant::now();
    site.ctl(&words)?.success()?;
    Ok(begin.elapsed())
}

/// Runs a command and kills it after so long; whether it was killed, as opposed to done by then, by which `whole` becomes shorter:
/// the machine is not as busy any longer as when it was measured.
fn kill_after(site: &Site, words: &[String], after: Duration, whole: &mut Duration) -> Result<bool> {
    let mut child = site.spawn(&[], words)?;
    thread::sleep(after);
    child.kill()?;
    let is_killed = child.wait()?.signal().is_some();
    if !is_killed {
        *whole = after.min(*whole);
    }
    Ok(is_killed)
}

/// Runs a command that is killed when it makes this system call for the so-manieth time; whether it was.
fn kill_at(site: &Site, words: &[String], call: &str, number: usize) -> Result<bool> {
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let trace = format!("trace={call}");
    let mut child = site.spawn(
        &["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject],
        words,
    )?;
    let status = within(&mut child)?;
    // strace ends as what it has traced.
    Ok(status.signal().is_some())
}

fn within(child: &mut Child) -> Result<std::process::ExitStatus> {
    let end = Instant::now() + 4 * PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("it does not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// After a load or an unload was killed: nothing is in anybody's way, and a second call mends it, whichever it is.
fn is_mended(site: &Site, by_load: bool) -> Result<()> {
    site.others_are_well()?;
    if by_load {
        site.load()?.success()?;
        site.forwards()?;
    }
    site.unload_leaves_nothing()
}

fn unload_words() -> Vec<String> {
    vec!["unload".to_owned()]
}

#[test]
fn a_first_load_killed_at_any_moment_is_mended_by_the_next_call() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let words = site.load_words().unwrap();
    let mut whole = duration(&site, &words).unwrap();
    site.unload_leaves_nothing().unwrap();
    let mut random = Random::new();
    let mut killed = 0;
    for number in 0..12 {
        let after = random.before(whole);
        killed += u32::from(kill_after(&site, &words, after, &mut whole).unwrap());
        is_mended(&site, number % 2 == 0)
            .with_context(|| format!("killed after {after:?} of {whole:?}"))
            .unwrap();
    }
    println!("a load of {whole:?}: killed {killed} times of 12, mended each time, by load and by unload");
    assert!(killed >= 6, "{killed}");
}

/// What a load does that stays, by words in a trace of it, and of how many of each it is killed right behind: evenly spread.
const LASTING: [(&str, usize); 11] = [
    ("TUNSETIFF", 1),
    ("RTM_SETLINK", 2),
    ("RTM_NEWADDR", 1),
    ("RTM_NEWROUTE", 1),
    ("RTM_NEWNEIGH", 1),
    ("BPF_OBJ_PIN", 4),
    ("BPF_MAP_UPDATE_ELEM", 3),
    ("BPF_LINK_CREATE", 4),
    ("BPF_PROG_TEST_RUN", 1),
    ("mkdir(", 1),
    ("rename(", 2),
];

/// A system call of a load, and the how-manieth of its name it is.
struct Point {
    call: String,
    number: usize,
    behind: &'static str,
}

/// Where to kill, by the trace of a whole load: at the next call of the same name, so that what is meant is just done.
fn points(trace: &str) -> Vec<Point> {
    let mut counts = std::collections::BTreeMap::new();
    let calls: Vec<(&str, usize, &str)> = trace
        .lines()
        .filter_map(|line| {
            let (call, _) = line.split_once('(')?;
            let count = counts.entry(call).or_insert(0);
            *count += 1;
            Some((call, *count, line))
        })
        .collect();
    let mut points = Vec::new();
    for (word, wanted) in LASTING {
        let found: Vec<_> = calls.iter().filter(|(_, _, line)| line.contains(word)).collect();
        let step = found.len().div_ceil(wanted).max(1);
        points.extend(
            found
                .iter()
                .skip(step / 2)
                .step_by(step)
                .map(|(call, number, _)| Point {
                    call: (*call).to_owned(),
                    number: number + 1,
                    behind: word,
                }),
        );
    }
    points
}

#[test]
fn a_first_load_killed_right_behind_what_lasts_is_mended_by_the_next_call() {
    let _alone = alone();
    if !Path::new("/usr/bin/strace").exists() {
        println!("SKIPPED: strace is missing");
        return;
    }
    let Some(site) = Site::new().unwrap() else { return };
    // Fewer sessions are as many system calls less.
    site.configure("sessions = 65536", "sessions = 256").unwrap();
    let words = site.load_words().unwrap();
    let file = site.lab.folder().join("trace");
    let name = file.to_string_lossy();
    // Twice: the second time neighbours are known, as they are later.
    for _ in 0..2 {
        let before = [
            "strace",
            "-qq",
            "-o",
            &name,
            "-e",
            "trace=bpf,ioctl,sendto,mkdir,rename",
        ];
        let status = within(&mut site.spawn(&before, &words).unwrap()).unwrap();
        assert!(status.success(), "{status}");
        site.unload_leaves_nothing().unwrap();
    }
    let points = points(&fs::read_to_string(&file).unwrap());
    let mut killed = Vec::new();
    for (by_load, point) in [true, false].into_iter().cycle().zip(&points) {
        let Point { call, number, behind } = point;
        if kill_at(&site, &words, call, *number).unwrap() {
            killed.push(format!("{behind} ({call} {number})"));
        }
        is_mended(&site, by_load)
            .with_context(|| format!("killed behind {behind}, at {call} number {number}"))
            .unwrap();
    }
    println!("killed behind {}", killed.join(", "));
    assert!(killed.len() >= 15 && killed.len() + 3 >= points.len(), "{killed:?}");
}

#[test]
fn a_reload_killed_at_any_moment_loses_nothing() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let words = site.load_words().unwrap();
    let mut whole = duration(&site, &words).unwrap();
    let mut random = Random::new();
    let flow = Flow::start(&site.lab, 7_100, 500).unwrap();
    let mut killed = 0;
    for number in 0..12 {
        let after = random.before(whole);
        killed += u32::from(kill_after(&site, &words, after, &mut whole).unwrap());
        // Every third time two in a row are killed: what is half then is half of a half.
        if number % 3 != 0 {
            site.load().unwrap().success().unwrap();
        }
    }
    site.load().unwrap().success().unwrap();
    let seen = flow.finish().unwrap();
    println!("a reload of {whole:?}: killed {killed} times of 12, {seen:?}");
    assert!(killed >= 6, "{killed}");
    assert_eq!(seen.lost, 0, "{seen:?}");
    assert!(seen.sent > 1_000, "{seen:?}");
    assert!(seen.silence < seen.pause + Duration::from_secs(3), "{seen:?}");
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
}

#[test]
fn an_unload_killed_at_any_moment_is_mended_by_the_next_call() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let mut whole = duration(&site, &unload_words()).unwrap();
    site.is_as_before().unwrap();
    let mut random = Random::new();
    let mut killed = 0;
    for number in 0..10 {
        site.load().unwrap().success().unwrap();
        let after = random.before(whole);
        killed += u32::from(kill_after(&site, &unload_words(), after, &mut whole).unwrap());
        is_mended(&site, number % 2 == 0)
            .with_context(|| format!("killed after {after:?} of {whole:?}"))
            .unwrap();
    }
    println!("an unload of {whole:?}: killed {killed} times of 10, mended each time, by load and by unload");
    assert!(killed >= 4, "{killed}");
}
