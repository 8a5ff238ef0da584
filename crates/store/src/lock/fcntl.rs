//! The locks by which containers/storage keeps writers of one store apart and tells readers that something changed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use parallax_file_system::{Can, FileSystem};
use parallax_format::layout;
use parallax_format::layout::{IMAGES_LOCK, LAYERS_LOCK};
use parallax_format::podman::LOCK_TOKEN_BYTES;
use parallax_sys::fault;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use crate::error::{IoContext as _, StoreError};
use crate::lock::file::{LockFile, timeout};

/// fcntl locks belong to the process, so its threads are kept apart by this.
static THREADS: Mutex<()> = Mutex::new(());

/// Both locks of a store, held for writing in the order in which containers/storage takes them.
#[derive(Debug)]
pub(crate) struct WriteLock {
    layers: File,
    images: File,
    /// The lock file, on a file system without locks.
    file: Option<LockFile>,
    _threads: MutexGuard<'static, ()>,
}

impl WriteLock {
    /// Waits for the locks.
    pub(crate) fn take(store: &Path) -> Result<Self, StoreError> {
        // A thread that panicked has left the files as a killed process would: usable.
        let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |name| -> Result<(File, bool), StoreError> {
            let path = store.join(name);
            let file = OpenOptions::new().read(true).write(true).open(&path).context("open", &path)?;
            let locked = lock(&file, FlockOperation::LockExclusive).context("lock", &path)?;
            Ok((file, locked))
        };
        let ((layers, layers_locked), (images, images_locked)) = (open(LAYERS_LOCK)?, open(IMAGES_LOCK)?);
        let file = if layers_locked && images_locked {
            None
        } else {
            Some(LockFile::take(store, &store.join(layout::TEMPORARY), timeout())?)
        };
        Ok(Self { layers, images, file, _threads: threads })
    }

    /// Whether the file system has no locks, so that writers take turns by a file.
    pub(crate) fn is_file(&self) -> bool {
        self.file.is_some()
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

/// Both locks of a store, held for reading: nothing changes meanwhile. Needs no permission to write.
#[derive(Debug)]
pub(crate) struct ReadLock {
    _files: [File; 2],
    _threads: MutexGuard<'static, ()>,
}

impl ReadLock {
    /// Waits for the locks; `None` where the file system has none, or the store no files for them that may be read.
    pub(crate) fn take(store: &Path) -> Result<Option<Self>, StoreError> {
        let threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |name| -> Result<Option<File>, StoreError> {
            let path = store.join(name);
            let file = match File::open(&path) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                    return Ok(None);
                }
                file => file.context("open", &path)?,
            };
            let locked = lock(&file, FlockOperation::LockShared).context("lock", &path)?;
            Ok(locked.then_some(file))
        };
        let Some(layers) = open(LAYERS_LOCK)? else { return Ok(None) };
        let Some(images) = open(IMAGES_LOCK)? else { return Ok(None) };
        Ok(Some(Self { _files: [layers, images], _threads: threads }))
    }
}

/// Locks a file; `false` if the file system has no locks.
pub(crate) fn lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    if has_no_locks_for_tests() {
        return Ok(false);
    }
    match fcntl_lock(file, how) {
        Ok(()) => Ok(true),
        // EINVAL is what fcntl(2) says of a file that can't be locked.
        Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the file system of the store at `root` has locks. Who may only read the store can ask too.
///
/// # Errors
/// The store has no lock file that can be opened.
pub fn has_locks(root: &Path) -> io::Result<bool> {
    // An fcntl lock is lost when any descriptor of the file is closed; a writer's must not be, by a look.
    let _threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    let file = File::open(root.join(LAYERS_LOCK))?;
    if FileSystem::of_file(&file)?.kind.locks == Can::No {
        return Ok(false);
    }
    match lock(&file, FlockOperation::NonBlockingLockShared) {
        // Somebody has it.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::AGAIN | Errno::ACCESS)) => Ok(true),
        locked => locked,
    }
}

/// In builds with debug assertions `PARALLAX_TEST_NO_LOCKS` makes every file system one without locks.
fn has_no_locks_for_tests() -> bool {
    cfg!(debug_assertions) && std::env::var_os("PARALLAX_TEST_NO_LOCKS").is_some()
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
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
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
