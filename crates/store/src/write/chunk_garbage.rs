//! Removes chunks that no index names.
//!
//! The indexes in the trash count too: a node may read the chunks of an image that was removed, until the retention time is over.
//! Chunks that an interrupted writer left were never named, so nobody reads them. They cannot be told from those of a writer at
//! work, whose index is still to come: as long as there is one, no chunk is removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use parallax_chunks::{ChunkId, Index};
use parallax_format::digest::LayerId;
use parallax_format::layout::{self, CHUNK_INDEX, CHUNK_STORE, LAYERS, OVERLAY, REMOVED};
use parallax_sys::fault;

use crate::atomic::{entries, read_if_there, remove_file};
use crate::error::{IoContext as _, StoreError};
use crate::lock::fcntl::WriteLock;
use crate::lock::work_directory::{self, is_live};
use crate::parallel;
use crate::write::chunks::NEW_CHUNKS;
use crate::write::garbage::Garbage;
use crate::write::remove::Collection;
use crate::write::store::Store;

/// Chunks that were removed, or are to be removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ChunkGarbage {
    /// Their number.
    pub chunks: usize,
    /// Their size on disk in bytes.
    pub bytes: u64,
    /// Number of writers of chunks at work. If there are any, nothing was removed.
    pub writers: usize,
}

impl Store {
    /// Removes chunks that no index names. `collected` is the garbage that [`Store::collect`] with the same settings found: in a dry
    /// run, indexes among it count as removed.
    ///
    /// # Errors
    /// [`StoreError`]. An index that cannot be read is one: nobody knows which chunks it names, and nothing is removed.
    pub fn collect_chunks(&self, collection: Collection, collected: &[Garbage]) -> Result<ChunkGarbage, StoreError> {
        let directory = self.root().join(CHUNK_STORE);
        if !directory.exists() {
            return Ok(ChunkGarbage::default());
        }
        let lock = WriteLock::take(self.root())?;
        let mut found = ChunkGarbage::default();
        if !(collection.break_lock && lock.is_file()) {
            let names = entries(&self.temporary())?;
            let works = names.iter().filter(|name| name.starts_with(work_directory::PREFIX));
            let works = works.map(|name| self.temporary().join(name));
            found.writers = works.filter(|work| work.join(NEW_CHUNKS).exists() && is_live(work)).count();
        }
        if found.writers > 0 {
            return Ok(found);
        }
        let named = self.named_chunks(&indexes_to_go(collection, collected))?;
        let mut prefixes = entries(&directory)?;
        prefixes.retain(|name| directory.join(name).is_dir());
        let removed = parallel::map(&prefixes, |prefix| self.sweep_chunks(prefix, &named, collection.dry_run));
        for removed in removed {
            let (chunks, bytes) = removed?;
            found.chunks += chunks;
            found.bytes += bytes;
        }
        Ok(found)
    }

    /// Returns the ids that indexes name, sorted.
    fn named_chunks(&self, to_go: &BTreeSet<&str>) -> Result<Vec<ChunkId>, StoreError> {
        let mut paths = Vec::new();
        for directory in [LAYERS, REMOVED] {
            let names = entries(&self.root().join(directory))?;
            let suffix = format!(".{CHUNK_INDEX}");
            paths.extend(names.iter().filter(|name| name.ends_with(&suffix)).map(|name| format!("{directory}/{name}")));
        }
        let layers = entries(&self.root().join(OVERLAY))?.into_iter().filter(|name| LayerId::parse(name).is_some());
        paths.extend(layers.map(|layer| layout::own_file(&layer, CHUNK_INDEX)));
        paths.retain(|path| !to_go.contains(path.as_str()));
        let mut named = Vec::new();
        for ids in parallel::map(&paths, |path| self.chunks_of(path)) {
            named.extend(ids?);
        }
        named.sort_unstable();
        named.dedup();
        Ok(named)
    }

    /// Returns the ids that an index names; none if the index does not exist.
    fn chunks_of(&self, path: &str) -> Result<Vec<ChunkId>, StoreError> {
        let path = self.root().join(path);
        let Some(bytes) = read_if_there(&path)? else { return Ok(Vec::new()) };
        match Index::parse(&bytes) {
            Ok(index) => Ok(index.parts().map(|part| part.id).collect()),
            Err(error) => Err(StoreError::Corrupt {
                path,
                what: format!(
                    "{error}; no chunk was removed: run parallax chunk --again with the image, or remove the file"
                ),
            }),
        }
    }

    /// Removes the chunks of one directory that are not named. Returns their number and size in bytes.
    fn sweep_chunks(&self, prefix: &str, named: &[ChunkId], dry_run: bool) -> Result<(usize, u64), StoreError> {
        let directory = self.root().join(CHUNK_STORE).join(prefix);
        let (mut chunks, mut bytes) = (0, 0);
        for name in entries(&directory)? {
            // Other files are not ours.
            let id = ChunkId::of_file_name(&name).filter(|id| id.directory() == prefix);
            if id.is_none_or(|id| named.binary_search(&id).is_ok()) {
                continue;
            }
            let path = directory.join(&name);
            bytes += fs::symlink_metadata(&path).context("read", &path)?.blocks() * 512;
            chunks += 1;
            if !dry_run {
                remove_file(&path)?;
            }
        }
        if chunks > 0 && !dry_run {
            fault::point();
            // Fails if chunks remain.
            let _ = fs::remove_dir(&directory);
        }
        Ok((chunks, bytes))
    }
}

/// Returns the indexes that a collection with these settings removes.
fn indexes_to_go(collection: Collection, collected: &[Garbage]) -> BTreeSet<&str> {
    let paths = collected.iter().map(|garbage| garbage.path.as_str());
    // Others go to the trash first.
    paths.filter(|path| collection.grace.is_zero() || path.starts_with(REMOVED)).collect()
}
