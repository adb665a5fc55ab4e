//! Finds the rows of a manifest in any order, for the frames that arrive.

use crate::changes::read::ManifestReader;
use crate::column::Columns;
use snapsync_model::{Change, Result, locked};
use snapsync_sys::Named;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// The number of batches in memory: frames arrive nearly in the order of the rows.
const KEPT: usize = 4;

type Batch = Arc<Vec<Arc<Change>>>;

/// Finds rows by inode.
pub struct ChangeRows {
    /// The last inode of each batch.
    last: Vec<u64>,
    open: Mutex<Open>,
}

struct Open {
    reader: ManifestReader,
    recent: VecDeque<(usize, Batch)>,
}

impl ChangeRows {
    pub fn open(manifest: &(impl Named + ?Sized)) -> Result<ChangeRows> {
        let reader = ManifestReader::open(manifest)?;
        let mut numbers = ManifestReader::numbers(manifest)?;
        let mut last: Vec<u64> = Vec::new();
        while let Some(batch) = numbers.next_batch() {
            let before = last.last().copied().unwrap_or(0);
            last.push(Columns(&batch?).u64("inode").values().last().copied().unwrap_or(before));
        }
        Ok(ChangeRows { last, open: Mutex::new(Open { reader, recent: VecDeque::new() }) })
    }

    /// The row of an inode that the target has.
    pub fn find(&self, ino: u64) -> Result<Option<Arc<Change>>> {
        let first = self.last.partition_point(|last| *last < ino);
        // A reused number has two rows, which may be in two batches.
        for at in first..self.last.len().min(first + 2) {
            let batch = self.batch(at)?;
            let from = batch.partition_point(|change| change.ino < ino);
            let rows = batch[from..].iter().take_while(|change| change.ino == ino);
            if let Some(found) = rows.into_iter().find(|change| !change.flags.deleted) {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }

    fn batch(&self, at: usize) -> Result<Batch> {
        let mut open = locked(&self.open);
        if let Some((_, batch)) = open.recent.iter().find(|(kept, _)| *kept == at) {
            return Ok(batch.clone());
        }
        let rows: Batch = Arc::new(open.reader.rows_at(at)?.into_iter().map(Arc::new).collect());
        open.recent.truncate(KEPT - 1);
        open.recent.push_front((at, rows.clone()));
        Ok(rows)
    }
}
