//! Reads many inodes of XFS at once. Structures and numbers are those of the kernel's
//! `fs/xfs/libxfs/xfs_fs.h`.

use crate::ioctl;
use snapsync_model::{Attributes, Kind, Look, ns_of};
use std::io;
use std::os::fd::AsFd;

const BULKSTAT: u64 = 0x8040_587f;
/// The largest number of inodes in one call.
const MOST: usize = 512;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Head {
    ino: u64,
    flags: u32,
    wanted: u32,
    found: u32,
    group: u32,
    reserved: [u64; 5],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Record {
    ino: u64,
    size: u64,
    blocks: u64,
    flags: u64,
    atime: i64,
    mtime: i64,
    ctime: i64,
    btime: i64,
    generation: u32,
    uid: u32,
    gid: u32,
    project: u32,
    atime_ns: u32,
    mtime_ns: u32,
    ctime_ns: u32,
    btime_ns: u32,
    block_size: u32,
    rdev: u32,
    cow_hint: u32,
    extent_hint: u32,
    nlink: u32,
    extents: u32,
    xattr_extents: u32,
    version: u16,
    fork_offset: u16,
    sick: u16,
    checked: u16,
    mode: u16,
    unused: u16,
    extents_64: u64,
    more: [u64; 6],
}

#[repr(C)]
struct Request {
    head: Head,
    records: [Record; MOST],
}

/// Reads the attributes of inodes by number. Needs CAP_SYS_ADMIN.
pub struct BulkStat(Box<Request>);

impl Default for BulkStat {
    fn default() -> BulkStat {
        BulkStat(Box::new(Request { head: Head::default(), records: [Record::default(); MOST] }))
    }
}

impl BulkStat {
    /// Calls `act` for each inode from `first` to `last`, in order, with its link count. Not every inode has
    /// a name: some are removed and still open.
    pub fn each(
        &mut self,
        fd: impl AsFd,
        first: u64,
        last: u64,
        mut act: impl FnMut(Look, u32),
    ) -> io::Result<()> {
        let mut next = first;
        while next <= last {
            let wanted = (last - next).saturating_add(1).min(MOST as u64) as u32;
            self.0.head = Head { ino: next, wanted, ..Head::default() };
            // SAFETY: BULKSTAT writes a struct xfs_bulkstat_req with at most as many records as are wanted,
            // and all of them are numbers.
            unsafe { ioctl::call(&fd, BULKSTAT, &mut *self.0) }?;
            let Some(found) = self.0.records.get(..self.0.head.found as usize) else { break };
            let Some(latest) = found.last() else { break };
            for record in found.iter().take_while(|record| record.ino <= last) {
                if let Some(look) = look_of(record) {
                    act(look, record.nlink);
                }
            }
            next = latest.ino.max(next).saturating_add(1);
        }
        Ok(())
    }
}

/// One inode with its link count.
pub fn look_at(fd: impl AsFd, ino: u64) -> io::Result<Option<(Look, u32)>> {
    let mut found = None;
    BulkStat::default().each(fd, ino, ino, |look, nlink| found = Some((look, nlink)))?;
    Ok(found)
}

fn look_of(record: &Record) -> Option<Look> {
    let kind = Kind::from_mode(u32::from(record.mode))?;
    let (mtime, far_second) = ns_of(record.mtime, record.mtime_ns);
    let attributes = Attributes {
        size: if matches!(kind, Kind::File | Kind::Symlink) { record.size } else { 0 },
        mode: u32::from(record.mode) & 0o7777,
        uid: record.uid,
        gid: record.gid,
        mtime,
        far_second,
        ..Attributes::default()
    };
    let (birth, _) = ns_of(record.btime, record.btime_ns);
    let (ctime, _) = ns_of(record.ctime, record.ctime_ns);
    let blocks = record.blocks * (u64::from(record.block_size) / 512);
    Some(Look::of(record.ino, birth as u64, kind, attributes, ctime, blocks))
}
