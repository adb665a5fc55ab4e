//! The last table's rows for entries that mounts hide, if nobody may look under them.

use snapsync_manifest::Table;
use snapsync_model::{Inode, Link, ROOT, Result};
use std::collections::HashSet;

/// The rows of `last` with names that are `hidden` or lie in a hidden directory; each with only these names.
pub(crate) fn rows(last: Option<&Table>, hidden: &HashSet<Link>) -> Result<Vec<Inode>> {
    let Some(last) = last else { return Ok(Vec::new()) };
    let directories = last.directories()?;
    let is_hidden = |link: &Link| {
        let mut at = link;
        loop {
            if hidden.contains(at) {
                return true;
            }
            match directories.link(at.parent).filter(|_| at.parent != ROOT) {
                Some(above) => at = above,
                None => return false,
            }
        }
    };
    let mut found = Vec::new();
    for row in last.rows()? {
        let mut row = row?;
        row.links.retain(is_hidden);
        if !row.links.is_empty() {
            found.push(row);
        }
    }
    Ok(found)
}
