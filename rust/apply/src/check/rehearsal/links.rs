//! How many names a file can have, and how many subdirectories a directory can have.

use crate::check::rehearsal::trial::Rehearsal;
use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat};
use snapsync_model::{Change, Error, Kind, Link, Result};
use snapsync_sys::Stat;
use std::io;

/// A number of subdirectories that every file system supports.
const DIRECTORIES: u64 = 16_000;

impl Rehearsal<'_> {
    /// Counts the names of a row. `stat` is of the existing entry. An inode never has more names than before
    /// or after.
    pub(crate) fn count_names(&mut self, change: &Change, stat: Option<&Stat>) {
        let (added, removed) = (change.links_added.len() as u64, change.links_removed.len() as u64);
        if change.kind == Kind::Directory {
            for (links, by) in [(&change.links_added, 1), (&change.links_removed, -1)] {
                for Link { parent, .. } in links {
                    *self.links.directories.entry(*parent).or_default() += by;
                }
            }
            // If subdirectories count as links, two links are the directory's own.
            let is_there = stat.filter(|_| change.survives()).map_or(0, |stat| i64::from(stat.nlink) - 2);
            if is_there > 0 {
                *self.links.directories.entry(change.ino).or_default() += is_there;
            }
            return;
        }
        let before = stat.map_or(0, |stat| u64::from(stat.nlink));
        let names = (before + added).saturating_sub(removed).max(before);
        if added > 0 && names > self.links.names.max(1) {
            let bytes: usize = change.links_added.iter().map(|link| link.name.len()).sum();
            self.links.names = names;
            self.links.length = bytes / change.links_added.len();
            self.links.example = change.display_path();
        }
    }

    /// Tries as many names as the rows ask for.
    pub(crate) fn links(&self) -> Result<()> {
        let wanted = self.links.names;
        if let Some(unseen) = &self.unseen {
            let most = unseen.most_names();
            if wanted <= most {
                return Ok(());
            }
            let what = format!("{wanted} names of one file, only {most}");
            return Err(self.too_many(&self.links.example, &what));
        }
        if wanted > 1 {
            let made = self.with_dir(|dir| {
                openat(dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600))?;
                // Some file systems keep the names in the inode.
                let name = |at: u64| format!("{at:0width$}", width = self.links.length);
                let link = |at: u64| linkat(dir, "f", dir, name(at), AtFlags::empty());
                Ok((1..wanted).try_for_each(|at| link(at).map_err(|e| (at, io::Error::from(e)))))
            })?;
            made.map_err(|(most, e)| {
                self.too_many(&self.links.example, &format!("{wanted} names of one file, only {most} ({e})"))
            })?;
        }
        let most = self.links.directories.values().copied().max().unwrap_or(0).max(0).unsigned_abs();
        if most > DIRECTORIES {
            let made = self.with_dir(|dir| {
                let make = |at: u64| mkdirat(dir, at.to_string(), Mode::from_raw_mode(0o700));
                Ok((0..most).try_for_each(|at| make(at).map_err(|e| (at, io::Error::from(e)))))
            })?;
            made.map_err(|(held, e)| {
                self.too_many(".", &format!("{most} directories in one, only {held} ({e})"))
            })?;
        }
        Ok(())
    }

    fn too_many(&self, path: &str, what: &str) -> Error {
        Error::refused(
            format!("{} cannot hold {path}: {what}", self.root.path().display()),
            "remove some on the source, or use a target that can; nothing was changed",
        )
    }
}
