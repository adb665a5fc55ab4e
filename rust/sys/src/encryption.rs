//! Directories that the file system encrypts (fscrypt). Structures and numbers are those of the kernel's
//! `include/uapi/linux/fscrypt.h`.

use crate::ioctl;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;

const GET_POLICY_EX: u64 = 0xc009_6616;
const GET_KEY_STATUS: u64 = 0xc080_661a;
const DESCRIPTOR: u32 = 1;
const IDENTIFIER: u32 = 2;
const PRESENT: u32 = 2;

/// `struct fscrypt_get_policy_ex_arg` with space for either version of a policy.
#[repr(C)]
struct Policy {
    size: u64,
    policy: [u8; 24],
}

/// `struct fscrypt_get_key_status_arg`.
#[repr(C)]
struct KeyStatus {
    kind: u32,
    reserved: u32,
    key: [u8; 32],
    more: [u32; 6],
    status: u32,
    rest: [u32; 15],
}

/// Whether the key of an encrypted directory is missing. Its names are then listed in encrypted form.
pub fn is_locked(dir: impl AsFd) -> io::Result<bool> {
    let mut policy = Policy { size: 24, policy: [0; 24] };
    // SAFETY: GET_POLICY_EX reads a size and writes at most as many bytes behind it.
    match unsafe { ioctl::call(&dir, GET_POLICY_EX, &mut policy) } {
        // The directory is not encrypted, or not in a way that uses keys.
        Err(e)
            if matches!(Errno::from_io_error(&e), Some(Errno::NODATA | Errno::NOTTY | Errno::OPNOTSUPP)) =>
        {
            return Ok(false);
        }
        other => other?,
    };
    // The first version names its key at byte 4, the second one at byte 8.
    let is_first = policy.policy[0] == 0;
    let mut status = KeyStatus { kind: 0, reserved: 0, key: [0; 32], more: [0; 6], status: 0, rest: [0; 15] };
    if is_first {
        status.kind = DESCRIPTOR;
        status.key[..8].copy_from_slice(&policy.policy[4..12]);
    } else {
        status.kind = IDENTIFIER;
        status.key[..16].copy_from_slice(&policy.policy[8..24]);
    }
    // SAFETY: GET_KEY_STATUS reads and writes a struct fscrypt_get_key_status_arg of 128 bytes.
    unsafe { ioctl::call(&dir, GET_KEY_STATUS, &mut status) }?;
    Ok(status.status != PRESENT && !(is_first && has_key_of_its_own(dir)))
}

/// Keys of the first version may belong to this process only. Without the key no file can be created.
fn has_key_of_its_own(dir: impl AsFd) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let made = openat(dir, ".", flags, Mode::RUSR | Mode::WUSR);
    !matches!(made, Err(e) if e.raw_os_error() == libc::ENOKEY || e == Errno::ROFS)
}

const _: () = assert!(size_of::<Policy>() == 32);
const _: () = assert!(size_of::<KeyStatus>() == 128);
