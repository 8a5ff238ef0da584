//! The layout of a store: every path in it, relative to the store's root.
//!
//! The directories `overlay…` and what is in them are containers/storage's (overlay driver), `squash` and the sidecars in
//! [`LINKS`] podman-hpc's and the Go tool's convention, and `parallax` is ours. Step stores have the same layout. The index
//! of names and digests is [`crate::IndexPath`]'s.

use crate::digest::{DiffId, ImageId, LayerId};
use crate::layer_format::LayerFormat;

/// Podman's directory of layers.
pub const OVERLAY: &str = "overlay";
/// The directory of the layers' short names.
pub const LINKS: &str = "overlay/l";
/// The name of [`LINKS`] in [`OVERLAY`].
pub const LINKS_NAME: &str = "l";
/// Podman's directory of images.
pub const OVERLAY_IMAGES: &str = "overlay-images";
/// The list of images.
pub const IMAGES_JSON: &str = "overlay-images/images.json";
/// The lock of the list of images.
pub const IMAGES_LOCK: &str = "overlay-images/images.lock";
/// Podman's directory of what it knows of layers.
pub const OVERLAY_LAYERS: &str = "overlay-layers";
/// The list of layers.
pub const LAYERS_JSON: &str = "overlay-layers/layers.json";
/// The lock of the list of layers.
pub const LAYERS_LOCK: &str = "overlay-layers/layers.lock";

/// The directory of podman-hpc's and the Go tool's SquashFS files, to which sidecars lead.
pub const SQUASH: &str = "squash";

/// Our own directory.
pub const PARALLAX: &str = "parallax";
/// The files of layers, with their descriptions and tar-split data.
pub const LAYERS: &str = "parallax/layers";
/// The chunk store: the chunks of all layers that have an index of chunks. casync searches it beside an index.
pub const CHUNK_STORE: &str = "parallax/layers/default.castr";
/// The records, one file per image id.
pub const RECORDS: &str = "parallax/images";
/// The index of names.
pub const NAMES: &str = "parallax/names";
/// The index of manifest and index digests.
pub const DIGESTS: &str = "parallax/digests";
/// The files by which nodes say which images steps use.
pub const IN_USE: &str = "parallax/holds";
/// SquashFS files that are removed and may still be in use.
pub const REMOVED: &str = "parallax/removed";
/// Unfinished files.
pub const TEMPORARY: &str = "parallax/tmp";
/// The lock where the file system has none.
pub const LOCK: &str = "parallax/lock";
/// The directory that who breaks [`LOCK`] makes.
pub const LOCK_BREAKING: &str = "parallax/lock.breaking";
/// Tar-split data that has Podman say what to do.
pub const NO_FILES: &str = "parallax/no-files.tar-split.gz";

/// The directories of a store that Parallax writes, parents first. [`CHUNK_STORE`] is made with the first chunk.
pub const DIRECTORIES: [&str; 12] = [
    OVERLAY,
    LINKS,
    OVERLAY_IMAGES,
    OVERLAY_LAYERS,
    PARALLAX,
    LAYERS,
    RECORDS,
    NAMES,
    DIGESTS,
    IN_USE,
    REMOVED,
    TEMPORARY,
];
/// The directories that each store of containers/storage has.
pub const PODMANS_DIRECTORIES: [&str; 4] = [OVERLAY, LINKS, OVERLAY_IMAGES, OVERLAY_LAYERS];

/// Directory in a base layer's directory that Podman puts below it, so that an overlay has two lower directories.
pub const EMPTY: &str = "empty";
/// The directory of a layer's files, in the layer's directory.
pub const DIFF: &str = "diff";
/// The file with the layer's short name, in the layer's directory.
pub const LINK: &str = "link";
/// The file in a layer's directory with the directories whose files the layer has together, absolute paths, one a line, the topmost first. Only
/// layers of images that lie in unpacked layers elsewhere have it, and the mount program reads it.
pub const PARTS: &str = "parts";
/// The file with the short names of the layers below, in the layer's directory.
pub const LOWER: &str = "lower";

