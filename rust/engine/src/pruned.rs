//! A side without all but some paths, and the directories above them.

use crate::place::existing_directory;
use snapsync_model::{Details, Error, Inode, Inodes, Kind, Layout, Link, RelPath, Result, Side};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

pub(crate) struct Pruned {
    side: Box<dyn Side>,
    paths: BTreeSet<RelPath>,
    above: BTreeSet<RelPath>,
}

impl Pruned {
    pub(crate) fn new(side: Box<dyn Side>, paths: &[RelPath]) -> Pruned {
        let above = paths.iter().flat_map(above).collect();
        Pruned { side, paths: paths.iter().cloned().collect(), above }
    }

    /// The first of the paths that the side does not have.
    pub(crate) fn missing(&self) -> Result<Option<RelPath>> {
        let mut missing = self.paths.clone();
        missing.remove(&RelPath::root());
        for inode in self.inodes()? {
            for link in &inode?.links {
                missing.remove(&self.path_of(link)?);
            }
        }
        Ok(missing.pop_first())
    }

    fn keep(&self, mut inode: Inode) -> Result<Option<Inode>> {
        let mut links = Vec::new();
        for link in std::mem::take(&mut inode.links) {
            let path = self.side.path_of(&link)?;
            let leads_there = inode.kind == Kind::Directory && self.above.contains(&path);
            if leads_there || self.paths.contains(&path) || above(&path).any(|a| self.paths.contains(&a)) {
                links.push(link);
            }
        }
        inode.links = links;
        let is_root = inode.ino == snapsync_model::ROOT;
        Ok((is_root || !inode.links.is_empty()).then_some(inode))
    }
}

/// The directories that a path is in, the root last.
pub(crate) fn above(path: &RelPath) -> impl Iterator<Item = RelPath> + use<> {
    std::iter::successors(path.split().map(|(dir, _)| dir), |dir| dir.split().map(|(dir, _)| dir))
}

impl Side for Pruned {
    fn inodes(&self) -> Result<Inodes<'_>> {
        let kept = self.side.inodes()?.map(|inode| self.keep(inode?));
        Ok(Box::new(kept.filter_map(Result::transpose)))
    }

    fn path_of(&self, link: &Link) -> Result<RelPath> {
        self.side.path_of(link)
    }

    fn details(&self, inode: &Inode) -> Result<Details> {
        self.side.details(inode)
    }

    fn open(&self, inode: &Inode) -> Result<File> {
        self.side.open(inode)
    }

    fn layout(&self, inode: &Inode, file: &File) -> Result<Layout> {
        self.side.layout(inode, file)
    }

    fn space(&self) -> Option<u128> {
        self.side.space()
    }
}

/// Paths as people name them, in a volume; each once.
pub(crate) fn within<P: AsRef<Path>>(volume: &Path, paths: &[P]) -> Result<Vec<RelPath>> {
    let found = paths.iter().map(|path| relative(volume, path.as_ref()));
    Ok(found.collect::<Result<BTreeSet<_>>>()?.into_iter().collect())
}

/// Those that are not in another.
pub(crate) fn outermost(paths: &[RelPath]) -> Vec<RelPath> {
    let inner = |path: &RelPath| above(path).any(|above| paths.contains(&above));
    paths.iter().filter(|path| !inner(path)).cloned().collect()
}

/// From the volume's root, or absolute and inside it.
pub(crate) fn relative(volume: &Path, path: &Path) -> Result<RelPath> {
    let outside = || {
        Error::usage(
            format!("{} is not in {}", path.display(), volume.display()),
            "name paths from the volume's root down, or absolute ones inside it",
        )
    };
    let inner =
        if path.is_absolute() { inside(volume, path).ok_or_else(outside)? } else { path.to_path_buf() };
    let mut found = RelPath::root();
    for part in inner.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => found = found.join(name.as_bytes())?,
            _ => return Err(outside()),
        }
    }
    Ok(found)
}

/// By whatever name the volume is reached.
fn inside(volume: &Path, path: &Path) -> Option<std::path::PathBuf> {
    let is_volume = |above: &&Path| existing_directory(above).is_ok_and(|above| above == volume);
    let top = if path.starts_with(volume) { Some(volume) } else { path.ancestors().find(is_volume) };
    top.and_then(|top| path.strip_prefix(top).ok()).map(Path::to_path_buf)
}
