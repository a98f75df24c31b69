//! Owns the memory that a gateway's maps take, as the kernel counts it.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;

/// Where mape-ctl keeps its pins: a folder for each layout, and in it one for each instance.
const PINS: &str = "/sys/fs/bpf/mape";

/// Bytes of all pinned maps of an instance.
pub(crate) fn of_maps(instance: &str) -> Result<u64> {
    let (mut bytes, mut count) = (0, 0);
    for layout in entries(Path::new(PINS))? {
        let folder = layout.join(instance);
        if !folder.is_dir() {
            continue;
        }
        for pin in files(&folder)? {
            // Programs and links are pinned there, too.
            let Ok(map) = MapData::from_pin(&pin) else { continue };
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
            if !text.contains("map_type:") {
                continue;
            }
            let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            bytes += memory
                .with_context(|| format!("no memory of {}", pin.display()))?
                .trim()
                .parse::<u64>()?;
            count += 1;
        }
    }
    ensure!(count > 0, "no pinned maps of {instance}");
    Ok(bytes)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
