//! Each SquashFS file mounted once on the node.
//!
//! A mounted layer lives as long as a reference to it. Files are told apart by device and inode, not by what a record says
//! of them: two stores may be trusted differently, and a record of one must not get at a mount made from the other. But while a
//! layer is mounted, records of the same store that have the same SquashFS digest mean that mount: its file is not looked up
//! again, so that a step on a node that has the image asks the store for its record and for one directory.
//!
//! Every file is opened with the credentials of the user it is for, and a mounted layer is given to a user only if they may read
//! its file: the store's access rights are the kernel's to check, for each user.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use parallax_config::Agent;
use parallax_format::digest::{DiffId, Sha256};
use parallax_format::record::LayerRecord;
use parallax_store::read::{OpenError, StoreKey, TrustedStore};
use parallax_sys::credentials::{Credentials, reopen};
use parallax_sys::mount::{DetachedMount, take_down};
use serde::{Deserialize, Serialize};

use super::digest::{Checker, DigestError};
use super::idle::IdleCache;
use super::squashfs;

/// An error of mounting a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The agent cannot take on the user's credentials.
    #[error("cannot take on the user's credentials: {0}")]
    Credentials(io::Error),
    /// The layer's file differs from the migrated one.
    #[error("the layer {path} is not what was migrated: {cause} (\"parallax verify\" tells more)")]
    Digest {
        /// The SquashFS file, relative to its store.
        path: String,
        /// The difference.
        cause: DigestError,
    },
    /// A mount or its preparation failed.
    #[error("cannot mount the layer {path}: {what}: {cause}")]
    Mount {
        /// The SquashFS file, relative to its store.
        path: String,
        /// The failed operation.
        what: &'static str,
        /// The error of the system call.
        cause: io::Error,
    },
}

/// The identity of a mounted file: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileKey {
    device: u64,
    inode: u64,
}

/// A layer that is mounted on this node, for as long as this value lives.
#[derive(Debug)]
pub struct MountedLayer {
    key: FileKey,
    diff_id: DiffId,
    mount_point: PathBuf,
    /// Its file, by which access is checked; an earlier agent's layer has none.
    file: Option<File>,
}

/// The record of a mounted layer, by which a later agent adopts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// The layer's diffID.
    pub diff_id: DiffId,
    /// The file it was mounted from.
    pub file: FileKey,
    /// The mount point.
    pub mount_point: PathBuf,
}

impl MountedLayer {
    /// Returns the layer's diffID.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Makes a second, detached mount of the layer.
    ///
    /// # Errors
    /// Those of `open_tree(2)`.
    pub fn another_mount(&self) -> io::Result<DetachedMount> {
        DetachedMount::clone_of(&self.mount_point)
    }

    /// Returns the layer's record for the journal.
    #[must_use]
    pub fn entry(&self) -> LayerEntry {
        LayerEntry { diff_id: self.diff_id, file: self.key, mount_point: self.mount_point.clone() }
    }
}

impl Drop for MountedLayer {
    fn drop(&mut self) {
        if let Err(error) = take_down(&self.mount_point) {
            tracing::error!(mount_point = %self.mount_point.display(), "cannot unmount a layer: {error}");
        }
    }
}

/// One file's place in the table: locked while the file is being mounted, so that others wait for that mount and not for
/// any other.
type Slot = Arc<Mutex<Weak<MountedLayer>>>;

/// The key of a layer's record: the store, the layer's diffID and the SHA-256 of its SquashFS file.
type Recorded = (StoreKey, DiffId, Sha256);

/// Returns the key of a layer's record; `None` for a file of another tool, of which no digest was recorded.
fn recorded(store: &TrustedStore, layer: &LayerRecord) -> Option<Recorded> {
    Some((store.key(), layer.diff_id, layer.squashfs_sha256?))
}

/// Opens a layer's file with a user's credentials.
fn opened(store: &TrustedStore, layer: &LayerRecord, user: &Credentials) -> Result<File, LayerError> {
    Ok(user.run(|| store.open_layer(layer)).map_err(LayerError::Credentials)??)
}

/// The table of the layers that are mounted on this node.
#[derive(Debug)]
pub struct LayerTable {
    directory: PathBuf,
    slots: Mutex<HashMap<FileKey, Slot>>,
    recorded: Mutex<HashMap<Recorded, Weak<MountedLayer>>>,
    next: AtomicU64,
    checker: Checker,
    idle: IdleCache<MountedLayer>,
}

