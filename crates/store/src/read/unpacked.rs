//! Images that lie unpacked in a directory elsewhere, which `parallax import` has put into Podman's lists.
//!
//! Such an image has one layer, whose directory of files is a symbolic link to an absolute path. There is no SquashFS file and no
//! record: nothing of the image is in the store but what Podman needs to find it. Whoever runs it opens the path with their own rights.

use std::path::PathBuf;

use parallax_format::digest::LayerId;
use parallax_format::layout;
use parallax_format::podman::ListedImage;

use crate::read::trusted::{OpenError, TrustedStore};

impl TrustedStore {
    /// Returns the directory of an image in Podman's list, if it lies unpacked.
    ///
    /// # Errors
    /// [`OpenError::Read`].
    pub fn unpacked(&self, entry: &ListedImage) -> Result<Option<PathBuf>, OpenError> {
        // Another tool may have written any id.
        let Some(layer) = LayerId::parse(&entry.layer) else { return Ok(None) };
        let directory = layout::layer_directory(&layer);
        // Other tools link the files of each layer; the top layer alone is not the image.
        if self.has(&format!("{directory}/{}", layout::LOWER)) {
            return Ok(None);
        }
        let files = format!("{directory}/{}", layout::DIFF);
        Ok(self.link_target(&files)?.map(PathBuf::from).filter(|target| target.is_absolute()))
    }
}
