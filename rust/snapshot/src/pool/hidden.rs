//! The last table's rows for entries that nobody can look at: mounts hide them, or they cannot be read.

use snapsync_manifest::Table;
use snapsync_model::{Directories, Inode, Kind, Result};
use snapsync_walk::Hidden;

/// The rows of `last` with names that are `hidden` or lie in a hidden directory; each with only these names.
/// `met` are the directories that were seen elsewhere, and tell themselves what is in them.
pub(crate) fn rows(last: Option<&Table>, hidden: &Hidden, met: &Directories) -> Result<Vec<Inode>> {
    let Some(last) = last else { return Ok(Vec::new()) };
    let hidden = &as_before(last, hidden)?;
    let before = last.directories()?;
    let mut found = Vec::new();
    for row in last.rows()? {
        let mut row = row?;
        row.links.retain(|link| hidden.has(link, &before, met));
        if !row.links.is_empty() {
            found.push(row);
        }
    }
    Ok(found)
}

/// Without directories that have the number of another one by now.
fn as_before(last: &Table, hidden: &Hidden) -> Result<Hidden> {
    let mut hidden = hidden.clone();
    for row in last.pick(&hidden.directories.keys().copied().collect())? {
        let is_it = row.kind == Kind::Directory && hidden.directories.get(&row.ino) == Some(&row.generation);
        if !is_it {
            hidden.directories.remove(&row.ino);
        }
    }
    Ok(hidden)
}
