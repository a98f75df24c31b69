//! Owns a kernel's modules: those wanted and what they need, unpacked, in the order in which they are loaded.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use mape_tests::process::show;
use object::{Object as _, ObjectSection as _};

use super::{folder, packages::whole};

/// One module.
pub(crate) struct Module {
    pub(crate) name: String,
    /// Not compressed.
    pub(crate) bytes: Vec<u8>,
}

/// The wanted modules of a kernel whose modules lie below `tree`, each after those that it needs. What this kernel does not
/// have as a module is left out: it is in the image.
pub(crate) fn collect(release: &str, tree: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(tree, &mut files)?;
    let mut collected = Collected {
        files,
        kept: folder().join("modules").join(release),
        modules: Vec::new(),
    };
    for name in wanted {
        collected.add(name)?;
    }
    Ok(collected.modules)
}

struct Collected {
    files: BTreeMap<String, PathBuf>,
    kept: PathBuf,
    modules: Vec<Module>,
}

impl Collected {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.modules.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name).cloned() else {
            return Ok(());
        };
        let bytes = self.unpacked(&name, &file)?;
        for needed in needs(&bytes).with_context(|| format!("cannot read {}", file.display()))? {
            self.add(&needed)?;
        }
        self.modules.push(Module { name, bytes });
        Ok(())
    }

    fn unpacked(&self, name: &str, file: &Path) -> Result<Vec<u8>> {
        let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        if file.extension().is_none_or(|extension| extension != "xz") {
            return read(file);
        }
        let target = self.kept.join(name);
        if !target.exists() {
            whole(&target, |folder| {
                let out = File::create(folder.join(name))?;
                show(
                    Command::new("xz").arg("-dc").arg(file).stdout(out),
                    Duration::from_mins(1),
                )
            })?;
        }
        read(&target.join(name))
    }
}

/// Every module file below a folder, by the module's name.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = path
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The modules that must be there before.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file
        .section_by_name(".modinfo")
        .context("it says nothing about itself")?;
    Ok(listed(section.data()?))
}

/// Of `license=GPL\0depends=tunnel6,ip6_tunnel\0…`.
fn listed(info: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(info);
    let names = text.split('\0').find_map(|line| line.strip_prefix("depends="));
    let names = names.unwrap_or_default().split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn what_a_module_needs_is_read() {
        assert_eq!(
            listed(b"license=GPL\0depends=tunnel6,nf_nat\0name=x\0"),
            ["tunnel6", "nf_nat"]
        );
        assert!(listed(b"license=GPL\0depends=\0").is_empty());
    }
}
