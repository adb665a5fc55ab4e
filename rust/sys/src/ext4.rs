//! Reads inodes of a mounted ext4 from its inode tables. Numbers are those of the kernel's
//! `Documentation/filesystems/ext4`.
//!
//! ext4 changes an inode in the page cache of its block device before the call that changed it returns, so
//! what is read there, through the same cache and never around it, is current: `Tables::are_current` tries
//! that. Only the end of a file that has no blocks yet is in the inode's own memory alone, and with the mount
//! option `lazytime` its times: whoever looks at files calls `sync_filesystem` before.

use crate::entry::{Stat, stat_of};
use crate::times::Probe;
use rustix::fs::{Mode, OFlags, fchmod, fstat, lstat, major, minor, open};
use snapsync_model::{Attributes, Kind, Look, ns_of};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAGIC: u16 = 0xef53;
/// The place and the size of the superblock.
const SUPER: u64 = 1024;
/// The largest gap between inodes, in bytes, that is read rather than skipped, and the most in one call.
const GAP: u64 = 16 << 10;
const MOST: u64 = 256 << 10;
/// The pauses, in ms, before an inode that somebody is writing is read again.
const PAUSES: [u64; 6] = [0, 1, 2, 5, 20, 50];

// Features that change where inodes are or what is in them, or that may.
const SPARSE_SUPER_2: u32 = 0x200;
const META_BG: u32 = 0x10;
const WIDE: u32 = 0x80;
const OWN_SEED: u32 = 0x2000;
const LARGE_DIRECTORIES: u32 = 0x4000;
const SPARSE_SUPER: u32 = 0x1;
const HUGE_FILES: u32 = 0x8;
const CHECKSUMS: u32 = 0x400;
/// File types, recovery, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, large_dir, inline_data,
/// encrypt, casefold.
const KNOWN: u32 = 0x2
    | 0x4
    | META_BG
    | 0x40
    | WIDE
    | 0x100
    | 0x200
    | 0x400
    | OWN_SEED
    | LARGE_DIRECTORIES
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
/// Sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize, quota, bigalloc, metadata_csum,
/// project, orphan_file.
const KNOWN_WRITABLE: u32 =
    SPARSE_SUPER | 0x2 | HUGE_FILES | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | CHECKSUMS | 0x2000 | 0x1_0000;
/// Of the state: errors were found.
const FAULTY: u16 = 2;

/// The place of an inode's flags.
const FLAGS: usize = 0x20;
const ENCRYPTED: u32 = 0x800;
const IN_BLOCKS: u32 = 0x4_0000;
const HOLDS_XATTR: u32 = 0x20_0000;
const INLINE: u32 = 0x1000_0000;

/// Why inodes cannot be read from the block device.
#[derive(Debug)]
pub enum Unfit {
    /// This process has no block device to read, or may not.
    NoDevice,
    /// What this knows does not hold here.
    Unknown(String),
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Unfit {
        Unfit::Unknown(format!("its block device cannot be read: {error}"))
    }
}

/// The inode tables of a mounted file system.
#[derive(Debug)]
pub struct Tables {
    device: File,
    shape: Shape,
}

/// What the superblock says of the tables.
#[derive(Debug)]
struct Shape {
    inodes: u32,
    inodes_in_group: u32,
    inode_size: u64,
    block_size: u64,
    blocks: u64,
    blocks_in_group: u64,
    first_block: u64,
    descriptor_size: u64,
    first_meta_group: Option<u64>,
    /// The groups with copies of the superblock, where they are told.
    copies: Option<[u32; 2]>,
    has_few_copies: bool,
    has_large_directories: bool,
    has_huge_files: bool,
    /// Where inodes have checksums, what these begin with.
    seed: Option<u32>,
}

impl Tables {
    /// Those of the file system that `fd` is on. Never writes to the device.
    pub fn open(fd: impl AsFd) -> Result<Tables, Unfit> {
        let device = device_of(fd)?.ok_or(Unfit::NoDevice)?;
        let mut bytes = [0; 1024];
        device.read_exact_at(&mut bytes, SUPER)?;
        let shape = Shape::of(&bytes).map_err(Unfit::Unknown)?;
        Ok(Tables { device, shape })
    }

