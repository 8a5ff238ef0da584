//! What Ctrl-C does: the store is left as it was.
//!
//! A thread waits for the signals that end the process. It waits until no change of the store is under way, removes the
//! unfinished files and ends the process; children that read from it end with it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use parallax_store::WorkDirectory;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Unfinished files, and, while it is locked, a change that must not be cut short.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Starts the thread.
///
/// # Errors
/// If signals cannot be caught.
pub fn watch() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        for directory in lock().drain(..) {
            let _ = std::fs::remove_dir_all(directory);
        }
        eprintln!("parallax: interrupted; the store is as it was");
        std::process::exit(128 + signal);
    });
    Ok(())
}

/// A working directory that is removed when the process is interrupted.
#[derive(Debug)]
pub struct Guarded(WorkDirectory);

impl Guarded {
    /// Guards `directory` until it is dropped.
    pub fn new(directory: WorkDirectory) -> Self {
        lock().push(directory.path().to_owned());
        Self(directory)
    }

    /// Its path.
    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        lock().retain(|path| path != self.0.path());
    }
}

/// Holds off the end of the process while a change that belongs together is made.
pub fn hold() -> MutexGuard<'static, Vec<PathBuf>> {
    lock()
}

fn lock() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}
