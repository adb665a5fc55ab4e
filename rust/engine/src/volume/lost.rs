//! Files whose bytes a volume has lost, so that another is to bring them.

use crate::digest::{hex, of_hex};
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Inode, Kind, Monitor, RelPath, Result, Side, SnapshotInfo};
use snapsync_snapshot::Volume;
use std::collections::{BTreeSet, HashSet};

/// Bytes of all the paths that are told in one message.
pub(crate) const MOST: usize = 1_000_000;
/// Paths told in one message.
const SHOWN: usize = 5;

/// Paths in hexadecimal: names need not be text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct LostPaths(Vec<String>);

impl LostPaths {
    /// The names of files that are absent from the tree of a volume.
    pub(crate) fn absent(volume: &Volume, newest: &SnapshotInfo, monitor: &Monitor) -> Result<LostPaths> {
        let rows = volume.absent_files(newest)?;
        if rows.is_empty() {
            return Ok(LostPaths::default());
        }
        Ok(LostPaths::of(&paths(&*volume.open_snapshot(newest, monitor)?, &rows)?))
    }

    pub(crate) fn of(paths: &[RelPath]) -> LostPaths {
        LostPaths(paths.iter().map(|path| hex(path.as_bytes())).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What makes sense of it, as far as it is believed.
    pub(crate) fn paths(&self) -> BTreeSet<RelPath> {
        let mut left = MOST;
        let fits = |text: &&String| {
            left = left.saturating_sub(text.len() / 2);
            left > 0
        };
        let path = |text: &String| RelPath::new(&of_hex(text)?).ok();
        self.0.iter().take_while(fits).filter_map(path).collect()
    }
}

fn paths(side: &dyn Side, rows: &[Inode]) -> Result<Vec<RelPath>> {
    rows.iter().flat_map(|row| &row.links).map(|link| side.path_of(link)).collect()
}

/// Some of the files, and how many more.
pub(crate) fn shown(volume: &Volume, of: &SnapshotInfo, rows: &[Inode], monitor: &Monitor) -> Result<String> {
    let few = &rows[..rows.len().min(SHOWN)];
    let paths = paths(&*volume.open_snapshot(of, monitor)?, few)?;
    let paths: Vec<String> = paths.iter().map(|path| path.display().into_owned()).collect();
    let more = rows.len() - few.len();
    Ok(paths.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() })
}

/// The files of `to` whose bytes are lost where the tree holds `now`. They must be few enough to be told.
pub(crate) fn find(
    volume: &Volume,
    to: &SnapshotInfo,
    now: &SnapshotInfo,
    monitor: &Monitor,
) -> Result<Vec<Inode>> {
    let rows = volume.lost_in(to, now)?;
    if rows.is_empty() {
        return Ok(rows);
    }
    let names = paths(&*volume.open_snapshot(to, monitor)?, &rows)?;
    if names.iter().map(|path| path.as_bytes().len() + 1).sum::<usize>() < MOST {
        return Ok(rows);
    }
    let show = volume.path().display();
    Err(Error::refused(
        format!(
            "the bytes of {} files that snapshot {} of {show} had are lost, more than a round brings: {}",
            rows.len(),
            to.name,
            shown(volume, to, &rows, monitor)?
        ),
        format!("`snapsync verify --repair PRIMARY {show} --discard-drift` brings them, or a new standby"),
    ))
}

/// The rows of files that go by these paths in a snapshot of the primary, which may know none of them.
pub(crate) fn named(
    primary: &Volume,
    snapshot: &SnapshotInfo,
    paths: &BTreeSet<RelPath>,
    monitor: &Monitor,
) -> Result<Vec<Inode>> {
    let side = primary.open_snapshot(snapshot, monitor)?;
    let names: HashSet<&[u8]> =
        paths.iter().filter_map(|path| path.as_bytes().rsplit(|b| *b == b'/').next()).collect();
    let mut rows = Vec::new();
    for inode in side.everything()? {
        let inode = inode?;
        let may = inode.kind == Kind::File && inode.links.iter().any(|link| names.contains(&*link.name));
        let is = |link| side.path_of(link).is_ok_and(|path| paths.contains(&path));
        if may && inode.links.iter().any(is) {
            rows.push(inode);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_paths_are_believed_and_what_is_none_is_left_out() {
        let odd = [&b"a/b"[..], b"\xff\n", b"../up", b""];
        let told = LostPaths(odd.iter().map(|path| hex(path)).chain(["6".into(), "zz".into()]).collect());
        let paths: Vec<Vec<u8>> = told.paths().iter().map(|path| path.as_bytes().to_vec()).collect();
        assert!(paths.contains(&b"a/b".to_vec()) && paths.contains(&b"\xff\n".to_vec()));
        assert!(!paths.iter().any(|path| path.starts_with(b"..")));
        let many = LostPaths((0..300_000).map(|n| hex(format!("file-{n:06}").as_bytes())).collect());
        assert_eq!(many.paths().len(), (MOST - 1) / "file-000000".len());
    }
}
