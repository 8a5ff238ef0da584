//! A store that is written: its directories, layers and images.
//!
//! `publish` adds images, `remove` takes them away, `gc` tidies up after writers that died.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use parallax_format::digest::{DiffId, Digest, ImageId};
use parallax_format::layer_file::LayerFile;
use parallax_format::record::ImageRecord;
use parallax_format::{ImageName, IndexPath, LayerFormat, layout};

use crate::atomic::{ensure_directory, entries, move_into_place, read_if_there, replace_file};
use crate::error::{IoContext as _, StoreError};
use crate::lock::fcntl::{self, WriteLock};
use crate::lock::work_directory::WorkDirectory;

/// A store that images can be added to.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// An image to make visible.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The SHA-256 of `config`.
    pub id: ImageId,
    /// The manifest's digest.
    pub digest: Digest,
    /// Other digests that mean it, such as that of the multi-platform index it was chosen from.
    pub other_digests: Vec<Digest>,
    /// The name to store it under.
    pub name: ImageName,
    /// When it was built, RFC 3339.
    pub created: String,
    /// The manifest, byte for byte.
    pub manifest: String,
    /// The configuration, byte for byte.
    pub config: String,
    /// The diffIDs of its layers, base first.
    pub diff_ids: Vec<DiffId>,
}

impl Store {
    /// Opens the store at `root` for writing, and makes what is missing of it.
    ///
    /// # Errors
    /// [`StoreError`] names the directory or file that could not be made.
    pub fn create_or_open(root: &Path) -> Result<Self, StoreError> {
        if !root.is_dir() {
            fs::create_dir_all(root).context("create the store", root)?;
            fs::set_permissions(root, Permissions::from_mode(0o755)).context("set the mode of", root)?;
        }
        let store = Self::open(root)?;
        store.make_directories()?;
        Ok(store)
    }

    /// Makes what is missing of the store's directories and lock files: another tool's store has not all of them.
    pub(crate) fn make_directories(&self) -> Result<(), StoreError> {
        for name in layout::DIRECTORIES {
            ensure_directory(&self.root.join(name))?;
        }
        fcntl::create(&self.root)
    }

    /// Opens the store at `root`, which must be one, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`] if it is not there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        root.canonicalize().context("open the store", root).map(|root| Self { root })
    }

    /// The store's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A fresh directory for unfinished files, on the store's file system.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be written.
    pub fn work_directory(&self) -> Result<WorkDirectory, StoreError> {
        WorkDirectory::new(&WriteLock::take(&self.root)?, &self.temporary())
    }

    /// The layer with this diffID, if the store has it in any format; in SquashFS if the store has both.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<LayerFile>, StoreError> {
        for format in LayerFormat::ALL {
            if let Some(file) = self.layer_in(diff_id, format)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The layer with this diffID, if the store has it in this format; in SquashFS also if the store has its chunks alone.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn layer_in(&self, diff_id: &DiffId, format: LayerFormat) -> Result<Option<LayerFile>, StoreError> {
        let relative = LayerFile::path_in(diff_id, format);
        let path = self.root.join(&relative);
        let size = match fs::metadata(&path) {
            Ok(metadata) => Some(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("read", &path),
        };
        let about = |extension| layout::layer_file(diff_id, extension);
        let (index, totals) = (about(layout::CHUNK_INDEX), about(layout::CHUNK_TOTALS));
        let in_chunks = || {
            Ok::<_, StoreError>(format == LayerFormat::Squashfs && self.has_only_chunks(&relative, &index, &totals)?)
        };
        if size.is_none() && !in_chunks()? {
            return Ok(None);
        }
        let Some(bytes) = read_if_there(&self.root.join(LayerFile::description_path_in(diff_id, format)))? else {
            return Ok(None);
        };
        // A corrupt description is as good as none: the layer is converted again.
        let file: Option<LayerFile> = serde_json::from_slice(&bytes).ok();
        let is_it = |file: &LayerFile| file.diff_id == *diff_id && file.format == format;
        Ok(file.filter(|file| is_it(file) && size.is_none_or(|size| file.squashfs_size == size)))
    }

    /// Moves a finished file of a layer, durable already, into the store, unless another writer was faster.
    pub(crate) fn add_layer(&self, _: &WriteLock, file: &Path, layer: &LayerFile) -> Result<(), StoreError> {
        let LayerFile { diff_id, format, .. } = layer;
        if self.layer_in(diff_id, *format)?.is_some() {
            return Ok(());
        }
        fs::set_permissions(file, Permissions::from_mode(0o644)).context("set the mode of", file)?;
        let description = serde_json::to_vec(layer).map_err(|error| self.corrupt("the layer", &error))?;
        let described = self.root.join(LayerFile::description_path_in(diff_id, *format));
        replace_file(&self.temporary(), &described, &description)?;
        self.add_tar_split(file, layer)?;
        move_into_place(file, &self.root.join(LayerFile::path_in(diff_id, *format)))
    }

    /// The record of the image with this id, if there is one, whether or not its layers are there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it cannot be understood, [`StoreError::Io`] if it cannot be read.
    pub fn record(&self, id: &ImageId) -> Result<Option<ImageRecord>, StoreError> {
        let path = self.root.join(IndexPath::record(id));
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let record = ImageRecord::parse(&bytes);
        record.map(Some).map_err(|error| StoreError::Corrupt { path, what: error.to_string() })
    }

    /// The record of the image with this id, if the store has the image whole.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn image(&self, id: &ImageId) -> Result<Option<ImageRecord>, StoreError> {
        let record = match self.record(id) {
            Err(StoreError::Corrupt { .. }) => None,
            record => record?,
        };
        let Some(record) = record else { return Ok(None) };
        for layer in &record.layers {
            if !self.root.join(layer.file_path()).is_file() && !self.is_in_chunks_only(layer)? {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// The ids of the images that begin with `start`.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn ids_with(&self, start: &str) -> Result<Vec<ImageId>, StoreError> {
        let names = entries(&self.root.join(IndexPath::records_directory()))?;
        let ids = names.iter().filter_map(|name| IndexPath::id_from_record(name));
        Ok(ids.filter(|id| id.starts_with(start)).collect())
    }

    /// The id of the image a name stands for.
    #[must_use]
    pub fn id_of_name(&self, name: &ImageName) -> Option<ImageId> {
        self.id_at(&IndexPath::name(name)?)
    }

    /// The id of the image with a manifest or index of this digest.
    #[must_use]
    pub fn id_of_digest(&self, digest: &Digest) -> Option<ImageId> {
        self.id_at(&IndexPath::digest(digest))
    }

    pub(crate) fn id_at(&self, entry: &str) -> Option<ImageId> {
        let target = fs::read_link(self.root.join(entry)).ok()?;
        IndexPath::id_from_link(target.to_str()?)
    }

    pub(crate) fn write_record(&self, record: &ImageRecord) -> Result<(), StoreError> {
        replace_file(&self.temporary(), &self.root.join(IndexPath::record(&record.id)), &record.to_bytes())
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join(layout::TEMPORARY)
    }

    pub(crate) fn corrupt(&self, what: &str, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Corrupt { path: self.root.clone(), what: format!("{what}: {error}") }
    }
}

#[cfg(test)]
mod tests;
