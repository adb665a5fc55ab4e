//! One file, directory, link or device, held by a descriptor, and its attributes.

use crate::acl;
use crate::flags::{APPEND, IMMUTABLE, NODUMP};
use crate::fs::{FileSystem, filesystem};
use rustix::fs::{
    Access, AtFlags, FileType, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    mknodat, openat, statx, utimensat,
};
use rustix::io::Errno;
use snapsync_model::{Attributes, Kind, Rare, Xattr, ns_of};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// `STATX_ATTR_ENCRYPTED`.
const ENCRYPTED: u64 = 0x800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub dev: (u32, u32),
    pub mount: u64,
    pub ino: u64,
    /// The birth time in ns; 0 if the file system keeps none.
    pub generation: u64,
    pub kind: Kind,
    /// `flags` holds only those that `statx` reports: immutable, append-only, no-dump.
    pub attributes: Attributes,
    pub ctime: i64,
    pub nlink: u32,
    pub blocks: u64,
    /// Whether the file system encrypts it.
    pub encrypted: bool,
}

impl Stat {
    /// Whether both describe the same inode: the number alone may have been reused.
    pub fn is_same_inode(&self, other: &Stat) -> bool {
        let identity = |stat: &Stat| (stat.dev, stat.ino, stat.generation, stat.kind);
        identity(self) == identity(other)
    }
}

