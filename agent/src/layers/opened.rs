//! Opens layers' files, and says why a layer that has chunks alone cannot be used.

use std::fs::File;

use parallax_format::record::LayerRecord;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;

use super::mounted::LayerError;

/// Why chunks are not used by the backend `fuse`.
pub(super) const READS_FILES: &str = "the backend \"fuse\" reads whole files";
/// Why chunks are not used if the configuration says so.
pub(super) const DISABLED: &str = "\"lazy.enabled\" is false on this node";

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
