//! The cache's directory: bounded, and used by one process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use parallax_chunks::{ChunkId, Index};
use parallax_format::digest::Sha256;
use rustix::fs::FlockOperation;

use super::layer::{BITS, CachedLayer, DATA, is_in_use, paths, remove};

/// The file that the process which uses the cache keeps locked.
const LOCK: &str = "lock";

/// An error of the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory may be written by others, or is another user's.
    #[error("the cache {} is not safe: {reason}", path.display())]
    NotSafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Another process uses the directory.
    #[error("the cache {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The chunk's content does not have its id.
    #[error("the content is not that of chunk {0}")]
    OtherContent(ChunkId),
    /// The limit is reached, and no layer is idle.
    #[error("the cache is full: {used} of {limit} bytes are in use by layers that are mounted")]
    Full {
        /// Size of what is cached in bytes.
        used: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
}

/// The cache of a node.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    /// Limit in bytes.
    limit: u64,
    layers: Mutex<Layers>,
    _lock: File,
}

#[derive(Debug, Default)]
struct Layers {
    known: BTreeMap<Sha256, Known>,
    /// Counts uses, to order them.
    uses: u64,
    /// Size in bytes of what is being written.
    reserved: u64,
}

/// A layer that has files in the cache.
#[derive(Debug)]
struct Known {
    /// Present if it was opened by this process.
    open: Option<Arc<CachedLayer>>,
    /// Size on disk in bytes when the cache was opened.
    found: u64,
    /// When it was used last; smaller numbers are earlier.
    used: u64,
}

impl Known {
    fn bytes(&self) -> u64 {
        self.open.as_ref().map_or(self.found, |layer| layer.bytes())
    }

    /// Whether nobody uses the layer: this process to serve it, or the kernel, which has it mounted.
    fn is_idle(&self, directory: &Path, name: &Sha256) -> bool {
        let [data, _] = paths(directory, name);
        self.open.as_ref().is_none_or(|layer| Arc::strong_count(layer) == 1) && !is_in_use(&data)
    }
}

