//! Where the bytes of files lie, and how to copy or share them without reading them.

use crate::attributes::FsXattr;
use crate::fs::FileSystem;
use crate::ioctl;
use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, seek};
use snapsync_model::{Address, Content, Layout, Lies, Placed, Range};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

const FS_IOC_FIEMAP: u64 = 0xc020_660b;
const FICLONE: u64 = 0x4004_9409;
const FICLONERANGE: u64 = 0x4020_940d;

const FIEMAP_FLAG_SYNC: u32 = 1;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_ENCODED: u32 = 0x8;
const EXTENT_UNWRITTEN: u32 = 0x800;
const EXTENT_SHARED: u32 = 0x2000;
/// Unknown, delayed, encoded, encrypted, not aligned, inline, tail, merged: such an extent has no address, or
/// shares it with others.
const EXTENT_INEXACT: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x1000;
const XFLAG_REALTIME: u32 = 0x1;
const XFLAG_PREALLOC: u32 = 0x2;
const BATCH: usize = 128;
const FEW: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [FiemapExtent; BATCH],
}

/// The data, holes and preallocation of a file of `size` bytes. Data in memory is written out first, because
/// written bytes over a preallocated range look unwritten until then. Has addresses if the file system shares
/// blocks and gives exact ones.
pub fn layout(file: &File, size: u64, filesystem: FileSystem) -> io::Result<Layout> {
    layout_of_ranges(file, size, filesystem, &[Range { offset: 0, length: u64::MAX }])
}

/// The same for some ranges, which are sorted and apart from each other. What lies elsewhere may look like a
/// hole: a file in very many pieces is not asked about all of them.
pub fn layout_of_ranges(
    file: &File,
    size: u64,
    filesystem: FileSystem,
    ranges: &[Range],
) -> io::Result<Layout> {
    let extents = match fiemap(file, ranges) {
        Ok(extents) => extents,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)) => {
            let data: Vec<Placed> = data_by_seeking(file, size)?.into_iter().map(Placed::from).collect();
            return Ok(Layout::new(size, &data, &[]));
        }
        Err(e) => return Err(e),
    };
    // XFS also reserves space beyond the end of growing files. Only deliberate preallocation sets the flag.
    let xflags = if filesystem.magic == FileSystem::XFS { FsXattr::of(file)?.xflags } else { XFLAG_PREALLOC };
    let keeps_tail = xflags & XFLAG_PREALLOC != 0;
    // A realtime device has block numbers of its own.
    let has_addresses = filesystem.shares_blocks() && xflags & XFLAG_REALTIME == 0;
    let (mut data, mut unwritten) = (Vec::new(), Vec::new());
    for extent in extents {
        let range = Range { offset: extent.logical, length: extent.length };
        if extent.flags & EXTENT_UNWRITTEN == 0 {
            let exact = has_addresses && extent.flags & EXTENT_INEXACT == 0;
            let address = exact.then_some(Address { extent: 0, offset: extent.physical });
            data.push(Placed { range, address, shared: extent.flags & EXTENT_SHARED != 0 });
        } else if range.offset < size || keeps_tail {
            unwritten.push(range);
        }
    }
    Ok(Layout::new(size, &data, &unwritten))
}

/// How many bytes of a file's blocks other files have too; 0 where the file system does not say.
pub fn shared_bytes(file: &File) -> io::Result<u64> {
    match fiemap(file, &[Range { offset: 0, length: u64::MAX }]) {
        Ok(extents) => {
            let shared = extents.iter().filter(|extent| extent.flags & EXTENT_SHARED != 0);
            Ok(shared.map(|extent| extent.length).sum())
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)) => Ok(0),
        Err(e) => Err(e),
    }
}

/// The extents in some ranges, and perhaps some between these.
fn fiemap(file: &File, ranges: &[Range]) -> io::Result<Vec<FiemapExtent>> {
    let mut found: Vec<FiemapExtent> = Vec::new();
    let mut request = Box::new(Fiemap {
        start: 0,
        length: u64::MAX,
        flags: FIEMAP_FLAG_SYNC,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [FiemapExtent::default(); BATCH],
    });
    let mut known = 0;
    for range in ranges {
        known = known.max(range.offset);
        // To tell whether an extent is shared takes the kernel longer than a call for a few.
        request.count = if range.length == u64::MAX { BATCH as u32 } else { FEW };
        while known < range.offset.saturating_add(range.length) {
            (request.start, request.length) = (known, u64::MAX - known);
            // SAFETY: the kernel writes at most `count` extents, and there is room for BATCH of them.
            unsafe { ioctl::call(file, FS_IOC_FIEMAP, &mut *request) }?;
            let batch = &request.extents[..(request.mapped as usize).min(BATCH)];
            request.count = (request.count * 4).min(BATCH as u32);
            // The first one may begin before the range, and be the last that is known.
            let is_new =
                |extent: &&FiemapExtent| found.last().is_none_or(|last| last.logical < extent.logical);
            let new: Vec<FiemapExtent> = batch.iter().filter(is_new).copied().collect();
            found.extend(new);
            match batch.last() {
                Some(last) if last.flags & EXTENT_LAST == 0 => known = last.logical + last.length,
                _ => return Ok(found),
            }
        }
    }
    Ok(found)
}

fn data_by_seeking(file: &File, size: u64) -> io::Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(range) = next_data(file, at, size)? {
        ranges.push(range);
        at = range.end();
    }
    Ok(ranges)
}