impl LayerTable {
    /// A table whose mount points are made in `directory`, which exists and which only root can enter. It checks no file, and
    /// caches no idle layer.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            slots: Mutex::default(),
            recorded: Mutex::default(),
            next: AtomicU64::new(0),
            checker: Checker::default(),
            idle: IdleCache::new(Duration::ZERO),
        }
    }

    /// Applies the agent's configuration to a new table.
    #[must_use]
    pub fn configured(self, config: &Agent) -> Self {
        self.reconfigure(config);
        self
    }

    /// Applies another configuration from now on.
    pub fn reconfigure(&self, config: &Agent) {
        self.checker.set(config.verify);
        self.idle.set_ttl(config.idle_time());
    }

    /// Puts layers that a step is about to release into the idle layer cache.
    pub fn keep_idle(&self, layers: &[Arc<MountedLayer>]) {
        self.idle.keep(layers);
    }

    /// Unmounts the layers in the idle layer cache.
    pub fn unmount_idle(&self) {
        self.idle.clear();
    }

    /// Opens the layer's SquashFS file with a user's credentials and checks it.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn file(&self, store: &TrustedStore, layer: &LayerRecord, user: &Credentials) -> Result<File, LayerError> {
        let file = opened(store, layer, user)?;
        self.check(&file, layer)?;
        Ok(file)
    }

    fn check(&self, file: &File, layer: &LayerRecord) -> Result<(), LayerError> {
        let failed = |cause| LayerError::Digest { path: layer.squashfs_path(), cause };
        self.checker.check(file, layer.squashfs_sha256).map_err(failed)
    }

    /// Returns `true` if files are checked before they are mounted.
    #[must_use]
    pub fn checks_files(&self) -> bool {
        self.checker.is_on()
    }

    /// Returns the mounted layer to a user who may read its file; mounts the layer first if necessary.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn get(
        &self,
        store: &TrustedStore,
        layer: &LayerRecord,
        user: &Credentials,
    ) -> Result<Arc<MountedLayer>, LayerError> {
        let mounted = self.open(store, layer, user)?;
        // The files of other tools have no recorded digest, so only device and inode identify them.
        if let Some(key) = recorded(store, layer) {
            let mut known = self.recorded();
            known.retain(|_, layer| layer.strong_count() > 0);
            known.insert(key, Arc::downgrade(&mounted));
        }
        Ok(mounted)
    }

    /// Returns the layers of an image, if all are known to be mounted, to a user who may read their files.
    ///
    /// # Errors
    /// [`LayerError`] if the user may not.
    pub fn already(
        &self,
        store: &TrustedStore,
        layers: &[LayerRecord],
        user: &Credentials,
    ) -> Result<Option<Vec<Arc<MountedLayer>>>, LayerError> {
        let known = |layer| recorded(store, layer).and_then(|key| self.recorded().get(&key).and_then(Weak::upgrade));
        let Some(mounted) = layers.iter().map(known).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let check = || -> Result<(), OpenError> {
            if layers.iter().any(|layer| !layer.sidecar) {
                store.check_layers_directory()?;
            }
            layers.iter().zip(&mounted).try_for_each(|(layer, mounted)| {
                store.check_open_layer(layer, mounted.file.as_ref().map(|file| file.as_fd()))
            })
        };
        user.run(check).map_err(LayerError::Credentials)??;
        Ok(Some(mounted))
    }

    /// Opens a layer's file and returns its mounted layer; mounts it if the file is not mounted.
    fn open(
        &self,
        store: &TrustedStore,
        layer: &LayerRecord,
        user: &Credentials,
    ) -> Result<Arc<MountedLayer>, LayerError> {
        let path = layer.squashfs_path();
        let failed = |what, cause| LayerError::Mount { path: path.clone(), what, cause };
        let file = opened(store, layer, user)?;
        let metadata = file.metadata().map_err(|error| failed("cannot stat its file", error))?;
        let key = FileKey { device: metadata.dev(), inode: metadata.ino() };
        let slot = self.slot(key);
        let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounted) = place.upgrade() {
            return Ok(mounted);
        }
        // A network file system reads with the credentials of whoever opened the file. The mount may outlive the user's (a Kerberos
        // ticket, say), so root's are better, where root may read the file.
        let file = reopen(file.as_fd()).unwrap_or(file);
        self.check(&file, layer)?;
        let mount = squashfs::mount(&file).map_err(|(what, error)| failed(what, error))?;
        let mount_point =
            self.mount_point(&layer.diff_id).map_err(|error| failed("cannot create a mount point", error))?;
        let mounted = MountedLayer { key, diff_id: layer.diff_id, mount_point, file: Some(file) };
        mount.attach_at(&mounted.mount_point).map_err(|error| failed("cannot attach the mount", error))?;
        let mounted = Arc::new(mounted);
        *place = Arc::downgrade(&mounted);
        Ok(mounted)
    }

    /// Adopts a layer that an earlier agent mounted.
    #[must_use]
    pub fn adopt(&self, entry: LayerEntry) -> Arc<MountedLayer> {
        let slot = self.slot(entry.file);
        let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
        place.upgrade().unwrap_or_else(|| {
            let LayerEntry { diff_id, file, mount_point } = entry;
            let mounted = Arc::new(MountedLayer { key: file, diff_id, mount_point, file: None });
            *place = Arc::downgrade(&mounted);
            mounted
        })
    }

    /// Returns the orphaned mount points of earlier agents, which no lease has adopted. To be called before anything is mounted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn orphaned(&self) -> io::Result<Vec<PathBuf>> {
        let adopted: Vec<PathBuf> = self.mounted().iter().map(|layer| layer.mount_point.clone()).collect();
        let mut orphaned = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if !adopted.contains(&path) {
                orphaned.push(path);
            }
        }
        Ok(orphaned)
    }

    /// Returns the mounted layers.
    #[must_use]
    pub fn mounted(&self) -> Vec<Arc<MountedLayer>> {
        let slots: Vec<Slot> =
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        // A slot that is locked is being mounted: not there yet.
        slots.iter().filter_map(|slot| slot.try_lock().ok()?.upgrade()).collect()
    }

    fn recorded(&self) -> MutexGuard<'_, HashMap<Recorded, Weak<MountedLayer>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, key: FileKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Slots of layers that are no longer mounted are removed, so that the table stays small. A slot that another thread
        // references is about to be used.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|place| place.strong_count() > 0)
        });
        Arc::clone(slots.entry(key).or_default())
    }

    /// Creates a new mount point. Names are never reused: a layer that is being unmounted must not unmount the next one.
    fn mount_point(&self, diff_id: &DiffId) -> io::Result<PathBuf> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.directory.join(format!("{}.{number}", diff_id.short()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| path),
            }
        }
    }
}
