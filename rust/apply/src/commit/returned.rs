//! Describes what a way back has touched, as a delta that changes nothing: those files have other change
//! times than their rows in the base's table, so the table is made again from it.

use crate::check::drift::is_cut_to;
use crate::known::{Row, What};
use crate::stage::incoming::Incoming;
use crate::stage::touched::Applied;
use snapsync_manifest::{ManifestHeader, ManifestWriter};
use snapsync_model::{Attributes, Change, ChangeFlags, Context, Kind, Result, Seen};
use snapsync_sys::Stat;

const FILE: &str = "returned.arrow";

/// Takes the snapshot again that the tree has gone back to, with the new change times.
pub type TakeAgain<'f> = dyn FnMut(Applied) -> Result<()> + 'f;

impl Incoming<'_> {
    /// Writes a row for everything that was there before the commit and still is.
    pub(crate) fn returned(&self) -> Result<Applied> {
        let manifest = self.stage().join(FILE);
        let mut writer = ManifestWriter::create(&manifest, &ManifestHeader::default())?;
        let mut seen = Vec::new();
        for row in self.known_rows(|row| !row.flags.created)? {
            let Row { change, known } = row?;
            let (What::Checked, Some(path)) = (known.what, &change.old_path) else { continue };
            let Some(entry) = self.look_for(path, &known)? else { continue };
            let stat = entry.stat().context("read the attributes of", self.root.show(path))?;
            seen.push(Some(Seen { ino: known.ino, ctime: known.ctime }));
            let data = change.kind == Kind::File && !self.is_back(change.old.as_ref(), &stat);
            writer.write(&unchanged(change, data))?;
        }
        writer.finish()?;
        Ok(Applied { manifest, seen })
    }

    /// Whether a file has its old bytes, as far as its size and modification time tell.
    fn is_back(&self, was: Option<&Attributes>, now: &Stat) -> bool {
        let is_time = |was: &Attributes| is_cut_to(now.attributes.time(), was.time());
        was.is_some_and(|was| was.size == now.attributes.size && (self.journal.limits.mtime || is_time(was)))
    }
}

/// `data` says that somebody else has changed the file meanwhile.
fn unchanged(change: Change, data: bool) -> Change {
    Change {
        flags: ChangeFlags { data, ..ChangeFlags::default() },
        path: change.old_path.clone(),
        links_added: Vec::new(),
        links_removed: Vec::new(),
        nlink: change.nlink_old,
        new: change.old,
        symlink_target: None,
        xattrs: None,
        extents: Vec::new(),
        ..change
    }
}
