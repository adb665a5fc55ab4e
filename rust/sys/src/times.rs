//! What the times of a file system prove: measured on a temporary file, and checked on a file that is read.

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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECOND: i64 = 1_000_000_000;
/// Longer than a clock tick of any kernel, and than the time for which times of Btrfs stay the same.
const TICK: i64 = 100_000_000;
const F_SETSIG: i32 = 10;
/// A time in the past, in seconds since 1970.
const PAST: i64 = 981_173_106;

/// File systems on which others may write unseen by this kernel, or which invent times that they do not keep.
/// No local measurement can show that. All others are measured.
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

/// How reliable change times are on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The time after a change, in ns, within which another change may get the same time.
    pub grain: i64,
    /// Why a change may not set a new change time at all.
    pub doubt: Option<&'static str>,
}

impl Times {
    /// Measures the file system that `dir` is on, with a temporary file.
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

    /// The time, in ns since 1970, from which on the changes to come have their change times.
    ///
    /// The clock of a file system is one for all files: from now on none is changed at an earlier time than
    /// the one that is changed here. A whole second may be told too early, and Btrfs is not relied on for
    /// that: there it is the time a grain ago.
    pub fn of_changes_to_come(self, dir: impl AsFd, filesystem: FileSystem) -> io::Result<i64> {
        if self.is_fine(filesystem) { touch(&Probe::make(dir.as_fd())?.file) } else { Ok(now() - self.grain) }
    }

    /// The same, once all changes before have earlier times: waits until the clock has moved on.
    pub fn once_all_are_earlier(self, dir: impl AsFd, filesystem: FileSystem) -> io::Result<i64> {
        let grain = Duration::from_nanos(self.grain.unsigned_abs());
        if !self.is_fine(filesystem) {
            std::thread::sleep(grain);
            return Ok(now() - self.grain);
        }
        let (probe, until) = (Probe::make(dir.as_fd())?, Instant::now() + grain);
        let first = touch(&probe.file)?;
        while Instant::now() < until {
            let next = touch(&probe.file)?;
            if next > first {
                return Ok(next);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // It was set back.
        Ok(first)
    }

    fn is_fine(self, filesystem: FileSystem) -> bool {
        self.grain == TICK && filesystem.magic != FileSystem::BTRFS
    }
}

/// A file without a name, or with one if the file system needs that.
pub(crate) struct Probe<'a> {
    pub(crate) file: File,
    named: Option<(std::os::fd::BorrowedFd<'a>, String)>,
}

impl<'a> Probe<'a> {
    pub(crate) fn make(dir: std::os::fd::BorrowedFd<'a>) -> io::Result<Probe<'a>> {
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

/// A whole second may also stand for the next one.
fn grain(file: &File) -> io::Result<i64> {
    for _ in 0..4 {
        if touch(file)? % SECOND != 0 {
            return Ok(TICK);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    Ok(2 * SECOND + TICK)
}

/// Whether the change time follows a modification time that is set.
fn is_copied(file: &File) -> io::Result<bool> {
    Ok(touch(file)? < (PAST + 24 * 3600) * SECOND)
}

/// In ns since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Changes a file, and returns the change time that it has of that.
fn touch(file: &File) -> io::Result<i64> {
    set_past(file)?;
    Ok(stat_of(file)?.ctime)
}

fn set_past(file: &File) -> io::Result<()> {
    let past = Timespec { tv_sec: PAST, tv_nsec: 0 };
    Ok(futimens(file, &Timestamps { last_access: past, last_modification: past })?)
}

/// Whether a store through a memory map updates the time, also a second store to the same page after the
/// first is on its way to the disk.
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

/// The first page of a file, mapped.
struct Map(*mut libc::c_void);

impl Map {
    /// None if files cannot be mapped for writing.
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

/// File systems that assign inode numbers only in memory.
const UNNUMBERED: &[u64] = &[0x4d44, 0x2011_bab0];
const FUSE: u64 = 0x6573_5546;
const OVERLAY: u64 = 0x794c_7630;

/// Whether inode numbers are permanent. From outside the kernel only birth times show that: they go with
/// numbers that are kept.
pub fn has_stable_numbers(fd: impl AsFd, filesystem: FileSystem) -> io::Result<bool> {
    let has_birth = stat_of(fd)?.generation != 0;
    Ok(!UNNUMBERED.contains(&filesystem.magic) && (has_birth || filesystem.magic != FUSE))
}

/// Whether number and birth time identify an inode for as long as it exists. In an overlay, a file of a lower
/// layer gets another birth time, and perhaps another number, when it is copied up.
pub fn has_lasting_identity(fd: impl AsFd, filesystem: FileSystem) -> io::Result<bool> {
    Ok(filesystem.magic != OVERLAY && has_stable_numbers(fd, filesystem)?)
}

/// Whether somebody may have the file open or mapped for writing; `file` must be open for reading only. A
/// write keeps the time at which it began. Returns true if there is no way to ask.
pub fn may_be_written(file: &File) -> bool {
    hold_still(file).is_none()
}

/// A lease on a file. While it is held, nobody else can open the file for writing: they wait or get an error.
#[derive(Debug)]
pub struct Lease<'a>(&'a File);

/// Takes a lease on a file that is open only for reading. Returns None if somebody may have it open or mapped
/// for writing.
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

/// Identifies one mounting of the file system of `fd`: two mountings never get the same value, but one may
/// get two.
pub fn mounting(fd: impl AsFd) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let number = match shown(&fd) {
        // The kernel creates this directory at the mounting, with a number that is unique until it restarts.
        Some(ino) => ino.to_string(),
        None => format!("mount {}", unique_mount(&fd)?),
    };
    Some(format!("{}/{number}", boot.trim()))
}

/// The inode number of the directory under /sys that shows a mounted file system, if there is one.
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

/// The number of the mount, unique until the kernel restarts. Needs Linux 6.8.
fn unique_mount(fd: impl AsFd) -> Option<u64> {
    let unique = StatxFlags::from_bits_retain(0x4000);
    let stat = statx(fd, "", rustix::fs::AtFlags::EMPTY_PATH, unique).ok()?;
    (stat.stx_mask & unique.bits() != 0).then_some(stat.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::filesystem;

    #[test]
    fn no_change_to_come_has_the_time_of_one_before() {
        let home = tempfile::tempdir().unwrap();
        let dir = File::open(home.path()).unwrap();
        let kind = filesystem(&dir).unwrap();
        let fine = Times { grain: TICK, doubt: None };
        let coarse = Times { grain: TICK + 1, ..fine };
        for times in std::iter::repeat_n(fine, 300).chain([coarse]) {
            let [before, since] =
                ["before", "since"].map(|name| File::create(home.path().join(name)).unwrap());
            before.write_all_at(b"x", 0).unwrap();
            let next = times.once_all_are_earlier(&dir, kind).unwrap();
            let same = times.of_changes_to_come(&dir, kind).unwrap();
            since.write_all_at(b"x", 0).unwrap();
            assert!(stat_of(&before).unwrap().ctime < next);
            assert!(next <= same && same <= stat_of(&since).unwrap().ctime);
        }
    }
}
