//! `kill -9` in the midst of load, reload and unload: at moments nobody has chosen, and at chosen system calls.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mape_tests::lab::alone;

use crate::{PATIENCE, Site, flow::Flow, random::Random};

/// How long the whole command takes when nobody kills it.
fn duration(site: &Site, words: &[String]) -> Result<Duration> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let begin = Instant::now();
    site.ctl(&words)?.success()?;
    Ok(begin.elapsed())
}

/// Runs a command and kills it after so long; whether it was killed, as opposed to done by then.
fn kill_after(site: &Site, words: &[String], after: Duration) -> Result<bool> {
    let mut child = site.spawn(&[], words)?;
    thread::sleep(after);
    child.kill()?;
    Ok(child.wait()?.signal().is_some())
}

/// Runs a command that is killed when it makes this system call for the so-manieth time; whether it was.
fn kill_at(site: &Site, words: &[String], call: &str, number: usize) -> Result<bool> {
    let inject = format!("inject={call}:signal=KILL:when={number}");
    let trace = format!("trace={call}");
    let mut child = site.spawn(&["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject], words)?;
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
    let whole = duration(&site, &words).unwrap();
    site.unload_leaves_nothing().unwrap();
    let mut random = Random::new();
    let mut killed = 0;
    for number in 0..12 {
        let after = random.before(whole);
        killed += u32::from(kill_after(&site, &words, after).unwrap());
        is_mended(&site, number % 2 == 0)
            .with_context(|| format!("killed after {after:?} of {whole:?}"))
            .unwrap();
    }
    println!("a load of {whole:?}: killed {killed} times of 12, mended each time, by load and by unload");
    assert!(killed >= 6, "{killed}");
}

/// System calls by which a load makes something that stays, and at which of them it is killed; `bpf` is called a few hundred times,
/// most of them for what goes with the process.
const LOAD_CALLS: [(&str, &[usize]); 5] = [
    ("mkdir", &[2, 4]),
    ("ioctl", &[1, 2, 3]),
    ("sendto", &[20, 23, 26]),
    ("bpf", &[20, 40, 60, 80, 100, 120]),
    ("rename", &[1, 2]),
];

#[test]
fn a_first_load_killed_at_chosen_system_calls_is_mended_by_the_next_call() {
    let _alone = alone();
    if !Path::new("/usr/bin/strace").exists() {
        println!("SKIPPED: strace is missing");
        return;
    }
    let Some(site) = Site::new().unwrap() else { return };
    let words = site.load_words().unwrap();
    let mut killed = Vec::new();
    for (call, numbers) in LOAD_CALLS {
        for (by_load, number) in [true, false].into_iter().cycle().zip(numbers) {
            if kill_at(&site, &words, call, *number).unwrap() {
                killed.push(format!("{call} {number}"));
            }
            is_mended(&site, by_load)
                .with_context(|| format!("killed at {call} number {number}"))
                .unwrap();
        }
    }
    println!("killed at {}", killed.join(", "));
    assert!(killed.len() >= 12, "{killed:?}");
}

#[test]
fn a_reload_killed_at_any_moment_loses_nothing() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let words = site.load_words().unwrap();
    let whole = duration(&site, &words).unwrap();
    let mut random = Random::new();
    let flow = Flow::start(&site.lab, 7_100, 500).unwrap();
    let mut killed = 0;
    for number in 0..12 {
        let after = random.before(whole);
        killed += u32::from(kill_after(&site, &words, after).unwrap());
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
    assert!(seen.silence < Duration::from_millis(250), "{seen:?}");
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
}

#[test]
fn an_unload_killed_at_any_moment_is_mended_by_the_next_call() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let whole = duration(&site, &unload_words()).unwrap();
    site.is_as_before().unwrap();
    let mut random = Random::new();
    let mut killed = 0;
    for number in 0..10 {
        site.load().unwrap().success().unwrap();
        let after = random.before(whole);
        killed += u32::from(kill_after(&site, &unload_words(), after).unwrap());
        is_mended(&site, number % 2 == 0)
            .with_context(|| format!("killed after {after:?} of {whole:?}"))
            .unwrap();
    }
    println!("an unload of {whole:?}: killed {killed} times of 10, mended each time, by load and by unload");
    assert!(killed >= 4, "{killed}");
}
