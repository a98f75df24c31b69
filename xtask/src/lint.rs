//! Owns `cargo xtask lint`: format, clippy for the host and for the BPF target, licences, and that every member takes part.

use std::{env, fs, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use mape_tests::process::{run, show};

use crate::{
    cargo::{cargo, root, target},
    rust_src::rust_src,
    setup,
};

const LIMIT: Duration = Duration::from_hours(1);

/// Says what it found, or why it failed.
type Check = fn() -> Result<String>;

/// Runs every check and fails at the end if one failed, so that one run shows all.
pub(crate) fn lint() -> Result<()> {
    setup::check_for_building()?;
    let checks: [(&str, Check); 5] = [
        ("every member inherits the workspace's lints", members_inherit),
        ("format", format),
        ("clippy, host", clippy_host),
        ("clippy, BPF target", clippy_bpf),
        ("licences and duplicates (cargo-deny)", deny),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        match check() {
            Ok(said) => println!("lint: {name}: {said}"),
            Err(error) => {
                failed += 1;
                println!("lint: {name}: FAILED: {error:#}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", checks.len());
    }
    Ok(())
}

/// A member that forgets `[lints] workspace = true` is not checked at all, and nothing else would say so.
fn members_inherit() -> Result<String> {
    let mut members = 0;
    for entry in fs::read_dir(root()).context("cannot read the workspace's folder")? {
        let manifest = entry?.path().join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else {
            continue;
        };
        members += 1;
        let mut lines = text
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != "[lints]")
            .skip(1);
        if lines.next() != Some("workspace = true") {
            bail!("{} lacks `[lints]` with `workspace = true`", manifest.display());
        }
    }
    Ok(format!("{members} members"))
}

fn format() -> Result<String> {
    show(&mut cargo(&["fmt", "--all", "--check"]), LIMIT).context("run `cargo fmt --all`")?;
    Ok("good".to_owned())
}

fn clippy_host() -> Result<String> {
    let arguments = [
        "clippy",
        "--quiet",
        "--workspace",
        "--exclude",
        "mape-ebpf",
        "--all-targets",
        "--all-features",
    ];
    // The BPF object has a check of its own; here only the code around it is looked at.
    show(deny_warnings(cargo(&arguments).env("MAPE_SKIP_EBPF", "1")), LIMIT)?;
    Ok("good".to_owned())
}

/// By itself: together with a crate that turns on mape-common's `user` feature, std and a second panic handler come in.
fn clippy_bpf() -> Result<String> {
    let library = rust_src().context("rust-src is missing: run `cargo xtask setup`")?;
    let mut command = cargo(&["clippy", "--quiet", "--release", "--package", "mape-ebpf"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
    // Other flags than the host's: in the same folder each would throw away the other's work.
    command.arg("--target-dir").arg(target().join("lint-bpf"));
    // As mape-ctl/build.rs compiles it: these decide which code there is to look at.
    let flags = format!("--cfg=bpf_target_arch=\"{}\"\x1f-Ctarget-cpu=v3", env::consts::ARCH);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    show(deny_warnings(&mut command), LIMIT)?;
    Ok("good".to_owned())
}

fn deny_warnings(command: &mut Command) -> &mut Command {
    command.args(["--", "-D", "warnings"])
}

fn deny() -> Result<String> {
    let installed = run(&mut cargo(&["deny", "--version"]), Duration::from_secs(10))?
        .status
        .success();
    if !installed {
        return Ok("skipped, cargo-deny is not installed (cargo install cargo-deny --locked)".to_owned());
    }
    // Advisories need a database from the network, and change while the code does not.
    show(
        &mut cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]),
        LIMIT,
    )?;
    Ok("good".to_owned())
}
