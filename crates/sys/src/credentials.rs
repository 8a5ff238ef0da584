//! File access with a user's own credentials, in one thread.
//!
//! `setfsuid(2)`, `setfsgid(2)` and `setgroups(2)` change the calling thread only, if they are made as raw system calls: the C
//! library's `setgroups` changes all threads. A change of the file-system uid from 0 to another one also takes the
//! capabilities that override file permissions out of the thread's effective set (`capabilities(7)`), and the change back to 0
//! raises them again. The real, effective and saved uids stay root's, so the user can neither signal nor trace the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::process::{Gid, getegid, getgroups};

/// The ids by which the kernel decides on access to files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Root without supplementary groups.
    #[must_use]
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }

    /// Runs `body` in this thread with these credentials for access to files. Needs `CAP_SETUID` and `CAP_SETGID`.
    ///
    /// # Errors
    /// `EPERM` without these capabilities, `EINVAL` for too many groups; `body` was not run then. If the thread's own credentials
    /// cannot be restored afterwards, the process is aborted.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> io::Result<T> {
        // Restores the thread's credentials, after a panic in `body` too.
        let _own = Own::replaced_by(self)?;
        Ok(body())
    }
}

/// The thread's own credentials; dropping this value restores them.
struct Own {
    gid: u32,
    groups: Vec<u32>,
}

impl Own {
    fn replaced_by(user: &Credentials) -> io::Result<Self> {
        let groups = getgroups()?.into_iter().map(Gid::as_raw).collect();
        // Fails without the capabilities, when nothing has changed yet.
        set_groups(&user.groups)?;
        let own = Self { gid: getegid().as_raw(), groups };
        set_gid(user.gid)?;
        set_uid(user.uid)?;
        Ok(own)
    }

    fn restore(&self) -> io::Result<()> {
        set_uid(0)?;
        set_gid(self.gid)?;
        set_groups(&self.groups)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.restore().is_err() {
            // A thread of root with a user's credentials must not continue.
            std::process::abort();
        }
    }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads as many ids as the slice has, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_uid(uid: u32) -> io::Result<()> {
    set_and_check(libc::SYS_setfsuid, uid)
}

fn set_gid(gid: u32) -> io::Result<()> {
    set_and_check(libc::SYS_setfsgid, gid)
}

/// `setfsuid(2)` and `setfsgid(2)` report no error: a second call, with an invalid id, returns the id that is in force.
fn set_and_check(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: the calls take one number each.
    let in_force = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    if u32::try_from(in_force) == Ok(id) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Whether the thread's credentials allow reading an open file, whatever path it has (`faccessat2(2)`).
///
/// # Errors
/// `EACCES` if not; `ENOSYS` before Linux 5.8.
pub fn may_read(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the path is an empty C string that outlives the call. The raw call is meant: the C library may answer by itself,
    // from the mode and the process's ids.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::R_OK,
            libc::AT_EACCESS | libc::AT_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens an open file again for reading, with the thread's current credentials.
///
/// # Errors
/// Those of `open(2)`.
pub fn reopen(file: BorrowedFd<'_>) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