    /// Tries on a file in `dir`, which leaves no trace, that the tables are those of its file system, and
    /// that a change is there as soon as it was made.
    pub fn are_current(&self, dir: impl AsFd) -> io::Result<bool> {
        let probe = Probe::make(dir.as_fd())?;
        for mode in [Mode::RUSR, Mode::RUSR | Mode::WUSR] {
            fchmod(&probe.file, mode)?;
            let stat = stat_of(&probe.file)?;
            if self.steady(stat.ino)? != Some((look_of(&stat), stat.nlink)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn reader(&self) -> Reader<'_> {
        Reader { tables: self, bytes: Vec::new(), has_encrypted: false }
    }

    /// One inode with its link count, which is 0 if it has no name. Waits while it is being written.
    pub fn steady(&self, ino: u64) -> io::Result<Option<(Look, u32)>> {
        let Some(at) = self.place(ino)? else { return Ok(None) };
        let mut last = None;
        for pause in PAUSES {
            if pause > 0 {
                std::thread::sleep(Duration::from_millis(pause));
            }
            let mut raw = vec![0; self.shape.inode_size as usize];
            self.device.read_exact_at(&mut raw, at)?;
            let is_whole = match self.shape.seed {
                Some(seed) => is_proved(&raw, seed, ino as u32),
                // Then it is read again at once.
                None => last.as_ref() == Some(&raw),
            };
            if is_whole {
                return Ok(self.shape.look(&raw, ino));
            }
            last = Some(raw);
        }
        Err(io::Error::other(format!("inode {ino} does not match its checksum, or never rests")))
    }

    /// Where an inode is on the device; None if there is no such number.
    fn place(&self, ino: u64) -> io::Result<Option<u64>> {
        let shape = &self.shape;
        if ino == 0 || ino > u64::from(shape.inodes) {
            return Ok(None);
        }
        let (group, index) = shape.group_of(ino);
        Ok(Some(self.table_of(group)? + index * shape.inode_size))
    }

    /// Where the table of a group begins.
    fn table_of(&self, group: u64) -> io::Result<u64> {
        let shape = &self.shape;
        let mut descriptor = vec![0; shape.descriptor_size as usize];
        self.device.read_exact_at(&mut descriptor, shape.descriptor_at(group))?;
        let high = if shape.descriptor_size >= 64 { u64::from(long(&descriptor, 0x28)) } else { 0 };
        let block = high << 32 | u64::from(long(&descriptor, 0x8));
        let length = (u64::from(shape.inodes_in_group) * shape.inode_size).div_ceil(shape.block_size);
        let is_inside =
            block > shape.first_block && block.checked_add(length).is_some_and(|end| end <= shape.blocks);
        if is_inside {
            return Ok(block * shape.block_size);
        }
        Err(io::Error::other(format!("the inode table of group {group} is told to be at block {block}")))
    }
}

/// Reads inodes in the order of their numbers, many in one call.
pub struct Reader<'a> {
    tables: &'a Tables,
    bytes: Vec<u8>,
    /// Whether an encrypted inode was among them.
    pub has_encrypted: bool,
}

impl Reader<'_> {
    /// Calls `act` with each of these rows, which are sorted, and with the inode that has its number now; it
    /// is read once more where it differs, so that it is whole.
    pub fn each(
        &mut self,
        mut rows: &[Look],
        mut act: impl FnMut(&Look, Option<(Look, u32)>),
    ) -> io::Result<()> {
        let shape = &self.tables.shape;
        while let Some(first) = rows.first() {
            let end = (shape.group_of(first.ino).0 + 1) * u64::from(shape.inodes_in_group);
            let is_near = |two: &&[Look]| {
                let bytes = |from: u64| (two[1].ino - from) * shape.inode_size;
                two[1].ino <= end && bytes(two[0].ino) <= GAP && bytes(first.ino) < MOST
            };
            let (run, others) = rows.split_at(1 + rows.windows(2).take_while(is_near).count());
            rows = others;
            let is_read = self.read(first.ino, run[run.len() - 1].ino)?;
            for row in run {
                let raw = is_read.then(|| self.raw(first.ino, row.ino));
                let is_encrypted = raw.is_some_and(|raw| long(raw, FLAGS) & ENCRYPTED != 0);
                let found = raw.and_then(|raw| shape.look(raw, row.ino));
                self.has_encrypted |= is_encrypted;
                match found {
                    Some((look, nlink)) if nlink > 0 && look == *row => act(row, found),
                    _ => act(row, self.tables.steady(row.ino)?.filter(|(_, nlink)| *nlink > 0)),
                }
            }
        }
        Ok(())
    }