/// The next run of data of a file of `size` bytes from `at` on; None if only a hole is left. What lies
/// between reads as zeros. A file system that does not report holes counts as all data.
pub fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<Range>> {
    if at >= size {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        // The file system does not report holes, so all of it is data.
        Err(rustix::io::Errno::INVAL) => at,
        Err(e) => return Err(e.into()),
    };
    let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
    Ok((start < end).then(|| Range { offset: start, length: end - start }))
}

/// The same of what is read of several files.
pub fn next_data_in(content: &Content, mut at: u64, size: u64) -> io::Result<Option<Range>> {
    while at < size {
        let until = match content.lies(at) {
            Lies::Over { until } => return Ok(Some(Range { offset: at, length: until.min(size) - at })),
            Lies::InHole { until } => until,
            Lies::AtBottom { until } => {
                let end = until.min(size);
                let found = match content.bottom() {
                    Some(file) => next_data(file, at, end)?,
                    None => Some(Range { offset: at, length: end - at }),
                };
                if found.is_some() {
                    return Ok(found);
                }
                until
            }
        };
        at = until;
    }
    Ok(None)
}

/// Whether the file occupies at most half as many blocks as it has bytes, or holds encoded extents.
pub(crate) fn is_compressed(file: &File, size: u64) -> io::Result<bool> {
    let is_packed = |extents: Vec<FiemapExtent>| extents.iter().any(|e| e.flags & EXTENT_ENCODED != 0);
    Ok(file.metadata()?.blocks() * 512 <= size / 2
        || fiemap(file, &[Range { offset: 0, length: u64::MAX }]).is_ok_and(is_packed))
}

/// Makes `to` share all blocks of `from`. Both must be on one file system that supports it.
pub fn clone_file(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    // SAFETY: FICLONE takes the descriptor of the source by value.
    let result = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), FICLONE as _, from.as_fd().as_raw_fd()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[repr(C)]
struct CloneRange {
    from: i64,
    from_offset: u64,
    length: u64,
    to_offset: u64,
}

/// Shares one range. Offsets and length must be whole blocks, unless the range ends where `from` ends.
pub fn clone_range(from: &File, from_offset: u64, length: u64, to: &File, to_offset: u64) -> io::Result<()> {
    let mut request = CloneRange { from: i64::from(from.as_raw_fd()), from_offset, length, to_offset };
    // SAFETY: FICLONERANGE reads a struct file_clone_range of 32 bytes.
    unsafe { ioctl::call(to, FICLONERANGE, &mut request) }?;
    Ok(())
}

/// Asks the kernel to start reading a range that will be needed.
pub fn read_ahead(content: &Content, offset: u64, length: u64) {
    // This is only advice: without it, the read takes longer.
    let advise = |file| fadvise(file, offset, NonZeroU64::new(length), Advice::WillNeed);
    let _ = content.file().map(advise);
}

/// Copies bytes from one file to another.
pub fn copy_range(from: &File, from_offset: u64, length: u64, to: &File, to_offset: u64) -> io::Result<()> {
    let mut buffer = vec![0; length.min(1 << 20) as usize];
    let mut done = 0;
    while done < length {
        let piece = (length - done).min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..piece], from_offset + done)?;
        to.write_all_at(&buffer[..piece], to_offset + done)?;
        done += piece as u64;
    }
    Ok(())
}

/// Turns a range into a hole. Writes zeros if the file system cannot do that.
pub fn discard_range(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, how, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, offset, length),
        other => Ok(other?),
    }
}

/// Writes nothing beyond the end of the file.
fn write_zeros(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let length = length.min(file.metadata()?.len().saturating_sub(offset));
    let zeros = vec![0; length.min(1 << 20) as usize];
    let mut done = 0;
    while done < length {
        let piece = (length - done).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..piece], offset + done)?;
        done += piece as u64;
    }
    Ok(())
}

/// Reserves blocks without writing them and keeps the size. This is an optimisation: a file system that
/// cannot do it gets a hole, which reads the same.
pub fn preallocate(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, offset, length) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapsync_model::SegmentKind;

    #[test]
    fn some_ranges_of_a_file_are_told_as_all_of_it_is() {
        let file = tempfile::tempfile().unwrap();
        let size = 1 << 22;
        file.set_len(size).unwrap();
        for at in (0..size).step_by(1 << 16).filter(|at| at % 7 < 4) {
            file.write_all_at(&[1; 5000], at).unwrap();
        }
        let filesystem = crate::fs::filesystem(&file).unwrap();
        let whole = layout(&file, size, filesystem).unwrap().ranges(SegmentKind::Data);
        let wanted = [(0, 1 << 16), (300_000, 4096), (700_000, 900_000), (4_000_000, u64::MAX - 4_000_000)];
        let ranges = wanted.map(|(offset, length)| Range { offset, length });
        let some = layout_of_ranges(&file, size, filesystem, &ranges).unwrap().ranges(SegmentKind::Data);
        let within = |data: &[Range], range: &Range| -> Vec<(u64, u64)> {
            let cut = data.iter().map(|data| (data.offset.max(range.offset), data.end().min(range.end())));
            cut.filter(|(from, to)| from < to).collect()
        };
        for range in &ranges {
            assert_eq!(within(&whole, range), within(&some, range));
        }
        assert!(whole.len() > 20);
    }
}
