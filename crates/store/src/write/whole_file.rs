//! Layers whose SquashFS file the store does not keep, since their chunks are enough: the file can be made again from these.
//!
//! Before a file is removed its chunks are read, and the SHA-256 of what they give is compared with the recorded one. A file that was
//! removed on purpose is told from one that was lost by [`ChunkTotals::only_chunks`].

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use parallax_chunks::{ChunkId, Index, Part, decode};
use parallax_format::LayerFormat;
use parallax_format::digest::{ImageId, Sha256};
use parallax_format::layer_file::ChunkTotals;
use parallax_format::record::{ImageRecord, LayerRecord};

use crate::atomic::{move_into_place, read_if_there, replace_file};
use crate::error::{IoContext as _, StoreError};
use crate::hash::Digester;
use crate::lock::fcntl::WriteLock;
use crate::parallel;
use crate::write::store::Store;

/// Number of chunks that are read at a time.
const BATCH: usize = 256;

/// Result of a removal of SquashFS files.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RemovedFiles {
    /// Number of the files that were moved to the trash.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Number of the files that stay, because images have them that are stored as a whole.
    pub needed: usize,
}

impl Store {
    /// Returns `true` if the store has a layer in chunks alone: [`Self::remove_whole_files`] has removed its SquashFS file.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn is_in_chunks_only(&self, layer: &LayerRecord) -> Result<bool, StoreError> {
        // Chunks are of SquashFS files.
        if layer.format != LayerFormat::Squashfs {
            return Ok(false);
        }
        self.has_only_chunks(&layer.file_path(), &layer.chunk_index_path(), &layer.chunk_totals_path())
    }

    /// As [`Self::is_in_chunks_only`], by the paths of the SquashFS file, the index and the totals of the chunks.
    pub(crate) fn has_only_chunks(&self, squashfs: &str, index: &str, totals: &str) -> Result<bool, StoreError> {
        let is_there = |path: &str| {
            let path = self.root().join(path);
            path.try_exists().context("read", &path)
        };
        if is_there(squashfs)? || !is_there(index)? {
            return Ok(false);
        }
        let bytes = read_if_there(&self.root().join(totals))?;
        let totals: Option<ChunkTotals> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(totals.is_some_and(|totals| totals.only_chunks))
    }

    /// Returns a chunk, or what is wrong with it.
    pub(crate) fn chunk(&self, id: &ChunkId, index: &Index) -> Result<Result<Vec<u8>, String>, StoreError> {
        let Some(frame) = read_if_there(&self.chunk_path(id))? else { return Ok(Err("is not there".to_owned())) };
        let max = usize::try_from(index.parameters().max()).unwrap_or(usize::MAX);
        Ok(decode(&frame, id, index.algorithm(), max).map_err(|error| format!("is corrupt: {error}")))
    }

    /// Passes the content of a file to `sink`, piece by piece, as the chunks of the index at `path` have it. Returns its SHA-256.
    pub(crate) fn assemble(
        &self,
        path: &str,
        mut sink: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<Sha256, StoreError> {
        let corrupt = |what: String| StoreError::Corrupt { path: self.root().join(path), what };
        let bytes = read_if_there(&self.root().join(path))?.ok_or_else(|| corrupt("it is not there".to_owned()))?;
        let index = Index::parse(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let parts: Vec<Part> = index.parts().collect();
        let mut digest = Digester::default();
        for parts in parts.chunks(BATCH) {
            let contents = parallel::map(parts, |part| self.chunk(&part.id, &index));
            for (part, content) in parts.iter().zip(contents) {
                let content = content?.map_err(|wrong| corrupt(format!("its chunk {} {wrong}", part.id.path())))?;
                if content.len() as u64 != part.size {
                    return Err(corrupt(format!("its chunk {} has another size", part.id.path())));
                }
                digest.update(&content);
                sink(&content)?;
            }
        }
        Ok(digest.finish())
    }

    /// Makes the SquashFS file with this SHA-256 again, from the chunks of the index at `index`, and makes it durable. `path` is that
    /// of a file in a working directory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the chunks do not give the file, [`StoreError::Io`] if it cannot be written.
    pub fn make_file(&self, index: &str, sha256: Option<Sha256>, path: &Path) -> Result<(), StoreError> {
        let mut file = File::create(path).context("write", path)?;
        let is = self.assemble(index, |content| file.write_all(content).context("write", path))?;
        self.check_assembled(index, sha256, is)?;
        file.sync_all().context("write", path)
    }

    /// Checks that the chunks of a layer give its SquashFS file.
    ///
    /// # Errors
    /// As [`Self::make_file`].
    pub fn check_chunks(&self, layer: &LayerRecord) -> Result<(), StoreError> {
        let index = layer.chunk_index_path();
        self.check_assembled(&index, layer.squashfs_sha256, self.assemble(&index, |_| Ok(()))?)
    }

    fn check_assembled(&self, index: &str, recorded: Option<Sha256>, is: Sha256) -> Result<(), StoreError> {
        if Some(is) == recorded {
            return Ok(());
        }
        let what = format!("its chunks do not give the layer's file: their SHA-256 is {is}");
        Err(StoreError::Corrupt { path: self.root().join(index), what })
    }

    /// Moves the SquashFS files of images to the trash whose layers have chunks, which [`Self::check_chunks`] has checked. Files stay that
    /// another image needs: one that has the files of all its layers.
    ///
    /// # Errors
    /// [`StoreError`]; the files before are gone.
    pub fn remove_whole_files(&self, images: &BTreeSet<ImageId>) -> Result<RemovedFiles, StoreError> {
        let _lock = WriteLock::take(self.root())?;
        let ids = self.ids_with("")?;
        let records = parallel::map(&ids, |id| self.record(id));
        let records: Vec<ImageRecord> = records.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let (to_go, others): (Vec<_>, Vec<_>) = records.iter().partition(|record| images.contains(&record.id));
        let is_there = |layer: &LayerRecord| self.root().join(layer.file_path()).exists();
        let whole = others.into_iter().filter(|record| record.layers.iter().all(is_there));
        let needed: BTreeSet<String> = whole.flat_map(|record| &record.layers).map(LayerRecord::file_path).collect();
        let mut removed = RemovedFiles::default();
        let mut seen = BTreeSet::new();
        for layer in to_go.into_iter().flat_map(|record| &record.layers) {
            let (path, totals) = (layer.file_path(), self.chunk_totals(layer)?);
            let file = self.root().join(&path);
            // The Go tool's is a link to a file that others may share.
            let metadata = fs::symlink_metadata(&file).ok().filter(fs::Metadata::is_file);
            let (Some(metadata), Some(totals), true) = (metadata, totals, seen.insert(path.clone())) else { continue };
            if needed.contains(&path) {
                removed.needed += 1;
                continue;
            }
            self.write_totals(layer, ChunkTotals { only_chunks: true, ..totals })?;
            self.move_to_trash(&file)?;
            removed.files += 1;
            removed.bytes += metadata.len();
        }
        Ok(removed)
    }

    /// Moves the SquashFS file of a layer back into the store, which [`Self::make_file`] has made.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NoImage`] if the image was removed meanwhile.
    pub fn add_whole_file(&self, image: &ImageId, layer: &LayerRecord, file: &Path) -> Result<(), StoreError> {
        let _lock = WriteLock::take(self.root())?;
        if !self.image(image)?.is_some_and(|there| there.layers.contains(layer)) {
            return Err(StoreError::NoImage(image.to_string()));
        }
        fs::set_permissions(file, Permissions::from_mode(0o644)).context("set the mode of", file)?;
        move_into_place(file, &self.root().join(layer.file_path()))?;
        match self.chunk_totals(layer)? {
            Some(totals) => self.write_totals(layer, ChunkTotals { only_chunks: false, ..totals }),
            None => Ok(()),
        }
    }

    /// Writes what the index of a layer's chunks does not say.
    pub(crate) fn write_totals(&self, layer: &LayerRecord, totals: ChunkTotals) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&totals).map_err(|error| self.corrupt("the chunks", &error))?;
        replace_file(&self.temporary(), &self.root().join(layer.chunk_totals_path()), &bytes)
    }
}