    /// Reads the inodes from `first` to `last`, which are in one group; false if there are no such numbers.
    fn read(&mut self, first: u64, last: u64) -> io::Result<bool> {
        let Some(at) = self.tables.place(first)?.filter(|_| last <= u64::from(self.tables.shape.inodes))
        else {
            return Ok(false);
        };
        self.bytes.resize(((last - first + 1) * self.tables.shape.inode_size) as usize, 0);
        self.tables.device.read_exact_at(&mut self.bytes, at)?;
        Ok(true)
    }

    fn raw(&self, first: u64, ino: u64) -> &[u8] {
        let size = self.tables.shape.inode_size as usize;
        &self.bytes[(ino - first) as usize * size..][..size]
    }
}

fn look_of(stat: &Stat) -> Look {
    Look::of(stat.ino, stat.generation, stat.kind, stat.attributes, stat.ctime, stat.blocks)
}

/// The block device that a file system is on; None if there is none here, or it may not be read. What has its
/// number is it: the kernel knows it by nothing else.
fn device_of(fd: impl AsFd) -> io::Result<Option<File>> {
    let number = fstat(&fd)?.st_dev;
    let about = format!("/sys/dev/block/{}:{}/uevent", major(number), minor(number));
    let Ok(about) = std::fs::read_to_string(about) else { return Ok(None) };
    let Some(name) = about.lines().find_map(|line| line.strip_prefix("DEVNAME=")) else { return Ok(None) };
    let path: PathBuf = Path::new("/dev").join(name);
    let is_it = |stat: &rustix::fs::Stat| stat.st_mode & 0o170_000 == 0o060_000 && stat.st_rdev == number;
    // Opening another device might do something.
    if !lstat(&path).is_ok_and(|stat| is_it(&stat)) {
        return Ok(None);
    }
    let Ok(device) = open(&path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(None);
    };
    Ok(is_it(&fstat(&device)?).then(|| File::from(device)))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl Shape {
    /// Of a superblock; an error is a reason to leave the tables alone.
    fn of(bytes: &[u8; 1024]) -> Result<Shape, String> {
        if short(bytes, 0x38) != MAGIC {
            return Err("its block device does not hold it".to_owned());
        }
        if short(bytes, 0x3a) & FAULTY != 0 || long(bytes, 0x194) != 0 {
            return Err("it says that it has errors: check it with e2fsck while it is not mounted".to_owned());
        }
        let (compatible, features, writable) = (long(bytes, 0x5c), long(bytes, 0x60), long(bytes, 0x64));
        let unknown = (features & !KNOWN, writable & !KNOWN_WRITABLE);
        if unknown != (0, 0) {
            return Err(format!(
                "it has features that are not known here: {:#x}, {:#x}",
                unknown.0, unknown.1
            ));
        }
        let is_wide = features & WIDE != 0;
        let high = if is_wide { u64::from(long(bytes, 0x150)) } else { 0 };
        let seed = match writable & CHECKSUMS {
            0 => None,
            _ if features & OWN_SEED != 0 => Some(long(bytes, 0x270)),
            _ => Some(checksum(u32::MAX, &bytes[0x68..0x78])),
        };
        let shape = Shape {
            inodes: long(bytes, 0x0),
            inodes_in_group: long(bytes, 0x28),
            // The first revision has no field for it.
            inode_size: if long(bytes, 0x4c) == 0 { 128 } else { u64::from(short(bytes, 0x58)) },
            block_size: 1024_u64.checked_shl(long(bytes, 0x18)).unwrap_or(0),
            blocks: high << 32 | u64::from(long(bytes, 0x4)),
            blocks_in_group: u64::from(long(bytes, 0x20)),
            first_block: u64::from(long(bytes, 0x14)),
            descriptor_size: if is_wide { u64::from(short(bytes, 0xfe)) } else { 32 },
            first_meta_group: (features & META_BG != 0).then(|| u64::from(long(bytes, 0x104))),
            copies: (compatible & SPARSE_SUPER_2 != 0).then(|| [long(bytes, 0x24c), long(bytes, 0x250)]),
            has_few_copies: writable & SPARSE_SUPER != 0,
            has_large_directories: features & LARGE_DIRECTORIES != 0,
            has_huge_files: writable & HUGE_FILES != 0,
            seed,
        };
        if shape.is_possible() { Ok(shape) } else { Err("its superblock contradicts itself".to_owned()) }
    }

    fn is_possible(&self) -> bool {
        let is_size =
            |size: u64, least: u64, most: u64| size.is_power_of_two() && (least..=most).contains(&size);
        is_size(self.block_size, 1024, 64 << 10)
            && is_size(self.inode_size, 128, self.block_size)
            && is_size(self.descriptor_size, 32, self.block_size)
            && self.inodes_in_group > 0
            && self.blocks_in_group > 0
            && self.blocks.checked_mul(self.block_size).is_some_and(|end| end <= i64::MAX as u64)
    }

    /// The group of an inode, and its place in the table.
    fn group_of(&self, ino: u64) -> (u64, u64) {
        let (at, size) = (ino.saturating_sub(1), u64::from(self.inodes_in_group));
        (at / size, at % size)
    }

    /// Where the descriptor of a group is on the device.
    fn descriptor_at(&self, group: u64) -> u64 {
        let in_block = self.block_size / self.descriptor_size;
        let (number, within) = (group / in_block, group % in_block);
        let super_block = SUPER / self.block_size;
        let block = match self.first_meta_group {
            Some(first) if number >= first => {
                let group = number * in_block;
                // In blocks of 1 KiB the first of all is before the superblock, also where it counts.
                let is_shifted = self.block_size == SUPER && number == 0 && self.first_block == 0;
                let before = u64::from(self.has_copy(group)) + u64::from(is_shifted);
                self.first_block + group * self.blocks_in_group + before
            }
            _ => super_block + 1 + number,
        };
        block * self.block_size + within * self.descriptor_size
    }

    /// Whether a group begins with a copy of the superblock.
    fn has_copy(&self, group: u64) -> bool {
        let is_power = |of: u64| {
            let mut power = of;
            while power < group {
                power *= of;
            }
            power == group
        };
        match self.copies {
            _ if group == 0 => true,
            Some(groups) => groups.map(u64::from).contains(&group),
            None => group == 1 || !self.has_few_copies || [3, 5, 7].into_iter().any(is_power),
        }
    }

    /// What `statx` tells of an inode, with its link count; None if it is none that a directory can name.
    fn look(&self, raw: &[u8], ino: u64) -> Option<(Look, u32)> {
        let kind = Kind::from_mode(u32::from(short(raw, 0x0)))?;
        let (flags, nlink) = (long(raw, FLAGS), u32::from(short(raw, 0x1a)));
        if flags & HOLDS_XATTR != 0 {
            return None;
        }
        let has_high = self.has_large_directories || kind == Kind::File;
        let high = if has_high { u64::from(long(raw, 0x6c)) } else { 0 };
        let size = high << 32 | u64::from(long(raw, 0x4));
        let (mtime, far_second) = time(raw, 0x10, 0x88);
        let attributes = Attributes {
            size: if matches!(kind, Kind::File | Kind::Symlink) { size } else { 0 },
            mode: u32::from(short(raw, 0x0)) & 0o7777,
            uid: u32::from(short(raw, 0x78)) << 16 | u32::from(short(raw, 0x2)),
            gid: u32::from(short(raw, 0x7a)) << 16 | u32::from(short(raw, 0x18)),
            mtime,
            far_second,
            ..Attributes::default()
        };
        let birth = if has(raw, 0x90) { time(raw, 0x90, 0x94).0 } else { 0 };
        let ctime = time(raw, 0xc, 0x84).0;
        let blocks = self.sectors(raw, flags, size);
        Some((Look::of(ino, birth as u64, kind, attributes, ctime, blocks), nlink))
    }

    /// The blocks of 512 bytes that an inode occupies.
    fn sectors(&self, raw: &[u8], flags: u32, size: u64) -> u64 {
        let low = u64::from(long(raw, 0x1c));
        let sectors = match self.has_huge_files {
            false => low,
            true => {
                let blocks = u64::from(short(raw, 0x74)) << 32 | low;
                if flags & IN_BLOCKS != 0 { blocks * (self.block_size / 512) } else { blocks }
            }
        };
        // Data in the inode counts as if it had blocks.
        sectors + if flags & INLINE != 0 { size.div_ceil(512) } else { 0 }
    }
}

/// Whether an inode has the field of four bytes at `at`.
fn has(raw: &[u8], at: usize) -> bool {
    if raw.len() == 128 {
        return false;
    }
    // The kernel uses all fields that it knows if the inode says nothing.
    let extra = match short(raw, 0x80) {
        0 => 32,
        extra => usize::from(extra),
    };
    at + 4 <= (128 + extra).min(raw.len())
}

/// A time in ns since 1970, and its second if that is too far away.
fn time(raw: &[u8], at: usize, more: usize) -> (i64, i64) {
    let second = i64::from(long(raw, at) as i32);
    match has(raw, more).then(|| long(raw, more)) {
        Some(more) => ns_of(second + (i64::from(more & 3) << 32), more >> 2),
        None => ns_of(second, 0),
    }
}

/// Whether an inode has its checksum, of which there may be room for one half.
fn is_proved(raw: &[u8], seed: u32, ino: u32) -> bool {
    const LOW: usize = 0x7c;
    const HIGH: usize = 0x82;
    let mut bytes = raw.to_vec();
    let has_high = raw.len() > 128 && short(raw, 0x80) >= 4;
    let told = u32::from(short(raw, LOW)) | if has_high { u32::from(short(raw, HIGH)) << 16 } else { 0 };
    bytes[LOW..LOW + 2].fill(0);
    if has_high {
        bytes[HIGH..HIGH + 2].fill(0);
    }
    let seed = checksum(checksum(seed, &ino.to_le_bytes()), &raw[0x64..0x68]);
    let mask = if has_high { u32::MAX } else { 0xffff };
    checksum(seed, &bytes) & mask == told
}

/// CRC-32C of more bytes, without the last inversion.
fn checksum(before: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let (mut table, mut at) = ([0; 256], 0);
        while at < 256 {
            let (mut value, mut bit) = (at as u32, 0);
            while bit < 8 {
                value = value >> 1 ^ if value & 1 == 0 { 0 } else { 0x82f6_3b78 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    bytes.iter().fold(before, |sum, byte| sum >> 8 ^ TABLE[(sum as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_castagnoli() {
        assert_eq!(!checksum(u32::MAX, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn copies_of_the_superblock_are_in_powers_of_three_five_and_seven() {
        let mut bytes = [0; 1024];
        for (at, value) in [(0x38, 0xef53_u32), (0x64, SPARSE_SUPER), (0x28, 8), (0x20, 8192)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let shape = Shape::of(&bytes).unwrap();
        let found: Vec<u64> = (0..100).filter(|group| shape.has_copy(*group)).collect();
        assert_eq!(found, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81]);
    }

    #[test]
    fn what_is_not_known_is_left_alone() {
        let mut bytes = [0; 1024];
        assert!(Shape::of(&bytes).is_err());
        for (at, value) in [(0x38, 0xef53_u32), (0x28, 8), (0x20, 8192)] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        assert!(Shape::of(&bytes).is_ok());
        // Compressed; the device of a journal; verity; errors; blocks of 2^31 KiB; no inodes in a group.
        for (at, value) in [(0x60, 1_u32), (0x60, 8), (0x64, 0x8000), (0x38, 0x2_ef53), (0x18, 31), (0x28, 0)]
        {
            let mut bytes = bytes;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(Shape::of(&bytes).is_err(), "{at:#x}");
        }
    }
}
