//! The locks by which containers/storage keeps writers of one store apart and tells readers that something changed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, fcntl_lock};

use crate::containers_storage::{IMAGES_LOCK, LAYERS_LOCK, LOCK_TOKEN_BYTES};
use crate::fault;
use crate::files::{IoContext as _, StoreError};

/// fcntl locks belong to the process, so its threads are kept apart by this.
static THREADS: Mutex<()> = Mutex::new(());

/// Both locks of a store, held for writing in the order in which containers/storage takes them.
#[derive(Debug)]
pub(crate) struct WriteLock {
    layers: File,
    images: File,
    _threads: MutexGuard<'static, ()>,
}

impl WriteLock {
    /// Waits for the locks.
    pub(crate) fn take(store: &Path) -> Result<Self, StoreError> {
        // A thread that panicked has left the files as a killed process would: usable.
        let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |name| -> Result<File, StoreError> {
            let path = store.join(name);
            let file = OpenOptions::new().read(true).write(true).open(&path).context("open", &path)?;
            fcntl_lock(&file, FlockOperation::LockExclusive).map_err(io::Error::from).context("lock", &path)?;
            Ok(file)
        };
        Ok(Self { layers: open(LAYERS_LOCK)?, images: open(IMAGES_LOCK)?, _threads: threads })
    }

    /// Tells readers to read the list of layers again.
    pub(crate) fn layers_changed(&self) -> io::Result<()> {
        fault::point();
        write_token(&self.layers)
    }

    /// Tells readers to read the list of images again.
    pub(crate) fn images_changed(&self) -> io::Result<()> {
        fault::point();
        write_token(&self.images)
    }
}

/// Makes the lock files, so that readers never have to: they may not be allowed to.
pub(crate) fn create(store: &Path) -> Result<(), StoreError> {
    let _threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    for name in [LAYERS_LOCK, IMAGES_LOCK] {
        let path = store.join(name);
        let make = || -> io::Result<()> {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.set_permissions(Permissions::from_mode(0o644))?;
                    write_token(&file)
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
            }
        };
        make().context("create", &path)?;
    }
    Ok(())
}

/// A new token; it need not be secret, only different.
fn write_token(file: &File) -> io::Result<()> {
    let mut token = [0; LOCK_TOKEN_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    file.write_all_at(&token, 0)
}
