//! Publishes the chunks of layers, and the indexes that name them.
//!
//! New chunks are collected in the writer's working directory. When their content is durable they are renamed into the chunk
//! store, and when that is durable too the index appears beside the layer's SquashFS file, by one rename. So a file in the chunk
//! store is a complete chunk, also after a power failure, and an index names only chunks that are there. A writer that dies leaves
//! chunks that no index names. While a writer works, its directory keeps [`Store::collect_chunks`] from removing such chunks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use parallax_chunks::{ChunkId, Index, compress};
use parallax_format::LayerFormat;
use parallax_format::digest::ImageId;
use parallax_format::layer_file::ChunkTotals;
use parallax_format::layout::CHUNK_STORE;
use parallax_format::record::LayerRecord;
use parallax_sys::fault;

use crate::atomic::{ensure_directory, read_if_there, replace_file};
use crate::error::{IoContext as _, StoreError};
use crate::lock::fcntl::WriteLock;
use crate::lock::work_directory::WorkDirectory;
use crate::parallel;
use crate::write::store::Store;

/// The directory of new chunks in a working directory. It also marks the directory as that of a writer of chunks.
pub(crate) const NEW_CHUNKS: &str = "chunks";

/// Writes the chunks of one layer. Several threads may add chunks.
#[derive(Debug)]
pub struct ChunkWriter<'a> {
    store: &'a Store,
    /// The directory of new chunks.
    directory: PathBuf,
    /// Whether chunks are written that the chunk store has.
    again: bool,
    /// The chunks of the layer.
    chunks: Mutex<BTreeMap<ChunkId, Stored>>,
}

/// A chunk of the layer.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    /// Size of its file in bytes; 0 until another thread has written it.
    size: u64,
    /// Whether it is written: the chunk store lacked it, or all are.
    new: bool,
}

/// Result of a publication.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewChunks {
    /// The layer's chunks.
    pub totals: ChunkTotals,
    /// Those of them that were written.
    pub new: ChunkTotals,
}

impl Store {
    /// Makes a working directory for a [`ChunkWriter`]. No chunk is removed from the store while it exists.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be written.
    pub fn chunk_directory(&self) -> Result<WorkDirectory, StoreError> {
        self.make_directories()?;
        let lock = WriteLock::take(self.root())?;
        let directory = WorkDirectory::new(&lock, &self.temporary())?;
        // Under the same lock: nobody sees the directory without it.
        ensure_directory(&directory.path().join(NEW_CHUNKS))?;
        Ok(directory)
    }

    /// Returns the totals of a layer's chunks; `None` if the layer is not chunked. The chunks themselves are not looked at.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn chunk_totals(&self, layer: &LayerRecord) -> Result<Option<ChunkTotals>, StoreError> {
        // Only SquashFS files are cut into chunks.
        if layer.format != LayerFormat::Squashfs || !self.root().join(layer.chunk_index_path()).exists() {
            return Ok(None);
        }
        let bytes = read_if_there(&self.root().join(layer.chunk_totals_path()))?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Returns the totals of a layer's chunks if the layer has an index of the right size and all chunks exist; their content is
    /// not read.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn complete_chunks(&self, layer: &LayerRecord) -> Result<Option<ChunkTotals>, StoreError> {
        let Some(totals) = self.chunk_totals(layer)? else { return Ok(None) };
        let bytes = read_if_there(&self.root().join(layer.chunk_index_path()))?;
        // A corrupt one is as good as none: it is written again.
        let index = bytes.and_then(|bytes| Index::parse(&bytes).ok());
        let Some(index) = index.filter(|index| index.size() == layer.squashfs_size) else { return Ok(None) };
        let mut ids: Vec<ChunkId> = index.parts().map(|part| part.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let sizes = parallel::map(&ids, |id| self.chunk_size(id));
        let all = sizes.into_iter().try_fold(true, |all, size| Ok::<_, StoreError>(all && size?.is_some()))?;
        Ok(all.then_some(totals))
    }

