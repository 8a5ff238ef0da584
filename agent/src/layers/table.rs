//! Each file of a layer mounted once on the node.
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
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use parallax_config::{Config, LayerReads};
use parallax_format::LayerFormat;
use parallax_format::digest::{DiffId, Sha256};
use parallax_format::layout::CHUNK_STORE;
use parallax_format::record::LayerRecord;
use parallax_store::read::{OpenError, StoreKey, TrustedStore};
use parallax_sys::credentials::{Credentials, reopen};
use parallax_sys::loop_device::Reads;

use super::chunked::{Chunked, KeptLayers, Supervised, Swaps, Worker};
use super::digest::Checker;
use super::fs_verity::check;
use super::idle::IdleCache;
use super::mounted::{FileKey, Form, LayerEntry, LayerError, MountedLayer};
use super::opened::{Abilities, DISABLED, READS_FILES, opened};
use super::{erofs, squashfs};

/// One file's place in the table: locked while the file is being mounted, so that others wait for that mount and not for
/// any other.
type Slot = Arc<Mutex<Weak<MountedLayer>>>;

/// The key of a layer's record: the store, the layer's diffID and the SHA-256 of its SquashFS file.
type Recorded = (StoreKey, DiffId, Sha256);

/// Returns the key of a layer's record; `None` for a file of another tool, of which no digest was recorded.
fn recorded(store: &TrustedStore, layer: &LayerRecord) -> Option<Recorded> {
    Some((store.key(), layer.diff_id, layer.squashfs_sha256?))
}

