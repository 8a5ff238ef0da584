//! Copies to a registry: what skopeo pushes, and the manifests that are there.

use std::path::Path;

use anyhow::{Context as _, ensure};
use parallax_format::digest::{Digest, ImageId};
use parallax_format::name::{split_suffix, tag_and_digest};
use parallax_format::oci::{Descriptor, Index, MANIFEST_TYPE, Manifest};
use parallax_store::hash::sha256;
use serde::Deserialize;

use super::access::Access;
use super::reference::Reference;
use super::skopeo::{copy, inspect};

/// A repository of a registry, and how it is accessed.
#[derive(Debug)]
pub(crate) struct Repository {
    /// Registry and repository: `HOST/NAME`.
    name: String,
    /// The tag that was given.
    tag: Option<String>,
    access: Access,
}

/// The media type of a manifest.
#[derive(Debug, Deserialize)]
struct MediaType {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

impl Repository {
    /// Parses `docker://HOST/NAME[:TAG]`.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn parse(text: &str, access: Access) -> anyhow::Result<Self> {
        let rest = text.strip_prefix("docker://").unwrap_or_default();
        let (name, suffix) = split_suffix(rest);
        let (tag, digest) = tag_and_digest(suffix);
        ensure!(
            name.contains('/') && digest.is_none(),
            "invalid repository \"{}\": must be docker://HOST/NAME or docker://HOST/NAME:TAG",
            text.escape_debug()
        );
        Ok(Self { name: name.to_owned(), tag: tag.map(str::to_owned), access })
    }

    /// Returns the reference to a tag (`:TAG`) or digest (`@DIGEST`).
    fn reference(&self, suffix: &str) -> Reference {
        Reference::registry(&format!("{}{suffix}", self.name))
    }

    /// Returns the manifest with a tag (`:TAG`) or digest (`@DIGEST`), byte for byte.
    ///
    /// # Errors
    /// The registry does not return it.
    fn manifest(&self, suffix: &str) -> anyhow::Result<Vec<u8>> {
        let reference = self.reference(suffix);
        inspect(&reference.text, &reference, &self.access)
    }

    /// Returns the manifest with a tag; `None` if the registry does not return one.
    pub(crate) fn tagged(&self, tag: &str) -> Option<Vec<u8>> {
        self.manifest(&format!(":{tag}")).inspect_err(|error| tracing::debug!("{error:#}")).ok()
    }

    /// Returns the descriptor of the manifest of an image: that with the tag that was given, else that with `digest`.
    ///
    /// # Errors
    /// The repository does not have the image.
    pub(crate) fn image(&self, id: &ImageId, digest: &Digest) -> anyhow::Result<Descriptor> {
        let suffix = self.tag.as_ref().map_or_else(|| format!("@{digest}"), |tag| format!(":{tag}"));
        let remedy = if self.tag.is_some() {
            "push the image there first"
        } else {
            "push the image there first, or give its tag"
        };
        let bytes = self.manifest(&suffix);
        let bytes = bytes.with_context(|| format!("{}{suffix} cannot be read; {remedy}", self.name))?;
        let entries = serde_json::from_slice::<Index>(&bytes).map(|index| index.manifests).unwrap_or_default();
        let manifests = entries.iter().map(|entry| self.manifest(&format!("@{}", entry.digest)));
        for bytes in [Ok(bytes)].into_iter().chain(manifests) {
            let bytes = bytes?;
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { continue };
            if manifest.config.digest == Digest::from(*id).to_string() {
                let MediaType { media_type } = serde_json::from_slice(&bytes)?;
                let media_type = media_type.or_else(|| Some(MANIFEST_TYPE.to_owned()));
                return Ok(Descriptor {
                    media_type,
                    digest: Digest::from(sha256(&bytes)).to_string(),
                    size: bytes.len() as u64,
                });
            }
        }
        anyhow::bail!("{}{suffix} is another image than {}; {remedy}", self.name, id.short())
    }

    /// Pushes an artifact of an OCI layout with this tag.
    ///
    /// # Errors
    /// skopeo's error.
    pub(crate) fn push(&self, layout: &Path, name: &str, tag: &str) -> anyhow::Result<()> {
        copy(&format!("oci:{}:{name}", layout.display()), &self.reference(&format!(":{tag}")), &self.access)
            .with_context(|| format!("cannot push {}:{tag}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_a_registry_and_may_have_a_tag() {
        let parse = |text: &str| Repository::parse(text, Access::default()).map(|found| (found.name, found.tag));
        let made = |name: &str, tag: Option<&str>| (name.to_owned(), tag.map(str::to_owned));
        assert_eq!(parse("docker://h:5000/a/b:1").unwrap(), made("h:5000/a/b", Some("1")));
        assert_eq!(parse("docker://h:5000/a").unwrap(), made("h:5000/a", None));
        for text in ["h/a", "oci:/a/b", "docker://", "docker://a", "docker://h/a@sha256:00"] {
            assert!(parse(text).unwrap_err().to_string().contains("must be docker://HOST/NAME"), "{text}");
        }
    }
}
