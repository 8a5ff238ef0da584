//! The chunks of an image's layers in a registry: an OCI artifact that refers to the image (OCI image specification 1.1).
//!
//! For each layer the artifact has two blobs: the files of the layer's chunks, one behind another, and an index of that blob in casync's format,
//! whose ids are those of the chunks. A node that knows the layer finds the artifact by the layer's tag, without a list of the images that the
//! repository has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Sha256};
use crate::oci::{Descriptor, MANIFEST_TYPE};

/// Type of the artifact.
pub const ARTIFACT_TYPE: &str = "application/vnd.parallax.chunks.v1";
/// Media type of the index of a blob with chunks.
pub const INDEX_TYPE: &str = "application/vnd.parallax.chunks.index.v1";
/// Media type of a blob with chunks.
pub const BLOB_TYPE: &str = "application/vnd.parallax.chunks.blob.v1";
/// Annotation of both: the SHA-256 of the layer's SquashFS file.
const LAYER_ANNOTATION: &str = "vnd.parallax.layer";
/// Media type of [`EMPTY`].
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The configuration of artifacts that have none.
pub const EMPTY: &[u8] = b"{}";
/// SHA-256 of [`EMPTY`].
const EMPTY_SHA256: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// Returns the tag of an artifact that has the layer whose SquashFS file has this SHA-256.
#[must_use]
pub fn layer_tag(layer: &Sha256) -> String {
    format!("parallax-layer-{layer}")
}

/// Returns the tag of the artifact about the image whose manifest has this digest.
#[must_use]
pub fn image_tag(manifest: &Digest) -> String {
    format!("parallax-image-{}", manifest.sha256())
}

/// Returns the tag of the index of what refers to a manifest, for registries that list this by no other means ("referrers tag schema").
#[must_use]
pub fn referrers_tag(manifest: &Digest) -> String {
    format!("sha256-{}", manifest.sha256())
}

/// The chunks of a layer in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlobs {
    /// SHA-256 of the layer's SquashFS file.
    pub layer: Sha256,
    /// Digest and size in bytes of the index.
    pub index: (Digest, u64),
    /// Digest and size in bytes of the blob with the chunks.
    pub chunks: (Digest, u64),
}

/// A blob of the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Blob {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The manifest of the artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkArtifact {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Blob>,
    /// The image's manifest.
    pub subject: Descriptor,
}

impl ChunkArtifact {
    /// Returns the artifact with the chunks of these layers of an image, whose manifest is `subject`.
    #[must_use]
    pub fn new(subject: Descriptor, layers: &[LayerBlobs]) -> Self {
        let descriptor =
            |kind: &str, digest: String, size| Descriptor { media_type: Some(kind.to_owned()), digest, size };
        let blobs = layers.iter().flat_map(|LayerBlobs { layer, index, chunks }| {
            [(INDEX_TYPE, index), (BLOB_TYPE, chunks)].map(|(kind, (digest, size))| Blob {
                descriptor: descriptor(kind, digest.to_string(), *size),
                annotations: BTreeMap::from([(LAYER_ANNOTATION.to_owned(), layer.to_string())]),
            })
        });
        let empty = Sha256::parse(EMPTY_SHA256).map(|sha256| Digest::from(sha256).to_string());
        Self {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: ARTIFACT_TYPE.to_owned(),
            config: descriptor(EMPTY_TYPE, empty.unwrap_or_default(), EMPTY.len() as u64),
            layers: blobs.collect(),
            subject,
        }
    }

    /// Reads the manifest of an artifact. `None` if the bytes are that of something else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let artifact: Self = serde_json::from_slice(bytes).ok()?;
        Some(artifact).filter(|artifact| artifact.artifact_type == ARTIFACT_TYPE)
    }

    /// The manifest as it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers only: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the blobs of a layer; `None` if the artifact does not have it, or names malformed digests.
    #[must_use]
    pub fn blobs_of(&self, layer: &Sha256) -> Option<LayerBlobs> {
        let of = |kind: &str| {
            let is_it = |blob: &&Blob| {
                blob.descriptor.media_type.as_deref() == Some(kind)
                    && blob.annotations.get(LAYER_ANNOTATION).is_some_and(|name| name == layer.as_str())
            };
            let found = &self.layers.iter().find(is_it)?.descriptor;
            Some((found.digest.parse::<Digest>().ok()?, found.size))
        };
        Some(LayerBlobs { layer: *layer, index: of(INDEX_TYPE)?, chunks: of(BLOB_TYPE)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_has_the_blobs_of_each_layer() {
        let digest = |byte| Digest::from(Sha256::from([byte; 32]));
        let layers: Vec<_> = (1..=2)
            .map(|n| LayerBlobs {
                layer: Sha256::from([n; 32]),
                index: (digest(n + 10), 96 + u64::from(n)),
                chunks: (digest(n + 20), 5000),
            })
            .collect();
        let subject = Descriptor { media_type: Some(MANIFEST_TYPE.to_owned()), digest: digest(9).to_string(), size: 7 };
        let artifact = ChunkArtifact::new(subject.clone(), &layers);
        let bytes = artifact.to_bytes();
        let parsed = ChunkArtifact::parse(&bytes).unwrap();
        assert_eq!((&parsed, &parsed.subject), (&artifact, &subject));
        assert_eq!(parsed.to_bytes(), bytes);
        for blobs in &layers {
            assert_eq!(parsed.blobs_of(&blobs.layer).as_ref(), Some(blobs));
        }
        assert_eq!(parsed.blobs_of(&Sha256::from([3; 32])), None);
        let text = String::from_utf8(bytes).unwrap();
        let config = "\"config\":{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"digest\":\"sha256:44136f";
        for part in [config, "\"artifactType\":\"application/vnd.parallax.chunks.v1\"", "\"schemaVersion\":2"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(ChunkArtifact::parse(text.replace("chunks.v1\",\"config", "chunks.v9\",\"config").as_bytes()), None);
        assert_eq!(ChunkArtifact::parse(b"{}"), None);
    }

    #[test]
    fn tags_are_those_that_registries_accept() {
        for tag in [layer_tag(&Sha256::from([1; 32])), image_tag(&Digest::from(Sha256::from([1; 32])))] {
            assert!(tag.len() <= 128 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{tag}");
        }
    }
}
