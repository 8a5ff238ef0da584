//! SquashFS files: the kernel mounts one by a loop device, which is freed with the last mount.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;

/// Makes a read-only directory of an open file. The file's owner must be trusted: the kernel reads it.
///
/// # Errors
/// What failed, a part of a sentence, and the error of the system call.
pub(super) fn mount(file: &File, reads: Reads) -> Result<DetachedMount, (&'static str, io::Error)> {
    let device = LoopDevice::attach(file.as_fd(), reads).map_err(|error| ("no loop device", error))?;
    DetachedMount::squashfs(device.path()).map_err(|error| ("the kernel does not accept it as SquashFS", error))
}