pub fn stat_at(dir: impl AsFd, name: &OsStr) -> io::Result<Stat> {
    stat_with(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The attributes of what a descriptor holds, also if it is an `O_PATH` one.
pub fn stat_of(fd: impl AsFd) -> io::Result<Stat> {
    stat_with(fd, OsStr::new(""), AtFlags::EMPTY_PATH)
}

fn stat_with(dir: impl AsFd, name: &OsStr, at: AtFlags) -> io::Result<Stat> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let stat = statx(dir, name, at | AtFlags::NO_AUTOMOUNT, wanted)?;
    let kind = Kind::from_mode(u32::from(stat.stx_mode)).ok_or(io::ErrorKind::Unsupported)?;
    let (mtime, far_second) = ns_of(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    let (ctime, _) = ns_of(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
    let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let (birth, _) = ns_of(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Ok(Stat {
        dev: (stat.stx_dev_major, stat.stx_dev_minor),
        mount: stat.stx_mnt_id,
        ino: stat.stx_ino,
        generation: if has_birth { birth as u64 } else { 0 },
        kind,
        attributes: Attributes {
            size: if matches!(kind, Kind::File | Kind::Symlink) { stat.stx_size } else { 0 },
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: if is_device { rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor) } else { 0 },
            mtime,
            far_second,
            flags: flags_from_statx(stat.stx_attributes.bits()),
            rare: Rare::default(),
        },
        ctime,
        nlink: stat.stx_nlink,
        blocks: stat.stx_blocks,
        encrypted: stat.stx_attributes.bits() & ENCRYPTED != 0,
    })
}

/// The bits of `stx_attributes` have the same values as the corresponding flags.
fn flags_from_statx(bits: u64) -> u32 {
    bits as u32 & (IMMUTABLE | APPEND | NODUMP)
}

/// As an access time: it stays what it is.
const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT as i32 as i64 };

fn timespec(attributes: &Attributes) -> Timespec {
    let (time, billion) = (attributes.time(), 1_000_000_000);
    Timespec { tv_sec: time.div_euclid(billion) as i64, tv_nsec: time.rem_euclid(billion) as i64 }
}

/// An attribute that a target may be unable to hold.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    Owner,
    Mode,
    Time,
    Xattr(&'a Xattr),
}

/// An inode held by an `O_PATH` descriptor, or by one that was open already.
#[derive(Debug)]
pub struct Entry {
    fd: OwnedFd,
    open: bool,
}

impl Entry {
    pub(crate) fn from_path_fd(fd: OwnedFd) -> Entry {
        Entry { fd, open: false }
    }

    pub fn from_open(file: impl Into<OwnedFd>) -> Entry {
        Entry { fd: file.into(), open: true }
    }

    /// The entry `name` of `dir` itself, without following a link. `name` must be a single name.
    pub fn at(dir: impl AsFd, name: &OsStr) -> io::Result<Entry> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Entry::from_path_fd(openat(dir, name, flags, Mode::empty())?))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn stat(&self) -> io::Result<Stat> {
        stat_of(&self.fd)
    }

    /// Opens exactly the inode that this entry holds. Only for files and directories: opening a fifo would
    /// wait for its other end, and opening a device might act on it. Waits for the holder of a lease, to whom
    /// the kernel gives at most `/proc/sys/fs/lease-break-time`; nobody gets a new lease meanwhile.
    pub fn open(&self, flags: OFlags) -> io::Result<File> {
        let open = |more| rustix::fs::open(self.proc_path(), flags | OFlags::CLOEXEC | more, Mode::empty());
        match open(OFlags::NONBLOCK) {
            Err(Errno::WOULDBLOCK) if self.stat()?.kind == Kind::File => Ok(open(OFlags::empty())?.into()),
            other => Ok(other?.into()),
        }
    }

    /// Opens it for reading, without changing its access time if that is allowed.
    pub fn read(&self) -> io::Result<File> {
        match self.open(OFlags::RDONLY | OFlags::NOATIME) {
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => self.open(OFlags::RDONLY),
            other => other,
        }
    }

    /// Whether mode, access lists and privileges permit this access; nothing is opened.
    pub fn allows(&self, access: Access) -> bool {
        rustix::fs::accessat(rustix::fs::CWD, self.proc_path(), access, AtFlags::EACCESS).is_ok()
    }

    /// Whether this process may change attributes that only the owner may change: the kernel asks the same
    /// question before it leaves an access time unchanged. None if finding out would mean opening something
    /// that must not be opened or may not be read.
    pub fn is_owned(&self, kind: Kind) -> Option<bool> {
        if !matches!(kind, Kind::File | Kind::Directory) {
            return None;
        }
        match self.open(OFlags::RDONLY | OFlags::NOATIME).map_err(|e| e.raw_os_error()) {
            Ok(_) => Some(true),
            Err(Some(libc::EPERM)) => Some(false),
            Err(_) => None,
        }
    }

    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(chownat(&self.fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
    }

    /// Not for symlinks, whose mode cannot be changed.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        if self.open {
            return Ok(rustix::fs::fchmod(&self.fd, mode)?);
        }
        // An O_PATH descriptor cannot be changed itself, but its name under /proc leads to the inode.
        Ok(rustix::fs::chmod(self.proc_path(), mode)?)
    }

    /// Sets the modification time in ns since 1970 and leaves the access time alone.
    pub fn set_mtime(&self, mtime: i64) -> io::Result<()> {
        self.set_time(&Attributes { mtime, ..Attributes::default() }).map(drop)
    }

    /// Sets the modification time of `attributes`. Returns whether the file system keeps times as they are
    /// set: the clock never says one with nanoseconds by chance.
    pub fn set_time(&self, attributes: &Attributes) -> io::Result<bool> {
        let time = timespec(attributes);
        self.set_times(&OMIT, &time)?;
        let now = statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::ATIME | StatxFlags::MTIME)?;
        if (now.stx_mtime.tv_sec, i64::from(now.stx_mtime.tv_nsec)) != (time.tv_sec, time.tv_nsec) {
            // The file system keeps less precise times, or, as some FUSE file systems, sets none without the
            // access time.
            let last = Timespec { tv_sec: now.stx_atime.tv_sec, tv_nsec: now.stx_atime.tv_nsec.into() };
            self.set_times(&last, &time)?;
            return Ok(false);
        }
        Ok(time.tv_nsec != 0)
    }

    /// The same where `set_time` has shown that the file system keeps such times.
    pub fn set_kept_time(&self, attributes: &Attributes) -> io::Result<()> {
        self.set_times(&OMIT, &timespec(attributes))
    }

    fn set_times(&self, access: &Timespec, modification: &Timespec) -> io::Result<()> {
        let times = Timestamps { last_access: *access, last_modification: *modification };
        Ok(utimensat(&self.fd, "", &times, AtFlags::EMPTY_PATH)?)
    }

    /// All extended attributes, sorted by name.
    pub fn xattrs(&self) -> io::Result<Vec<Xattr>> {
        if self.open {
            return xattrs_of(&self.fd);
        }
        read_xattrs(
            &self.fd,
            |buffer| Ok(rustix::fs::listxattr(self.proc_path(), buffer)?),
            |name, buffer| Ok(rustix::fs::getxattr(self.proc_path(), name, buffer)?),
        )
    }

    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        if is_made_up(&self.fd, name) || is_untold(name, value) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let name = OsStr::from_bytes(name);
        Ok(rustix::fs::setxattr(self.proc_path(), name, value, XattrFlags::empty())?)
    }

    pub fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::removexattr(self.proc_path(), OsStr::from_bytes(name))?)
    }

    /// The access list; None if there is none or the file system has no lists.
    pub fn access_list(&self) -> io::Result<Option<Vec<u8>>> {
        let path = self.proc_path();
        let name = OsStr::from_bytes(acl::ACCESS);
        match grow(|buffer: &mut [u8]| Ok(rustix::fs::getxattr(&path, name, buffer)?)) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Sets everything except inode flags, in an order in which no step undoes an earlier one and no moment
    /// permits more than the end: a change of owner clears set-id bits and capabilities, and the access list
    /// sets the mode. Removes unwanted extended attributes; with None, leaves them alone. `is_lost` says
    /// whether a part that cannot be set is an announced loss.
    pub fn set_attributes(
        &self,
        kind: Kind,
        new: &Attributes,
        xattrs: Option<&[Xattr]>,
        is_lost: &dyn Fn(Part<'_>) -> bool,
    ) -> io::Result<()> {
        let now = self.stat()?.attributes;
        let changes_owner = (now.uid, now.gid) != (new.uid, new.gid);
        if changes_owner {
            self.give(kind, &now, new, is_lost)?;
        }
        let (mut mode, mut xattrs) = (new.mode, xattrs.map(Cow::Borrowed));
        if !self.has_owner_of(new, xattrs.as_deref())? {
            // Set-id bits would make the program run as another user.
            mode &= 0o1777;
            xattrs = xattrs.map(|xattrs| Cow::Owned(without_capabilities(&xattrs)));
        }
        let mut changes_mode = changes_owner || now.mode != mode;
        if let Some(xattrs) = xattrs.as_deref() {
            changes_mode |= self.set_xattrs(&acl::all_beside(xattrs, mode), is_lost)?;
            if let Some(list) = acl::access_list(xattrs)
                && self.access_list()?.is_none()
            {
                mode = acl::without(list, mode);
                changes_mode = true;
            }
        }
        if kind != Kind::Symlink && changes_mode {
            tolerate(self.set_mode(mode), is_lost(Part::Mode))?;
        }
        tolerate(self.set_time(new).map(drop), is_lost(Part::Time))
    }

    /// Whether the owner and group are those that the set-id bits and capabilities need, if there are any.
    fn has_owner_of(&self, new: &Attributes, xattrs: Option<&[Xattr]>) -> io::Result<bool> {
        let has_rights = new.mode & 0o6000 != 0 || xattrs.is_some_and(acl::has_capabilities);
        if !has_rights {
            return Ok(true);
        }
        let now = self.stat()?.attributes;
        Ok((now.uid, now.gid) == (new.uid, new.gid))
    }

    /// Changes owner and group. The new owner gets no more rights at any moment than in the end, and nobody
    /// can run one of his programs in another's name.
    fn give(
        &self,
        kind: Kind,
        now: &Attributes,
        new: &Attributes,
        is_lost: &dyn Fn(Part<'_>) -> bool,
    ) -> io::Result<()> {
        let shut = now.mode & new.mode & 0o700;
        let is_shut = kind != Kind::Symlink && shut != now.mode;
        if is_shut {
            tolerate(self.set_mode(shut), is_lost(Part::Mode))?;
        }
        let given = self.set_owner(new.uid, new.gid);
        if is_shut && given.is_err() {
            // Later steps may need the rights of an owner.
            tolerate(self.set_mode(now.mode & 0o700), is_lost(Part::Mode))?;
        }
        tolerate(given, is_lost(Part::Owner))
    }

    /// Sets the extended attributes, and returns whether the access list changed, and with it the mode. Some
    /// file systems keep all attributes in one block, so values that shrink are set first; if that is not
    /// enough, all those whose names users choose are removed first.
    pub fn set_xattrs(&self, wanted: &[Xattr], is_lost: &dyn Fn(Part<'_>) -> bool) -> io::Result<bool> {
        let before = self.access_list()?;
        let changes = before.as_deref() != acl::access_list(wanted);
        if changes && before.is_some() {
            // Without the list, its mask would become the group's rights.
            self.set_mode(self.stat()?.attributes.mode & 0o700)?;
        }
        if self.put_xattrs(wanted, is_lost, true)? {
            return Ok(changes);
        }
        for old in self.xattrs()?.iter().filter(|old| is_named_freely(&old.name)) {
            tolerate(self.remove_xattr(&old.name), true)?;
        }
        self.put_xattrs(wanted, is_lost, false)?;
        Ok(changes)
    }

    /// Returns false if `stops` is set and space ran out.
    fn put_xattrs(
        &self,
        wanted: &[Xattr],
        is_lost: &dyn Fn(Part<'_>) -> bool,
        stops: bool,
    ) -> io::Result<bool> {
        let now = self.xattrs()?;
        for old in now.iter().filter(|old| wanted.iter().all(|w| w.name != old.name)) {
            // Labels of the system cannot be removed.
            tolerate(self.remove_xattr(&old.name), true)?;
        }
        let mut changed: Vec<&Xattr> = wanted.iter().filter(|x| !now.contains(x)).collect();
        changed.sort_by_key(|x| (is_named_freely(&x.name), growth(&now, x)));
        for xattr in changed {
            match self.set_xattr(&xattr.name, &xattr.value) {
                Err(e) if stops && is_full(&e) => return Ok(false),
                set => tolerate(set, is_lost(Part::Xattr(xattr)))?,
            }
        }
        Ok(true)
    }

    pub(crate) fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

fn without_capabilities(xattrs: &[Xattr]) -> Vec<Xattr> {
    xattrs.iter().filter(|xattr| *xattr.name != *acl::CAPABILITIES).cloned().collect()
}

/// How many bytes more an extended attribute takes than before.
fn growth(now: &[Xattr], wanted: &Xattr) -> i64 {
    let size = |xattr: &Xattr| (xattr.name.len() + xattr.value.len()) as i64;
    size(wanted) - now.iter().find(|now| now.name == wanted.name).map_or(0, size)
}

/// Whether users choose the name. The system gives it no meaning, so removing it gives nobody more rights.
fn is_named_freely(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.")
}

/// Whether the inode has no space for another extended attribute.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG | libc::EDQUOT))
}

/// Ignores the failure of an announced loss, but not of a broken or read-only disk.
pub fn tolerate(result: io::Result<()>, announced: bool) -> io::Result<()> {
    match result {
        Err(e) if announced && !matches!(e.raw_os_error(), Some(libc::EIO | libc::EROFS)) => {
            let _ = e;
            Ok(())
        }
        other => other,
    }
}

/// Creates a fifo, socket or device.
pub fn make_node(dir: impl AsFd, name: &OsStr, kind: Kind, rdev: u64) -> io::Result<()> {
    let kind = FileType::from_raw_mode(kind.mode_bits());
    Ok(mknodat(dir, name, kind, Mode::from_raw_mode(0o600), rdev)?)
}

/// The extended attributes of an open file, sorted by name.
pub fn xattrs_of(file: impl AsFd) -> io::Result<Vec<Xattr>> {
    read_xattrs(
        &file,
        |buffer| Ok(rustix::fs::flistxattr(&file, buffer)?),
        |name, buffer| Ok(rustix::fs::fgetxattr(&file, name, buffer)?),
    )
}

fn read_xattrs(
    file: impl AsFd,
    list: impl Fn(&mut [u8]) -> io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> io::Result<usize>,
) -> io::Result<Vec<Xattr>> {
    let names = match grow(&list) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty() && !is_made_up(&file, name)) {
        match grow(|buffer: &mut [u8]| get(OsStr::from_bytes(name), buffer)) {
            Ok(value) => xattrs.push(Xattr { name: name.into(), value: value.into() }),
            // The attribute was removed after it was listed.
            Err(e) if e.raw_os_error() == Some(libc::ENODATA) => {}
            // It is kept on the disk but not available with these mount options, like access lists.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                xattrs.push(Xattr { name: name.into(), value: Box::default() });
            }
            Err(e) => return Err(e),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// XFS shows each access list a second time under a name of its own. Elsewhere that name is an ordinary one.
fn is_made_up(file: impl AsFd, name: &[u8]) -> bool {
    matches!(name, b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT")
        && filesystem(file).is_ok_and(|found| found.magic == FileSystem::XFS)
}

/// Whether only the existence of a value is known.
fn is_untold(name: &[u8], value: &[u8]) -> bool {
    value.is_empty() && name.starts_with(b"system.")
}

/// Most lists and values are short, so try a small buffer first, then the size that is needed.
fn grow(read: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let (mut small, mut large) = ([0; 256], Vec::new());
    loop {
        let buffer = if large.is_empty() { &mut small[..] } else { &mut large[..] };
        match read(buffer) {
            Ok(length) => return Ok(buffer[..length].to_vec()),
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buffer.len() < 1 << 20 => {
                large = vec![0; buffer.len() * 16];
            }
            Err(e) => return Err(e),
        }
    }
}

/// Whether it belongs to root or to the user of this process.
pub fn is_own(stat: &Stat) -> bool {
    let uid = stat.attributes.uid;
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}
