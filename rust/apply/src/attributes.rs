//! Owner, mode, extended attributes, times and flags, in the order in which they do not undo each other.

use crate::Limits;
use crate::limits::xattr_class;
use snapsync_model::{Attributes, Kind, Xattr};
use snapsync_sys::{APPEND, Entry, IMMUTABLE, flags_of, set_flags_of};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Flags that keep anything else from being done to an inode: cleared first, set last.
pub(crate) const PROTECTIVE: u32 = IMMUTABLE | APPEND;

/// Sets everything but flags. A change of owner takes away set-id bits and capabilities, so it comes first.
pub(crate) fn set(
    entry: &Entry,
    kind: Kind,
    new: &Attributes,
    xattrs: Option<&[Xattr]>,
    limits: &Limits,
) -> io::Result<()> {
    let now = entry.stat()?.attributes;
    if (now.uid, now.gid) != (new.uid, new.gid) {
        tolerate(entry.set_owner(new.uid, new.gid), limits.owner)?;
    }
    if kind != Kind::Symlink {
        entry.set_mode(new.mode)?;
    }
    if let Some(xattrs) = xattrs {
        set_xattrs(entry, xattrs, limits)?;
    }
    entry.set_mtime(new.mtime)
}

fn set_xattrs(entry: &Entry, wanted: &[Xattr], limits: &Limits) -> io::Result<()> {
    let now = entry.xattrs()?;
    for old in now.iter().filter(|old| wanted.iter().all(|w| w.name != old.name)) {
        // The system's own labels cannot be taken off.
        tolerate(entry.remove_xattr(&old.name), true)?;
    }
    for xattr in wanted.iter().filter(|x| !now.contains(x)) {
        let lost = limits.xattrs.contains(&xattr_class(&xattr.name)) || limits.large_xattrs;
        tolerate(entry.set_xattr(&xattr.name, &xattr.value), lost)?;
    }
    Ok(())
}

/// Sets the inode flags of a file or directory to `wanted`, but for those the target does not hold.
pub(crate) fn set_flags(file: impl AsFd, wanted: u32, limits: &Limits) -> io::Result<()> {
    let wanted = wanted & !limits.flags;
    if flags_of(&file)? == wanted { Ok(()) } else { tolerate(set_flags_of(file, wanted), limits.flags != 0) }
}

/// Takes off what protects an inode.
pub(crate) fn loosen(file: &File) -> io::Result<()> {
    let flags = flags_of(file)?;
    if flags & PROTECTIVE == 0 { Ok(()) } else { set_flags_of(file, flags & !PROTECTIVE) }
}

/// A loss that was announced is no failure.
fn tolerate(result: io::Result<()>, announced: bool) -> io::Result<()> {
    match result {
        Err(e) if announced && !matches!(e.raw_os_error(), Some(5 | 30)) => {
            let _ = e;
            Ok(())
        }
        other => other,
    }
}
