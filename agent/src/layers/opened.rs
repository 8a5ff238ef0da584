//! Opens layers' files, and says why a layer that has chunks alone cannot be used.

use std::fs::File;

use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;

use super::mounted::LayerError;

/// Why chunks are not used by the backend `fuse`.
pub(super) const READS_FILES: &str = "the backend \"fuse\" reads whole files";
/// Why chunks are not used if the configuration says so.
pub(super) const DISABLED: &str = "\"lazy.enabled\" is false on this node";

/// What the kernel can do with layers besides mounting SquashFS files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it reads EROFS.
    pub erofs: bool,
    /// The reason why layers cannot be mounted from their chunks, a part of a sentence, if they cannot.
    pub chunks: Result<(), String>,
}

impl Default for Abilities {
    /// A kernel that mounts layers from their chunks, and no EROFS.
    fn default() -> Self {
        Self { erofs: false, chunks: Ok(()) }
    }
}

/// Whether a store lacks the file of a layer of an image.
#[must_use]
pub fn lacks_files(store: &TrustedStore, image: &ImageRecord, user: &Credentials) -> bool {
    let is_missing =
        |layer: &LayerRecord| matches!(user.run(|| store.open_layer(layer)), Ok(Err(error)) if error.is_missing());
    image.layers.iter().any(is_missing)
}

/// Opens a layer's file with a user's credentials. `reason` is why its chunks are not used.
pub(super) fn opened(
    store: &TrustedStore,
    layer: &LayerRecord,
    user: &Credentials,
    reason: &str,
) -> Result<File, LayerError> {
    match user.run(|| store.open_layer(layer)).map_err(LayerError::Credentials)? {
        Err(error) if error.is_missing() => {
            let index = user.run(|| store.open_chunks(layer)).map_err(LayerError::Credentials)?;
            if !matches!(index, Ok(Some(_))) {
                return Err(error.into());
            }
            Err(LayerError::OnlyChunks { path: layer.file_path(), reason: reason.to_owned() })
        }
        opened => Ok(opened?),
    }
}
