//! Some files of a table as another snapshot has them.

use crate::pool::merge::counts_of;
use crate::pool::objects::Counts;
use snapsync_manifest::{NextTable, Table, gone};
use snapsync_model::{Inode, Result, SnapshotInfo, UNSETTLED};
use snapsync_sys::Spot;
use std::collections::{BTreeMap, BTreeSet};

/// Writes a table like the last one, in which these files are as another snapshot has them. Those that it
/// does not have are left out.
pub(crate) fn keep(
    (info, last): (&SnapshotInfo, &Table),
    files: &BTreeSet<u64>,
    before: Option<&Table>,
    dir: &Spot,
) -> Result<Counts> {
    let (mut counts, mut rows) = (counts_of(info, last)?, Rows::of(last));
    let kept = before.map(|before| before.pick(files)).transpose()?.unwrap_or_default();
    for row in last.pick(files)? {
        let is_it = |old: &&Inode| (old.ino, old.generation, old.kind) == (row.ino, row.generation, row.kind);
        let links = row.links.clone();
        let now = kept.iter().find(is_it).map(|old| Inode { links, ctime: UNSETTLED, ..old.clone() });
        rows.put(&row, now, &mut counts);
    }
    rows.write(dir, last)?;
    Ok(counts)
}

/// The rows of a table that differ from its whole one.
struct Rows(BTreeMap<u64, Inode>);

impl Rows {
    fn of(last: &Table) -> Rows {
        Rows(last.patch().iter().map(|row| (row.ino, row.clone())).collect())
    }

    /// None for a file that is gone.
    fn put(&mut self, row: &Inode, now: Option<Inode>, counts: &mut Counts) {
        counts.remove(row);
        now.iter().for_each(|now| counts.add(now));
        self.0.insert(row.ino, now.unwrap_or_else(|| gone(row.ino)));
    }

    fn write(&self, dir: &Spot, last: &Table) -> Result<()> {
        let mut next = NextTable::create(dir, Some(last), last.info().clone())?;
        self.0.values().try_for_each(|row| next.write(row))?;
        next.finish(None)
    }
}
