//! ioctls by number. Each caller says which structure the number takes.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// # Safety
/// `request` must be an ioctl that reads and writes no more than `T` at its argument, and `T` must be valid
/// for any bytes the kernel may write into it.
pub(crate) unsafe fn call<T>(fd: impl AsFd, request: u64, argument: &mut T) -> io::Result<i32> {
    let pointer: *mut T = argument;
    // SAFETY: the pointer is valid for the whole of T, and the caller vouches for the request.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, pointer) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
