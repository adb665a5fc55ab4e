//! Refuses to leave nested subvolumes out where nothing may be lost.

use crate::options::Options;
use snapsync_model::{Context, Error, RelPath, Result, Subset};
use snapsync_sys::{FileSystem, Root, subvolumes_beneath};
use snapsync_walk::Matcher;

/// Fails for a strict round if subvolumes lie in the tree of `root` that `subset` does not leave out. The
/// file system is asked for them: a search of two snapshots comes by those alone whose directories have
/// changed.
pub(crate) fn check(root: &Root, subset: &Subset, options: &Options) -> Result<()> {
    if !options.strict || options.snap.is_some() {
        return Ok(());
    }
    let nested = nested(root, subset)?;
    let Some(first) = nested.first() else { return Ok(()) };
    let others = if nested.len() > 1 { format!(" and {} more", nested.len() - 1) } else { String::new() };
    let (show, first) = (root.path().display(), first.display());
    Err(Error::refused(
        format!("{show} has nested subvolumes, which are not replicated: {first}{others}"),
        "leave them out with --exclude, and give each that matters a standby of its own; without --strict \
         they are left out, and told",
    ))
}

/// The outermost ones that `subset` does not leave out, in order. Those of stores are never in it.
fn nested(root: &Root, subset: &Subset) -> Result<Vec<RelPath>> {
    let show = root.path();
    let filesystem = snapsync_sys::filesystem(root.fd()).context("read the file system of", show)?;
    if filesystem.magic != FileSystem::BTRFS {
        return Ok(Vec::new());
    }
    let (matcher, mut nested) = (Matcher::new(subset)?, Vec::new());
    for path in subvolumes_beneath(root.fd()).context("list the subvolumes in", show)? {
        let path = RelPath::new(&path)?;
        if matcher.left_out_on(&path, true)?.is_none() {
            nested.push(path);
        }
    }
    nested.sort_unstable();
    Ok(nested)
}
