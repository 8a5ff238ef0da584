//! Handling of Ctrl-C and other signals: the store is left unchanged.
//!
//! A thread waits for the signals that end the process. It waits until no change of the store is under way, removes the
//! unfinished files and ends the process; children that read from it end with it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use parallax_store::WorkDirectory;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::report_error;

/// Unfinished files, and, while it is locked, a change that must not be cut short.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Starts the thread.
///
/// # Errors
/// If signals cannot be caught.
pub(crate) fn watch() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // A change under way may wait for another machine. The second signal ends the process; `parallax gc` removes the rest.
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                std::process::exit(128 + signal);
            }
        });
        for directory in lock().drain(..) {
            remove(&directory);
        }
        report_error("interrupted; no unfinished image is left in the store");
        std::process::exit(128 + signal);
    });
    Ok(())
}

/// Removes a directory in which others of this process still write.
fn remove(directory: &std::path::Path) {
    const ATTEMPTS: u32 = 100;
    let is_gone = || match std::fs::remove_dir_all(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    let _ = (0..ATTEMPTS).any(|_| is_gone());
}

/// A working directory that is removed when the process is interrupted.
#[derive(Debug)]
pub(crate) struct Guarded(WorkDirectory);

impl Guarded {
    /// Makes a directory and guards it until it is dropped.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn new<E>(make: impl FnOnce() -> Result<WorkDirectory, E>) -> Result<Self, E> {
        // No signal comes between the two.
        let mut unfinished = lock();
        let directory = make()?;
        unfinished.push(directory.path().to_owned());
        Ok(Self(directory))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        lock().retain(|path| path != self.0.path());
    }
}

/// Delays the end of the process while changes that belong together are made.
pub(crate) fn hold() -> MutexGuard<'static, Vec<PathBuf>> {
    lock()
}

fn lock() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}
