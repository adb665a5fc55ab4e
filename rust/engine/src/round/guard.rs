//! Refuses a round that would take most of a tree away, or write most of it anew: a primary that was wiped or
//! encrypted must not walk through its standbys.

use crate::options::Guard;
use snapsync_manifest::ManifestReader;
use snapsync_model::{
    Change, Counts, Crowded, Error, Guarded, Kind, Measure, RelPath, Result, SnapshotInfo, entries,
    printable, size,
};
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

/// What a round comes to, and the limits.
pub(crate) struct Judged {
    found: Guarded,
    /// What would happen to how much, where it is beyond a limit.
    told: Option<String>,
}

impl Judged {
    pub(crate) fn found(&self) -> &Guarded {
        &self.found
    }

    /// Refuses what is beyond a limit.
    pub(crate) fn refuse(self, snapshot: &SnapshotInfo, standby: &str) -> Result<()> {
        let Some(told) = self.told else { return Ok(()) };
        let named = self.found.directories.iter();
        let named: Vec<String> = named.map(|d| format!("{} ({})", d.path, entries(d.entries))).collect();
        let which = named.join(", ");
        let which = if which.is_empty() { which } else { format!(", most of them in {which}") };
        Err(Error::Guarded {
            what: format!("snapshot {} is not brought to {standby}: {told}{which}", snapshot.name),
            advice: "see whether the primary is as it should be: `snapsync diff` and `snapsync status` show \
                     it; `snapsync sync` with --accept-changes lets this through, once"
                .to_owned(),
            found: Box::new(self.found),
        })
    }

    fn beyond(mut self, which: &str, told: String, directories: Vec<Crowded>) -> Judged {
        self.found.beyond = Some(which.to_owned());
        self.found.directories = directories;
        Judged { told: Some(told), ..self }
    }
}

/// What happens to a part of the whole, and how much of it may.
fn told(measure: &Measure, part: &str, whole: &str, what: &str) -> String {
    let (share, limit) = (measure.percent(), measure.limit);
    format!("{part} of {whole} ({share}%) would be {what}, and the guard is at {limit}%")
}

/// Refuses the changes of `manifest` from `base` to `snapshot` if they are beyond a limit.
pub(crate) fn check(
    guard: &Guard,
    manifest: &dyn Named,
    counts: &Counts,
    (base, snapshot): (&SnapshotInfo, &SnapshotInfo),
    standby: &str,
) -> Result<()> {
    let judged = judge(guard, manifest, counts, (base, snapshot), false)?;
    judged.map_or(Ok(()), |judged| judged.refuse(snapshot, standby))
}

/// Measures the changes; None where nothing is known of the base. Whoever wants no more than to be refused
/// need not have them `exact`: a first look may show that nothing is beyond a limit.
pub(crate) fn judge(
    guard: &Guard,
    manifest: &dyn Named,
    counts: &Counts,
    (base, snapshot): (&SnapshotInfo, &SnapshotInfo),
    exact: bool,
) -> Result<Option<Judged>> {
    let Some(whole) = base.entries else { return Ok(None) };
    let usual = |limit| if whole < LARGE { NO_LIMIT } else { limit };
    let measure =
        |limit: Option<u8>, is, part, whole| Measure { limit: limit.unwrap_or(usual(is)), part, whole };
    let mut deleted = measure(guard.deleted, DELETED, counts.deleted, whole);
    // At most: some have other attributes or names alone, and what is created may be where nothing was.
    let anew = counts.changed.saturating_add(counts.created.min(counts.deleted));
    let mut changed = measure(guard.changed, CHANGED, anew, whole);
    let bytes = base.bytes.zip(snapshot.bytes);
    let shrink = bytes.map(|(before, now)| measure(guard.shrink, SHRINK, before.saturating_sub(now), before));
    let mut worst_of = (Vec::new(), Vec::new());
    if exact || deleted.is_beyond() || changed.is_beyond() {
        let made = made(manifest)?;
        (deleted.part, worst_of.0) = worst(manifest, |row| row.flags.deleted && !made.has(row))?;
        (changed.part, worst_of.1) = worst(manifest, |row| is_rewritten(row) || made.replaces(row))?;
    }
    let found = Guarded { deleted, changed, shrink, beyond: None, directories: Vec::new() };
    let judged = Judged { found, told: None };
    let in_entries = |of: &Measure, what| told(of, &of.part.to_string(), &entries(of.whole), what);
    Ok(Some(match shrink {
        _ if deleted.is_beyond() => judged.beyond("deleted", in_entries(&deleted, "deleted"), worst_of.0),
        _ if changed.is_beyond() => {
            judged.beyond("changed", in_entries(&changed, "written anew"), worst_of.1)
        }
        Some(shrink) if shrink.is_beyond() => {
            let (_, directories) = worst(manifest, |row| row.flags.deleted || is_rewritten(row))?;
            judged.beyond(
                "shrink",
                told(&shrink, &size(shrink.part), &size(shrink.whole), "gone"),
                directories,
            )
        }
        _ => judged,
    }))
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

/// How many rows are `wanted`, and the directories with most of them.
fn worst(manifest: &dyn Named, wanted: impl Fn(&Change) -> bool) -> Result<(u64, Vec<Crowded>)> {
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
    let named = directories.iter().take(NAMED).map(|(path, entries)| {
        let path = if path.is_root() { ".".into() } else { path.display() };
        Crowded { path: printable(&path).into_owned(), entries: *entries }
    });
    Ok((count, named.collect()))
}

/// The directory that a path is in, or one above that is not so deep.
fn above(path: &RelPath) -> RelPath {
    let bytes = path.as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let end = slashes.take(DEPTH).last().unwrap_or(0);
    RelPath::new(&bytes[..end]).unwrap_or_default()
}
