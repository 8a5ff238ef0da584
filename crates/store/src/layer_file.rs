//! What the store knows of one SquashFS file, beside the file itself.
//!
//! An image's record repeats it for each of its layers; this copy serves a migration that finds a layer already in the
//! store, which must not have to look through the records of all images.

use serde::{Deserialize, Serialize};

/// The description of a layer's SquashFS file, at `parallax/layers/<diff id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFile {
    /// The SHA-256 of the layer's uncompressed tar stream, 64 hexadecimal digits.
    pub diff_id: String,
    /// The size of that stream in bytes.
    pub size: u64,
    /// The size of the SquashFS file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the SquashFS file, 64 hexadecimal digits.
    pub squashfs_sha256: String,
    /// The highest user id that owns a file of the layer.
    pub max_uid: u32,
    /// The highest group id that owns a file of the layer.
    pub max_gid: u32,
    /// The digest of what the layer holds, taken when it was converted. Layers that an earlier version brought have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl LayerFile {
    /// Where the SquashFS file of the layer with this diffID lies, relative to the store's root.
    #[must_use]
    pub fn squashfs_path(diff_id: &str) -> String {
        format!("parallax/layers/{diff_id}.squash")
    }

    /// Where its description lies, relative to the store's root.
    #[must_use]
    pub fn description_path(diff_id: &str) -> String {
        format!("parallax/layers/{diff_id}.json")
    }
}
