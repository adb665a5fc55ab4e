//! What the times of a file system prove: measured on a throw-away file, and asked of a file that is read.

use crate::btrfs;
use crate::entry::stat_of;
use crate::fs::FileSystem;
use rustix::fs::{
    Mode, OFlags, StatxFlags, Timespec, Timestamps, fstat, futimens, major, minor, openat, statx,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

const SECOND: i64 = 1_000_000_000;
/// Longer than a tick of any kernel's clock, and than the times of Btrfs stand still.
const TICK: i64 = 100_000_000;
const F_SETSIG: i32 = 10;
/// A time in the past, in seconds since 1970.
const PAST: i64 = 981_173_106;

/// File systems on which others write where this kernel does not see it, or that put together times which
/// they do not keep. Nothing that is measured here and now shows that. All others are measured.
const UNSURE: &[u64] = &[
    0x6573_5546, // FUSE
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x517b,      // SMB
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x0bd0_0bd0, // Lustre
    0x5346_414f, // AFS
    0x6b41_4653, // kAFS
    0x7375_7245, // Coda
    0x7461_636f, // OCFS2
    0x0116_1970, // GFS2
    0x786f_4256, // VirtualBox
    0x4d44,      // FAT
    0x2011_bab0, // exFAT
];

/// What change times tell on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For how long after a change another one may get the same time, in ns.
    pub grain: i64,
    /// Why a change need not leave a new change time at all.
    pub doubt: Option<&'static str>,
}

impl Times {
    /// Measures those of the file system that `dir` is on, with a file in it that is gone afterwards.
    pub fn measure(dir: impl AsFd, filesystem: FileSystem) -> io::Result<Times> {
        if UNSURE.contains(&filesystem.magic) {
            let doubt = Some("others may write there unseen, or times are not kept");
            return Ok(Times { grain: 2 * SECOND + TICK, doubt });
        }
        let probe = Probe::make(dir.as_fd())?;
        let grain = grain(&probe.file)?;
        let doubt = if is_copied(&probe.file)? {
            Some("the change time is the modification time again")
        } else if !maps_are_told(&probe.file)? {
            Some("who writes through a memory map leaves no time")
        } else {
            None
        };
        Ok(Times { grain, doubt })
    }
}

/// A file without a name, or with one where there are none without.
struct Probe<'a> {
    file: File,
    named: Option<(std::os::fd::BorrowedFd<'a>, String)>,
}

impl<'a> Probe<'a> {
    fn make(dir: std::os::fd::BorrowedFd<'a>) -> io::Result<Probe<'a>> {
        let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        if let Ok(file) = openat(dir, ".", flags | OFlags::TMPFILE, mode) {
            return Ok(Probe { file: file.into(), named: None });
        }
        let name = format!("probe-{}", std::process::id());
        let file = openat(dir, &name, flags | OFlags::CREATE | OFlags::NOFOLLOW, mode)?.into();
        Ok(Probe { file, named: Some((dir, name)) })
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some((dir, name)) = &self.named {
            let _ = rustix::fs::unlinkat(dir, name, rustix::fs::AtFlags::empty());
        }
    }
}

/// One second may stand for the one after it as well.
fn grain(file: &File) -> io::Result<i64> {
    for _ in 0..4 {
        set_past(file)?;
        if stat_of(file)?.ctime % SECOND != 0 {
            return Ok(TICK);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(2 * SECOND + TICK)
}

/// Whether the change time follows a modification time that is set.
fn is_copied(file: &File) -> io::Result<bool> {
    set_past(file)?;
    let ctime = stat_of(file)?.ctime;
    Ok(ctime < (PAST + 24 * 3600) * SECOND)
}

fn set_past(file: &File) -> io::Result<()> {
    let past = Timespec { tv_sec: PAST, tv_nsec: 0 };
    Ok(futimens(file, &Timestamps { last_access: past, last_modification: past })?)
}

/// Whether a store through a memory map leaves a time, also the second one to a page, after the first is on
/// its way to the disk.
fn maps_are_told(file: &File) -> io::Result<bool> {
    file.write_all_at(&[1; 4096], 0)?;
    let Some(map) = Map::of(file) else { return Ok(true) };
    map.store(2);
    // SAFETY: no memory is involved.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, 7) };
    set_past(file)?;
    map.store(3);
    Ok(file.metadata()?.mtime() != PAST)
}

/// The first page of a file.
struct Map(*mut libc::c_void);

impl Map {
    /// None where files cannot be mapped for writing.
    fn of(file: &File) -> Option<Map> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at no address of ours.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0) };
        (at != libc::MAP_FAILED).then_some(Map(at))
    }

