//! Owner, mode, extended attributes, times and flags, as far as the target holds them.

use crate::Limits;
use crate::limits::{are_large, xattr_class};
use snapsync_model::{Attributes, Kind, Xattr};
use snapsync_sys::{Entry, Part, flags_of, set_flags_of, tolerate};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

pub(crate) use snapsync_sys::PROTECTIVE;

/// Sets everything but flags.
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
