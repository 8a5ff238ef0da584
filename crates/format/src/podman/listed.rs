//! Entries of Podman's lists, which other tools write too.
//!
//! Each structure has the fields that one kind of reader needs: lists may have very many entries, and a field that is not
//! named here is skipped without being read. Ids are texts: another tool may have written any.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::name::ImageName;
use crate::reference::ImageRef;

/// An image in Podman's list, as a reader of a store needs it. The entry must have an id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ListedImage {
    /// The image's id; the Go tool draws it at random.
    pub id: String,
    /// The manifest's digest, `sha256:…`.
    #[serde(default)]
    pub digest: String,
    /// The names as they are in the list; `null` in the Go tool's.
    #[serde(default)]
    pub names: Option<Vec<String>>,
    /// Podman's id of the top layer.
    #[serde(default)]
    pub layer: String,
    /// When it was built; empty if unknown.
    #[serde(default)]
    pub created: String,
    /// The digests of its big data, by key.
    #[serde(rename = "big-data-digests", default)]
    pub digests: Option<BTreeMap<String, String>>,
}

/// A layer in Podman's list, as a reader needs it for sizes. The entry must have an id.
#[derive(Debug, Deserialize)]
pub struct ListedLayer {
    /// The layer's id.
    pub id: String,
    /// The id of the layer below; empty for a base layer.
    #[serde(default)]
    pub parent: String,
    /// The size of the layer's tar stream in bytes; negative if unknown.
    #[serde(rename = "diff-size", default)]
    pub size: i64,
}

/// The fields of an image's entry that a writer of Podman's list needs; an entry may lack all of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageFields {
    /// The image's id.
    pub id: String,
    /// Its names.
    pub names: Option<Vec<String>>,
    /// The id of its top layer.
    pub layer: Option<String>,
    /// The ids of its top layers with an id map.
    #[serde(rename = "mapped-layers")]
    pub mapped_layers: Option<Vec<String>>,
}

/// The fields of a layer's entry that a writer of Podman's list needs; an entry may lack all of them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LayerFields {
    /// The layer's id.
    pub id: String,
    /// The id of the layer below.
    pub parent: Option<String>,
    /// The layer's diffID, `sha256:…`.
    #[serde(rename = "diff-digest")]
    pub diff_digest: Option<String>,
}

impl ListedImage {
    /// The fully qualified names, as a user may type them. Podman also takes names without a registry.
    #[must_use]
    pub fn names(&self) -> Vec<ImageName> {
        self.names.iter().flatten().filter_map(|name| ImageName::for_storing(name).ok()).collect()
    }

    /// The names as they are in the list.
    #[must_use]
    pub fn names_as_listed(&self) -> &[String] {
        self.names.as_deref().unwrap_or_default()
    }

    /// Podman's id of the top layer.
    #[must_use]
    pub fn top(&self) -> &str {
        &self.layer
    }

    /// The digests of the image's manifests: those of the index it was chosen from too.
    pub fn manifest_digests(&self) -> impl Iterator<Item = Digest> {
        let manifests = self.digests.iter().flatten().filter(|(key, _)| key.starts_with("manifest"));
        let all = manifests.map(|(_, digest)| digest).chain([&self.digest]);
        all.filter_map(|digest| Digest::parse(digest))
    }

    /// How well a reference fits: 0 is best, `None` not at all.
    #[must_use]
    pub fn fits(&self, reference: &ImageRef) -> Option<usize> {
        match reference {
            ImageRef::Id(id) => (self.id == id.as_str()).then_some(0),
            ImageRef::Digest(digest) => self.has_digest(digest).then_some(0),
            ImageRef::Name(names) => {
                let own = self.names();
                names.iter().position(|name| own.contains(name))
            }
        }
    }

    /// Whether a manifest of the image, or the index it was chosen from, has this digest.
    #[must_use]
    pub fn has_digest(&self, digest: &Digest) -> bool {
        self.manifest_digests().any(|own| own == *digest)
    }
}
