//! Refuses a round that would take most of a tree away, or write most of it anew: a primary that was wiped or
//! encrypted must not walk through its standbys.

use crate::options::Guard;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Change, Counts, Error, Kind, RelPath, Result, SnapshotInfo, entries, printable, size};
use snapsync_sys::Named;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

/// Trees of fewer entries are guarded only by limits that somebody has set: in a small tree, a few files are
/// many of a hundred.
const LARGE: u64 = 10_000;
/// The limits of large trees, in per cent.
const DELETED: u8 = 25;
const CHANGED: u8 = 60;
const SHRINK: u8 = 50;
/// Nothing is more than all of it.
const NO_LIMIT: u8 = 100;
/// How many directories are named, and how long their paths are.
const NAMED: usize = 3;
const DEPTH: usize = 2;

/// One of the limits, and what a round comes to.
struct Measure {
    limit: u8,
    part: u64,
    whole: u64,
    unit: Unit,
}

#[derive(Clone, Copy)]
enum Unit {
    Entries,
    Bytes,
}

impl Measure {
    fn is_beyond(&self) -> bool {
        u128::from(self.part) * 100 > u128::from(self.whole) * u128::from(self.limit)
    }

    /// What happens to a part of the whole, and how much of it may.
    fn told(&self, what: &str) -> String {
        let share = u128::from(self.part) * 100 / u128::from(self.whole.max(1));
        let (part, whole) = match self.unit {
            Unit::Entries => (self.part.to_string(), entries(self.whole)),
            Unit::Bytes => (size(self.part), size(self.whole)),
        };
        format!("{part} of {whole} ({share}%) would be {what}, and the guard is at {}%", self.limit)
    }
}

/// Refuses the changes of `manifest` from `base` to `snapshot` if they are beyond a limit.
pub(crate) fn check(
    guard: &Guard,
    manifest: &dyn Named,
    counts: &Counts,
    (base, snapshot): (&SnapshotInfo, &SnapshotInfo),
    standby: &str,
) -> Result<()> {
    let Some(whole) = base.entries else { return Ok(()) };
    let usual = |limit| if whole < LARGE { NO_LIMIT } else { limit };
    let of_entries = |limit: Option<u8>, is, part| {
        let limit = limit.unwrap_or(usual(is));
        Measure { limit, part, whole, unit: Unit::Entries }
    };
    let refuse =
        |measure: &Measure, what, which: &str| refused(standby, snapshot, &measure.told(what), which);
    let mut deleted = of_entries(guard.deleted, DELETED, counts.deleted);
    // At most: some have other attributes or names alone, and what is created may be where nothing was.
    let anew = counts.changed.saturating_add(counts.created.min(counts.deleted));
    let mut changed = of_entries(guard.changed, CHANGED, anew);
    if deleted.is_beyond() || changed.is_beyond() {
        let made = made(manifest)?;
        let (gone, which) = worst(manifest, |row| row.flags.deleted && !made.has(row))?;
        deleted.part = gone;
        if deleted.is_beyond() {
            return Err(refuse(&deleted, "deleted", &which));
        }
        let (files, which) = worst(manifest, |row| is_rewritten(row) || made.replaces(row))?;
        changed.part = files;
        if changed.is_beyond() {
            return Err(refuse(&changed, "written anew", &which));
        }
    }
    let Some((before, now)) = base.bytes.zip(snapshot.bytes) else { return Ok(()) };
    let limit = guard.shrink.unwrap_or(usual(SHRINK));
    let shrink = Measure { limit, part: before.saturating_sub(now), whole: before, unit: Unit::Bytes };
    if shrink.is_beyond() {
        let (_, which) = worst(manifest, |row| row.flags.deleted || is_rewritten(row))?;
        return Err(refuse(&shrink, "gone", &which));
    }
    Ok(())
}

/// The paths at which something is created, by their hashes. Whoever writes a file under another name and
/// renames it over the old one has not deleted anything.
struct Made(HashSet<u64>, RandomState);

impl Made {
    /// Whether something takes the place of what a row deletes.
    fn has(&self, row: &Change) -> bool {
        row.old_path.as_ref().is_some_and(|path| self.0.contains(&self.1.hash_one(path.as_bytes())))
    }

    fn replaces(&self, row: &Change) -> bool {
        row.kind == Kind::File && row.flags.deleted && self.has(row)
    }
}

fn made(manifest: &dyn Named) -> Result<Made> {
    let mut made = Made(HashSet::new(), RandomState::new());
    for row in ManifestReader::open(manifest)?.only(|row| row.flags.created) {
        let path = row?.path.unwrap_or_default();
        let hash = made.1.hash_one(path.as_bytes());
        made.0.insert(hash);
    }
    Ok(made)
}

fn is_rewritten(row: &Change) -> bool {
    row.kind == Kind::File && row.flags.data && row.survives()
}

fn refused(standby: &str, snapshot: &SnapshotInfo, what: &str, worst: &str) -> Error {
    let name = &snapshot.name;
    let which = if worst.is_empty() { String::new() } else { format!(", most of them in {worst}") };
    Error::refused(
        format!("snapshot {name} is not brought to {standby}: {what}{which}"),
        "see whether the primary is as it should be: `snapsync diff` and `snapsync status` show it; \
         --accept-changes lets this round through",
    )
}

/// How many rows are `wanted`, and the directories with most of them.
fn worst(manifest: &dyn Named, wanted: impl Fn(&Change) -> bool) -> Result<(u64, String)> {
    let (mut count, mut directories) = (0, BTreeMap::<RelPath, u64>::new());
    for row in ManifestReader::open(manifest)? {
        let row = row?;
        if wanted(&row) {
            count += 1;
            let path = row.old_path.as_ref().or(row.path.as_ref());
            *directories.entry(path.map(above).unwrap_or_default()).or_default() += 1;
        }
    }
    let mut directories: Vec<(RelPath, u64)> = directories.into_iter().collect();
    directories.sort_by_key(|(_, count)| Reverse(*count));
    let named = directories.iter().take(NAMED).map(|(path, count)| {
        let path = if path.is_root() { ".".into() } else { path.display() };
        format!("{} ({})", printable(&path), entries(*count))
    });
    Ok((count, named.collect::<Vec<_>>().join(", ")))
}

/// The directory that a path is in, or one above that is not so deep.
fn above(path: &RelPath) -> RelPath {
    let bytes = path.as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let end = slashes.take(DEPTH).last().unwrap_or(0);
    RelPath::new(&bytes[..end]).unwrap_or_default()
}
