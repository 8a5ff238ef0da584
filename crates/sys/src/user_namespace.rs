//! User namespaces made for a user: for id-mapped mounts (`mount_setattr(2)`), and for the user's programs to enter.
//!
//! No crate serves: `unshare` and others start a program in the namespace; here no program runs in it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use crate::{limits, namespace_number};

/// One line of `/proc/PID/uid_map` (`user_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside the namespace; for an id-mapped mount, the id on the file system.
    pub inside: u32,
    /// The first id outside; for an id-mapped mount, the visible id.
    pub outside: u32,
    /// The number of ids.
    pub count: u32,
}

/// Maximum number of ranges in a map (Linux 4.15).
pub const MAX_RANGES: usize = 340;

/// A user namespace without processes.
#[derive(Debug)]
pub struct UserNamespace(OwnedFd);

impl UserNamespace {
    /// Makes a namespace with these maps that belongs to the user `owner`: the owner's processes may enter it and have all
    /// capabilities there. Needs `CAP_SETUID` and `CAP_SETGID`.
    ///
    /// If the map has only the owner's own group, `setgroups(2)` is denied in the namespace, as by newgidmap(1): a user without
    /// subordinate groups could otherwise drop a group that denies access to a file (`user_namespaces(7)`, CVE-2018-7169).
    ///
    /// # Errors
    /// `EINVAL` for maps that overlap, are empty or too long; `ENOSPC` when the owner's limit of user namespaces is reached;
    /// `EPERM` when the system forbids them.
    pub fn new(owner: u32, group: u32, uids: &[IdRange], gids: &[IdRange]) -> io::Result<Self> {
        Self::make(owner, group, uids, gids, false).map(|(namespace, _)| namespace)
    }

    /// Makes a namespace as [`UserNamespace::new`] does, and a mount namespace that belongs to it, in which nothing of the node is mounted.
    /// Its file can be shown in all mount namespaces that exist already ([`namespace_number`]).
    ///
    /// # Errors
    /// As [`UserNamespace::new`] and [`namespace_number::with_highest`].
    pub fn with_mounts(
        owner: u32,
        group: u32,
        uids: &[IdRange],
        gids: &[IdRange],
    ) -> io::Result<(Self, MountNamespace)> {
        let make = || {
            let (namespace, holder) = Self::make(owner, group, uids, gids, true)?;
            let mounts = File::open(format!("/proc/{}/ns/mnt", holder.pid))?;
            Ok((namespace, MountNamespace(mounts.into())))
        };
        namespace_number::with_highest(make, |(_, mounts)| mounts.as_fd())
    }

    fn make(owner: u32, group: u32, uids: &[IdRange], gids: &[IdRange], mounts: bool) -> io::Result<(Self, Holder)> {
        if uids.is_empty() || gids.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let holder = Holder::start(owner, group, mounts)
            .map_err(|error| limits::of_namespaces(error, &[limits::Namespace::User]))?;
        let process = format!("/proc/{}", holder.pid);
        fs::write(format!("{process}/uid_map"), map_text(uids))?;
        if has_own_group_only(gids, group) {
            // Must precede the map: the kernel refuses it later.
            fs::write(format!("{process}/setgroups"), "deny")?;
        }
        fs::write(format!("{process}/gid_map"), map_text(gids))?;
        let namespace = File::open(format!("{process}/ns/user"))?;
        Ok((Self(namespace.into()), holder))
    }
}

/// A mount namespace without processes.
#[derive(Debug)]
pub struct MountNamespace(OwnedFd);

impl AsFd for MountNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn has_own_group_only(gids: &[IdRange], group: u32) -> bool {
    gids.iter().all(|range| range.outside == group && range.count == 1)
}

fn map_text(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
        text
    })
}

/// A child process that only keeps a new user namespace. A namespace's maps can only be written through the `/proc` directory of a
/// process in the namespace.
struct Holder {
    pid: libc::pid_t,
}

