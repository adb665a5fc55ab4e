//! What was read of a whole table. Each side of a round asks several times for the rows of the few inodes
//! that changed, and for all directories; for one row a batch of thousands has to be decoded. A whole table
//! never changes, so what it was found to say is kept for the next table of this process that shares it.

use snapsync_model::{Details, Inode, Link, locked};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Of so many whole tables something is kept: of that of each side of a round.
const TABLES: usize = 2;
/// The most rows of one that are kept, and the most directories.
pub(crate) const ROWS: usize = 8192;
const DIRECTORIES: usize = 1 << 16;
/// Rows with more names are not kept.
const NAMES: usize = 8;

/// A whole table: its id, and the device and inode of its file. Another file may claim the same id.
pub(crate) type Which = (Uuid, (u32, u32), u64);

static KNOWN: Mutex<VecDeque<(Which, Arc<Known>)>> = Mutex::new(VecDeque::new());

/// Every directory of a whole table, with its name.
pub(crate) type Names = Arc<[(u64, Link)]>;

#[derive(Default)]
pub(crate) struct Known {
    /// None for a number that the table does not have.
    rows: Mutex<HashMap<u64, Option<Inode>>>,
    directories: Mutex<Option<Names>>,
}

impl Known {
    /// What is known of a whole table.
    pub(crate) fn of(whole: Which) -> Arc<Known> {
        let mut all = locked(&KNOWN);
        if let Some((_, known)) = all.iter().find(|(which, _)| *which == whole) {
            return known.clone();
        }
        let known: Arc<Known> = Arc::default();
        all.truncate(TABLES - 1);
        all.push_front((whole, known.clone()));
        known
    }

    /// The rows of these numbers that are known, and the numbers of which nothing is.
    pub(crate) fn rows(&self, inos: &[u64]) -> (Vec<Inode>, Vec<u64>) {
        let rows = locked(&self.rows);
        let (known, unknown): (Vec<u64>, Vec<u64>) = inos.iter().partition(|ino| rows.contains_key(ino));
        (known.iter().filter_map(|ino| rows[ino].clone()).collect(), unknown)
    }

    /// `found` are the rows of those of `asked` that the table has.
    pub(crate) fn keep_rows(&self, asked: &[u64], found: &[Inode]) {
        let mut rows = locked(&self.rows);
        if rows.len() + asked.len() > ROWS {
            return;
        }
        rows.extend(asked.iter().map(|ino| (*ino, None)));
        for row in found {
            if is_small(row) {
                rows.insert(row.ino, Some(row.clone()));
            } else {
                rows.remove(&row.ino);
            }
        }
    }

    pub(crate) fn directories(&self) -> Option<Names> {
        locked(&self.directories).clone()
    }

    pub(crate) fn keep_directories(&self, all: &Names) {
        if all.len() <= DIRECTORIES {
            *locked(&self.directories) = Some(all.clone());
        }
    }
}

fn is_small(row: &Inode) -> bool {
    let has_none = |details: &Details| {
        details.xattrs.is_empty() && details.unwritten.is_empty() && details.symlink_target.is_none()
    };
    row.links.len() <= NAMES && row.details.as_deref().is_none_or(has_none)
}