    /// Returns the size of a chunk's file in bytes, if it exists.
    fn chunk_size(&self, id: &ChunkId) -> Result<Option<u64>, StoreError> {
        let path = self.chunk_path(id);
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len()).filter(|size| metadata.is_file() && *size > 0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read", &path),
        }
    }

    pub(crate) fn chunk_path(&self, id: &ChunkId) -> PathBuf {
        self.root().join(CHUNK_STORE).join(id.path())
    }
}

impl<'a> ChunkWriter<'a> {
    /// Writes to `store`, through a directory that [`Store::chunk_directory`] made and that must exist until the publication. One
    /// writer at a time uses a directory. With `again`, chunks that the chunk store has are replaced.
    #[must_use]
    pub fn new(store: &'a Store, work: &Path, again: bool) -> Self {
        Self { store, directory: work.join(NEW_CHUNKS), again, chunks: Mutex::default() }
    }

    /// Adds a chunk of the layer. Its content is written only if the chunk store lacks it.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it cannot be written.
    pub fn add(&self, id: &ChunkId, content: &[u8]) -> Result<(), StoreError> {
        match self.chunks().entry(*id) {
            // Another thread writes it, or has.
            Entry::Occupied(_) => return Ok(()),
            Entry::Vacant(free) => drop(free.insert(Stored::default())),
        }
        let there = if self.again { None } else { self.store.chunk_size(id)? };
        let stored = match there {
            Some(size) => Stored { size, new: false },
            None => Stored { size: self.write(id, content)?, new: true },
        };
        self.chunks().insert(*id, stored);
        Ok(())
    }

    /// Writes a new chunk and returns the size of its file in bytes.
    fn write(&self, id: &ChunkId, content: &[u8]) -> Result<u64, StoreError> {
        let path = self.directory.join(id.file_name());
        let write = || -> io::Result<u64> {
            let frame = compress(content)?;
            fault::point();
            let mut file = File::create(&path)?;
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.write_all(&frame)?;
            Ok(frame.len() as u64)
        };
        write().context("write", &path)
    }

    /// Moves the new chunks into the chunk store and makes the layer's index visible. Only that waits for the store's locks.
    ///
    /// # Errors
    /// [`StoreError`]; the store then has no new index. [`StoreError::NoImage`] if the image was removed meanwhile.
    pub fn publish(self, image: &ImageId, layer: &LayerRecord, index: &Index) -> Result<NewChunks, StoreError> {
        let chunks = self.chunks.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (store, root) = (self.store, self.store.root());
        let mut done = NewChunks::default();
        for stored in chunks.values() {
            for totals in [Some(&mut done.totals), stored.new.then_some(&mut done.new)].into_iter().flatten() {
                totals.chunks += 1;
                totals.stored += stored.size;
            }
        }
        if done.new.chunks > 0 {
            // One call in the place of one for each file and each directory, of which a layer has thousands.
            sync_file_system(&self.directory)?;
            ensure_directory(&root.join(CHUNK_STORE))?;
            for id in chunks.iter().filter(|(_, stored)| stored.new).map(|(id, _)| id) {
                let path = store.chunk_path(id);
                ensure_directory(path.parent().unwrap_or(root))?;
                fault::point();
                fs::rename(self.directory.join(id.file_name()), &path).context("write", &path)?;
            }
            sync_file_system(&self.directory)?;
        }
        let _lock = WriteLock::take(root)?;
        let there = store.image(image)?.is_some_and(|there| there.layers.contains(layer));
        if !there {
            return Err(StoreError::NoImage(image.to_string()));
        }
        store.write_totals(layer, done.totals)?;
        replace_file(&store.temporary(), &root.join(layer.chunk_index_path()), &index.to_bytes())?;
        Ok(done)
    }

    fn chunks(&self) -> std::sync::MutexGuard<'_, BTreeMap<ChunkId, Stored>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes everything durable that was written to the file system of a directory.
fn sync_file_system(directory: &Path) -> Result<(), StoreError> {
    fault::point();
    let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(File::open(directory)?)?) };
    sync().context("sync the file system of", directory)
}

#[cfg(test)]
mod tests;
