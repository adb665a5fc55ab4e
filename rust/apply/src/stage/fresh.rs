//! What a new file has before anything is set: nobody but this process makes files in the stage, so the first
//! one of a directory tells of all that are made there with the same mode.

use crate::attributes;
use crate::limits::Limits;
use snapsync_model::{Attributes, Rare, Xattr};
use snapsync_sys::{Entry, Parents, flags_of, rare_of, stat_of, tolerate, xattrs_of};
use std::fs::File;
use std::io;

/// Directories of the stage, with what new files have there.
pub type StageDirs<'a> = Parents<'a, Fresh>;

#[derive(Clone, Copy)]
pub struct Fresh {
    /// The mode that was asked for.
    pub(super) mode: u32,
    /// Without flags and what is rare.
    is: Attributes,
    flags: u32,
    rare: Rare,
    has_xattrs: bool,
    /// Whether the file system was seen to keep a time as it was set.
    keeps_times: bool,
}

impl Fresh {
    pub(super) fn of(file: &File, mode: u32) -> io::Result<Fresh> {
        Ok(Fresh {
            mode,
            is: stat_of(file)?.attributes,
            flags: flags_of(file)?,
            rare: rare_of(file)?,
            has_xattrs: !xattrs_of(file)?.is_empty(),
            keeps_times: false,
        })
    }

    /// Sets flags, project and hints of a file that is empty.
    pub(super) fn set_flags(&self, file: &File, wanted: &Attributes, limits: &Limits) -> io::Result<()> {
        if self.rare != wanted.rare {
            attributes::set_rare(file, wanted.rare, limits)?;
        }
        let flags = wanted.flags & !attributes::PROTECTIVE;
        if self.flags == flags & !limits.flags { Ok(()) } else { attributes::set_flags(file, flags, limits) }
    }

    /// Sets everything of a file with nothing but data, if only its time is to be set. False where more is.
    pub(super) fn set_time_alone(
        &mut self,
        entry: &Entry,
        wanted: &Attributes,
        xattrs: Option<&[Xattr]>,
        limits: &Limits,
    ) -> io::Result<bool> {
        let access = |a: &Attributes| (a.uid, a.gid, a.mode);
        let is_bare = !self.has_xattrs && xattrs.is_none_or(<[Xattr]>::is_empty);
        if !is_bare || access(&self.is) != access(wanted) {
            return Ok(false);
        }
        if self.keeps_times {
            return entry.set_kept_time(wanted).map(|()| true);
        }
        let is_kept = entry.set_time(wanted);
        self.keeps_times = matches!(is_kept, Ok(true));
        tolerate(is_kept.map(drop), limits.mtime).map(|()| true)
    }
}

/// Whether a file has no flags, project or extended attributes.
pub(super) fn is_bare(file: &File) -> io::Result<bool> {
    Ok(flags_of(file)? == 0 && rare_of(file)? == Rare::default() && xattrs_of(file)?.is_empty())
}
