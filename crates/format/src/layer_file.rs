//! The description of a layer's file in the store.
//!
//! An image's record repeats it for each of its layers; this copy serves a migration that finds a layer already in the
//! store, which must not have to look through the records of all images.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, LayerId, Sha256};
use crate::layer_format::LayerFormat;
use crate::layout;

/// The description of a layer's file: at `parallax/layers/<diff id>.json` for SquashFS, `<diff id>.erofs.json` for EROFS. Fields have the name of
/// the first format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFile {
    /// The layer's diffID.
    pub diff_id: DiffId,
    /// The size of that stream in bytes.
    pub size: u64,
    /// The format of the file.
    #[serde(default, skip_serializing_if = "LayerFormat::is_squashfs")]
    pub format: LayerFormat,
    /// The size of the file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the file.
    pub squashfs_sha256: Sha256,
    /// The digest by which the kernel checks the file where the store's file system has fs-verity: SHA-256, blocks of 4096 bytes. It depends on
    /// the file's bytes alone. Files that an earlier version made have none. It is not in records, whose readers of earlier
    /// versions accept no further field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_verity: Option<Sha256>,
    /// The highest user id that owns a file of the layer.
    pub max_uid: u32,
    /// The highest group id that owns a file of the layer.
    pub max_gid: u32,
    /// The digest of what the layer holds, taken when it was converted. Layers that an earlier version brought have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The tar-split data of the layer, which is shared by all SquashFS files of one diffID. Layers that an earlier version
    /// converted have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar_split: Option<TarSplit>,
    /// The parts of the layer that depend on the layers below. Unknown for layers that an earlier version converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Whether owners beyond usual ranges of subordinate ids have become root.
    #[serde(default, skip_serializing_if = "is_false")]
    pub squashed_owners: bool,
}

/// A file of tar-split data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TarSplit {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// What an index of chunks does not say of the chunks of a SquashFS file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkTotals {
    /// Number of chunks, each counted once.
    pub chunks: u64,
    /// Size of their files in the chunk store in bytes, those included that other layers share.
    pub stored: u64,
    /// Whether the SquashFS file was removed because the chunks are enough. If the file exists, that was undone.
    #[serde(default, skip_serializing_if = "is_false")]
    pub only_chunks: bool,
}

/// The parts of a layer that depend on the layers below. Paths have no leading slash; the empty path is the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Directories that no entry of the layer describes: they must have the attributes that the layers below give them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub implied: Vec<String>,
    /// Mode, user id and group id of the root, if an entry describes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<(u32, u32, u32)>,
    /// Directories in which the layer hides all that is below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<String>,
}

impl LayerFile {
    /// Returns the description of a SquashFS file of which only this is known; sizes are in bytes.
    #[must_use]
    pub fn new(diff_id: DiffId, size: u64, squashfs_size: u64, squashfs_sha256: Sha256) -> Self {
        Self {
            diff_id,
            size,
            format: LayerFormat::Squashfs,
            squashfs_size,
            squashfs_sha256,
            fs_verity: None,
            max_uid: 0,
            max_gid: 0,
            content: None,
            tar_split: None,
            shape: None,
            squashed_owners: false,
        }
    }

    /// Returns the path of the SquashFS file of the layer with this diffID, relative to the store's root.
    #[must_use]
    pub fn squashfs_path(diff_id: &DiffId) -> String {
        layout::squashfs(diff_id)
    }

    /// Returns the path of the file in this format of the layer with this diffID, relative to the store's root.
    #[must_use]
    pub fn path_in(diff_id: &DiffId, format: LayerFormat) -> String {
        layout::file_in(diff_id, format)
    }

    /// Returns the path of the description of the file in this format, relative to the store's root.
    #[must_use]
    pub fn description_path_in(diff_id: &DiffId, format: LayerFormat) -> String {
        layout::layer_file(diff_id, layout::description_extension_of(format))
    }

    /// Returns the path of its description, relative to the store's root.
    #[must_use]
    pub fn description_path(diff_id: &DiffId) -> String {
        layout::layer_file(diff_id, layout::JSON)
    }

    /// Returns the path of the tar-split data of the layer with this diffID, relative to the store's root.
    #[must_use]
    pub fn tar_split_path(diff_id: &DiffId) -> String {
        layout::layer_file(diff_id, layout::TAR_SPLIT)
    }

    /// Returns the path of the description of a SquashFS file of one of Podman's layers alone, relative to the store's root.
    #[must_use]
    pub fn own_description_path(layer_id: &LayerId) -> String {
        layout::own_description(layer_id)
    }

    /// Returns the path of the tar-split data of an unfinished SquashFS file.
    #[must_use]
    pub fn tar_split_beside(squashfs: &Path) -> PathBuf {
        let mut path: OsString = squashfs.into();
        path.push(".");
        path.push(layout::TAR_SPLIT);
        path.into()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
