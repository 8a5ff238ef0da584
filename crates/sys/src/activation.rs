//! Descriptors that this process has got from the one that started it: sockets that systemd opened (`sd_listen_fds(3)`) and what it keeps
//! (`FDSTORE=1`), or a single descriptor.
//!
//! No crate serves: listenfd 1.0 takes descriptors also if `LISTEN_PID` is missing, follows a variable of its own to other
//! numbers, and removes variables of the environment, which is undefined behavior once there are threads; sd-notify 0.5 has
//! numbers only, so the unsafe half would stay here.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The number of the first passed descriptor.
const FIRST: RawFd = 3;

/// Maximum number of descriptors that are taken.
const MAX_DESCRIPTORS: RawFd = 8192;

/// Whether they were taken already.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A descriptor that systemd passed.
#[derive(Debug)]
pub struct Passed {
    /// Its name: that of the socket's unit, or what it was stored by; empty if systemd gave none.
    pub name: String,
    /// The descriptor, closed on exec.
    pub descriptor: OwnedFd,
}

/// Returns the descriptors, sockets in the order of the unit; empty without descriptors or if they were taken before. Must be
/// called before this process opens any descriptor.
///
/// # Errors
/// `LISTEN_FDS` names descriptors that are not open.
pub fn take_passed() -> io::Result<Vec<Passed>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let count = RawFd::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0).min(MAX_DESCRIPTORS);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat(""));
    let passed = |(number, name): (RawFd, &str)| Ok(Passed { name: name.to_owned(), descriptor: take(number)? });
    (FIRST..FIRST + count).zip(names).map(passed).collect()
}

/// Returns a descriptor that the caller of this program has left open for it and named in its arguments, closed on exec.
///
/// # Errors
/// It is not open, or one was taken before.
pub fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number < FIRST || TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    take(number)
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only, and fails for a descriptor that is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, the environment or the arguments say that it is meant for this very process, and the flag above sees to it that
    // it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
