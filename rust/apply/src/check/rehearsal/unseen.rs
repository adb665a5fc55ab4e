//! Trials that leave no trace: on files that have no name, and by the rules of file systems where only a name
//! would show it.

use rustix::fs::{Mode, OFlags, openat};
use snapsync_model::{Kind, Rare, Xattr};
use snapsync_sys::{FileSystem, PROJECT_INHERIT, filesystem, read_dir, stat_at, traits_of};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// Inode flags and hints that only directories have.
const DIRECTORY_SYNC: u32 = 0x0001_0000;
const TOP_OF_TREES: u32 = 0x0002_0000;
const FOR_DIRECTORIES: u32 = DIRECTORY_SYNC | TOP_OF_TREES | PROJECT_INHERIT;
const NO_SYMLINKS: u32 = 0x0400;
const EXTENT_SIZE_OF_FILES: u32 = 0x0800;
const EXTENT_SIZE_INHERITED: u32 = 0x1000;
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// The longest target of a symbolic link on XFS; elsewhere a path of the system is the limit.
const XFS_LINK: usize = 1024;
/// The most names of a file.
const EXT4_NAMES: u64 = 65_000;
const BTRFS_NAMES: u64 = 65_535;

/// The file system of such trials, and the names that come into directories which fold them.
pub(super) struct Unseen {
    magic: u64,
    pub(super) folds: bool,
    beside: HashMap<u64, HashMap<String, Box<[u8]>>>,
}

impl Unseen {
    /// None where a file has to have a name.
    pub(super) fn of(dir: impl AsFd) -> io::Result<Option<Unseen>> {
        if without_name(&dir).is_err() {
            return Ok(None);
        }
        let (magic, folds) = (filesystem(&dir)?.magic, traits_of(&dir).folds || finds_other_case(&dir)?);
        Ok(Some(Unseen { magic, folds, beside: HashMap::new() }))
    }

    /// What of the flags of a directory a file can try; None if the file system keeps some of them on none.
    pub(super) fn flags_to_try(&self, flags: u32) -> Option<u32> {
        let kept = match self.magic {
            FileSystem::EXT4 => FOR_DIRECTORIES,
            FileSystem::BTRFS => DIRECTORY_SYNC,
            FileSystem::XFS => PROJECT_INHERIT,
            _ => 0,
        };
        (flags & FOR_DIRECTORIES & !kept == 0).then_some(flags & !FOR_DIRECTORIES)
    }

    /// The same hints of a directory as a file has them.
    pub(super) fn rare_to_try(rare: Rare) -> Rare {
        let inherited = rare.xflags & EXTENT_SIZE_INHERITED != 0;
        let of_files = if inherited { EXTENT_SIZE_OF_FILES } else { 0 };
        Rare { xflags: rare.xflags & !(EXTENT_SIZE_INHERITED | NO_SYMLINKS) | of_files, ..rare }
    }

    /// A file has no list for what comes into it, but another of the same form.
    pub(super) fn name_to_try(kind: Kind, name: &[u8]) -> &[u8] {
        if kind == Kind::Directory && *name == *DEFAULT_ACL { ACCESS_ACL } else { name }
    }

    pub(super) fn together_to_try(xattrs: &[Xattr]) -> Vec<Xattr> {
        xattrs.iter().filter(|xattr| *xattr.name != *DEFAULT_ACL).cloned().collect()
    }

    pub(super) fn link(&self, target: &[u8]) -> io::Result<()> {
        let is_longer = self.magic == FileSystem::XFS && target.len() > XFS_LINK;
        if is_longer { Err(rustix::io::Errno::NAMETOOLONG.into()) } else { Ok(()) }
    }

    /// The most names that a file can have, if fewer are wanted by no one.
    pub(super) fn most_names(&self) -> u64 {
        match self.magic {
            FileSystem::EXT4 => EXT4_NAMES,
            FileSystem::BTRFS => BTRFS_NAMES,
            _ => u64::MAX,
        }
    }

    /// Whether a name can be looked for, which a file system refuses where it holds none like it.
    pub(super) fn holds_name(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
        match stat_at(dir, OsStr::from_bytes(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The other name that comes into the same directory and is taken for this one.
    pub(super) fn other(&mut self, parent: u64, name: &[u8]) -> Option<Box<[u8]>> {
        let folded = String::from_utf8_lossy(name).to_lowercase();
        let known = self.beside.entry(parent).or_default();
        match known.get(&folded) {
            Some(other) if **other != *name => Some(other.clone()),
            _ => {
                known.insert(folded, name.into());
                None
            }
        }
    }
}

/// A file that goes when it is closed, and that nobody finds.
pub(super) fn without_name(dir: impl AsFd) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(dir, ".", flags, Mode::from_raw_mode(0o600))?.into())
}

/// Whether something in a directory is found under its name in the other case.
fn finds_other_case(dir: impl AsFd) -> io::Result<bool> {
    let listed = read_dir(openat(&dir, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
    let Some(entry) = listed.iter().find(|entry| entry.name.iter().any(u8::is_ascii_alphabetic)) else {
        return Ok(false);
    };
    let swap = |byte: &u8| {
        if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
    };
    let swapped: Vec<u8> = entry.name.iter().map(swap).collect();
    let ino_of = |name: &[u8]| stat_at(&dir, OsStr::from_bytes(name)).ok().map(|stat| stat.ino);
    Ok(ino_of(&swapped).is_some_and(|found| Some(found) == ino_of(&entry.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_alone_meet_in_one_directory() {
        let mut unseen = Unseen { magic: FileSystem::EXT4, folds: true, beside: HashMap::new() };
        assert_eq!(unseen.other(1, b"Name"), None);
        assert_eq!(unseen.other(1, b"Name"), None);
        assert_eq!(unseen.other(2, b"nAME"), None);
        assert_eq!(unseen.other(1, b"nAME").as_deref(), Some(&b"Name"[..]));
    }

    #[test]
    fn a_file_tries_what_of_a_directory_it_can() {
        let on = |magic| Unseen { magic, folds: false, beside: HashMap::new() };
        assert_eq!(on(FileSystem::EXT4).flags_to_try(TOP_OF_TREES | 0x10), Some(0x10));
        assert_eq!(on(FileSystem::XFS).flags_to_try(TOP_OF_TREES | 0x10), None);
        let hint = Rare { xflags: EXTENT_SIZE_INHERITED, extent_size: 65_536, ..Rare::default() };
        assert_eq!(Unseen::rare_to_try(hint).xflags, EXTENT_SIZE_OF_FILES);
    }
}
