//! The check of a layer's file by the kernel (fs-verity), instead of one that reads the whole file.
//!
//! The kernel checks each block when the block is read. What is left to do is one comparison: whether the digest by which the kernel checks
//! is the one that the migration recorded.

use std::fs::File;

use parallax_format::digest::Sha256;
use parallax_format::record::LayerRecord;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::verity;

use super::digest::{Checker, DigestError};
use super::mounted::LayerError;

/// Checks an open file: by its fs-verity digest if the kernel checks the file and a digest was recorded, else as it is configured.
///
/// # Errors
/// [`LayerError::Digest`] for another file than the one that was migrated.
pub(super) fn check(
    checker: &Checker,
    file: &File,
    store: &TrustedStore,
    layer: &LayerRecord,
    user: &Credentials,
) -> Result<(), LayerError> {
    let failed = |cause| LayerError::Digest { path: layer.file_path(), cause };
    let found = verity::measure(file).map(Sha256::from);
    let recorded = match found {
        Some(_) => user.run(|| store.fs_verity(layer)).map_err(LayerError::Credentials)??,
        None => None,
    };
    match found.zip(recorded) {
        None => checker.check(file, layer.squashfs_sha256).map_err(failed),
        Some((found, recorded)) if found == recorded => Ok(()),
        Some((found, recorded)) => {
            Err(failed(DigestError::KernelDiffers { found: Box::new(found), recorded: Box::new(recorded) }))
        }
    }
}
