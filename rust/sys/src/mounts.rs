//! Mounts inside a directory, and access to what lies underneath them.

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{OpenTreeFlags, open_tree};
use snapsync_model::RelPath;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const PRIVATE: u64 = 1 << 18;
/// MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV.
const GUARDED: u64 = 1 | 2 | 4;

/// A detached read-only mount of a directory, to be attached somewhere. Needs CAP_SYS_ADMIN.
pub fn read_only_view(directory: impl AsFd) -> io::Result<OwnedFd> {
    let mount = copy_of(directory)?;
    set_attributes(&mount, GUARDED)?;
    Ok(mount)
}

fn copy_of(directory: impl AsFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(directory, "", flags)?)
}

/// Mounts made elsewhere are not propagated to it from now on.
fn set_attributes(mount: &OwnedFd, set: u64) -> io::Result<()> {
    let wanted = MountAttributes { set, clear: 0, propagation: PRIVATE, user_namespace: 0 };
    // SAFETY: mount_setattr(2) reads a string and a struct mount_attr of the size that is told, and writes
    // nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A directory without anything that is mounted inside it.
#[derive(Debug)]
pub(crate) struct Underneath {
    pub(crate) directory: OwnedFd,
    /// The view lasts as long as this descriptor.
    _mount: OwnedFd,
}

impl Underneath {
    /// Makes a mount of its own that nobody else sees. Needs CAP_SYS_ADMIN.
    pub(crate) fn of(directory: impl AsFd) -> io::Result<Underneath> {
        let mount = copy_of(directory)?;
        // If this fails, later mounts become visible, and every walk notices them.
        let _ = set_attributes(&mount, 0);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&mount, ".", flags, Mode::empty())?;
        Ok(Underneath { directory, _mount: mount })
    }
}

/// The sorted paths in the directory at `path` where something is mounted, without mounts inside other
/// mounts.
pub fn mounts_beneath(path: &Path) -> io::Result<Vec<RelPath>> {
    let path = std::fs::canonicalize(path)?;
    Ok(beneath(&path, &std::fs::read("/proc/self/mountinfo")?))
}

fn beneath(path: &Path, table: &[u8]) -> Vec<RelPath> {
    let below = |mount: Mount| {
        let below = mount.point.strip_prefix(path).ok()?;
        RelPath::new(below.as_os_str().as_bytes()).ok().filter(|below| !below.is_root())
    };
    let mut found: Vec<RelPath> = mounts_of(table).filter_map(below).collect();
    // A mount inside another comes just after it. There may be thousands.
    found.sort_unstable_by(|one, other| one.as_path().cmp(other.as_path()));
    found.dedup_by(|one, outer| one.as_path().starts_with(outer.as_path()));
    found.sort_unstable();
    found
}

/// A line of the table of mounts.
pub(crate) struct Mount {
    /// The type of its file system.
    pub(crate) kind: Vec<u8>,
    /// The directory of the file system that it shows.
    pub(crate) root: PathBuf,
    pub(crate) point: PathBuf,
}

/// The mounts that this process can see.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    Ok(mounts_of(&std::fs::read("/proc/self/mountinfo")?).collect())
}

/// See proc_pid_mountinfo(5) for the format.
fn mounts_of(table: &[u8]) -> impl Iterator<Item = Mount> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(3);
        let mut path = || fields.next().map(|field| PathBuf::from(OsString::from_vec(unescaped(field))));
        let (root, point) = (path()?, path()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default().to_vec();
        Some(Mount { kind, root, point })
    })
}

/// The user who mounted a FUSE file system, if that is reported.
pub(crate) fn owner_of_mount(number: u64) -> io::Result<Option<u32>> {
    Ok(owner_in(&std::fs::read("/proc/self/mountinfo")?, number))
}

fn owner_in(table: &[u8], number: u64) -> Option<u32> {
    let number = number.to_string();
    let fields =
        |line: &'_ [u8]| -> Vec<Vec<u8>> { line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect() };
    let line = table
        .split(|byte| *byte == b'\n')
        .map(fields)
        .find(|fields| fields.first().is_some_and(|first| *first == number.as_bytes()))?;
    let mut options = line.last()?.split(|byte| *byte == b',');
    let user = options.find_map(|option| option.strip_prefix(b"user_id="))?;
    std::str::from_utf8(user).ok()?.parse().ok()
}

/// Decodes white space and backslashes, which are written as three octal digits.
pub(crate) fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut parts = field.split(|byte| *byte == b'\\');
    let mut plain = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(part.len().min(3));
        let value = digits
            .iter()
            .fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit.wrapping_sub(b'0')));
        plain.push(value);
        plain.extend_from_slice(rest);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_a_mount_is_told() {
        let table = b"36 35 98:0 / /a rw - ext4 /dev/x rw,user_id=7x\n40 35 0:50 / /b rw - fuse.x x \
            rw,user_id=1000,group_id=5\n";
        assert_eq!([36, 40, 4].map(|number| owner_in(table, number)), [None, Some(1000), None]);
    }

    #[test]
    fn only_the_outermost_mounts_are_told_whatever_their_names() {
        let line = |place: &str| format!("36 35 98:0 / {place} rw,noatime shared:1 - ext4 /dev/x rw\n");
        let places = ["/", "/v", "/v/a", "/v/a", "/v/a/b", "/v/a-b", "/v/two\\040words", "/vv/c", "/v/d/e/f"];
        let mounts: String = places.map(line).concat();
        let found = beneath(Path::new("/v"), mounts.as_bytes());
        let wanted = ["a", "a-b", "d/e/f", "two words"].map(|p| RelPath::new(p.as_bytes()).unwrap());
        assert_eq!(found, wanted);
        assert!(
            mounts_of(mounts.as_bytes()).all(|mount| mount.kind == b"ext4" && mount.root == Path::new("/"))
        );
    }
}
