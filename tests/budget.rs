//! Owns the budgets that only a kernel can tell: what the verifier went through, and the memory of the maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, loaded_programs},
};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions},
    process::watch_signals,
};

/// Half of the million at which the verifier gives up: kernels differ in how cleverly they skip what they have seen.
const VERIFIED: u32 = 500_000;
/// All maps of a gateway with 65,536 sessions, in KiB.
const MAP_MEMORY: u64 = 32 * 1024;

/// Our programs in the kernel, by id.
fn ours() -> BTreeMap<u32, ProgramInfo> {
    let named = |info: &ProgramInfo| info.name_as_str().is_some_and(|name| name.starts_with("mape_"));
    loaded_programs()
        .filter_map(Result::ok)
        .filter(named)
        .map(|info| (info.id(), info))
        .collect()
}

fn memory_kib(map: &MapInfo) -> Result<u64> {
    let fd = map.fd()?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes: u64 = bytes
        .context("the kernel does not say how much memory a map takes")?
        .trim()
        .parse()?;
    Ok(bytes / 1024)
}

#[test]
fn verified_instructions_and_map_memory_stay_in_budget() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    watch_signals().unwrap();
    let before: BTreeSet<u32> = ours().into_keys().collect();
    let mut lab = Lab::up(&LabOptions::default()).unwrap();
    lab.load(&gateway::program().unwrap()).unwrap();
    let loaded: Vec<ProgramInfo> = ours()
        .into_iter()
        .filter(|(id, _)| !before.contains(id))
        .map(|(_, info)| info)
        .collect();
    assert!(!loaded.is_empty(), "mape-ctl load leaves programs in the kernel");

    println!(
        "{:<18} {:>10} {:>12} {:>10}",
        "program", "verified", "translated", "JIT bytes"
    );
    let mut worst = 0;
    for info in &loaded {
        let verified = info.verified_instruction_count().unwrap_or(0);
        let (translated, jit) = (info.size_translated().unwrap_or(0) / 8, info.size_jitted());
        println!(
            "{:<18} {verified:>10} {translated:>12} {jit:>10}",
            info.name_as_str().unwrap_or_default()
        );
        worst = worst.max(verified);
    }

    // Maps of each gateway: those that its own programs use.
    for (role, prefixes) in [
        (Role::Ce, ["mape_lan", "mape_wan"]),
        (Role::Br, ["mape_relay4", "mape_relay6"]),
    ] {
        let own = |info: &&ProgramInfo| {
            prefixes
                .iter()
                .any(|prefix| info.name_as_str().is_some_and(|name| name.starts_with(prefix)))
        };
        let maps: BTreeSet<u32> = loaded
            .iter()
            .filter(own)
            .filter_map(|info| info.map_ids().ok().flatten())
            .flatten()
            .collect();
        let mut sizes: Vec<(u64, String)> = maps
            .iter()
            .filter_map(|id| MapInfo::from_id(*id).ok())
            .map(|map| {
                (
                    memory_kib(&map).unwrap(),
                    map.name_as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect();
        sizes.sort_unstable_by(|left, right| right.cmp(left));
        let total: u64 = sizes.iter().map(|(size, _)| size).sum();
        let largest: Vec<String> = sizes
            .iter()
            .take(5)
            .map(|(size, name)| format!("{name} {size}"))
            .collect();
        println!(
            "{role:?}: {} maps, {total} KiB; largest: {}",
            sizes.len(),
            largest.join(", ")
        );
        assert!(
            total <= MAP_MEMORY,
            "{role:?}: the maps take {total} KiB, the budget is {MAP_MEMORY}"
        );
    }
    assert!(
        worst <= VERIFIED,
        "the verifier went through {worst} instructions, the budget is {VERIFIED}"
    );
}
