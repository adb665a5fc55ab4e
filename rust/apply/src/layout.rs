//! Names in the stage, and how the stage is cleared.

use rustix::fs::AtFlags;
use snapsync_model::{Context, RelPath, Result};
use snapsync_sys::{Root, remove_tree};
use std::ffi::OsStr;
use std::io;
use uuid::Uuid;

/// Removes what only the commit needed once the tree is the new one. Removed files may be further names of
/// existing files.
pub fn clear(root: &Root, snapshot: Uuid) -> Result<()> {
    let stage = RelPath::new(format!("{INCOMING}/{snapshot}").as_bytes())?;
    let dir = match root.directory(&stage) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context("open the stage", root.show(&stage))?,
    };
    ["held", "trash"].iter().try_for_each(|part| {
        remove_tree(&dir, OsStr::new(part)).context("empty the stage", root.show(&stage))
    })
}

/// Removes the stage of a delta in any state, and what it may have been before its manifest changed.
pub fn discard(root: &Root, snapshot: Uuid) -> Result<()> {
    let incoming = incoming()?;
    let dir = match root.directory(&incoming) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context("open the directory", root.show(&incoming))?,
    };
    for name in [snapshot.to_string(), old_stage(snapshot)] {
        remove_tree(&dir, OsStr::new(&name)).context("remove the stage in", root.show(&incoming))?;
    }
    // The directory goes with the last stage, so that snapshots do not hold it.
    if let Ok((above, name)) = root.parent(&incoming) {
        let _ = rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR);
    }
    Ok(())
}

pub(crate) const INCOMING: &str = ".snapsync/incoming";
pub(crate) const MANIFEST: &str = "manifest.arrow";

/// The name of the stage of an earlier manifest, while what is still right is brought over.
pub(crate) fn old_stage(snapshot: Uuid) -> String {
    format!("{snapshot}.old")
}

/// The directory of all stages in a volume.
pub(crate) fn incoming() -> Result<RelPath> {
    RelPath::new(INCOMING.as_bytes())
}
