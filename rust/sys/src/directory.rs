//! Properties of directories that affect the names and entries put into them.

use crate::attributes::{FsXattr, all_flags, set_all_flags};
use crate::entry::Entry;
use crate::flags::{CASEFOLD, PROJECT_INHERIT};
use rustix::fs::OFlags;
use snapsync_model::Kind;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

const ENCRYPT: u32 = 0x800;

/// The size of the first version of `struct file_attr`.
const FILE_ATTRIBUTES: usize = 24;
const SYS_FILE_GETATTR: libc::c_long = 468;
const SYS_FILE_SETATTR: libc::c_long = 469;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// It accepts only entries that are encrypted with the same key.
    pub encrypts: bool,
    /// Names that differ only in case are the same name.
    pub folds: bool,
    /// New entries get its project, and entries of other projects are refused.
    pub inherits: bool,
}

impl Traits {
    pub fn any(self) -> bool {
        self != Traits::default()
    }
}

/// The traits of a directory; none set if the file system has no such thing.
pub fn traits_of(dir: impl AsFd) -> Traits {
    let flags = all_flags(dir).unwrap_or(0);
    Traits {
        encrypts: flags & ENCRYPT != 0,
        folds: flags & CASEFOLD != 0,
        inherits: flags & PROJECT_INHERIT != 0,
    }
}

/// Makes an empty directory ignore the case of names.
pub fn fold_names_in(dir: impl AsFd) -> io::Result<()> {
    let now = all_flags(&dir)?;
    set_all_flags(dir, now | CASEFOLD)
}

/// Makes an empty directory distinguish case, if the directory above does not.
pub fn tell_names_apart_in(dir: impl AsFd) {
    if let Ok(now) = all_flags(&dir)
        && now & CASEFOLD != 0
    {
        // If this fails, trying the names shows what that means.
        let _ = set_all_flags(&dir, now & !CASEFOLD);
    }
}

/// Makes new entries of a directory inherit the project of another.
pub fn inherit_from(dir: &Entry, other: &Entry) -> io::Result<()> {
    set_project(dir, project(other)?)?;
    let file = dir.open(OFlags::RDONLY)?;
    let now = all_flags(&file)?;
    set_all_flags(&file, now | PROJECT_INHERIT)
}

/// `struct file_attr`.
#[repr(C)]
#[derive(Default)]
struct FileAttributes {
    xflags: u64,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
}

fn is_openable(entry: &Entry) -> io::Result<bool> {
    Ok(matches!(entry.stat()?.kind, Kind::File | Kind::Directory))
}

/// The project whose quota an entry counts for.
pub(crate) fn project(entry: &Entry) -> io::Result<u32> {
    if !is_openable(entry)? {
        return Ok(attributes(entry)?.project);
    }
    Ok(FsXattr::of(entry.open(OFlags::RDONLY)?)?.project)
}

pub(crate) fn set_project(entry: &Entry, project: u32) -> io::Result<()> {
    if !is_openable(entry)? {
        let wanted = FileAttributes { project, ..attributes(entry)? };
        return call(SYS_FILE_SETATTR, entry, (&raw const wanted).cast_mut());
    }
    let file = entry.open(OFlags::RDONLY)?;
    FsXattr { project, ..FsXattr::of(&file)? }.set(&file)
}

/// The attributes of an entry that cannot be opened.
fn attributes(entry: &Entry) -> io::Result<FileAttributes> {
    let mut found = FileAttributes::default();
    call(SYS_FILE_GETATTR, entry, &raw mut found)?;
    Ok(found)
}

fn call(number: libc::c_long, entry: &Entry, attributes: *mut FileAttributes) -> io::Result<()> {
    let fd = entry.fd().as_raw_fd();
    // SAFETY: both calls take a descriptor, a path that ends with NUL, a struct file_attr that lives and its
    // size.
    let result =
        unsafe { libc::syscall(number, fd, c"".as_ptr(), attributes, FILE_ATTRIBUTES, libc::AT_EMPTY_PATH) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs `act`, which moves the entry `name` of `dir` into the directory `to`. A directory with project
/// inheritance refuses entries of other projects, so the entry gets the directory's project meanwhile.
pub(crate) fn across_projects(
    dir: impl AsFd,
    name: &OsStr,
    to: impl AsFd,
    act: &dyn Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let refused = match act() {
        Err(e) if e == rustix::io::Errno::XDEV => e,
        other => return other,
    };
    let attempt = || -> io::Result<(Entry, u32)> {
        let (entry, to) = (Entry::at(dir, name)?, Entry::at(to, OsStr::new("."))?);
        let (own, other) = (project(&entry)?, project(&to)?);
        if own == other {
            return Err(refused.into());
        }
        set_project(&entry, other)?;
        Ok((entry, own))
    };
    let (entry, own) = attempt().map_err(|_| refused)?;
    let done = act();
    // If this fails, the entry is complete but counts for the other project's quota.
    let _ = set_project(&entry, own);
    done
}
