//! Too little of what the system gives: files, address space, memory. A load that cannot be done leaves all as it was.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mape_tests::{
    lab::alone,
    process::{Finished, run},
};

use crate::{PATIENCE, Site, flow::Flow};

const MIB: u64 = 1 << 20;

/// Loads behind other words that set a limit.
fn load_behind(site: &Site, before: &[&str]) -> Result<Finished> {
    let mut command = std::process::Command::new(before[0]);
    command
        .args(&before[1..])
        .arg(&site.program)
        .args(["--instance", site.gateway()?.instance()])
        .args(site.load_words()?)
        // What it prints when it runs out of memory is nobody's.
        .env("RUST_BACKTRACE", "0");
    site.ce()?.enter(|| run(&mut command, 4 * PATIENCE))
}

#[test]
fn too_few_files_are_named_before_anything_is_touched() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    for limit in ["64:64", "128:128", "255:255"] {
        let refused = load_behind(&site, &["prlimit", &format!("--nofile={limit}")]).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for word in ["may open", "ulimit -n 256", "LimitNOFILE=256"] {
            assert!(refused.stderr.contains(word), "{refused:?}");
        }
        site.is_as_before().unwrap();
    }
    // As many as it says are enough, and what it may raise itself it raises.
    for limit in ["256:256", "64:1024"] {
        load_behind(&site, &["prlimit", &format!("--nofile={limit}")])
            .unwrap()
            .success()
            .unwrap();
        site.forwards().unwrap();
        site.unload_leaves_nothing().unwrap();
    }
}

/// Tries a load under limits that are doubled until it comes through; each one that does not is as if it had not been.
fn until_enough(
    site: &Site,
    limits: impl Iterator<Item = u64>,
    mut load: impl FnMut(u64) -> Result<Finished>,
) -> Result<()> {
    for (failed, limit) in limits.enumerate() {
        let load = load(limit)?;
        if load.status.success() {
            println!("{} KiB: enough", limit / 1_024);
            ensure!(failed >= 2, "limits that were none");
            site.forwards()?;
            return site.unload_leaves_nothing();
        }
        println!(
            "{} KiB: {}: {}",
            limit / 1_024,
            load.status,
            load.stderr.trim().replace('\n', "; ")
        );
        site.others_are_well()?;
        site.unload_leaves_nothing()?;
    }
    bail!("no limit is large enough")
}

#[test]
fn with_too_little_address_space_a_load_leaves_nothing() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let limits = (0..)
        .map(|step| (12 * MIB) << step)
        .take_while(|limit| *limit <= 4_096 * MIB);
    until_enough(&site, limits, |limit| {
        load_behind(&site, &["prlimit", &format!("--as={limit}")])
    })
    .unwrap();
}

/// A control group with a limit of memory, which counts what the kernel allocates for its processes, too.
struct Group(PathBuf);

impl Group {
    /// None where this machine has no such groups, or this container may not make any.
    fn new(name: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let root = roots.into_iter().map(Path::new).find(|root| {
            root.join("memory.limit_in_bytes").exists()
                || fs::read_to_string(root.join("cgroup.subtree_control")).is_ok_and(|all| all.contains("memory"))
        })?;
        let folder = root.join(name);
        fs::create_dir(&folder).ok()?;
        Some(Self(folder))
    }

    fn limit(&self, bytes: u64) -> Result<()> {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|file| self.0.join(file));
        let file = files.iter().find(|file| file.exists()).context("no limit of memory")?;
        fs::write(file, bytes.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The words that move the process into the group before it becomes another program.
    fn words(&self) -> [String; 4] {
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.0.display());
        ["sh".to_owned(), "-c".to_owned(), enter, "sh".to_owned()]
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just ended may still be counted for a moment.
        let end = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn with_too_little_memory_a_load_leaves_nothing_and_a_reload_all_as_it_was() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let Some(group) = Group::new(&format!("mape-{}", site.lab.id())) else {
        println!("SKIPPED: no control group with a limit of memory can be made");
        return;
    };
    let words = group.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let limits = (0..)
        .map(|step| (4 * MIB) << step)
        .take_while(|limit| *limit <= 1_024 * MIB);
    until_enough(&site, limits, |limit| {
        group.limit(limit)?;
        load_behind(&site, &words)
    })
    .unwrap();

    site.load().unwrap().success().unwrap();
    site.lab.wait_until_reachable("host1").unwrap();
    let flow = Flow::start(&site.lab, 7_190, 500).unwrap();
    for limit in [4, 8, 16] {
        group.limit(limit * MIB).unwrap();
        let reload = load_behind(&site, &words).unwrap();
        println!("a reload with {limit} MiB: {}", reload.status);
    }
    site.load().unwrap().success().unwrap();
    let seen = flow.finish().unwrap();
    println!("beside reloads without memory: {seen:?}");
    assert_eq!(seen.lost, 0, "{seen:?}");
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
}
