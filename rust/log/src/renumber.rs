//! Gives the inodes of a snapshot other numbers. After a promotion the deltas of the new primary speak of the
//! numbers in its own file system, and nobody knows both but the new primary itself.

use crate::fold::Whole;
use snapsync_manifest::{ManifestReader, ManifestWriter};
use snapsync_model::{Change, Context, Directories, Error, Kind, ROOT, Result};
use uuid::Uuid;

/// The most rows that are sorted together.
const ROWS: usize = 1 << 18;

impl Whole {
    /// `numbers` are pairs of the old number and the new one, in which each inode but the root occurs once;
    /// they are those of `volume` then.
    pub fn renumber(&mut self, mut numbers: Vec<(u64, u64)>, volume: Uuid) -> Result<()> {
        numbers.push((ROOT, ROOT));
        numbers.sort_unstable();
        let new_of = |old: u64| {
            let at = numbers.binary_search_by_key(&old, |(old, _)| *old);
            at.map(|at| numbers[at].1).map_err(|_| {
                Error::failed(format!("inode {old} of the log is not in the new primary"), "verify both")
            })
        };
        let mut order: Vec<u64> = numbers.iter().map(|(_, new)| *new).collect();
        order.sort_unstable();
        if order.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::failed("two inodes of the log have become one", "verify both"));
        }
        let manifest = self.manifest();
        let renumbered = |row: Result<Change>| -> Result<Change> {
            let mut row = row?;
            row.ino = new_of(row.ino)?;
            for link in &mut row.links_added {
                link.parent = new_of(link.parent)?;
            }
            row.links_added.sort_unstable();
            Ok(row)
        };
        let mut directories = Directories::default();
        for row in ManifestReader::open(&manifest)?.only(|row| row.kind == Kind::Directory) {
            let row = renumbered(row)?;
            row.links_added.first().into_iter().for_each(|link| directories.insert(row.ino, link.clone()));
        }
        let header = ManifestReader::open(&manifest)?.header()?;
        let header = snapsync_manifest::ManifestHeader { volume: volume.to_string(), ..header };
        let fresh = manifest.with_extension("new");
        let mut writer = ManifestWriter::create(&fresh, &header)?;
        for part in order.chunks(ROWS) {
            let is_in =
                |row: &Result<Change>| row.as_ref().map_or(true, |row| part.binary_search(&row.ino).is_ok());
            let rows = ManifestReader::open(&manifest)?.map(renumbered).filter(is_in);
            let mut rows = rows.collect::<Result<Vec<_>>>()?;
            rows.sort_unstable_by_key(|row| row.ino);
            for mut row in rows {
                row.path = Some(match row.links_added.first() {
                    Some(link) => directories.path(link)?,
                    None => directories.path_of(row.ino)?,
                });
                writer.write(&row)?;
            }
        }
        self.delta.totals = (&writer.finish()?).into();
        self.delta.volume = Some(volume);
        std::fs::rename(&fresh, &manifest).context("rename", &fresh)?;
        for frame in &mut self.frames {
            frame.ino = new_of(frame.ino)?;
        }
        self.frames.sort_unstable();
        Ok(())
    }
}