/// The extension of SquashFS files.
pub const SQUASHFS: &str = "squash";
/// The extension of EROFS files.
pub const EROFS: &str = "erofs";
/// The extension of descriptions of EROFS files.
pub const EROFS_JSON: &str = "erofs.json";
/// The extension of records and descriptions.
pub const JSON: &str = "json";
/// The extension of tar-split data.
pub const TAR_SPLIT: &str = "tar-split.gz";
/// The extension of indexes of chunks, casync's for the index of a file.
pub const CHUNK_INDEX: &str = "caibx";
/// The extension of what is known of a layer's chunks beside the index.
pub const CHUNK_TOTALS: &str = "chunks.json";
/// The extension of traces: the chunks that a start of an image reads.
pub const CHUNK_TRACE: &str = "trace";
/// The name, without extension, of the files in a layer's directory that describe a SquashFS file which the layer has for itself.
const OWN: &str = "parallax";

/// The directory of a layer.
#[must_use]
pub fn layer_directory(id: &str) -> String {
    format!("{OVERLAY}/{id}")
}

/// The layer's id in the path of its directory, if the path is one.
#[must_use]
pub fn layer_of_directory(path: &str) -> Option<&str> {
    path.strip_prefix(OVERLAY)?.strip_prefix('/')
}

/// The symbolic link that is a layer's short name.
#[must_use]
pub fn link(name: &str) -> String {
    format!("{LINKS}/{name}")
}

/// Returns the target of the symbolic link that is the short name of the layer with this id.
#[must_use]
pub fn link_target(id: &str) -> String {
    format!("../{id}/{DIFF}")
}

/// The layer's id in what its short name's symbolic link holds.
#[must_use]
pub fn layer_of_link(target: &str) -> Option<&str> {
    target.strip_prefix("../")?.strip_suffix(DIFF)?.strip_suffix('/')
}

/// A layer below another, as [`LOWER`] names it by its short name.
#[must_use]
pub fn lower(name: &str) -> String {
    format!("{LINKS_NAME}/{name}")
}

/// The short name of a layer in [`LOWER`].
#[must_use]
pub fn link_of_lower(text: &str) -> &str {
    text.strip_prefix(LINKS_NAME).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text)
}

/// The SquashFS file of the layer with this short name, or the symbolic link to it.
#[must_use]
pub fn sidecar(link: &str) -> String {
    format!("{LINKS}/{link}.{SQUASHFS}")
}

/// Returns the path of the file of the layer with this short name, or of the symbolic link to it.
#[must_use]
pub fn sidecar_of(link: &str, format: LayerFormat) -> String {
    format!("{LINKS}/{link}.{}", extension_of(format))
}

/// Returns the path of podman-hpc's or the Go tool's SquashFS file of the layer with this short name.
#[must_use]
pub fn squash(link: &str) -> String {
    format!("{SQUASH}/{link}.{SQUASHFS}")
}

/// Returns the target of a symbolic link in [`LINKS`] to a file of the store.
#[must_use]
pub fn from_links(path: &str) -> String {
    format!("../../{path}")
}

/// The SquashFS file of the layer with this diffID.
#[must_use]
pub fn squashfs(diff_id: &DiffId) -> String {
    layer_file(diff_id, SQUASHFS)
}

/// Returns the path of the file in this format of the layer with this diffID.
#[must_use]
pub fn file_in(diff_id: &DiffId, format: LayerFormat) -> String {
    layer_file(diff_id, extension_of(format))
}

/// Returns the extension of files in this format.
#[must_use]
pub fn extension_of(format: LayerFormat) -> &'static str {
    match format {
        LayerFormat::Squashfs => SQUASHFS,
        LayerFormat::Erofs => EROFS,
    }
}

