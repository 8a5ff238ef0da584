//! Files that the kernel checks whenever it reads them (fs-verity).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// `FS_IOC_ENABLE_VERITY` of `linux/fsverity.h`.
pub const FS_IOC_ENABLE_VERITY: libc::c_ulong = 0x4080_6685;
/// `FS_IOC_MEASURE_VERITY` of `linux/fsverity.h`.
pub const FS_IOC_MEASURE_VERITY: libc::c_ulong = 0xC004_6686;
/// `FS_VERITY_HASH_ALG_SHA256` of `linux/fsverity.h`.
const SHA256: u32 = 1;
/// Size of the blocks that are hashed, in bytes. Each kernel has it, whatever its pages.
pub const BLOCK: u32 = 4096;

/// `struct fsverity_enable_arg` of `linux/fsverity.h`.
#[repr(C)]
struct Enable {
    version: u32,
    algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    more: [u64; 11],
}

/// `struct fsverity_digest` of `linux/fsverity.h`, with room for the longest digest.
#[repr(C)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

/// Has the kernel check a file from now on. The file must be open for reading only, and nobody may have it open for writing; it can
/// never be written again, but be removed. Reads the whole file. Returns `false` where the kernel or the file system has no fs-verity.
///
/// # Errors
/// Those of `FS_IOC_ENABLE_VERITY`: `ETXTBSY`, `EACCES`, `EROFS`, `ENOSPC`, `EINTR`.
pub fn enable(file: impl AsFd) -> io::Result<bool> {
    let argument = Enable {
        version: 1,
        algorithm: SHA256,
        block_size: BLOCK,
        salt_size: 0,
        salt: 0,
        signature_size: 0,
        reserved: 0,
        signature: 0,
        more: [0; 11],
    };
    // SAFETY: the structure is the kernel's and lives through the call, which only reads it.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_ENABLE_VERITY as _, &raw const argument) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(true),
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS) => Ok(false),
        _ => Err(error),
    }
}

/// Returns the SHA-256 by which the kernel checks a file; `None` for a file that it does not check, or not by SHA-256, whatever error the
/// file system has for that.
#[must_use]
pub fn measure(file: impl AsFd) -> Option<[u8; 32]> {
    let mut measured = Measured { algorithm: 0, size: 64, digest: [0; 64] };
    // SAFETY: the structure has room for as many bytes as it says, and lives through the call.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_MEASURE_VERITY as _, &raw mut measured) };
    let is_sha256 = result == 0 && u32::from(measured.algorithm) == SHA256 && measured.size == 32;
    measured.digest.first_chunk::<32>().copied().filter(|_| is_sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Enable>(), size_of::<Measured>()), (128, 68));
    }

    #[test]
    fn a_file_without_fs_verity_has_no_digest() {
        let proc = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!((enable(&proc).unwrap(), measure(&proc)), (false, None));
    }
}
