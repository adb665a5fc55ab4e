//! Finds the sources of clones: the manifest names them by inode, and the receiver needs paths.

use snapsync_manifest::ManifestReader;
use snapsync_model::{Change, End, Error, Kind, RelPath, Result};
use snapsync_sys::Spot;
use std::collections::{BTreeSet, HashMap};

/// The rows that clones take data from.
#[derive(Default)]
pub(crate) struct Sources {
    /// Their paths in the base, and their positions in the manifest.
    base: HashMap<u64, (RelPath, u64)>,
    /// Rows whose data comes with the delta.
    delta: HashMap<u64, Change>,
}

impl Sources {
    pub(crate) fn read(manifest: &Spot) -> Result<Sources> {
        let (mut base, mut delta) = (BTreeSet::new(), BTreeSet::new());
        for change in ManifestReader::open(manifest)?.only(|row| row.has_clones) {
            for source in change?.extents.iter().filter_map(|e| e.source) {
                if source.end == End::Base {
                    base.insert(source.ino)
                } else {
                    delta.insert(source.ino)
                };
            }
        }
        let mut sources = Sources::default();
        for change in ManifestReader::open(manifest)?.only(|row| row.kind == Kind::File).numbered() {
            let (row, change) = change?;
            if let Some(path) = change.old_path.clone().filter(|_| base.contains(&change.ino)) {
                sources.base.insert(change.ino, (path, row));
            }
            if !change.flags.deleted && delta.contains(&change.ino) {
                // Its extents and names are not needed, only its place in the stage.
                sources.delta.insert(change.ino, Change { extents: Vec::new(), xattrs: None, ..change });
            }
        }
        Ok(sources)
    }

    pub(crate) fn in_base(&self, ino: u64) -> Result<&(RelPath, u64)> {
        self.base.get(&ino).ok_or_else(|| missing(ino))
    }

    pub(crate) fn in_delta(&self, ino: u64) -> Result<&Change> {
        self.delta.get(&ino).ok_or_else(|| missing(ino))
    }
}

fn missing(ino: u64) -> Error {
    Error::integrity(
        format!("inode {ino}, whose data a clone shares, has no row in the manifest"),
        "the manifest is damaged: make it again from its snapshots",
    )
}
