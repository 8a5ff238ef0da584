//! Processes referred to by a descriptor (`pidfd_open(2)`, Linux 5.3).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Maximum number of connections to a server's socket before the server accepts one.
const LISTEN_BACKLOG: libc::c_int = 4096;

/// A process that cannot be mistaken for another one with the same number later.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Opens the process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` if there is no such process, `EMFILE` if no descriptors are left.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok(Self { pid, descriptor: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Kills the process with `SIGKILL`. A process that has ended already is not an error.
    ///
    /// # Errors
    /// `EPERM` if the caller lacks permission.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the process has ended, possibly as a zombie; `false` on a timeout.
    ///
    /// # Errors
    /// Those of `poll(2)`.
    pub fn wait_until_ended(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            let mut events = [PollFd::new(&self.descriptor, PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Process {
    /// The descriptor, readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Starts a program that outlives this process: in a new session, so that no terminal's Ctrl-C reaches it.
///
/// The program gets the descriptors in `inherited` under their numbers, whatever their close-on-exec flags are; other children do
/// not. The program, and not this process, calls `listen(2)` on `socket`, so that clients see its number (`SO_PEERCRED`).
///
/// # Errors
/// Those of `fork(2)`, `execve(2)`, `setsid(2)`, `fcntl(2)` and `listen(2)`.
pub fn spawn_server(
    command: &mut Command,
    inherited: &[BorrowedFd<'_>],
    socket: Option<BorrowedFd<'_>>,
) -> io::Result<Child> {
    let inherited: Vec<RawFd> = inherited.iter().chain(&socket).map(AsRawFd::as_raw_fd).collect();
    let socket = socket.map(|socket| socket.as_raw_fd());
    let prepare = move || {
        let done = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: these calls take numbers only, and are allowed between fork and exec (signal-safety(7)).
        unsafe {
            done(libc::setsid())?;
            for descriptor in &inherited {
                done(libc::fcntl(*descriptor, libc::F_SETFD, 0))?;
            }
            socket.map_or(Ok(()), |socket| done(libc::listen(socket, LISTEN_BACKLOG)))
        }
    };
    // SAFETY: the closure allocates nothing, takes no lock and only makes the calls above.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Runs `body` in a fork of this process, which exits with the code that `body` returns. Returns the child, which the caller must
/// wait for.
///
/// # Errors
/// Those of `fork(2)`; `EDEADLK` if this process has more than one thread: a lock that another thread holds is never unlocked in
/// the child.
pub fn in_child(body: impl FnOnce() -> i32) -> io::Result<Process> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: this process has one thread, so the copy is as whole as the original, and may go on in any code.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(libc::EXIT_FAILURE);
        exit_now(code);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Process::open(pid)
}

/// Marks all descriptors from 3 on as close-on-exec, so that programs that this process starts inherit the standard streams only.
///
/// # Errors
/// `ENOSYS` or `EINVAL` before Linux 5.11.
pub fn inherit_standard_streams_only() -> io::Result<()> {
    // SAFETY: the call takes numbers, and closes nothing in this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes all descriptors of this process; `null` takes the place of the standard streams. Values that own descriptors must not be dropped
/// afterwards.
///
/// # Errors
/// Those of `dup2(2)`, and `ENOSYS` before Linux 5.9.
pub fn close_all_descriptors(null: OwnedFd) -> io::Result<()> {
    // Closed below with the others: a value that closed it again would close a descriptor that is not its own.
    let null = null.into_raw_fd();
    for stream in 0..3 {
        // SAFETY: the calls take numbers. No value of this process owns a standard stream.
        if unsafe { libc::dup2(null, stream) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the call takes numbers. The caller gives all descriptors up, and uses none of them again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Restores the default action of `SIGPIPE`, which Rust's runtime ignores, as would programs that this process executes.
pub fn restore_sigpipe() {
    // SAFETY: the default action runs no code of this process.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ends this process at once, without destructors, `atexit(3)` functions or the end of threads.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Returns the start time of a process, in clock ticks since boot (`/proc/PID/stat`, field 22). Together with the process's
/// number it identifies the process until the next boot.
///
/// # Errors
/// `ENOENT` if there is no such process.
pub fn start_time(pid: i32) -> io::Result<u64> {
    // In one piece: a buffer that grows would take as many calls as the line has parts.
    let mut stat = String::with_capacity(1024);
    File::open(format!("/proc/{pid}/stat"))?.take(4096).read_to_string(&mut stat)?;
    parse_start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The second field, the command's name, may itself hold spaces and parentheses.
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(parse_start_time(stat), Some(4242));
    }

    #[test]
    fn this_process_has_one() {
        assert!(start_time(i32::try_from(std::process::id()).unwrap()).unwrap() > 0);
    }

    #[test]
    fn a_child_that_was_killed_has_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.wait_until_ended(Duration::ZERO).unwrap());
        process.kill().unwrap();
        assert!(process.wait_until_ended(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
    }
}