/// Returns the extension of descriptions of files in this format.
#[must_use]
pub fn description_extension_of(format: LayerFormat) -> &'static str {
    match format {
        LayerFormat::Squashfs => JSON,
        LayerFormat::Erofs => EROFS_JSON,
    }
}

/// Returns one of the files of the layer with this diffID, by its extension. Other files there may have any name.
#[must_use]
pub fn layer_file(diff_id: &str, extension: &str) -> String {
    format!("{LAYERS}/{diff_id}.{extension}")
}

/// The description of a SquashFS file that one of Podman's layers has for itself.
#[must_use]
pub fn own_description(layer_id: &LayerId) -> String {
    own_file(layer_id, JSON)
}

/// Returns one of the files about a SquashFS file that one of Podman's layers has for itself, by its extension.
#[must_use]
pub fn own_file(layer_id: &str, extension: &str) -> String {
    format!("{OVERLAY}/{layer_id}/{OWN}.{extension}")
}

/// Returns the path at which Podman searches the tar-split data of a layer.
#[must_use]
pub fn podmans_tar_split(layer_id: &str) -> String {
    format!("{OVERLAY_LAYERS}/{layer_id}.{TAR_SPLIT}")
}

/// The directory of an image's manifest and configuration.
#[must_use]
pub fn image_directory(id: &ImageId) -> String {
    format!("{OVERLAY_IMAGES}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(layer_of_directory(&layer_directory("ab")), Some("ab"));
        assert_eq!(layer_of_link(&link_target("ab")), Some("ab"));
        assert_eq!(link_of_lower(&lower("AB")), "AB");
        assert_eq!(link_of_lower("AB"), "AB");
        assert_eq!(layer_of_link("../../etc"), None);
    }

    #[test]
    fn parents_come_first() {
        for (index, directory) in DIRECTORIES.iter().enumerate() {
            let parent = directory.rsplit_once('/').map(|(parent, _)| parent);
            assert!(parent.is_none_or(|parent| DIRECTORIES[..index].contains(&parent)), "{directory}");
        }
    }

    #[test]
    fn paths_are_those_that_stores_have() {
        assert_eq!(link("AB"), "overlay/l/AB");
        assert_eq!(sidecar("AB"), "overlay/l/AB.squash");
        assert_eq!(squash("AB"), "squash/AB.squash");
        let hex = "ab".repeat(32);
        let (diff_id, image_id) = (hex.parse().unwrap(), hex.parse().unwrap());
        let layer_id: LayerId = hex.parse().unwrap();
        assert_eq!(squashfs(&diff_id), format!("parallax/layers/{hex}.squash"));
        assert_eq!(file_in(&diff_id, LayerFormat::Squashfs), squashfs(&diff_id));
        assert_eq!(file_in(&diff_id, LayerFormat::Erofs), format!("parallax/layers/{hex}.erofs"));
        assert_eq!(sidecar_of("AB", LayerFormat::Squashfs), sidecar("AB"));
        assert_eq!(sidecar_of("AB", LayerFormat::Erofs), "overlay/l/AB.erofs");
        assert_eq!(layer_file(&diff_id, TAR_SPLIT), format!("parallax/layers/{hex}.tar-split.gz"));
        assert_eq!(layer_file(&hex, CHUNK_INDEX), format!("parallax/layers/{hex}.caibx"));
        assert_eq!(own_file(&layer_id, CHUNK_INDEX), format!("overlay/{hex}/parallax.caibx"));
        assert_eq!(podmans_tar_split(&hex), format!("overlay-layers/{hex}.tar-split.gz"));
        assert_eq!(own_description(&layer_id), format!("overlay/{hex}/parallax.json"));
        assert_eq!(image_directory(&image_id), format!("overlay-images/{hex}"));
        assert_eq!(from_links(&squashfs(&diff_id)), format!("../../parallax/layers/{hex}.squash"));
    }
}
