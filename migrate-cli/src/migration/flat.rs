//! The manifest and configuration of a flattened image.

use anyhow::Context as _;
use parallax_format::digest::{DiffId, Digest};
use parallax_format::oci::{CONFIGURATION_TYPE, LAYER_TYPE, MANIFEST_TYPE, Manifest};
use parallax_store::hash::sha256;
use serde_json::{Value, json};

use crate::image::Image;

/// Annotation of a flattened image's manifest with the digest of the source's manifest.
const SOURCE: &str = "org.parallax.flattened-from";

/// Returns the digest of the source's manifest, if the image with this manifest was flattened.
pub fn source_of(manifest: &str) -> Option<Digest> {
    let manifest: Manifest = serde_json::from_str(manifest).ok()?;
    Digest::parse(manifest.annotations?.get(SOURCE)?)
}

/// Returns the image with a single layer, given by its diffID and the size of its tar stream in bytes.
///
/// The history keeps all entries: those of layers are marked as empty except for the last one, so that the numbers of non-empty
/// entries and of layers are equal, as the image specification requires.
///
/// # Errors
/// If the configuration cannot be read.
pub fn flattened(image: &Image, diff_id: DiffId, size: u64) -> anyhow::Result<Image> {
    let mut config: Value = serde_json::from_str(&image.config).context("cannot parse the image's configuration")?;
    let digest = Digest::from(diff_id);
    let fields = config.as_object_mut().context("cannot parse the image's configuration")?;
    fields.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": [digest]}));
    let mut history = match fields.remove("history") {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    for entry in history.iter_mut().filter_map(Value::as_object_mut) {
        entry.insert("empty_layer".to_owned(), true.into());
    }
    let layers = image.layers.len();
    history.push(json!({
        "created": image.created,
        "created_by": "parallax migrate --flatten",
        "comment": format!("{layers} layers of {} made one", image.digest),
    }));
    fields.insert("history".to_owned(), history.into());
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIGURATION_TYPE,
            "digest": Digest::from(sha256(config.as_bytes())),
            "size": config.len(),
        },
        "layers": [{"mediaType": LAYER_TYPE, "digest": digest, "size": size}],
        "annotations": {SOURCE: image.digest},
    })
    .to_string();
    let digest = Digest::from(sha256(manifest.as_bytes()));
    Image::new(&digest.to_string(), manifest.into_bytes(), Vec::new(), config.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_and_layers_agree() {
        let digest = Digest::from(sha256(b"a layer"));
        let config = json!({
            "created": "2025-01-01T00:00:00Z",
            "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": [digest, digest]},
            "history": [{"created_by": "one"}, {"created_by": "env", "empty_layer": true}, {"created_by": "two"}],
        })
        .to_string();
        let layer = json!({"digest": digest, "size": 1});
        let manifest = json!({
            "config": {"digest": Digest::from(sha256(config.as_bytes())), "size": config.len()},
            "layers": [layer, layer],
        })
        .to_string();
        let digest = Digest::from(sha256(manifest.as_bytes()));
        let image = Image::new(&digest.to_string(), manifest.into_bytes(), Vec::new(), config.into_bytes()).unwrap();
        let flat = flattened(&image, sha256(b"all").into(), 10).unwrap();
        assert_eq!((flat.layers.len(), flat.created.as_str()), (1, "2025-01-01T00:00:00Z"));
        let config: Value = serde_json::from_str(&flat.config).unwrap();
        let history = config["history"].as_array().unwrap();
        assert_eq!(history.len(), 4);
        assert_eq!(history.iter().filter(|entry| entry.get("empty_layer").is_none()).count(), 1);
        assert_eq!(config["config"]["Env"][0], "A=b");
        assert_eq!(source_of(&flat.manifest), Some(digest));
        assert_eq!(source_of(&image.manifest), None);
        assert_eq!(flattened(&image, sha256(b"all").into(), 10).unwrap().id, flat.id);
    }
}
