//! The directory of one writer's unfinished files, and how others see that the writer lives.
//!
//! A writer works for minutes before it changes the store and holds none of the store's locks meanwhile. What it has in
//! `parallax/tmp` must not be taken for a dead writer's. So each working directory has a file that its writer keeps
//! locked: whoever gets that lock knows that the writer is gone, whatever machine it ran on, with no clocks to compare
//! and no process ids to guess about. The lock is of the kind the store's own locks are (fcntl), because a file system
//! that has those for all its machines may have flock for one machine only.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::error::{IoContext as _, StoreError};
use crate::lock::fcntl::{WriteLock, lock};
use crate::lock::file;

/// Prefix of the names of working directories.
pub(crate) const PREFIX: &str = "work-";
/// The locked file in it.
const MARKER: &str = "lock";

/// The working directories of this process. An fcntl lock does not keep its own process out, and is lost when any
/// descriptor of the file is closed, so these markers must not be opened again.
static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A directory for a writer's unfinished files. It is removed when dropped.
#[derive(Debug)]
pub struct WorkDirectory {
    directory: TempDir,
    _marker: File,
}

impl WorkDirectory {
    /// Makes one in `temporary`. Under the store's lock, so that nobody finds it before it is marked.
    pub(crate) fn new(_: &WriteLock, temporary: &Path) -> Result<Self, StoreError> {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(temporary);
        let directory = directory.context("create files in", temporary)?;
        let path = directory.path().join(MARKER);
        let mut marker = File::create_new(&path).context("create", &path)?;
        // Without locks it is known by this to be a dead writer's, if that was on the collector's machine.
        file::sign(&mut marker).context("write", &path)?;
        lock(&marker, FlockOperation::NonBlockingLockExclusive).context("lock", &path)?;
        own().insert(directory.path().to_owned());
        Ok(Self { directory, _marker: marker })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        own().remove(self.directory.path());
    }
}

/// Whether the writer of a working directory may still be at work. In doubt it is.
pub(crate) fn is_live(directory: &Path) -> bool {
    if own().contains(directory) {
        return true;
    }
    match OpenOptions::new().read(true).write(true).open(directory.join(MARKER)) {
        Ok(marker) => match lock(&marker, FlockOperation::NonBlockingLockExclusive) {
            Ok(true) => false,
            Ok(false) => !file::signer_is_gone(marker),
            Err(_) => true,
        },
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn own() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}
