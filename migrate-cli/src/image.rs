//! An image's manifest and configuration: the parts that a migration needs, checked against their digests.

use anyhow::{Context as _, bail, ensure};
use parallax_format::digest::{DiffId, Digest, ImageId, LayerId};
use parallax_format::oci::{Configuration, Descriptor, Manifest, Platform};
use parallax_store::hash::{chain_ids, sha256};
use serde::de::DeserializeOwned;

use crate::runnable;

/// Creation time of an image whose configuration has none.
const NO_DATE: &str = "1970-01-01T00:00:00Z";

/// An image to migrate.
#[derive(Debug)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// The manifest's digest.
    pub digest: Digest,
    /// Other digests of the image: that of the index it was selected from, and those in Podman's storage.
    pub other_digests: Vec<Digest>,
    /// The manifest, byte for byte.
    pub manifest: String,
    /// The configuration, byte for byte.
    pub config: String,
    /// Time of the build, RFC 3339.
    pub created: String,
    /// Its platform, if the configuration has one.
    pub platform: Option<Platform>,
    /// The layers, base first.
    pub layers: Vec<Layer>,
    /// Reasons why steps may be unable to use it, one sentence each.
    pub warnings: Vec<String>,
}

/// A layer to migrate.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The blob in the source.
    pub blob: Descriptor,
}

/// Parses a manifest.
///
/// # Errors
/// If the text is not a manifest of a container image.
pub fn parse_manifest(bytes: &[u8]) -> anyhow::Result<Manifest> {
    from_object(bytes).context("the source does not have a valid manifest of a container image")
}

impl Image {
    /// Podman's ids of the layers, base first.
    pub fn chain_ids(&self) -> Vec<LayerId> {
        chain_ids(self.layers.iter().map(|layer| layer.diff_id))
    }

    /// Makes an image from its parts.
    ///
    /// # Errors
    /// If the digests do not match, or the configuration is not that of a container image.
    pub fn new(digest: &str, manifest: Vec<u8>, other_digests: Vec<Digest>, config: Vec<u8>) -> anyhow::Result<Self> {
        let digest = checked_digest("manifest", digest, &manifest)?;
        let parsed = parse_manifest(&manifest)?;
        let config_digest = checked_digest("configuration", &parsed.config.digest, &config)?;
        let configuration: Configuration = from_object(&config).context("cannot parse the image's configuration")?;
        let diff_ids = configuration.diff_ids();
        ensure!(!diff_ids.is_empty(), "the image has no layers, so nothing in it can be run");
        if diff_ids.len() != parsed.layers.len() {
            bail!(
                "the image is corrupt: its manifest has {} layers, its configuration {}",
                parsed.layers.len(),
                diff_ids.len()
            );
        }
        let layers = diff_ids.iter().zip(parsed.layers).map(|(diff_id, blob)| {
            let digest =
                Digest::parse(diff_id).with_context(|| format!("the image has the invalid diffID {diff_id:?}"))?;
            Ok(Layer { diff_id: DiffId::from(*digest.sha256()), blob })
        });
        let config = String::from_utf8(config).context("the configuration is not UTF-8")?;
        Ok(Self {
            id: ImageId::from(*config_digest.sha256()),
            warnings: runnable::defects(&config),
            layers: layers.collect::<anyhow::Result<_>>()?,
            digest,
            platform: configuration.platform(),
            other_digests,
            manifest: String::from_utf8(manifest).context("the manifest is not UTF-8")?,
            config,
            created: time_of_build(configuration.created.as_deref()),
        })
    }
}

/// Parses a JSON object. serde also accepts an array for a structure, which no other tool does.
fn from_object<T: DeserializeOwned>(bytes: &[u8]) -> anyhow::Result<T> {
    ensure!(bytes.trim_ascii_start().starts_with(b"{"), "not a JSON object");
    Ok(serde_json::from_slice(bytes)?)
}

/// Returns the digest of a part of an image, if it is `digest`.
fn checked_digest(what: &str, digest: &str, bytes: &[u8]) -> anyhow::Result<Digest> {
    let found = Digest::from(sha256(bytes));
    let expected =
        Digest::parse(digest).with_context(|| format!("the image's {what} has the invalid digest {digest:?}"))?;
    ensure!(found == expected, "the image's {what} is corrupt: its digest is {found}, not {digest}");
    Ok(found)
}

/// Returns the time of an image's build in the form that Podman parses; 1970 if the configuration has none that is valid.
pub(crate) fn time_of_build(created: Option<&str>) -> String {
    created.and_then(canonical_time).unwrap_or_else(|| NO_DATE.to_owned())
}

/// Returns a time in the form that Go, and so Podman, parses: RFC 3339, in UTC. Podman refuses a store with another form as a
/// whole. `None` if the text is invalid or before year 0, which RFC 3339 cannot express.
fn canonical_time(text: &str) -> Option<String> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.to_string()).filter(|text| !text.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(config: &str, layers: usize) -> anyhow::Result<Image> {
        let layer = format!(r#"{{"digest":"sha256:{}","size":3}}"#, "b".repeat(64));
        let manifest = format!(
            r#"{{"config":{{"digest":"sha256:{}","size":{}}},"layers":[{}]}}"#,
            sha256(config.as_bytes()),
            config.len(),
            vec![layer; layers].join(",")
        );
        let digest = Digest::from(sha256(manifest.as_bytes())).to_string();
        Image::new(&digest, manifest.into_bytes(), Vec::new(), config.as_bytes().to_vec())
    }

    #[test]
    fn an_image_is_checked_against_its_digests() {
        let diff_id = "a".repeat(64);
        let good = image(&format!(r#"{{"rootfs":{{"diff_ids":["sha256:{diff_id}"]}}}}"#), 1).unwrap();
        assert_eq!((good.layers[0].diff_id.as_str(), good.created.as_str()), (diff_id.as_str(), NO_DATE));
        let wrong = Image::new(&good.digest.to_string(), b"{}".to_vec(), Vec::new(), Vec::new()).unwrap_err();
        assert!(wrong.to_string().contains("manifest is corrupt"), "{wrong}");
        let wrong =
            Image::new(&good.digest.to_string(), good.manifest.into_bytes(), Vec::new(), b"{}".to_vec()).unwrap_err();
        assert!(wrong.to_string().contains("configuration is corrupt"), "{wrong}");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(image("{}", 0).unwrap_err().to_string().contains("no layers"));
        let two = format!(r#"{{"rootfs":{{"diff_ids":["sha256:{0}","sha256:{0}"]}}}}"#, "a".repeat(64));
        assert!(image(&two, 1).unwrap_err().to_string().contains("corrupt"));
        let odd = r#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#;
        assert!(image(odd, 1).unwrap_err().to_string().contains("invalid diffID"));
    }

    #[test]
    fn times_are_written_as_podman_reads_them() {
        for (text, written) in [
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
            ("2024-01-01T00:00:00.123456789Z", "2024-01-01T00:00:00.123456789Z"),
            ("2024-01-01T23:59:59+02:00", "2024-01-01T21:59:59Z"),
            ("2024-01-01t00:00:00z", "2024-01-01T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(canonical_time(text).as_deref(), Some(written), "{text}");
        }
        for bad in [
            "",
            "now",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "-000001-01-01T00:00:00Z",
        ] {
            assert_eq!(canonical_time(bad), None, "{bad}");
        }
    }
}