    fn store(&self, value: u8) {
        // SAFETY: the page is mapped for writing until this is dropped, and the file has it whole: nobody
        // else knows it.
        unsafe { self.0.cast::<u8>().write_volatile(value) };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, with this length, and by nobody else.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

/// File systems that number inodes as they come to see them.
const UNNUMBERED: &[u64] = &[0x4d44, 0x2011_bab0];
const FUSE: u64 = 0x6573_5546;
const OVERLAY: u64 = 0x794c_7630;

/// Whether the numbers of inodes stay theirs. What runs outside the kernel shows that by birth times alone,
/// which go with numbers that it keeps.
pub fn has_stable_numbers(fd: impl AsFd, filesystem: FileSystem) -> io::Result<bool> {
    let has_birth = stat_of(fd)?.generation != 0;
    Ok(!UNNUMBERED.contains(&filesystem.magic) && (has_birth || filesystem.magic != FUSE))
}

/// Whether an inode is known by its number and its birth time for as long as it is there. What is in a lower
/// layer gets another birth time when it is copied up, and may get another number.
pub fn has_lasting_identity(fd: impl AsFd, filesystem: FileSystem) -> io::Result<bool> {
    Ok(filesystem.magic != OVERLAY && has_stable_numbers(fd, filesystem)?)
}

/// Whether somebody may have the file open or mapped for writing, as seen from one that is open for reading
/// alone: a write that has begun goes on under the time at which it did. Where that cannot be asked, somebody
/// may.
pub fn may_be_written(file: &File) -> bool {
    hold_still(file).is_none()
}

/// While it is held, whoever opens the file for writing waits, or is told to come again.
#[derive(Debug)]
pub struct Lease<'a>(&'a File);

/// A lease on a file that is open for reading alone; None where somebody may have it open or mapped for
/// writing.
pub fn hold_still(file: &File) -> Option<Lease<'_>> {
    let lease = Lease(file);
    // SAFETY: numbers alone. A lease is not given while the file is open for writing; whoever opens it until
    // it is given back waits for that, and the kernel tells us so by a signal, of which this one does
    // nothing.
    let is_free = unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    is_free.then_some(lease)
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // SAFETY: numbers alone.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

/// Tells apart each time that the file system of `fd` was mounted: never two as one, at worst one as two.
pub fn mounting(fd: impl AsFd) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let number = match shown(&fd) {
        // Made when it is mounted, with a number that no other gets until the machine is started again.
        Some(ino) => ino.to_string(),
        None => format!("mount {}", unique_mount(&fd)?),
    };
    Some(format!("{}/{number}", boot.trim()))
}

/// The number of the directory in which the kernel shows a mounted file system, where it does.
fn shown(fd: impl AsFd) -> Option<u64> {
    let number = |path: &Path| std::fs::metadata(path).map(|found| found.ino()).ok();
    let device = fstat(&fd).ok()?.st_dev;
    let link = std::fs::read_link(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let name = link.ok().and_then(|link| link.file_name().map(OsStr::to_owned));
    let kinds = std::fs::read_dir("/sys/fs").ok()?.flatten().map(|kind| kind.path());
    if let Some(name) = name {
        return kinds.filter(|kind| !kind.ends_with("btrfs")).find_map(|kind| number(&kind.join(&name)));
    }
    let id = btrfs::filesystem_id(&fd).ok()?;
    number(&Path::new("/sys/fs/btrfs").join(uuid_text(id)))
}

fn uuid_text(id: u128) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(id.to_ne_bytes()));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// No other mount gets this number until the machine is started again. Takes Linux 6.8.
fn unique_mount(fd: impl AsFd) -> Option<u64> {
    let unique = StatxFlags::from_bits_retain(0x4000);
    let stat = statx(fd, "", rustix::fs::AtFlags::EMPTY_PATH, unique).ok()?;
    (stat.stx_mask & unique.bits() != 0).then_some(stat.stx_mnt_id)
}
