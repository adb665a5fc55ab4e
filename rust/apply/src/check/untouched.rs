//! Whether files still have the bytes of the base. Size and modification time can be put back; the change
//! time cannot.

use crate::check::drift::Drift;
use snapsync_manifest::{Brief, ManifestReader};
use snapsync_model::{Change, Context, Kind, Monitor, RelPath, Result, UNSETTLED};
use snapsync_sys::{Named, Root};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;

const CHUNK: usize = 4096;
const TOUCHED: &str = "written, or only its change time is another";

/// Returns, for inode numbers of this volume, the object and the change time that the base's table has for
/// each.
pub type FindObjects<'a> = dyn FnMut(&BTreeSet<u64>) -> Result<HashMap<u64, (u64, i64)>> + 'a;

/// Whether a file has the bytes of an object; false where the object has none of its own.
pub type HasBytesOf<'a> = dyn Fn(&File, u64) -> Result<bool> + 'a;

/// Tells what was seen of the file of a row: its number and change time, if that is to count.
pub(crate) type Look<'a> = dyn Fn(u64, &Change) -> Result<Option<(u64, i64)>> + 'a;

/// Refuses files whose bytes the rows of a manifest build on or take away, and that may have others than the
/// base. The tree is what the manifest's base says otherwise.
pub fn expect_untouched(
    root: &Root,
    manifest: &dyn Named,
    base: (&mut FindObjects<'_>, &HasBytesOf<'_>),
    monitor: &Monitor,
) -> Result<()> {
    let seen = |_, change: &Change| {
        let Some(path) = &change.old_path else { return Ok(None) };
        let stat = root.entry(path).and_then(|entry| entry.stat());
        stat.map(|stat| Some((stat.ino, stat.ctime))).context("read the attributes of", root.show(path))
    };
    expect(root, ManifestReader::open(manifest)?, base, &seen, monitor)
}

/// The same by what was seen of each row, whose number is told.
pub(crate) fn expect(
    root: &Root,
    manifest: ManifestReader,
    (find, has): (&mut FindObjects<'_>, &HasBytesOf<'_>),
    seen: &Look<'_>,
    monitor: &Monitor,
) -> Result<()> {
    let mut drift = Drift::default();
    let mut rows = manifest.only_of_base(needs_bytes)?.numbered();
    loop {
        monitor.check()?;
        let chunk: Vec<(u64, Change)> = rows.by_ref().take(CHUNK).collect::<Result<_>>()?;
        if chunk.is_empty() {
            return drift.refuse(root);
        }
        let seen = chunk.iter().map(|(at, change)| seen(*at, change)).collect::<Result<Vec<_>>>()?;
        let found = find(&seen.iter().flatten().map(|(ino, _)| *ino).collect())?;
        for ((_, change), seen) in chunk.iter().zip(&seen) {
            if let (Some(path), Some((ino, ctime))) = (&change.old_path, seen)
                && !is_untouched(root, path, *ctime, found.get(ino), has)?
            {
                drift.add(path, TOUCHED);
            }
        }
    }
}

/// A row without a change time is of a file that was being written: its object has what it had.
fn is_untouched(
    root: &Root,
    path: &RelPath,
    ctime: i64,
    row: Option<&(u64, i64)>,
    has: &HasBytesOf<'_>,
) -> Result<bool> {
    match row {
        None => Ok(false),
        Some((object, then)) if *then == ctime || *object == 0 => Ok(true),
        Some((object, UNSETTLED)) => has(&root.read(path).context("open", root.show(path))?, *object),
        Some(_) => Ok(false),
    }
}

/// What it overwrites, appends to or removes, and what only lends bytes to others.
fn needs_bytes(row: &Brief<'_>) -> bool {
    row.kind == Kind::File && (row.flags.deleted || row.flags.data || !row.flags.any())
}
