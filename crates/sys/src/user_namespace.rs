//! User namespaces that only carry an id map, for id-mapped mounts (`mount_setattr(2)`).

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One line of `/proc/PID/uid_map` (`user_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside the namespace; for an id-mapped mount, the id on the file system.
    pub inside: u32,
    /// The first id outside; for an id-mapped mount, the id that is seen.
    pub outside: u32,
    /// How many ids.
    pub count: u32,
}

/// The most ranges a map may have (Linux 4.15).
pub const MAX_RANGES: usize = 340;

/// A user namespace that no process is in.
#[derive(Debug)]
pub struct UserNamespace(OwnedFd);

impl UserNamespace {
    /// Makes a namespace with these maps. Needs `CAP_SETUID` and `CAP_SETGID`.
    ///
    /// # Errors
    /// `EINVAL` for maps that overlap, are empty or too long; `ENOSPC` when the limit of user namespaces is reached.
    pub fn new(uids: &[IdRange], gids: &[IdRange]) -> io::Result<Self> {
        let holder = Holder::start()?;
        let process = format!("/proc/{}", holder.pid);
        fs::write(format!("{process}/uid_map"), map_text(uids))?;
        fs::write(format!("{process}/gid_map"), map_text(gids))?;
        let namespace = File::open(format!("{process}/ns/user"))?;
        Ok(Self(namespace.into()))
    }
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn map_text(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
        text
    })
}

/// A child process that does nothing but be in a new user namespace. A namespace can't be given a map in any other way: it
/// is written through the `/proc` directory of a process in it.
struct Holder {
    pid: libc::pid_t,
}

impl Holder {
    fn start() -> io::Result<Self> {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and with no stack given this is fork(2). Other threads may hold locks, so the child
        // calls nothing but two system calls and never returns into Rust code.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => loop {
                // SAFETY: system calls with no pointers. The first ends the child with its parent, come what may.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::pause();
                }
            },
            pid => libc::pid_t::try_from(pid)
                .map(|pid| Self { pid })
                .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW)),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: `pid` is our own child, which nobody else waits for, so the number can't have passed to another process.
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
    fn a_map_is_written_as_lines() {
        let map =
            [IdRange { inside: 0, outside: 1001, count: 1 }, IdRange { inside: 1, outside: 100_000, count: 65_536 }];
        assert_eq!(map_text(&map), "0 1001 1\n1 100000 65536\n");
    }
}
