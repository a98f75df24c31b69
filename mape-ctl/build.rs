//! Builds the BPF object out of mape-ebpf, so that a plain `cargo build` of this crate is enough.
//!
//! aya-build would do the same, but gives no way to name the BPF processor version, which compare-and-swap needs, and says
//! little when a tool is missing.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "../xtask/src/rust_src.rs"]
mod rust_src;

/// Third version of the BPF instruction set (Linux 5.12): atomic exchange, 32-bit jumps.
const PROCESSOR: &str = "v3";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for folder in ["mape-ebpf", "mape-common", "xtask/src/rust_src.rs", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
    }
    let object = PathBuf::from(env::var("OUT_DIR")?).join("mape.o");
    if env::var_os("MAPE_SKIP_EBPF").is_some_and(|skip| skip == "1") {
        println!(
            "cargo::warning=MAPE_SKIP_EBPF=1: built without the BPF object; only checks of the code make sense so"
        );
        fs::write(&object, [])?;
    } else {
        build(&root, &object)?;
    }
    println!("cargo::rerun-if-env-changed=MAPE_SKIP_EBPF");
    println!("cargo::rustc-env=MAPE_OBJECT={}", object.display());
    Ok(())
}

fn build(root: &Path, object: &Path) -> Result<(), Box<dyn Error>> {
    let library = rust_src::rust_src().ok_or(
        "the source of Rust's core library is missing, which BPF programs are built from; run: cargo xtask setup",
    )?;
    let target = PathBuf::from(env::var("OUT_DIR")?).join("ebpf");
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        "-Clinker=bpf-linker",
        "-Clink-arg=--btf",
        &format!("-Ctarget-cpu={PROCESSOR}"),
    ]
    .join("\x1f")
    .replace("x86_64", &env::var("CARGO_CFG_TARGET_ARCH")?);
    let output = Command::new(env::var("CARGO")?)
        .current_dir(root)
        .args([
            "build",
            "--package",
            "mape-ebpf",
            "--bin",
            "mape",
            "--release",
            "--locked",
        ])
        .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core", "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // Inline assembly for BPF and the atomic intrinsics are unstable in the stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let hint = if said.contains("linker `bpf-linker` not found") {
            "\nbpf-linker is missing; run: cargo xtask setup"
        } else {
            ""
        };
        return Err(format!("building the BPF programs failed:\n{said}{hint}").into());
    }
    for line in said
        .lines()
        .filter(|line| line.starts_with("warning: ") && !line.contains("generated"))
    {
        println!("cargo::warning={line}");
    }
    fs::copy(target.join("bpfel-unknown-none/release/mape"), object)?;
    Ok(())
}