impl Holder {
    fn start(owner: u32, group: u32, mounts: bool) -> io::Result<Self> {
        let (ready, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let report_fd = report.as_raw_fd();
        // The order of the first two arguments is another one on s390 (clone(2)).
        let (first, second) = if cfg!(target_arch = "s390x") { (0, libc::SIGCHLD) } else { (libc::SIGCHLD, 0) };
        // SAFETY: without CLONE_VM and with no stack given this is fork(2). Other threads may hold locks, so the child makes
        // system calls and nothing else, and never returns into Rust code.
        let pid = unsafe { libc::syscall(libc::SYS_clone, first as usize, second as usize, 0usize, 0usize, 0usize) };
        if pid == 0 {
            // SAFETY: as above; this is the child.
            unsafe { hold(owner, group, mounts, report_fd) }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let holder =
            Self { pid: libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))? };
        drop(report);
        let mut code = [0; 4];
        File::from(ready).read_exact(&mut code)?;
        match i32::from_ne_bytes(code) {
            0 => Ok(holder),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// The child's code: becomes the owner, makes the namespace, reports 0 or the error's number, and waits to be killed.
///
/// # Safety
/// Must run in a child made by fork(2), which it never leaves.
unsafe fn hold(owner: u32, group: u32, mounts: bool, report: i32) -> ! {
    // SAFETY: system calls on numbers and on a buffer on this stack. The raw calls for the ids are meant: the C library's would
    // take locks to change all threads. The first call ends the child with its parent, come what may.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let namespaces = if mounts { libc::CLONE_NEWUSER | libc::CLONE_NEWNS } else { libc::CLONE_NEWUSER };
        let done = libc::syscall(libc::SYS_setresgid, group, group, group) == 0
            && libc::syscall(libc::SYS_setresuid, owner, owner, owner) == 0
            && libc::syscall(libc::SYS_unshare, namespaces) == 0
            && (!mounts || leave_mounts());
        // Changing ids clears the death signal.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let code = if done { 0 } else { *libc::__errno_location() };
        libc::write(report, (&raw const code).cast(), size_of::<i32>());
        loop {
            libc::pause();
        }
    }
}

/// Leaves all mounts of this process's mount namespace for an empty directory: what is mounted on the node must not stay in use. Where the
/// node's root is the initial ramdisk's, which cannot be left, the mounts stay.
///
/// # Safety
/// As [`hold`], in a mount namespace of its own.
unsafe fn leave_mounts() -> bool {
    // Any directory that every node has.
    let place = c"/proc".as_ptr();
    // SAFETY: system calls on strings that are constants.
    unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        let entered = libc::mount(c"none".as_ptr(), place, c"tmpfs".as_ptr(), flags, c"mode=0755".as_ptr().cast()) == 0
            && libc::chdir(place) == 0;
        let here = c".".as_ptr();
        if entered && libc::syscall(libc::SYS_pivot_root, here, here) == 0 {
            // The old root lies over the new one.
            return libc::umount2(here, libc::MNT_DETACH) == 0;
        }
        entered && *libc::__errno_location() == libc::EINVAL
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: `pid` is our own child, which nobody else waits for, so the number cannot have passed to another process.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            while libc::waitpid(self.pid, std::ptr::null_mut(), 0) < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_with_the_own_group_alone_is_known() {
        let own = IdRange { inside: 0, outside: 1001, count: 1 };
        let more = IdRange { inside: 1, outside: 100_000, count: 1 };
        assert!(has_own_group_only(&[own], 1001));
        assert!(!has_own_group_only(&[own, more], 1001) && !has_own_group_only(&[own], 1002));
        assert!(!has_own_group_only(&[IdRange { count: 2, ..own }], 1001));
    }

    #[test]
    fn a_map_is_written_as_lines() {
        let map =
            [IdRange { inside: 0, outside: 1001, count: 1 }, IdRange { inside: 1, outside: 100_000, count: 65_536 }];
        assert_eq!(map_text(&map), "0 1001 1\n1 100000 65536\n");
    }
}
