//! A block device over a file (`loop(4)`).
//!
//! No crate serves: `loopdev-3` 0.5 sets a device up in two calls (`LOOP_SET_FD`, then `LOOP_SET_STATUS64`). A process that dies
//! between them leaves a device that is not cleared by itself. `LOOP_CONFIGURE` is one call.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::limits;

/// `LOOP_CTL_GET_FREE` of `linux/loop.h`.
pub const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
/// `LOOP_CONFIGURE` of `linux/loop.h`, Linux 5.8.
pub const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
/// `LOOP_SET_DIRECT_IO` of `linux/loop.h`, Linux 4.10.
pub const LOOP_SET_DIRECT_IO: libc::c_ulong = 0x4C08;
/// `LOOP_CHANGE_FD` of `linux/loop.h`.
pub const LOOP_CHANGE_FD: libc::c_ulong = 0x4C06;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// How a device reads its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// By the page cache, with readahead: what was read once is in memory for the next device over the file.
    Buffered,
    /// Past the page cache, if the file's file system supports that; else buffered.
    Direct,
}

/// Maximum number of attempts when other processes take the free device first.
const MAX_ATTEMPTS: usize = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A read-only loop device. The kernel frees the device as soon as neither this value nor a mount has it
/// open.
#[derive(Debug)]
pub struct LoopDevice {
    // Kept open: closing it frees the device.
    device: File,
    path: String,
}

impl LoopDevice {
    /// Makes a read-only block device of an open file.
    ///
    /// # Errors
    /// `ENOSPC`-like errors of `/dev/loop-control` when no device is free, `EBUSY` when others took every device that was
    /// offered, and those of `LOOP_CONFIGURE` (`EBADF`, `EINVAL`).
    pub fn attach(image: BorrowedFd<'_>, reads: Reads) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(limits::of_files)?;
        for _ in 0..MAX_ATTEMPTS {
            // SAFETY: the request takes no argument and returns a number.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
            if number < 0 {
                return Err(limits::of_loop_devices(io::Error::last_os_error()));
            }
            let path = format!("/dev/loop{number}");
            let device = OpenOptions::new().read(true).open(&path).map_err(limits::of_files)?;
            match configure(&device, image, reads) {
                Ok(()) => return Ok(Self { device, path }),
                // Another process took the device between the two calls.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Opens a device that is in use, by its name (`loopN`).
    ///
    /// # Errors
    /// Those of `open(2)`; `InvalidInput` for another name.
    pub fn open(name: &str) -> io::Result<Self> {
        if name.strip_prefix("loop").is_none_or(|number| number.parse::<u32>().is_err()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let path = format!("/dev/{name}");
        let device = OpenOptions::new().read(true).open(&path).map_err(limits::of_files)?;
        Ok(Self { device, path })
    }

    /// Replaces the file below the device by another one with the same size and content, under whatever is mounted. Waits for the reads in
    /// progress.
    ///
    /// # Errors
    /// `EINVAL` if the sizes differ, or for what is neither a regular file nor a block device.
    pub fn change_file(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the request takes a number, and refers to no memory.
        let result = unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CHANGE_FD as _, file.as_raw_fd()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Changes how the device reads its file. Waits for the reads in progress.
    ///
    /// # Errors
    /// `EINVAL` if the file's file system does not support it, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn set_reads(&self, reads: Reads) -> io::Result<()> {
        let direct = libc::c_ulong::from(reads == Reads::Direct);
        // SAFETY: the request takes a number, and refers to no memory.
        let result = unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_SET_DIRECT_IO as _, direct) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The device's path, `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

fn configure(device: &File, image: BorrowedFd<'_>, reads: Reads) -> io::Result<()> {
    let direct = if reads == Reads::Direct { LO_FLAGS_DIRECT_IO } else { 0 };
    let config = LoopConfig {
        fd: u32::try_from(image.as_raw_fd()).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
        block_size: 0,
        info: LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | direct,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout of `struct loop_config` and lives through the call, which only reads it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
