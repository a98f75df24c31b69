//! Owns the file system that a virtual machine runs in: made of single files, handed to the kernel as an archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use cpio::newc::{Builder, ModeFileType, trailer};
use mape_tests::process::run;

/// Everybody may read and run; there is only root.
const PERMISSIONS: u32 = 0o755;

/// Files by their path in the virtual machine, without the leading slash.
#[derive(Default)]
pub(crate) struct Initramfs {
    files: BTreeMap<String, Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Initramfs {
    /// An empty folder, and those it lies in.
    pub(crate) fn folder(&mut self, path: &str) {
        let ends = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            self.folders.insert(path[..end].to_owned());
        }
    }

    /// A file with the folders it lies in.
    pub(crate) fn file(&mut self, path: &str, bytes: Vec<u8>) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.files.insert(path.to_owned(), bytes);
    }

    /// A program of this machine with the libraries it needs, at the places where its loader looks for them.
    pub(crate) fn program(&mut self, path: &str, program: &Path) -> Result<()> {
        let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        self.file(path, read(program)?);
        for library in libraries(program)? {
            let inside = library.to_string_lossy();
            self.file(inside.trim_start_matches('/'), read(&library)?);
        }
        Ok(())
    }

    /// Writes the archive.
    pub(crate) fn write(&self, target: &Path) -> Result<()> {
        let file = File::create(target).with_context(|| format!("cannot create {}", target.display()))?;
        self.archive(BufWriter::new(file))
            .with_context(|| format!("cannot write {}", target.display()))
    }

    fn archive(&self, mut out: impl Write) -> Result<()> {
        let mut number = 0;
        let mut entry = |name: &str, kind| {
            number += 1;
            Builder::new(name)
                .ino(number)
                .mode(PERMISSIONS)
                .set_mode_file_type(kind)
        };
        for folder in &self.folders {
            entry(folder, ModeFileType::Directory).write(&mut out, 0).finish()?;
        }
        for (path, bytes) in &self.files {
            let size = u32::try_from(bytes.len()).with_context(|| format!("{path} is too large"))?;
            let mut writer = entry(path, ModeFileType::Regular).write(&mut out, size);
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        trailer(&mut out)?;
        Ok(out.flush()?)
    }
}

/// The loader and the libraries, as `ldd` lists them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = run(Command::new("ldd").arg(program), Duration::from_secs(10))?;
    if !listed.status.success() {
        // It ends so for a program that needs none.
        if (listed.stdout + &listed.stderr).contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!(
            "`{}` ended with {}: {}",
            listed.line,
            listed.status,
            listed.stderr.trim()
        );
    }
    paths(&listed.stdout)
}

/// Of lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f…)` and `/lib64/ld-linux-x86-64.so.2 (0x7f…)`.
fn paths(listed: &str) -> Result<Vec<PathBuf>> {
    if let Some(line) = listed.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", line.trim());
    }
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    Ok(listed.lines().filter_map(path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let listed = "\tlinux-vdso.so.1 (0x00007ff1)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007ff2)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007ff3)\n\tstatically linked\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(listed).unwrap(), expected.map(PathBuf::from));
        assert!(paths("\tlibelf.so.1 => not found\n").is_err());
    }

    #[test]
    fn a_folder_comes_before_what_lies_in_it() {
        let mut initramfs = Initramfs::default();
        initramfs.file("usr/bin/tool", b"12345".to_vec());
        initramfs.folder("proc");
        let mut archive = Vec::new();
        initramfs.archive(&mut archive).unwrap();
        let mut rest = archive.as_slice();
        let mut found = Vec::new();
        while let Ok(reader) = cpio::newc::Reader::new(rest) {
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            found.push((entry.name().to_owned(), entry.mode(), entry.file_size()));
            rest = reader.finish().unwrap();
        }
        let folder = |name: &str| (name.to_owned(), 0o40_755, 0);
        let expected = [
            folder("proc"),
            folder("usr"),
            folder("usr/bin"),
            ("usr/bin/tool".to_owned(), 0o100_755, 5),
        ];
        assert_eq!(found, expected);
    }
}
