//! Stages data that is already on the target's file system by sharing it.

use crate::stage::fresh::StageDirs;
use crate::stage::incoming::Incoming;
use snapsync_model::{Change, Context, Op, Result};
use snapsync_sys::fault;
use std::fs::File;
use std::io;

impl Incoming<'_> {
    /// Stages all data of a new file as shared blocks of `from`, which holds still if `is_still` says so
    /// afterwards. False if that is impossible and the data must be copied.
    pub fn share(
        &self,
        parents: &mut StageDirs<'_>,
        change: &Change,
        from: &File,
        is_still: impl FnOnce() -> bool,
    ) -> Result<bool> {
        if !change.flags.created || self.received.held().left(change).is_empty() {
            return Ok(false);
        }
        if self.received.has_begun(change.ino) {
            return Ok(false);
        }
        let show = || change.display_path();
        let file = self.create(parents, change).context("stage", show())?;
        if share_ranges(change, from, &file).is_err() || !is_still() {
            drop(file);
            let path = self.data_path(change)?;
            self.remove_staged(&path).context("remove", self.root.show(&path))?;
            return Ok(false);
        }
        if !change.has_clones() {
            self.complete(file, change).context("stage", show())?;
        }
        self.received.share(change.data_bytes());
        fault::point("stage.frame");
        Ok(true)
    }
}

fn share_ranges(change: &Change, from: &File, to: &File) -> io::Result<()> {
    let data = change.extents.iter().filter(|e| e.op == Op::Data);
    data.into_iter().try_for_each(|e| snapsync_sys::clone_range(from, e.offset, e.length, to, e.offset))
}
