//! Finds the source of the `core` library, which the BPF programs are built from.
//!
//! `mape-ctl/build.rs` includes this very file by `#[path]`, so it stands alone: only `std`, no other module.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder `library` of exactly this compiler's source, if it is on this machine.
///
/// Two places are looked at: the compiler's own folder, where rustup puts its component, and the project's cache,
/// where `cargo xtask setup` puts Debian's package when rustup's server cannot be reached. Cargo is told about it by
/// `__CARGO_TESTS_ONLY_SRC_ROOT`.
pub(crate) fn rust_src() -> Option<PathBuf> {
    [in_sysroot(), in_cache()]
        .into_iter()
        .flatten()
        .find(|library| is_complete(library))
}

/// Where rustup's component is, or would be.
pub(crate) fn in_sysroot() -> Option<PathBuf> {
    let sysroot = rustc(&["--print", "sysroot"])?;
    Some(Path::new(&sysroot).join("lib/rustlib/src/rust/library"))
}

/// Where `cargo xtask setup` puts the source, or would.
pub(crate) fn in_cache() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(env::var_os("HOME")?).join(".cache"),
    };
    Some(cache.join("mape/rust-src").join(version()?).join("library"))
}

/// The compiler's version without its build information, such as `1.95.0`.
pub(crate) fn version() -> Option<String> {
    rustc(&["--version"])?.split_whitespace().nth(1).map(str::to_owned)
}

/// Cargo resolves `core`'s dependencies by the lock file beside it, so a folder without it is of no use.
fn is_complete(library: &Path) -> bool {
    library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file()
}

fn rustc(arguments: &[&str]) -> Option<String> {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