impl Cache {
    /// Opens the cache in `directory`, which is made if it does not exist; at most `limit` bytes are kept.
    ///
    /// # Errors
    /// [`CacheError`]: another process uses the directory, or others than this process's user may write in it.
    pub fn open(directory: &Path, limit: u64) -> Result<Self, CacheError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |cause| CacheError::Io { action, path, cause }
        };
        if !directory.is_dir() {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(directory, mode).map_err(failed("set the mode of", directory))?;
        }
        // The path comes from the configuration; systemd makes it a link for a service with an account of its own.
        let metadata = fs::metadata(directory).map_err(failed("read", directory))?;
        let not_safe = |reason| Err(CacheError::NotSafe { path: directory.to_owned(), reason });
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return not_safe("it belongs to another user");
        }
        if !metadata.is_dir() || metadata.mode() & 0o022 != 0 {
            return not_safe("it is no directory that only its owner may write");
        }
        let path = directory.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(CacheError::InUse(directory.to_owned()));
        }
        let layers = found(directory).map_err(failed("read", directory))?;
        let cache = Self { directory: directory.to_owned(), limit, layers: Mutex::new(layers), _lock: lock };
        // The limit may have been lowered.
        cache.make_room(&mut cache.layers(), 0)?;
        Ok(cache)
    }

    /// Opens a layer's file, named by the SHA-256 that the layer's record has. What was cached of it can be read at once.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn layer(&self, name: &Sha256, index: &Index) -> Result<Arc<CachedLayer>, CacheError> {
        let mut layers = self.layers();
        layers.uses += 1;
        let used = layers.uses;
        if let Some(known) = layers.known.get_mut(name) {
            known.used = used;
            if let Some(open) = known.open.as_ref().filter(|open| open.index() == index) {
                return Ok(Arc::clone(open));
            }
        }
        let opened = self.with_room(&mut layers, || CachedLayer::open(&self.directory, name, index.clone()));
        let open = Arc::new(opened.map_err(self.failed("open", name))?);
        layers.known.insert(*name, Known { open: Some(Arc::clone(&open)), found: 0, used });
        // Its time is the order of uses for the next process.
        let [_, bits] = paths(&self.directory, name);
        let touched = File::options().write(true).open(&bits).and_then(|file| file.set_modified(SystemTime::now()));
        touched.map_err(self.failed("set the time of", name))?;
        Ok(open)
    }

    /// Makes room for a chunk of a layer, as [`Self::put`] does.
    ///
    /// # Errors
    /// [`CacheError`]: the cache cannot take the chunk now.
    pub fn make_room_for(&self, layer: &CachedLayer, id: &ChunkId) -> Result<(), CacheError> {
        self.make_room(&mut self.layers(), layer.needed(id))
    }

    /// Adds a chunk of a layer; its content is checked. If the limit is reached, idle layers are removed, the one first that was used
    /// least recently.
    ///
    /// # Errors
    /// [`CacheError`]; then the chunk cannot be read.
    pub fn put(&self, layer: &CachedLayer, id: &ChunkId, content: &[u8]) -> Result<(), CacheError> {
        let needed = layer.needed(id);
        let mut layers = self.layers();
        self.make_room(&mut layers, needed)?;
        layers.reserved += needed;
        // Several threads write at a time.
        drop(layers);
        let mut put = layer.put(id, content);
        let mut layers = self.layers();
        if put.as_ref().is_err_and(is_disk_full) {
            put = self.with_room(&mut layers, || layer.put(id, content));
        }
        layers.reserved -= needed;
        drop(layers);
        let io = |cause| CacheError::Io { action: "write", path: self.directory.clone(), cause };
        if put.map_err(io)? { Ok(()) } else { Err(CacheError::OtherContent(*id)) }
    }

    /// Returns a chunk that another open layer has, checked against its id.
    #[must_use]
    pub fn chunk(&self, id: &ChunkId) -> Option<Vec<u8>> {
        let open: Vec<_> = self.layers().known.values().filter_map(|known| known.open.clone()).collect();
        open.iter().find_map(|layer| layer.chunk(id))
    }

    /// Returns the maximum size in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the size of what is cached in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        used(&self.layers())
    }

    fn make_room(&self, layers: &mut Layers, needed: u64) -> Result<(), CacheError> {
        while used(layers).saturating_add(layers.reserved).saturating_add(needed) > self.limit {
            if !self.remove_idle(layers)? {
                return Err(CacheError::Full { used: used(layers), limit: self.limit });
            }
        }
        Ok(())
    }

    /// Writes to the cache. As long as the file system is full, an idle layer is removed and the same is tried again.
    fn with_room<T>(&self, layers: &mut Layers, write: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match write() {
                Err(error) if is_disk_full(&error) && self.remove_idle(layers).unwrap_or(false) => {}
                result => return result,
            }
        }
    }

    /// Removes the idle layer that was used least recently. Returns whether there was one.
    fn remove_idle(&self, layers: &mut Layers) -> Result<bool, CacheError> {
        let idle =
            layers.known.iter().filter(|(name, known)| known.bytes() > 0 && known.is_idle(&self.directory, name));
        let Some(name) = idle.min_by_key(|(_, known)| known.used).map(|(name, _)| *name) else { return Ok(false) };
        layers.known.remove(&name);
        // The record first: without it the data says nothing.
        let [data, bits] = paths(&self.directory, &name);
        remove(&bits).and_then(|()| remove(&data)).map_err(self.failed("remove", &name))?;
        Ok(true)
    }

    fn failed(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> CacheError {
        let path = self.directory.join(name);
        move |cause| CacheError::Io { action, path, cause }
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the file system, or what its user may have of it, is used up.
fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn used(layers: &Layers) -> u64 {
    layers.known.values().map(Known::bytes).sum()
}

/// Returns the layers that an earlier process left, in the order of their use. Files of unfinished ones are removed.
fn found(directory: &Path) -> io::Result<Layers> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == DATA || extension == BITS);
        let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(Sha256::parse);
        names.extend(name.filter(|_| is_ours));
    }
    let mut by_time = Vec::new();
    for name in names {
        let [data, bits] = paths(directory, &name);
        match (fs::metadata(&data), fs::metadata(&bits)) {
            (Ok(data), Ok(bits)) => by_time.push((bits.modified()?, name, data.blocks() * 512)),
            _ => {
                remove(&bits)?;
                remove(&data)?;
            }
        }
    }
    by_time.sort();
    let mut layers = Layers::default();
    for (_, name, found) in by_time {
        layers.uses += 1;
        layers.known.insert(name, Known { open: None, found, used: layers.uses });
    }
    Ok(layers)
}

#[cfg(test)]
mod tests;
