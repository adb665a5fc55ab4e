//! Whether a file system shares or compresses blocks, and which files the system swaps to.

use crate::mounts::unescaped;
use rustix::fs::{Mode, OFlags, openat};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Device and inode number of each file that the system swaps to.
pub fn swap_files() -> io::Result<Vec<((u32, u32), u64)>> {
    let stats = swap_names()?.into_iter();
    Ok(stats
        .filter_map(|name| crate::entry::stat_at(rustix::fs::CWD, name.as_os_str()).ok())
        .map(|stat| (stat.dev, stat.ino))
        .collect())
}

/// The path of each file that the system swaps to.
pub fn swap_names() -> io::Result<Vec<PathBuf>> {
    let swaps = match std::fs::read("/proc/swaps") {
        // The kernel has no swap, or the system hides it.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Vec::new(),
        other => other?,
    };
    let names = swaps.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').next());
    let files = names.map(unescaped).filter(|name| name.first() == Some(&b'/'));
    Ok(files.map(|name| PathBuf::from(OsString::from_vec(name))).collect())
}

/// Whether two files in `dir` can share blocks; found out by trying.
pub fn supports_reflinks(dir: impl AsFd) -> bool {
    temporary(&dir).is_ok_and(|from| can_share(from, dir))
}

/// Whether a file in `dir` can share the blocks of `from`; found out by trying.
pub fn can_share(from: impl AsFd, dir: impl AsFd) -> bool {
    temporary(dir).is_ok_and(|to| crate::data::clone_file(from, to).is_ok())
}

/// Whether repetitive data in `dir` takes less space than it has bytes; found out by trying.
pub fn compresses(dir: impl AsFd) -> bool {
    let bytes = b"snapsync ".repeat(32 << 10);
    let tried = || {
        let mut file = std::fs::File::from(temporary(dir)?);
        file.write_all(&bytes)?;
        file.sync_all()?;
        crate::data::is_compressed(&file, bytes.len() as u64)
    };
    tried().unwrap_or(false)
}

/// A file without a name, which disappears with its descriptor.
fn temporary(dir: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(dir, ".", flags, Mode::RUSR | Mode::WUSR)?)
}
