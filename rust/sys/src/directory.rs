//! What some directories do with the names and the entries that come to them, and others do not.

use crate::attributes::{FsXattr, all_flags, set_all_flags};
use crate::entry::Entry;
use crate::flags::{CASEFOLD, PROJECT_INHERIT};
use rustix::fs::OFlags;
use snapsync_model::Kind;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

const ENCRYPT: u32 = 0x800;

/// `struct file_attr` is of this size in its first version.
const FILE_ATTRIBUTES: usize = 24;
const SYS_FILE_GETATTR: libc::c_long = 468;
const SYS_FILE_SETATTR: libc::c_long = 469;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Nothing comes to it that is not encrypted by the same key.
    pub encrypts: bool,
    /// Names that differ in case alone are one name.
    pub folds: bool,
    /// What is made in it counts for its project, and nothing of another project comes to it.
    pub inherits: bool,
}

impl Traits {
    pub fn any(self) -> bool {
        self != Traits::default()
    }
}

/// None of them where the file system has no such thing.
pub fn traits_of(dir: impl AsFd) -> Traits {
    let flags = all_flags(dir).unwrap_or(0);
    Traits {
        encrypts: flags & ENCRYPT != 0,
        folds: flags & CASEFOLD != 0,
        inherits: flags & PROJECT_INHERIT != 0,
    }
}

/// Makes an empty directory fold names.
pub fn fold_names_in(dir: impl AsFd) -> io::Result<()> {
    let now = all_flags(&dir)?;
    set_all_flags(dir, now | CASEFOLD)
}

/// Makes an empty directory tell names apart, if the one above it does not.
pub fn tell_names_apart_in(dir: impl AsFd) {
    if let Ok(now) = all_flags(&dir)
        && now & CASEFOLD != 0
    {
        // Where it cannot be, what that means is found when names are tried.
        let _ = set_all_flags(&dir, now & !CASEFOLD);
    }
}

/// Gives what is made in a directory to the project of another.
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

/// Whose quota an entry counts for.
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

/// Of what cannot be opened.
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

/// Does what puts the entry `name` of `dir` into the directory `to`. A directory that gives its project to
/// what is made in it takes nothing of another: then the entry is of that project for as long as it takes.
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
    // Where it stays in the other, it counts for that one's quota and is whole.
    let _ = set_project(&entry, own);
    done
}
