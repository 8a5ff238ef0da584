//! The digest by which the kernel checks a layer's file.

use parallax_format::digest::Sha256;
use parallax_format::layer_file::LayerFile;
use parallax_format::record::{LayerRecord, MAX_BYTES};

use crate::read::trusted::{OpenError, TrustedStore};

impl TrustedStore {
    /// Returns the fs-verity digest that the description of a layer's file has; `None` if it has none, or is that of another file.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn fs_verity(&self, layer: &LayerRecord) -> Result<Option<Sha256>, OpenError> {
        let path = if layer.sidecar {
            LayerFile::own_description_path(&layer.id)
        } else {
            LayerFile::description_path_in(&layer.diff_id, layer.format)
        };
        let bytes = self.read(&path, MAX_BYTES)?;
        let described: Option<LayerFile> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let is_it = |file: &LayerFile| Some(file.squashfs_sha256) == layer.squashfs_sha256;
        Ok(described.filter(is_it).and_then(|file| file.fs_verity))
    }
}
