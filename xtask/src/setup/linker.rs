//! Owns bpf-linker: the version that fits a stable compiler, and its installation.

use std::{env, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use mape_tests::process::{run, show};

use super::{debian::find, progress};

/// The last line (0.10) that borrows the LLVM which rustc ships; later ones link a system LLVM that Debian 12 lacks.
pub(super) const VERSION: &str = "0.10.3";
/// Two cores need 100 s.
const LIMIT: Duration = Duration::from_mins(30);

/// Installs bpf-linker unless the right version is there.
pub(super) fn provide() -> Result<String> {
    if let Some(path) = installed()? {
        return Ok(format!("{VERSION}, {}", path.display()));
    }
    progress(&format!(
        "compiling bpf-linker {VERSION} (cargo install; a few minutes)"
    ));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--force",
        "--quiet",
    ]);
    // A target folder set for the project is no place for another program's objects.
    show(command.env_remove("CARGO_TARGET_DIR"), LIMIT).with_context(|| {
        format!("try by hand: cargo install bpf-linker --version {VERSION} --locked (it needs a C++ linker: apt-get install g++)")
    })?;
    match installed()? {
        Some(path) => Ok(format!("installed {VERSION}, {}", path.display())),
        None => bail!("cargo installed bpf-linker, but no bpf-linker {VERSION} is in PATH or cargo's bin folder"),
    }
}

/// The path of the right version: the first bpf-linker in PATH decides, as it will for the build, else cargo's own folder.
pub(super) fn installed() -> Result<Option<PathBuf>> {
    let Some(path) = find("bpf-linker").or_else(in_cargo_bin) else {
        return Ok(None);
    };
    let output = run(Command::new(&path).arg("--version"), Duration::from_secs(10))?;
    let found = output.stdout.split_whitespace().last() == Some(VERSION);
    Ok((output.status.success() && found).then_some(path))
}

fn in_cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    Some(home.join("bin/bpf-linker")).filter(|file| file.is_file())
}
