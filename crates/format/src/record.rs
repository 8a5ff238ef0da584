//! The record of one image: everything a node needs to start it, in one small file.
//!
//! It lies at `parallax/images/<image id>.json` in the store and carries the manifest and the configuration with it, so
//! that the cost of a start does not grow with the number of images in the store.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, ImageId, LayerId, Sha256, without_algorithm};
use crate::layer_file::LayerFile;
use crate::layer_format::LayerFormat;
use crate::layout;
use crate::podman::Link;
use crate::reference::ImageRef;

/// The version of records all of whose layers are whole in SquashFS: every release reads these.
pub const VERSION: u32 = 1;
/// The version of records with a layer that has a file in another format, or with a metadata image. Earlier releases refuse such an image by its version.
pub const VERSION_WITH_FORMATS: u32 = 2;
/// The largest record a reader takes, in bytes: a manifest or a configuration is limited to 4 MiB by registries.
pub const MAX_BYTES: u64 = 16 << 20;

/// One image of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// [`VERSION`] or [`VERSION_WITH_FORMATS`].
    pub version: u32,
    /// The image id: the SHA-256 of the configuration.
    pub id: ImageId,
    /// The manifest's digest.
    pub digest: Digest,
    /// Other digests that mean the image, such as those of multi-platform indexes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "without_algorithm")]
    pub other_digests: Vec<Digest>,
    /// The fully qualified names of the image. They are kept current: a tag that moves to another image is taken out.
    pub names: Vec<String>,
    /// When the image was built, RFC 3339, as Podman shows it.
    pub created: String,
    /// The image's OCI or Docker manifest, byte for byte.
    pub manifest: String,
    /// The image's configuration, byte for byte.
    pub config: String,
    /// The layers, base first.
    pub layers: Vec<LayerRecord>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    /// Podman's id of the layer: its chain ID.
    pub id: LayerId,
    /// The short name of the layer in `overlay/l`.
    pub link: Link,
    /// The layer's diffID, which names the SquashFS file.
    pub diff_id: DiffId,
    /// The size of the uncompressed tar stream in bytes: what Podman shows as the layer's size.
    pub size: u64,
    /// The format of the layer's file. A store may have the layer in another format too: see [`crate::layer_file`].
    #[serde(default, skip_serializing_if = "LayerFormat::is_squashfs")]
    pub format: LayerFormat,
    /// The size of the layer's file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the layer's file. Every stored record has it; nobody recorded it of another tool's image.
    pub squashfs_sha256: Option<Sha256>,
    /// The highest user id that owns a file of the layer.
    pub max_uid: u32,
    /// The highest group id that owns a file of the layer.
    pub max_gid: u32,
    /// Whether another tool made the SquashFS file. It then lies beside the layer's link, and nobody knows a diffID of what
    /// is in it, which may be a whole image: [`Self::diff_id`] is Podman's id of the layer.
    #[serde(rename = "side_car", default, skip_serializing_if = "is_false")]
    pub sidecar: bool,
    /// The root of the files that the layer's files are in, an absolute path: the SquashFS file is then a metadata image, which has
    /// everything but their contents. `None` for a layer that is whole in its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<PathBuf>,
    /// The directories below `tree` that have the contents, relative, the topmost layer first, if these are several unpacked layers;
    /// `tree` is then the root of their repository. Empty for an image that lies in one directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
}

impl LayerRecord {
    /// Returns the path of the layer's file, relative to the store's root.
    #[must_use]
    pub fn file_path(&self) -> String {
        if self.sidecar { self.link.sidecar() } else { LayerFile::path_in(&self.diff_id, self.format) }
    }

    /// Returns the layer with another of its files, as the file's description says.
    #[must_use]
    pub fn with_file(&self, file: &LayerFile) -> Self {
        Self {
            format: file.format,
            squashfs_size: file.squashfs_size,
            squashfs_sha256: Some(file.squashfs_sha256),
            ..self.clone()
        }
    }

    /// Returns the path of the index of chunks of the layer's SquashFS file, relative to the store's root.
    #[must_use]
    pub fn chunk_index_path(&self) -> String {
        self.about_chunks(layout::CHUNK_INDEX)
    }

    /// Returns the path of the [`ChunkTotals`](crate::layer_file::ChunkTotals) of the layer's SquashFS file, relative to the
    /// store's root.
    #[must_use]
    pub fn chunk_totals_path(&self) -> String {
        self.about_chunks(layout::CHUNK_TOTALS)
    }

    /// Returns the path of the trace of the layer's chunks, relative to the store's root.
    #[must_use]
    pub fn chunk_trace_path(&self) -> String {
        self.about_chunks(layout::CHUNK_TRACE)
    }

