//! One row of a table after another, by its number, without reading the table for each.

use crate::table::file::TableBatch;
use crate::table::layers::{Table, is_gone};
use snapsync_model::{Inode, Result, locked};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

/// Batches that are kept: threads that go through a table side by side are seldom further apart.
const KEPT: usize = 4;

/// Finds rows of a table; it is quick where the numbers asked for lie near each other.
pub struct Finder {
    table: Table,
    /// The last number of each batch.
    ends: OnceLock<Vec<u64>>,
    kept: Mutex<VecDeque<(usize, Arc<TableBatch>)>>,
}

impl Finder {
    pub fn new(table: Table) -> Finder {
        Finder { table, ends: OnceLock::new(), kept: Mutex::default() }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The row of an inode; None where there is no such inode.
    pub fn find(&self, ino: u64) -> Result<Option<Inode>> {
        if let Some(row) = self.table.patched(ino) {
            return Ok((!is_gone(row)).then(|| row.clone()));
        }
        let at = self.ends()?.partition_point(|end| *end < ino);
        if at == self.ends()?.len() {
            return Ok(None);
        }
        let batch = self.batch(at)?;
        let view = batch.view();
        let row = view.numbers().binary_search(&ino).ok();
        row.map(|row| self.table.inode(&view, row)).transpose()
    }

    fn ends(&self) -> Result<&[u64]> {
        if let Some(ends) = self.ends.get() {
            return Ok(ends);
        }
        let ends = self.table.ends()?;
        Ok(self.ends.get_or_init(|| ends))
    }

    fn batch(&self, at: usize) -> Result<Arc<TableBatch>> {
        if let Some((_, batch)) = locked(&self.kept).iter().find(|(kept, _)| *kept == at) {
            return Ok(batch.clone());
        }
        let batch = Arc::new(self.table.batch_at(at)?);
        let mut kept = locked(&self.kept);
        kept.push_front((at, batch.clone()));
        kept.truncate(KEPT);
        Ok(batch)
    }
}