/// The table of the layers that are mounted on this node.
#[derive(Debug)]
pub struct LayerTable {
    directory: PathBuf,
    slots: Mutex<HashMap<FileKey, Slot>>,
    recorded: Mutex<HashMap<Recorded, Weak<MountedLayer>>>,
    next: AtomicU64,
    checker: Checker,
    /// Whether files are read past the page cache.
    direct_reads: AtomicBool,
    idle: IdleCache<MountedLayer>,
    /// Set if layers are mounted from their chunks.
    worker: Mutex<Option<Arc<Worker>>>,
    /// What systemd has kept of layers in chunks that are to be adopted.
    kept: Mutex<KeptLayers>,
    swaps: Arc<Swaps>,
    /// The layers of an earlier agent, by mount point.
    adopted: Mutex<HashMap<PathBuf, Weak<MountedLayer>>>,
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
            direct_reads: AtomicBool::default(),
            idle: IdleCache::new(Duration::ZERO),
            worker: Mutex::default(),
            kept: Mutex::default(),
            swaps: Arc::default(),
            adopted: Mutex::default(),
        }
    }

    /// Applies a configuration to a new table.
    #[must_use]
    pub fn configured(self, config: &Config) -> Self {
        self.reconfigure(config);
        self
    }

    /// Adds what systemd has kept of an earlier agent's layers in chunks.
    #[must_use]
    pub fn with_kept(self, kept: KeptLayers) -> Self {
        Self { kept: Mutex::new(kept), ..self }
    }

    /// Has systemd forget what it has kept of layers that were not adopted.
    pub fn forget_kept(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = KeptLayers::default();
    }

    /// Applies another configuration from now on.
    pub fn reconfigure(&self, config: &Config) {
        self.checker.set(config.agent.verify);
        self.direct_reads.store(config.agent.layer_reads == LayerReads::Direct, Ordering::Relaxed);
        self.idle.set_ttl(config.agent.idle_time());
        let worker = config.lazy.enabled.then(|| Arc::new(Worker::new(&config.lazy, self.reads(), &self.swaps)));
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = worker;
    }

    /// Returns how many layers in chunks became complete.
    #[must_use]
    pub fn swaps(&self) -> &Swaps {
        &self.swaps
    }

    /// Puts layers that a step is about to release into the idle layer cache.
    pub fn keep_idle(&self, layers: &[Arc<MountedLayer>]) {
        self.idle.keep(layers);
    }

    /// Unmounts the layers in the idle layer cache.
    pub fn unmount_idle(&self) {
        self.idle.clear();
    }

    /// Opens the layer's file with a user's credentials and checks it.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn file(&self, store: &TrustedStore, layer: &LayerRecord, user: &Credentials) -> Result<File, LayerError> {
        let file = opened(store, layer, user, READS_FILES)?;
        check(&self.checker, &file, store, layer, user)?;
        Ok(file)
    }

    /// Returns `true` if files are checked before they are mounted.
    #[must_use]
    pub fn checks_files(&self) -> bool {
        self.checker.is_on()
    }

    /// Returns the mounted layer to a user who may read its file; mounts the layer first if necessary. If the kernel reads EROFS, a
    /// layer that the store has in both formats is mounted from its EROFS file.
    ///
    /// # Errors
    /// [`LayerError`].
    pub fn get(
        &self,
        store: &TrustedStore,
        layer: &LayerRecord,
        user: &Credentials,
        kernel: &Abilities,
    ) -> Result<Arc<MountedLayer>, LayerError> {
        let mounted = self.open(store, layer, user, kernel)?;
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
        let known = |layer| known(layer).filter(|mounted| mounted.is_good());
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

    /// Opens the index of a layer's chunks and returns its mounted layer; mounts it if the index's layer is not mounted. `None` if the layer
    /// has no chunks, or they are not used.
    ///
    /// # Errors
    /// The reason why the layer is mounted from its file, a part of a sentence.
    fn open_chunks(
        &self,
        store: &TrustedStore,
        layer: &LayerRecord,
        user: &Credentials,
        kernel: &Abilities,
    ) -> Result<Option<Arc<MountedLayer>>, String> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let worker = worker.filter(|_| layer.format == LayerFormat::Squashfs);
        let (Some(worker), Some(sha256)) = (worker, layer.squashfs_sha256) else { return Ok(None) };
        let open = || user.run(|| store.open_chunks(layer));
        let opened_chunks = open().map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let Some((index, trace)) = opened_chunks else { return Ok(None) };
        let key = FileKey::of(&index).map_err(|error| format!("cannot stat the index of its chunks: {error}"))?;
        let slot = self.slot(key);
        let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounted) = place.upgrade().filter(|mounted| mounted.is_good()) {
            return Ok(Some(mounted));
        }
        kernel.chunks.clone()?;
        let access = index.try_clone().map_err(|error| error.to_string())?;
        let by_root = |file: File| reopen(file.as_fd()).unwrap_or(file);
        let not_attached = |error: io::Error| format!("cannot attach the mount: {error}");
        let mount_point = self.mount_point(&layer.diff_id).map_err(not_attached)?;
        let chunked = Chunked {
            mount: mount_point.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            diff_id: layer.diff_id,
            sha256,
            size: layer.squashfs_size,
            index: by_root(index),
            trace,
            whole: opened(store, layer, user, DISABLED).ok().map(by_root),
            verify: self.checker.is_on(),
            chunk_store: store.path().join(CHUNK_STORE),
        };
        let (mount, supervised) = chunked.mount(&worker).inspect_err(|_| drop(fs::remove_dir(&mount_point)))?;
        let form = Form::Chunks(supervised);
        let mounted = Arc::new(MountedLayer { key, diff_id: layer.diff_id, mount_point, file: Some(access), form });
        mount.attach_at(&mounted.mount_point).map_err(not_attached)?;
        *place = Arc::downgrade(&mounted);
        Ok(Some(mounted))
    }

    /// Opens a layer's file and returns its mounted layer; mounts it if the file is not mounted.
    fn open(
        &self,
        store: &TrustedStore,
        layer: &LayerRecord,
        user: &Credentials,
        kernel: &Abilities,
    ) -> Result<Arc<MountedLayer>, LayerError> {
        let reason = match self.open_chunks(store, layer, user, kernel) {
            Ok(Some(mounted)) => return Ok(mounted),
            Ok(None) => None,
            Err(reason) => Some(reason),
        };
        let mut form = None;
        let mounted_from =
            |file: File, layer: &LayerRecord, form: Form| self.mounted_from(file, store, layer, user, form);
        if kernel.erofs && layer.format == LayerFormat::Squashfs {
            let opened = user.run(|| store.open_erofs(layer)).map_err(LayerError::Credentials)?;
            let mounted = opened
                .map_err(LayerError::from)
                .and_then(|opened| opened.map(|(layer, file)| mounted_from(file, &layer, Form::File)).transpose());
            match mounted {
                Ok(Some(mounted)) => return Ok(mounted),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(layer = %layer.diff_id, %error, "the layer is mounted from its SquashFS file");
                    form = Some(Form::SquashfsBecause(error.to_string()));
                }
            }
        }
        let file = opened(store, layer, user, reason.as_deref().unwrap_or(DISABLED))?;
        if let Some(reason) = reason {
            tracing::warn!(layer = %layer.diff_id, reason, "the layer is mounted from its whole file");
            form.get_or_insert(Form::FileBecause(reason));
        }
        mounted_from(file, layer, form.unwrap_or(Form::File))
    }

    /// Returns the mounted layer of an open file; mounts it if the file is not mounted.
    fn mounted_from(
        &self,
        file: File,
        store: &TrustedStore,
        layer: &LayerRecord,
        user: &Credentials,
        form: Form,
    ) -> Result<Arc<MountedLayer>, LayerError> {
        let path = layer.file_path();
        let failed = |what, cause| LayerError::Mount { path: path.clone(), what, cause };
        let key = FileKey::of(&file).map_err(|error| failed("cannot stat its file", error))?;
        let slot = self.slot(key);
        let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounted) = place.upgrade() {
            return Ok(mounted);
        }
        // A network file system reads with the credentials of whoever opened the file. The mount may outlive the user's (a Kerberos
        // ticket, say), so root's are better, where root may read the file.
        let file = reopen(file.as_fd()).unwrap_or(file);
        check(&self.checker, &file, store, layer, user)?;
        let (mount, form) = match layer.format {
            LayerFormat::Squashfs => squashfs::mount(&file, self.reads()).map(|mount| (mount, form)),
            LayerFormat::Erofs => erofs::mount(&file, self.reads()).map(|(mount, by)| (mount, Form::Erofs(by))),
        }
        .map_err(|(what, error)| failed(what, error))?;
        let mount_point =
            self.mount_point(&layer.diff_id).map_err(|error| failed("cannot create a mount point", error))?;
        let mounted = MountedLayer { key, diff_id: layer.diff_id, mount_point, file: Some(file), form };
        mount.attach_at(&mounted.mount_point).map_err(|error| failed("cannot attach the mount", error))?;
        let mounted = Arc::new(mounted);
        *place = Arc::downgrade(&mounted);
        Ok(mounted)
    }

    /// Adopts a layer that an earlier agent mounted. Leases with the same mount point share it; a file may have two, if reading the first
    /// failed.
    #[must_use]
    pub fn adopt(&self, entry: LayerEntry) -> Arc<MountedLayer> {
        let LayerEntry { diff_id, file, mount_point, chunks, erofs } = entry;
        let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = adopted.get(&mount_point).and_then(Weak::upgrade) {
            return layer;
        }
        let form = match chunks {
            Some(chunks) => {
                let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take(&chunks.mount);
                Form::Chunks(Supervised::adopt(diff_id, chunks, mount_point.clone(), kept))
            }
            None => erofs.map_or(Form::File, Form::Erofs),
        };
        let layer = Arc::new(MountedLayer { key: file, diff_id, mount_point, file: None, form });
        adopted.insert(layer.mount_point.clone(), Arc::downgrade(&layer));
        let slot = self.slot(file);
        let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if place.strong_count() == 0 {
            *place = Arc::downgrade(&layer);
        }
        layer
    }

    /// Returns the orphaned mount points of earlier agents, which no lease has adopted. To be called before anything is mounted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn orphaned(&self) -> io::Result<Vec<PathBuf>> {
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut orphaned = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if adopted.get(&path).is_none_or(|layer| layer.strong_count() == 0) {
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

    fn reads(&self) -> Reads {
        if self.direct_reads.load(Ordering::Relaxed) { Reads::Direct } else { Reads::Buffered }
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
