//! Entries that were not walked, and the notes about them.

use crate::subset::Matcher;
use snapsync_model::{Error, LONGEST_PATH, Monitor, RelPath, Result, entries};
use std::path::Path;

/// How many bytes of an overlong path are shown.
const SHOWN: usize = 100;
/// The number of directory entries that are held at a time.
pub(crate) const SOME: usize = 4096;

/// Notes the entries that are left out, and that what lies under them was copied from the last snapshot.
pub(crate) fn note_foreign(paths: Vec<RelPath>, kept: usize, monitor: &Monitor) {
    let Some(shown) = shown(paths) else { return };
    let under = match kept {
        0 => String::new(),
        _ => format!(
            "; {} under mounts assumed unchanged, because only root can look at them",
            entries(kept as u64)
        ),
    };
    monitor.note(format!(
        "not replicated, because on another file system or in a nested subvolume: {shown}{under}"
    ));
}

/// Notes the mounts in a tree that is walked underneath them.
pub fn note_mounts(mounts: &[RelPath], matcher: &Matcher, monitor: &Monitor) -> Result<()> {
    let mut spoken_of = Vec::new();
    for mount in mounts {
        if matcher.left_out_on(mount, true)?.is_none() {
            spoken_of.push(mount.clone());
        }
    }
    if let Some(shown) = shown(spoken_of) {
        monitor.note(format!("what is mounted at {shown} is not replicated; what lies under it is"));
    }
    Ok(())
}

/// Notes the stores inside the tree.
pub fn note_stores(paths: Vec<RelPath>, monitor: &Monitor) {
    if let Some(shown) = shown(paths) {
        monitor.note(format!("not replicated, because it is the store of another volume: {shown}"));
    }
}

/// Notes the entries whose paths are too long.
pub(crate) fn note_too_long(paths: Vec<RelPath>, monitor: &Monitor) {
    let count = paths.len();
    let Some(first) = paths.into_iter().min() else { return };
    let start = String::from_utf8_lossy(&first.as_bytes()[..SHOWN]).into_owned();
    monitor.note(format!(
        "not replicated, because their paths have more than {LONGEST_PATH} bytes: {} below {start}...",
        entries(count as u64)
    ));
}

/// Notes the directories that the file system encrypts.
pub(crate) fn note_encrypted(paths: Vec<RelPath>, monitor: &Monitor) {
    if let Some(shown) = shown(paths) {
        monitor.note(format!("encrypted here, but in a copy only if its directory there is: {shown}"));
    }
}

/// The error for a locked directory: its names are listed in encrypted form, and nothing in it can be read.
pub fn locked_away(path: &Path) -> Error {
    Error::refused(
        format!("cannot read {}: it is encrypted, and its key is not there", path.display()),
        "unlock it, as with `fscrypt unlock`, or leave it out with --exclude",
    )
}

/// The first path, and how many more there are.
fn shown(mut paths: Vec<RelPath>) -> Option<String> {
    paths.sort_unstable();
    let others = if paths.len() > 1 { format!(" and {} more", paths.len() - 1) } else { String::new() };
    paths.first().map(|first| format!("{}{others}", first.display()))
}
