//! What the way back has touched has other change times than the table of the base says, by which a table
//! knows the files whose bytes only the tree has.

use crate::check::drift::is_cut_to;
use crate::known::{Row, What};
use crate::stage::incoming::Incoming;
use snapsync_model::{Attributes, Context, Kind, Result};
use snapsync_sys::{Spot, Stat};

/// A file that is back.
pub struct Returned {
    pub ino: u64,
    /// Its change time when it was checked.
    pub was: i64,
    pub now: Stat,
}

/// Corrects the table of the base, which is told the stage and the files.
pub type Correct<'f> = dyn FnMut(&Spot, Vec<Returned>) -> Result<()> + 'f;

impl Incoming<'_> {
    /// Files that were there and are as they were, as far as their own times tell. By then nothing can be
    /// lost any more.
    pub(crate) fn returned(&self) -> Result<Vec<Returned>> {
        let mut returned = Vec::new();
        for row in self.known_rows(|row| row.kind == Kind::File && !row.flags.created)? {
            let Row { change, known } = row?;
            let (What::Checked, Some(path)) = (known.what, &change.old_path) else { continue };
            let Some(entry) = self.look_for(path, &known)? else { continue };
            let now = entry.stat().context("read the attributes of", self.root.show(path))?;
            if self.is_back(change.old.as_ref(), &now) {
                returned.push(Returned { ino: known.ino, was: known.ctime, now });
            }
        }
        Ok(returned)
    }

    fn is_back(&self, was: Option<&Attributes>, now: &Stat) -> bool {
        let is_time = |was: &Attributes| is_cut_to(now.attributes.time(), was.time());
        was.is_some_and(|was| was.size == now.attributes.size && (self.journal.limits.mtime || is_time(was)))
    }
}
