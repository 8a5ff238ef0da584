//! Writers take turns where the file system has no locks: NFS without lockd, Lustre mounted without flock, many FUSE ones.
//!
//! The lock is the file `parallax/lock`. It appears by link(2), which fails if there is one already, and says who has it. A
//! process of this machine that is gone is known, and its lock is taken from it. Of another machine's nothing can be known:
//! who waits too long is told whose lock it is, and an administrator can break it (`parallax gc --break-lock`). Waiting is
//! looking again: such a file system has nothing to wait on.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use parallax_format::layout::{LOCK, LOCK_BREAKING};
use parallax_sys::fault;
use tempfile::NamedTempFile;

use crate::atomic::remove_file;
use crate::error::{IoContext as _, StoreError};

/// Timeout for waiting for another writer, which works for seconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Returns the timeout. In builds with debug assertions the timeout is zero while `PARALLAX_TEST_ZERO_TIMEOUT` is set.
pub(crate) fn timeout() -> Duration {
    let hurried = cfg!(debug_assertions) && std::env::var_os("PARALLAX_TEST_ZERO_TIMEOUT").is_some();
    if hurried { Duration::ZERO } else { LOCK_TIMEOUT }
}

/// The lock, held until the end of the value.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
}

/// Owner of a lock: the machine's boot and the process's namespace, its number there and its start, and for people the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    place: String,
    pid: u32,
    start: String,
    host: String,
}

impl LockFile {
    /// Waits for the lock until the timeout.
    pub(crate) fn take(store: &Path, temporary: &Path, timeout: Duration) -> Result<Self, StoreError> {
        let path = store.join(LOCK);
        let deadline = Instant::now() + timeout;
        let write = || -> io::Result<NamedTempFile> {
            let mut file = NamedTempFile::new_in(temporary)?;
            sign(file.as_file_mut())?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        let mut file = write().context("create files in", temporary)?;
        loop {
            fault::point();
            match fs::hard_link(file.path(), &path) {
                Ok(()) => return Ok(Self { path }),
                // Whoever collects garbage takes what lies there for a dead writer's.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !file.path().exists() => {
                    file = write().context("create files in", temporary)?;
                    continue;
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).context("create", &path);
                }
                Err(_) => {}
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let owner = Owner::parse(&text);
            if owner.as_ref().is_some_and(Owner::is_gone) {
                take_away(store, &text)?;
            } else if Instant::now() >= deadline {
                let who = owner.map_or("an unknown process".to_owned(), |owner| {
                    format!("process {} on {}", owner.pid, owner.host)
                });
                return Err(StoreError::Locked { path, who });
            } else {
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Breaks the lock; returns whether there was one.
    pub(crate) fn break_it(store: &Path) -> Result<bool, StoreError> {
        let there = store.join(LOCK).exists();
        remove_file(&store.join(LOCK))?;
        match fs::remove_dir(store.join(LOCK_BREAKING)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("remove", &store.join(LOCK_BREAKING))?;
            }
            _ => {}
        }
        Ok(there)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Else the next writer finds that this process is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes this process's identity into a file.
pub(crate) fn sign(file: &mut File) -> io::Result<()> {
    file.write_all(Owner::this()?.to_text().as_bytes())
}

/// Whether the process that signed a file is certainly gone.
pub(crate) fn signer_is_gone(file: File) -> bool {
    let mut text = String::new();
    // A signature is short.
    file.take(4096).read_to_string(&mut text).is_ok() && Owner::parse(&text).is_some_and(|owner| owner.is_gone())
}

/// Removes the lock of an owner that is gone, unless it is another one by now.
fn take_away(store: &Path, text: &str) -> Result<(), StoreError> {
    let guard = store.join(LOCK_BREAKING);
    match fs::create_dir(&guard) {
        Ok(()) => {}
        // Somebody else is at it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            thread::sleep(RETRY_INTERVAL);
            return Ok(());
        }
        Err(error) => return Err(error).context("create", &guard),
    }
    let path = store.join(LOCK);
    let removed = if fs::read_to_string(&path).is_ok_and(|now| now == text) { remove_file(&path) } else { Ok(()) };
    fs::remove_dir(&guard).context("remove", &guard)?;
    removed
}

impl Owner {
    fn this() -> io::Result<Self> {
        let pid = std::process::id();
        let start = start_of(pid).ok_or(io::ErrorKind::NotFound)?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().replace(' ', "_");
        Ok(Self { place: place()?, pid, start, host })
    }

    fn to_text(&self) -> String {
        let Self { place, pid, start, host } = self;
        format!("{place} {pid} {start} {host}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace().map(str::to_owned);
        let (place, pid, start, host) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self { place, pid: pid.parse().ok()?, start, host })
    }

    /// Whether the process is certainly gone: known only for processes on this machine, in this namespace.
    fn is_gone(&self) -> bool {
        place().is_ok_and(|place| place == self.place) && start_of(self.pid).as_ref() != Some(&self.start)
    }
}

/// Returns the scope of process numbers: this boot of this machine, and this process's namespace.
fn place() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(format!("{}/{}", boot.trim(), fs::read_link("/proc/self/ns/pid")?.display()))
}

/// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22).
fn start_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, and ends at the last parenthesis.
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("parallax/tmp")).unwrap();
        directory
    }

    fn take(store: &Path) -> Result<LockFile, StoreError> {
        LockFile::take(store, &store.join("parallax/tmp"), Duration::ZERO)
    }

    #[test]
    fn one_has_it_at_a_time_and_the_next_is_told_who() {
        let store = store();
        let held = take(store.path()).unwrap();
        let error = take(store.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} on ", std::process::id())), "{error}");
        assert!(error.contains("--break-lock"), "{error}");
        drop(held);
        drop(take(store.path()).unwrap());
        assert!(!store.path().join(LOCK).exists());
        assert_eq!(fs::read_dir(store.path().join("parallax/tmp")).unwrap().count(), 0);
    }

    #[test]
    fn the_lock_of_a_process_that_is_gone_is_taken_and_another_machines_is_not() {
        let store = store();
        let this = Owner::this().unwrap();
        let lock = |owner: &Owner| fs::write(store.path().join(LOCK), owner.to_text()).unwrap();
        lock(&Owner { start: "1".into(), ..this.clone() });
        drop(take(store.path()).unwrap());
        lock(&Owner { place: "elsewhere/pid:[1]".into(), start: "1".into(), host: "far".into(), ..this });
        assert!(matches!(take(store.path()), Err(StoreError::Locked { who, .. }) if who.ends_with("on far")));
        assert!(LockFile::break_it(store.path()).unwrap());
        assert!(!LockFile::break_it(store.path()).unwrap());
        drop(take(store.path()).unwrap());
    }
}
