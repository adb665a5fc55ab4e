//! A tree that another command has made of a volume's: it stands still, and is read in its place. It is of a
//! mounting of its own: what is known of the one proves nothing of the other.

use snapsync_model::{Context, Error, Result};
use snapsync_sys::{FileSystem, Root, filesystem, stat_of};
use std::sync::Arc;
use uuid::Uuid;

#[derive(Debug)]
pub struct Frozen {
    pub(crate) root: Arc<Root>,
    /// Its inodes have other numbers than those of the tree, or of the one before.
    pub(crate) is_by_path: bool,
    pub(crate) mounting: String,
}

impl Frozen {
    /// Checks that `root` can be read in place of a volume's `tree`.
    pub fn of(root: Root, tree: &Root, is_by_path: bool, id: Uuid) -> Result<Frozen> {
        let look = |root: &Root| stat_of(root.fd()).context("read the attributes of", root.path());
        let kind = |root: &Root| filesystem(root.fd()).context("read the file system of", root.path());
        let (frozen, live) = (look(&root)?, look(tree)?);
        let (path, of) = (root.path().display(), tree.path().display());
        let lies_in = |one: &Root, other: &Root| one.path().starts_with(other.path());
        if frozen.dev == live.dev && (frozen.ino == live.ino || lies_in(&root, tree) || lies_in(tree, &root))
        {
            return Err(Error::refused(
                format!("{path} is the tree of {of} itself, or lies in it: it does not stand still"),
                "let the command make a tree of its own, and name that",
            ));
        }
        let (there, here): (FileSystem, FileSystem) = (kind(&root)?, kind(tree)?);
        if there.magic != here.magic {
            return Err(Error::refused(
                format!(
                    "{path} is on {}, and {of} on {}: it is no snapshot of it",
                    there.name(),
                    here.name()
                ),
                "see whether it is mounted",
            ));
        }
        Ok(Frozen { root: Arc::new(root), is_by_path, mounting: format!("taken {id}") })
    }
}