    fn about_chunks(&self, extension: &str) -> String {
        if self.sidecar { layout::own_file(&self.id, extension) } else { layout::layer_file(&self.diff_id, extension) }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// An error of parsing a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not of this shape.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Written by a later Parallax.
    #[error("it has version {0}, this Parallax knows versions {VERSION} to {VERSION_WITH_FORMATS}")]
    Version(u32),
    /// A field that is used in a path or passed to the kernel does not hold what it must.
    #[error("its {field} is not {expected}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The valid values.
        expected: &'static str,
    },
}

impl ImageRecord {
    /// Reads a record. Every field that becomes part of a path has a type that is checked.
    ///
    /// # Errors
    /// [`RecordError`] says what is wrong with `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct OnlyVersion {
            version: u32,
        }
        let OnlyVersion { version } = serde_json::from_slice(bytes)?;
        if !(VERSION..=VERSION_WITH_FORMATS).contains(&version) {
            return Err(RecordError::Version(version));
        }
        let record: Self = serde_json::from_slice(bytes)?;
        record.check()?;
        Ok(record)
    }

    /// Whether a reference means this image, by what the record says: its id, its digests, its names of now.
    #[must_use]
    pub fn is_meant_by(&self, reference: &ImageRef) -> bool {
        match reference {
            ImageRef::Id(id) => self.id == *id,
            ImageRef::Digest(digest) => self.digest == *digest || self.other_digests.contains(digest),
            ImageRef::Name(_) => reference.names_one_of(&self.names),
        }
    }

    /// Returns the version of a record with these layers.
    #[must_use]
    pub fn version_for(layers: &[LayerRecord]) -> u32 {
        let is_first = layers.iter().all(|layer| layer.format == LayerFormat::Squashfs && layer.tree.is_none());
        if is_first { VERSION } else { VERSION_WITH_FORMATS }
    }

    /// The record as it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers only: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The highest user id and the highest group id that own a file of the image.
    #[must_use]
    pub fn max_ids(&self) -> (u32, u32) {
        self.layers.iter().fold((0, 0), |(uid, gid), l| (uid.max(l.max_uid), gid.max(l.max_gid)))
    }

    /// Returns the directories below [`Self::tree`] that have the contents of an image in unpacked layers, the topmost first.
    #[must_use]
    pub fn parts(&self) -> &[String] {
        self.layers.first().map_or(&[], |layer| &layer.parts)
    }

    /// Returns the directory that the image's files are in, if it has a metadata image.
    #[must_use]
    pub fn tree(&self) -> Option<&Path> {
        self.layers.iter().find_map(|layer| layer.tree.as_deref())
    }

    fn check(&self) -> Result<(), RecordError> {
        check("layers", "a list of at least one layer", !self.layers.is_empty())?;
        let sizes: [fn(&LayerRecord) -> u64; 2] = [|layer| layer.size, |layer| layer.squashfs_size];
        for size in sizes {
            let sum = self.layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(size(layer)));
            check("layers.size", "a number of bytes that can be added up", sum.is_some())?;
        }
        let has_formats = self.version >= Self::version_for(&self.layers);
        check("layers.format or layers.tree", "in a record of version 1", has_formats)?;
        // Such a file lies beside the link of one chain of layers, where only SquashFS has a place.
        let own = self.layers.iter().all(|layer| !layer.sidecar || layer.format == LayerFormat::Squashfs);
        check("layers.format", "squashfs for a layer with side_car", own)?;
        let has_sha256 = self.layers.iter().all(|layer| layer.squashfs_sha256.is_some());
        check("layers.squashfs_sha256", "64 hexadecimal digits", has_sha256)?;
        // Podman's metadata for such an image has one layer.
        let is_tree = |tree: &PathBuf| self.layers.len() == 1 && is_normal(tree);
        let trees = self.layers.iter().filter_map(|layer| layer.tree.as_ref());
        check("layers.tree", "an absolute path, of the only layer", trees.into_iter().all(is_tree))?;
        let is_part =
            |part: &String| !part.is_empty() && is_normal(&Path::new("/").join(part)) && !part.starts_with('/');
        let parts = self.layers.iter().all(|layer| layer.parts.is_empty() || layer.tree.is_some());
        let parts = parts && self.layers.iter().flat_map(|layer| &layer.parts).all(is_part);
        check("layers.parts", "relative paths in layers.tree", parts)
    }
}

/// Whether a path is absolute and its text leads to no other place than its components name.
fn is_normal(path: &Path) -> bool {
    path.is_absolute() && path.components().skip(1).all(|part| matches!(part, Component::Normal(_)))
}

