//! The numbers of mount namespaces.
//!
//! So that no namespace keeps itself alive, the kernel shows the file of a mount namespace only in namespaces with lower numbers
//! (`mnt_ns_loop` in `fs/namespace.c`): `mount(2)` fails with `EINVAL`, `move_mount(2)` with `ELOOP`. The numbers grow with time, except in
//! Linux 6.18: there each processor takes some thousands in advance (`ns_tree_gen_id`; one counter again in 6.19), and a new namespace may
//! have a lower number than those of before.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The release whose processors number namespaces apart from each other.
const BY_PROCESSOR: &str = "6.18";

/// Calls `make` so that the number of the mount namespace which it makes is higher than those of all that exist. `file` gives the
/// namespace's file. Where processors number apart, one is made on each that this thread may use, and that with the highest number is
/// returned.
///
/// # Errors
/// Those of `make`, and of `sched_setaffinity(2)`.
pub fn with_highest<T>(mut make: impl FnMut() -> io::Result<T>, file: impl Fn(&T) -> BorrowedFd<'_>) -> io::Result<T> {
    if !is_by_processor(&rustix::system::uname().release().to_string_lossy()) {
        return make();
    }
    let before = Affinity(sched_getaffinity(None)?);
    let mut highest: Option<(u64, T)> = None;
    for processor in (0..CpuSet::MAX_CPU).filter(|processor| before.0.is_set(*processor)) {
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only)?;
        let made = make()?;
        let number = number(file(&made))?;
        if highest.as_ref().is_none_or(|(so_far, _)| number > *so_far) {
            highest = Some((number, made));
        }
    }
    highest.map(|(_, made)| made).ok_or_else(|| io::Error::other("this thread may use no processor"))
}

fn is_by_processor(release: &str) -> bool {
    release.strip_prefix(BY_PROCESSOR).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns the number of a mount namespace, of which this is the file.
///
/// # Errors
/// `ENOTTY` before Linux 6.11, or if it is none.
pub fn number(namespace: BorrowedFd<'_>) -> io::Result<u64> {
    let mut number = 0_u64;
    // SAFETY: the call writes 64 bits to the given place (ioctl_nsfs(2)).
    let result = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_MNTNS_ID, &raw mut number) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

/// The processors that this thread may use, again at the end of this value.
struct Affinity(CpuSet);

impl Drop for Affinity {
    fn drop(&mut self) {
        // What was allowed before is allowed now, unless somebody has taken processors away.
        let _ = sched_setaffinity(None, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_with_numbers_of_each_processor() {
        assert!(["6.18", "6.18.0", "6.18.44-fc", "6.18-rc3"].into_iter().all(is_by_processor));
        assert!(!["6.1.8", "6.180.0", "6.17.9", "6.19.0", "7.0"].into_iter().any(is_by_processor));
    }

    #[test]
    fn a_namespace_has_a_number() {
        let own = std::fs::File::open("/proc/self/ns/mnt").unwrap();
        match number(std::os::fd::AsFd::as_fd(&own)) {
            Ok(number) => assert!(number > 0),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOTTY)),
        }
    }
}
