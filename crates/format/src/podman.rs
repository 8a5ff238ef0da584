//! The files by which Podman knows an additional image store (containers/storage, overlay driver).
//!
//! Only what readers need is written; the fields are those that containers/storage 1.43 (Podman 4.3) to 1.64 (Podman
//! 5.8) read. Of the entries of others only the fields in use are read.

mod listed;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, ImageId, LayerId};
use crate::layout;

pub use listed::{ImageFields, LayerFields, ListedImage, ListedLayer};

/// Size of a lock file in bytes. Podman 4.3 takes a shorter one as "changed" at every look and reads the lists
/// dozens of times for one `podman run`.
pub const LOCK_TOKEN_BYTES: usize = 64;

/// The short name of a layer in [`layout::LINKS`]: 26 capital letters and digits.
///
/// containers/storage draws them at random; here they come from the layer's id, so that the same layer has the same
/// link in every store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Link(String);

impl Link {
    /// Number of characters of a link.
    const LENGTH: usize = 26;

    /// Returns the link that a layer gets for the SHA-256 of its id.
    #[must_use]
    pub fn of_hash(hash: &[u8; 32]) -> Self {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).copied().map(char::from);
        Self(hash.iter().take(Self::LENGTH).filter_map(letter).collect())
    }

    /// The letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path of the layer's SquashFS file, or of a link to it: the convention of podman-hpc and the Go tool.
    #[must_use]
    pub fn sidecar(&self) -> String {
        layout::sidecar(&self.0)
    }
}

impl TryFrom<String> for Link {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let good = text.len() == Self::LENGTH && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if good { Ok(Self(text)) } else { Err("a link has 26 capital letters and digits".to_owned()) }
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.0
    }
}

/// One range of an id map, in the order and with the names that Podman writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapEntry {
    /// The first id inside the container.
    pub container_id: u32,
    /// The first id outside, as seen in the user namespace in which Podman runs.
    pub host_id: u32,
    /// Number of ids.
    pub size: u32,
}

/// An entry of [`layout::IMAGES_JSON`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image id.
    pub id: ImageId,
    /// The manifest's digest.
    pub digest: Digest,
    /// Fully qualified names. No name may be on two images: Podman then fails on the whole store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The id of the top layer.
    pub layer: LayerId,
    /// Top layers of the same image that carry an id map; Podman picks the one whose map is the container's.
    #[serde(rename = "mapped-layers", default, skip_serializing_if = "Vec::is_empty")]
    pub mapped_layers: Vec<LayerId>,
    /// Keys of the big data (manifest, configuration).
    #[serde(rename = "big-data-names")]
    pub big_data_names: Vec<String>,
    /// Their sizes in bytes.
    #[serde(rename = "big-data-sizes")]
    pub big_data_sizes: std::collections::BTreeMap<String, u64>,
    /// Their digests.
    #[serde(rename = "big-data-digests")]
    pub big_data_digests: std::collections::BTreeMap<String, Digest>,
    /// When the image was built, RFC 3339.
    pub created: String,
}

/// An entry of [`layout::LAYERS_JSON`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The layer id.
    pub id: LayerId,
    /// The id of the layer below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<LayerId>,
    /// When the layer was built, RFC 3339.
    pub created: String,
    /// The layer's diffID.
    #[serde(rename = "diff-digest")]
    pub diff_digest: Digest,
    /// The size of the layer's tar stream in bytes; `podman images` shows the sum. Without it Podman walks the layer.
    #[serde(rename = "diff-size")]
    pub diff_size: u64,
    /// The user id map the layer's files were laid down with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uidmap: Vec<IdMapEntry>,
    /// The group id map the layer's files were laid down with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gidmap: Vec<IdMapEntry>,
}

/// A piece of an image's big data: a key and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BigData<'a> {
    /// `manifest`, `manifest-sha256:…`, or `sha256:<image id>` for the configuration.
    pub key: &'a str,
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their digest.
    pub digest: Digest,
}

impl BigData<'_> {
    /// Returns the file of the data, inside `overlay-images/<image id>/`.
    #[must_use]
    pub fn file_name(&self) -> String {
        big_data_file(self.key)
    }
}

/// Returns the file of the big data with this key, inside `overlay-images/<image id>/`.
///
/// containers/storage writes keys of lower-case letters, digits and dots as they are, all others as `=` and their base64.
#[must_use]
pub fn big_data_file(key: &str) -> String {
    if key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.') {
        key.to_owned()
    } else {
        format!("={}", base64::engine::general_purpose::STANDARD.encode(key))
    }
}

impl Image {
    /// An entry with its big data listed.
    #[must_use]
    pub fn new(
        id: ImageId,
        digest: Digest,
        names: Vec<String>,
        layer: LayerId,
        created: &str,
        data: &[BigData<'_>],
    ) -> Self {
        let key = |d: &BigData<'_>| d.key.to_owned();
        Self {
            id,
            digest,
            names,
            layer,
            mapped_layers: Vec::new(),
            big_data_names: data.iter().map(key).collect(),
            big_data_sizes: data.iter().map(|d| (key(d), d.bytes.len() as u64)).collect(),
            big_data_digests: data.iter().map(|d| (key(d), d.digest)).collect(),
            created: created.to_owned(),
        }
    }
}

/// The `lower` file of a layer: the links of the layers below it, the nearest first; `None` for a base layer.
#[must_use]
pub fn lower_file<'a>(below_nearest_first: impl IntoIterator<Item = &'a Link>) -> Option<String> {
    let links: Vec<String> = below_nearest_first.into_iter().map(|link| layout::lower(link.as_str())).collect();
    (!links.is_empty()).then(|| links.join(":"))
}

/// The key under which an image's data holds the manifest with this digest.
#[must_use]
pub fn manifest_key(digest: &Digest) -> String {
    format!("manifest-{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_data_files_have_the_names_podman_looks_for() {
        assert_eq!(big_data_file("manifest"), "manifest");
        assert_eq!(big_data_file("sha256:00"), "=c2hhMjU2OjAw");
    }

    #[test]
    fn lower_names_the_nearest_first() {
        let (base, middle) = (Link::of_hash(&[0; 32]), Link::of_hash(&[1; 32]));
        assert_eq!(lower_file([]), None);
        assert_eq!(lower_file([&middle, &base]), Some(format!("l/{}:l/{}", middle.as_str(), base.as_str())));
    }
}