fn check(field: &'static str, expected: &'static str, holds: bool) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(RecordError::Field { field, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ImageRecord {
        let hex = "0123456789abcdef".repeat(4);
        ImageRecord {
            version: VERSION,
            id: hex.parse().unwrap(),
            digest: Digest::parse(&format!("sha256:{hex}")).unwrap(),
            other_digests: Vec::new(),
            names: vec!["localhost/a:latest".into()],
            created: "2026-01-01T00:00:00Z".into(),
            manifest: "{}".into(),
            config: "{}".into(),
            layers: vec![LayerRecord {
                id: hex.parse().unwrap(),
                link: Link::of_hash(&[7; 32]),
                diff_id: hex.parse().unwrap(),
                size: 10,
                format: LayerFormat::Squashfs,
                squashfs_size: 5,
                squashfs_sha256: Sha256::parse(&hex),
                max_uid: 7,
                max_gid: 9,
                sidecar: false,
                tree: None,
                parts: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        assert_eq!(ImageRecord::parse(&record().to_bytes()).unwrap(), record());
        assert_eq!(record().max_ids(), (7, 9));
    }

    #[test]
    fn another_format_needs_the_version_that_has_it() {
        assert!(!String::from_utf8(record().to_bytes()).unwrap().contains("format"));
        let mut record = record();
        record.layers[0].format = LayerFormat::Erofs;
        let error = ImageRecord::parse(&record.to_bytes()).unwrap_err().to_string();
        assert_eq!(error, "its layers.format or layers.tree is not in a record of version 1");
        record.version = ImageRecord::version_for(&record.layers);
        assert_eq!(ImageRecord::parse(&record.to_bytes()).unwrap(), record);
        assert!(record.layers[0].file_path().ends_with(".erofs"));
        record.layers[0].sidecar = true;
        assert!(ImageRecord::parse(&record.to_bytes()).is_err());
    }

    #[test]
    fn references_mean_the_image_by_id_digest_or_name() {
        let mut record = record();
        record.other_digests.push(Digest::parse(&format!("sha256:{}", "cd".repeat(32))).unwrap());
        let means = |text: &str| record.is_meant_by(&ImageRef::parse(text).unwrap());
        let hex = record.id.as_str();
        for text in
            ["a", "localhost/a:latest", hex, &format!("x@sha256:{hex}"), &format!("x@sha256:{}", "cd".repeat(32))]
        {
            assert!(means(text), "{text}");
        }
        for text in ["b", "a:1", &"ef".repeat(32), &format!("a@sha256:{}", "ef".repeat(32))] {
            assert!(!means(text), "{text}");
        }
    }

    #[test]
    fn a_tree_is_that_of_the_only_layer_and_an_absolute_path() {
        let mut record = ImageRecord { version: VERSION_WITH_FORMATS, ..record() };
        record.layers[0].tree = Some("/cvmfs/unpacked/.flat/ab/abab".into());
        assert_eq!(ImageRecord::parse(&record.to_bytes()).unwrap(), record);
        assert_eq!(record.tree(), Some(Path::new("/cvmfs/unpacked/.flat/ab/abab")));
        let refused = |record: &ImageRecord| ImageRecord::parse(&record.to_bytes()).unwrap_err().to_string();
        for tree in ["relative", "/a/../etc", ""] {
            record.layers[0].tree = Some(tree.into());
            assert!(refused(&record).contains("layers.tree"), "{tree}");
        }
        record.layers[0].tree = Some("/cvmfs/unpacked".into());
        record.layers[0].parts = vec![".layers/ab/abab/layerfs".into()];
        assert_eq!(ImageRecord::parse(&record.to_bytes()).unwrap(), record);
        assert_eq!(record.parts(), [".layers/ab/abab/layerfs"]);
        for part in ["/etc", "../etc", "a/../..", ""] {
            record.layers[0].parts = vec![part.into()];
            assert!(refused(&record).contains("layers.parts"), "{part}");
        }
        record.layers[0].parts = vec!["a".into()];
        let whole = LayerRecord { tree: None, ..record.layers[0].clone() };
        assert!(refused(&ImageRecord { layers: vec![whole.clone()], ..record.clone() }).contains("layers.parts"));
        record.layers.push(LayerRecord { parts: Vec::new(), ..whole });
        record.layers[0].parts.clear();
        assert!(refused(&record).contains("layers.tree"));
    }

    #[test]
    fn a_later_version_is_named() {
        let bytes = br#"{"version": 7, "something": "new"}"#;
        assert!(matches!(ImageRecord::parse(bytes), Err(RecordError::Version(7))));
    }

    #[test]
    fn a_field_that_would_lead_out_of_the_store_is_refused() {
        for (field, expected) in [
            ("id", "invalid layer id"),
            ("diff_id", "invalid diffID"),
            ("squashfs_sha256", "invalid SHA-256"),
            ("link", "a link has 26"),
        ] {
            let mut json = serde_json::to_value(record()).unwrap();
            json["layers"][0][field] = "../../../etc/shadow".into();
            let error = ImageRecord::parse(json.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{field}: {error}");
        }
        let mut json = serde_json::to_value(record()).unwrap();
        json["id"] = "../x".into();
        assert!(ImageRecord::parse(json.to_string().as_bytes()).unwrap_err().to_string().contains("invalid image id"));
    }
}
