//! Sets owner, mode, extended attributes, times and flags as far as the target holds them.

use crate::limits::{Limits, RarePart, are_large, xattr_class};
use snapsync_model::{Attributes, Kind, Rare, Xattr};
pub(crate) use snapsync_sys::PROTECTIVE;
use snapsync_sys::{Entry, PROJECT_INHERIT, Part, flags_of, rare_of, set_flags_of, set_rare_of, tolerate};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

/// Flags that prevent changes of names. They are cleared during a commit.
pub(crate) const LOOSENED: u32 = PROTECTIVE | PROJECT_INHERIT;

/// Sets everything except flags.
pub(crate) fn set(
    entry: &Entry,
    kind: Kind,
    new: &Attributes,
    xattrs: Option<&[Xattr]>,
    limits: &Limits,
) -> io::Result<()> {
    let are_too_large = limits.large_xattrs && xattrs.is_some_and(are_large);
    entry.set_attributes(kind, new, xattrs, &|part| match part {
        Part::Owner => limits.owner,
        Part::Mode => limits.mode != 0,
        Part::Time => limits.mtime,
        Part::Xattr(xattr) => limits.xattrs.contains(&xattr_class(&xattr.name)) || are_too_large,
    })
}

/// Sets the inode flags of a file or directory to `wanted`, except those that the target does not hold.
pub(crate) fn set_flags(file: impl AsFd, wanted: u32, limits: &Limits) -> io::Result<()> {
    let wanted = wanted & !limits.flags;
    if flags_of(&file)? == wanted { Ok(()) } else { tolerate(set_flags_of(file, wanted), limits.flags != 0) }
}

/// Sets project and hints to `wanted`, part by part, as far as the target holds them.
pub(crate) fn set_rare(file: impl AsFd, wanted: Rare, limits: &Limits) -> io::Result<()> {
    if wanted == Rare::default() && rare_of(&file)? == wanted {
        return Ok(());
    }
    for part in RarePart::ALL {
        let (now, is_lost) = (rare_of(&file)?, limits.rare.contains(&part));
        let next = part.of(wanted, now);
        if next != now {
            tolerate(set_rare_of(&file, next), is_lost)?;
        }
    }
    Ok(())
}

/// Clears flags that protect an inode or bind new entries of a directory to its project.
pub(crate) fn loosen(file: &File) -> io::Result<()> {
    let flags = flags_of(file)?;
    if flags & LOOSENED == 0 { Ok(()) } else { set_flags_of(file, flags & !LOOSENED) }
}
