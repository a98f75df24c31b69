//! Owns the folder of bpffs where a gateway's links, maps and programs are pinned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use mape_common::layout::{LAYOUT_VERSION, maps};

use crate::{instance::Instance, kernel::BPFFS};

const LINKS: &str = "links";
const MAPS: &str = "maps";
const PROGRAMS: &str = "programs";
const TUNNEL: &str = "tunnel";

/// Why the folder is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Pins of another release's layout.
    #[error(
        "instance {instance} is loaded with map layout {found}, this mape-ctl has layout {}; \
         unload it first (with the mape-ctl that loaded it, or: rm -r {folder}), which ends its sessions",
        LAYOUT_VERSION
    )]
    OtherLayout {
        /// The instance.
        instance: Instance,
        /// Its layout.
        found: String,
        /// The folder.
        folder: PathBuf,
    },
    /// A file operation.
    #[error("cannot {action} {path}")]
    File {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where one gateway is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinFolder(PathBuf);

impl PinFolder {
    /// The folder of an instance, for this layout.
    pub fn new(instance: &Instance) -> Self {
        Self(
            Path::new(BPFFS)
                .join("mape")
                .join(format!("v{LAYOUT_VERSION}"))
                .join(instance.as_ref()),
        )
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.0.join(MAPS).join(name)
    }

    /// Where a program is pinned.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(PROGRAMS).join(name)
    }

    /// Where an interface's link is pinned. bpffs reserves dots, and no interface has a colon in its name.
    pub fn link(&self, interface: &str) -> PathBuf {
        self.0.join(LINKS).join(interface.replace('.', ":"))
    }

    /// Where a link of the tunnel device is pinned.
    pub fn tunnel_link(&self, side: &str) -> PathBuf {
        self.0.join(TUNNEL).join(side)
    }

    /// Removes the pin of a link of the tunnel device: detaches it. Nothing there is fine.
    ///
    /// # Errors
    /// [`PinError::File`].
    pub fn remove_tunnel_link(&self, side: &str) -> Result<(), PinError> {
        remove_file(&self.tunnel_link(side))
    }

    /// Interfaces that have a link here.
    pub fn linked_interfaces(&self) -> Vec<String> {
        let mut names: Vec<String> = names_in(&self.0.join(LINKS))
            .into_iter()
            .map(|name| name.replace(':', "."))
            .collect();
        names.sort();
        names
    }

    /// Programs that are pinned here.
    pub fn programs(&self) -> Vec<String> {
        names_in(&self.0.join(PROGRAMS))
    }

    /// Whether anything is there.
    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Whether every map of the layout is pinned here.
    pub fn has_all_maps(&self) -> bool {
        maps::ALL.into_iter().all(|map| self.map(map).exists())
    }

    /// Whether any map is.
    pub fn has_maps(&self) -> bool {
        maps::ALL.into_iter().any(|map| self.map(map).exists())
    }

    /// Makes the folder and its parts.
    ///
    /// # Errors
    /// [`PinError::File`].
    pub fn create(&self) -> Result<(), PinError> {
        for part in [LINKS, MAPS, PROGRAMS, TUNNEL] {
            let path = self.0.join(part);
            fs::create_dir_all(&path).map_err(|source| PinError::File {
                action: "make",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Removes the pin of one interface's link: detaches it. Nothing there is fine.
    ///
    /// # Errors
    /// [`PinError::File`].
    pub fn remove_link(&self, interface: &str) -> Result<(), PinError> {
        remove_file(&self.link(interface))
    }

    /// Removes the pin of a program. Nothing there is fine.
    ///
    /// # Errors
    /// [`PinError::File`].
    pub fn remove_program(&self, name: &str) -> Result<(), PinError> {
        remove_file(&self.program(name))
    }

    /// Removes everything: links first, so that no program runs whose maps are being taken away.
    ///
    /// # Errors
    /// [`PinError::File`], after trying the rest.
    pub fn remove(&self) -> Result<(), PinError> {
        let links = self
            .linked_interfaces()
            .iter()
            .map(|interface| self.remove_link(interface))
            .fold(Ok(()), Result::and);
        match fs::remove_dir_all(&self.0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinError::File {
                action: "remove",
                path: self.0.clone(),
                source,
            }),
            _ => links,
        }
    }
}

fn remove_file(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinError::File {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Refuses where another release's layout of the same instance is pinned.
///
/// # Errors
/// [`PinError::OtherLayout`].
pub fn refuse_other_layouts(instance: &Instance) -> Result<(), PinError> {
    find_other_layout(&Path::new(BPFFS).join("mape"), instance)
}

fn find_other_layout(root: &Path, instance: &Instance) -> Result<(), PinError> {
    let own = format!("v{LAYOUT_VERSION}");
    let mut names = names_in(root);
    names.sort();
    for found in names.into_iter().filter(|name| *name != own && name.starts_with('v')) {
        let folder = root.join(&found).join(instance.as_ref());
        if folder.is_dir() {
            return Err(PinError::OtherLayout {
                instance: instance.clone(),
                found,
                folder,
            });
        }
    }
    Ok(())
}

/// All instances that are loaded with this layout.
pub fn instances() -> Vec<String> {
    let mut names = names_in(&Path::new(BPFFS).join("mape").join(format!("v{LAYOUT_VERSION}")));
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        "home".parse().unwrap()
    }

    #[test]
    fn paths_carry_layout_and_instance() {
        let folder = PinFolder::new(&instance());
        assert_eq!(
            folder.path(),
            Path::new(&format!("/sys/fs/bpf/mape/v{LAYOUT_VERSION}/home"))
        );
        assert_eq!(folder.map("GATE"), folder.path().join("maps/GATE"));
        assert_eq!(folder.program("p"), folder.path().join("programs/p"));
    }

    #[test]
    fn a_dot_in_an_interface_name_is_kept_from_bpffs() {
        let folder = PinFolder::new(&instance());
        assert_eq!(folder.link("eth0.10"), folder.path().join("links/eth0:10"));
    }

    #[test]
    fn another_layout_of_the_same_instance_is_refused_with_the_way_out() {
        let root = std::env::temp_dir().join(format!("mape-pin-test-{}", std::process::id()));
        fs::create_dir_all(root.join("v0/home")).unwrap();
        fs::create_dir_all(root.join(format!("v{LAYOUT_VERSION}/home"))).unwrap();
        let error = find_other_layout(&root, &instance()).unwrap_err().to_string();
        assert!(error.contains("layout v0") && error.contains("rm -r"), "{error}");
        assert!(find_other_layout(&root, &"office".parse().unwrap()).is_ok());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let folder = PinFolder(std::env::temp_dir().join("mape-pin-test-absent"));
        folder.remove().unwrap();
        folder.remove_link("eth0").unwrap();
        assert!(folder.linked_interfaces().is_empty());
    }
}
