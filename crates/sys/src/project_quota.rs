//! Project quotas (`quotactl(2)`): the size of a directory with everything below it.
//!
//! A directory's project is inherited by what is made in it, and the file system counts the blocks and files of each project. `quota(8)`'s
//! library reads the commands' output; no crate has the calls.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

/// `FS_IOC_FSGETXATTR` of `linux/fs.h`.
pub const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801C_581F;
/// `FS_IOC_FSSETXATTR` of `linux/fs.h`.
pub const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401C_5820;
/// `FS_XFLAG_PROJINHERIT` of `linux/fs.h`.
const PROJECT_IS_INHERITED: u32 = 0x200;
/// `Q_GETQUOTA` of `linux/quota.h`.
const GET: u32 = 0x80_0007;
/// `Q_SETQUOTA` of `linux/quota.h`.
const SET: u32 = 0x80_0008;
/// `Q_XGETQSTATV` of `linux/dqblk_xfs.h`, which ext4 answers, too.
const STATE: u32 = 0x5808;
/// `FS_QUOTA_PDQ_ENFD` of `linux/dqblk_xfs.h`.
const PROJECT_LIMITS_ARE_ENFORCED: u16 = 1 << 5;
/// `PRJQUOTA` of `linux/quota.h`.
const OF_PROJECTS: u32 = 2;
/// Unit of the limits (`QIF_DQBLKSIZE`), in bytes.
const BLOCK: u64 = 1024;
/// `QIF_BLIMITS` and `QIF_ILIMITS` of `linux/quota.h`.
const LIMITS: u32 = 1 | 4;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copied_extent_size: u32,
    reserved: [u8; 8],
}

/// `struct if_dqblk` of `linux/quota.h`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Quota {
    hard_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    hard_files: u64,
    soft_files: u64,
    files: u64,
    block_time: u64,
    file_time: u64,
    valid: u32,
}

/// `struct fs_quota_statv` of `linux/dqblk_xfs.h`, and room for what later kernels add.
#[repr(C)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    rest: [u64; 40],
}

/// Returns `true` if a file's file system enforces the limits of projects: it has project quotas, and is mounted with them. A kernel or
/// a file system that does not know is one without.
#[must_use]
pub fn are_enforced(file: impl AsFd) -> bool {
    let mut state = State { version: 1, padding: 0, flags: 0, rest: [0; 40] };
    // SAFETY: the structure is at least as large as the kernel's and lives through the call.
    let answered = unsafe { control(file.as_fd(), STATE, 0, (&raw mut state).cast()) };
    answered.is_ok() && state.flags & PROJECT_LIMITS_ARE_ENFORCED != 0
}

/// Returns `true` if a project has files, or limits, on a file's file system.
///
/// # Errors
/// Those of `quotactl_fd(2)` (Linux 5.14), such as `ENOSYS` and `ESRCH` where there are no quotas, `EPERM` without `CAP_SYS_ADMIN`.
pub fn is_in_use(file: impl AsFd, project: u32) -> io::Result<bool> {
    let mut quota = Quota::default();
    // SAFETY: the structure is the kernel's and lives through the call.
    match unsafe { control(file.as_fd(), GET, project, (&raw mut quota).cast()) } {
        // XFS has no entry for a project that never had a file or a limit.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
        answered => answered?,
    }
    let Quota { hard_blocks, soft_blocks, bytes, hard_files, soft_files, files, .. } = quota;
    Ok([hard_blocks, soft_blocks, bytes, hard_files, soft_files, files] != [0; 6])
}

/// Limits a project's bytes, rounded up to 1024, and files; 0 is no limit.
///
/// # Errors
/// As [`is_in_use`].
pub fn limit(file: impl AsFd, project: u32, bytes: u64, files: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(BLOCK);
    let mut quota = Quota {
        hard_blocks: blocks,
        soft_blocks: blocks,
        hard_files: files,
        soft_files: files,
        valid: LIMITS,
        ..Quota::default()
    };
    // SAFETY: the structure is the kernel's and lives through the call.
    unsafe { control(file.as_fd(), SET, project, (&raw mut quota).cast()) }
}

/// Returns the project of a directory if what is made in it inherits the project; else 0.
///
/// # Errors
/// Those of `FS_IOC_FSGETXATTR`, such as `ENOTTY` or `EOPNOTSUPP` of a file system without it.
pub fn of_directory(directory: impl AsFd) -> io::Result<u32> {
    let attributes = attributes(directory.as_fd())?;
    Ok(if attributes.flags & PROJECT_IS_INHERITED == 0 { 0 } else { attributes.project })
}

/// Puts a directory, and whatever is made in it from now on, into a project. With 0 the directory is in no project.
///
/// # Errors
/// Those of `FS_IOC_FSSETXATTR`, such as `EPERM` if the directory is not the caller's, `EINVAL` in a user namespace.
pub fn set(directory: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = attributes(directory.as_fd())?;
    attributes.project = project;
    if project == 0 {
        attributes.flags &= !PROJECT_IS_INHERITED;
    } else {
        attributes.flags |= PROJECT_IS_INHERITED;
    }
    // SAFETY: the structure is the kernel's and lives through the call, which only reads it.
    let result = unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const attributes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn attributes(directory: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the structure is the kernel's and lives through the call.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut attributes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

/// Calls `quotactl_fd(2)` for projects.
///
/// # Safety
/// `argument` points to what the command reads or writes.
unsafe fn control(file: BorrowedFd<'_>, command: u32, project: u32, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the caller's; a wrong descriptor or command is an error.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), (command << 8) | OF_PROJECTS, project, argument)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Attributes>(), size_of::<Quota>()), (28, 72));
        assert!(size_of::<State>() >= 160);
    }

    #[test]
    fn a_file_system_without_project_quotas_says_so() {
        let proc = File::open("/proc").unwrap();
        assert!(!are_enforced(&proc));
        assert!(is_in_use(&proc, 7).is_err() && limit(&proc, 7, 1, 1).is_err());
        assert!(of_directory(&proc).is_err() && set(&proc, 7).is_err());
    }
}
