//! EROFS files: the kernel mounts a file as it is, or by a loop device where it cannot.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;

use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use serde::{Deserialize, Serialize};

/// How the kernel reads a mounted EROFS file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadBy {
    /// The file itself (Linux 6.12).
    File,
    /// A loop device.
    LoopDevice,
}

/// Returns `true` if the kernel stops at a warning. Linux 6.18 prints one, once, when EROFS itself reads a file on ext4
/// (`ext4_check_map_extents_env`), which is harmless otherwise.
fn warnings_are_fatal() -> bool {
    fs::read_to_string("/proc/sys/kernel/panic_on_warn").is_ok_and(|setting| setting.trim() != "0")
}

/// Makes a read-only directory of an open file. The file's owner must be trusted: the kernel reads it.
///
/// # Errors
/// What failed, a part of a sentence, and the error of the system call.
pub(super) fn mount(file: &File, reads: Reads) -> Result<(DetachedMount, ReadBy), (&'static str, io::Error)> {
    if warnings_are_fatal() {
        tracing::debug!("EROFS needs a loop device: kernel.panic_on_warn is set");
    } else {
        match DetachedMount::erofs_file(file.as_fd(), reads == Reads::Direct) {
            Ok(mount) => return Ok((mount, ReadBy::File)),
            Err(error) => tracing::debug!(%error, "EROFS needs a loop device"),
        }
    }
    let device = LoopDevice::attach(file.as_fd(), reads).map_err(|error| ("no loop device", error))?;
    let mount =
        DetachedMount::erofs(device.path()).map_err(|error| ("the kernel does not accept it as EROFS", error))?;
    Ok((mount, ReadBy::LoopDevice))
}
