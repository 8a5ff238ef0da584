//! The JSON documents of an image as registries, archives and Podman have them: the used parts of manifests, indexes and
//! configurations (OCI image specification 1.1; Docker's schema 2 has the same fields).
//!
//! Unknown fields are ignored: other tools add their own. Readers that accept images which cannot run say so where they do.

mod configuration;
mod platform;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use configuration::{Configuration, EXECUTION_KEYS, Execution, Keys, RootFs};
pub use platform::Platform;

/// Media type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a configuration.
pub const CONFIGURATION_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer that is a plain tar.
pub const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// Annotation in the index of an OCI layout: the image's tag, or its whole name.
pub const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// A blob in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The blob's kind; not in every document.
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// `sha256:…`
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
}

/// The manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
    /// What its maker added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An index or manifest list: the images of several platforms, or the images of an OCI layout (`index.json`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// The images.
    pub manifests: Vec<IndexEntry>,
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IndexEntry {
    /// The digest of its manifest.
    pub digest: String,
    /// The manifest's size in bytes; 0 if the index does not give it.
    #[serde(default)]
    pub size: u64,
    /// Its platform.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// What the index's maker added.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl IndexEntry {
    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_docker_and_of_oci() {
        let text = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:a","size":1},
            "layers":[{"digest":"sha256:b","size":2,"urls":[]}],"annotations":null}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!((manifest.config.media_type.as_deref(), manifest.layers[0].size), (Some("x"), 2));
        assert_eq!(manifest.annotations, None);
        let text = r#"{"manifests":[{"digest":"sha256:c","annotations":{"a":"b"}},
            {"digest":"sha256:d","size":3,"platform":{"os":"linux","architecture":"amd64"}}]}"#;
        let index: Index = serde_json::from_str(text).unwrap();
        assert_eq!((index.manifests[0].annotation("a"), index.manifests[0].size), (Some("b"), 0));
        assert_eq!(index.manifests[1].platform.as_ref().unwrap().to_string(), "linux/amd64");
        assert_eq!(index.manifests[1].annotation("a"), None);
    }
}
