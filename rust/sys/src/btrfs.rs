//! Btrfs subvolumes. Structures and numbers are those of the kernel's `include/uapi/linux/btrfs.h`.

use crate::ioctl;
use rustix::fs::{Mode, OFlags, openat};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

const SNAP_CREATE_V2: u64 = 0x5000_9417;
const SUBVOL_CREATE_V2: u64 = 0x5000_9418;
const SNAP_DESTROY: u64 = 0x5000_940f;
const SUBVOL_GETFLAGS: u64 = 0x8008_9419;
const SUBVOL_SETFLAGS: u64 = 0x4008_941a;
const GET_SUBVOL_INFO: u64 = 0x81f8_943c;
const RDONLY: u64 = 2;
/// The root directory of every subvolume has this number.
const ROOT_INODE: u64 = 256;

#[repr(C)]
struct VolumeV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

#[repr(C)]
struct Volume {
    fd: i64,
    name: [u8; 4088],
}

/// Whether `fd` is the root of a subvolume.
pub fn is_subvolume(fd: impl AsFd) -> io::Result<bool> {
    if crate::filesystem(&fd)?.magic != crate::FileSystem::BTRFS {
        return Ok(false);
    }
    let stat = rustix::fs::fstat(fd)?;
    Ok(stat.st_ino == ROOT_INODE)
}

pub fn create_subvolume(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut request = volume_v2(0, 0, name)?;
    // SAFETY: SUBVOL_CREATE_V2 reads a struct btrfs_ioctl_vol_args_v2 of 4,096 bytes.
    unsafe { ioctl::call(dir, SUBVOL_CREATE_V2, &mut request) }?;
    Ok(())
}

/// A read-only snapshot of the subvolume `of` as `dir/name`. On the disk when this returns.
pub fn create_snapshot(of: impl AsFd, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut request = volume_v2(i64::from(of.as_fd().as_raw_fd()), RDONLY, name)?;
    // SAFETY: SNAP_CREATE_V2 reads a struct btrfs_ioctl_vol_args_v2 of 4,096 bytes.
    unsafe { ioctl::call(dir, SNAP_CREATE_V2, &mut request) }?;
    Ok(())
}

/// Deletes the subvolume `dir/name`. Where that takes a privilege this user has not, it is emptied and removed
/// as a directory.
pub fn delete_subvolume(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut request = Volume { fd: 0, name: [0; 4088] };
    put_name(&mut request.name, name)?;
    // SAFETY: SNAP_DESTROY reads a struct btrfs_ioctl_vol_args of 4,096 bytes.
    match unsafe { ioctl::call(&dir, SNAP_DESTROY, &mut request) } {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let subvolume = openat(&dir, name, flags, Mode::empty())?;
            set_read_only(&subvolume, false)?;
            drop(subvolume);
            crate::remove_tree(dir, name)
        }
        other => other.map(|_| ()),
    }
}

pub fn set_read_only(subvolume: impl AsFd, read_only: bool) -> io::Result<()> {
    let mut flags: u64 = 0;
    // SAFETY: SUBVOL_GETFLAGS writes a u64.
    unsafe { ioctl::call(&subvolume, SUBVOL_GETFLAGS, &mut flags) }?;
    flags = if read_only { flags | RDONLY } else { flags & !RDONLY };
    // SAFETY: SUBVOL_SETFLAGS reads a u64.
    unsafe { ioctl::call(&subvolume, SUBVOL_SETFLAGS, &mut flags) }?;
    Ok(())
}

/// Who a subvolume is and when it last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subvolume {
    pub uuid: [u8; 16],
    /// The subvolume it was made from; zeros for none.
    pub parent_uuid: [u8; 16],
    pub read_only: bool,
    /// Transaction of its last change, and of its creation.
    pub changed: u64,
    pub created: u64,
    /// When it was created, in ns since 1970.
    pub created_at: i64,
}

#[repr(C)]
struct SubvolumeInfo {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    times: [u64; 8],
    reserved: [u64; 8],
}

pub fn subvolume(fd: impl AsFd) -> io::Result<Subvolume> {
    // SAFETY: the structure is plain integers, for which zeros are a value.
    let mut info: SubvolumeInfo = unsafe { std::mem::zeroed() };
    // SAFETY: GET_SUBVOL_INFO writes a struct btrfs_ioctl_get_subvol_info_args of 504 bytes.
    unsafe { ioctl::call(fd, GET_SUBVOL_INFO, &mut info) }?;
    Ok(Subvolume {
        uuid: info.uuid,
        parent_uuid: info.parent_uuid,
        read_only: info.flags & 1 != 0,
        changed: info.ctransid,
        created: info.otransid,
        // struct btrfs_ioctl_timespec is a u64 and a padded u32: change, then creation time.
        created_at: (info.times[2] as i64).saturating_mul(1_000_000_000)
            + (info.times[3] & 0xffff_ffff) as i64,
    })
}

fn volume_v2(fd: i64, flags: u64, name: &OsStr) -> io::Result<VolumeV2> {
    let mut request = VolumeV2 { fd, transid: 0, flags, unused: [0; 4], name: [0; 4040] };
    put_name(&mut request.name, name)?;
    Ok(request)
}

fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > 255 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    field[..name.len()].copy_from_slice(name);
    Ok(())
}

const _: () = assert!(size_of::<VolumeV2>() == 4096);
const _: () = assert!(size_of::<Volume>() == 4096);
const _: () = assert!(size_of::<SubvolumeInfo>() == 504);
