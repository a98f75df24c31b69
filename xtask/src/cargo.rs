//! Owns how cargo and what it builds are called: from the workspace's root, with bpf-linker in PATH.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use mape_tests::process::run;
use serde_json::Value;

use crate::setup::linker_folder;

/// A release build from nothing on a slow machine.
const BUILD_LIMIT: std::time::Duration = std::time::Duration::from_hours(1);

/// The folder of the workspace's Cargo.toml.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder inside the workspace")
}

/// The folder that everything built or fetched goes into.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A cargo command for this workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root())
        .args(arguments)
        .env("PATH", path_with_linker());
    command
}

/// Builds a package's program in release mode and returns where it is.
pub(crate) fn release_program(package: &str, program: &str) -> Result<PathBuf> {
    // The messages of the compiler go to the user; cargo's own, as JSON, name the file.
    let arguments = [
        "build",
        "--release",
        "--package",
        package,
        "--bin",
        program,
        "--message-format",
        "json-render-diagnostics",
    ];
    let mut command = cargo(&arguments);
    let finished = run(&mut command, BUILD_LIMIT)?;
    eprint!("{}", finished.stderr);
    if !finished.status.success() {
        bail!("{program} does not compile; the compiler's messages stand above");
    }
    let messages = finished
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
    programs
        .next_back()
        .with_context(|| format!("cargo built {program}, and named no file"))
}

/// The linker's folder last: whatever the user put first stays first.
fn path_with_linker() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(linker_folder());
    env::join_paths(folders).unwrap_or(path)
}
