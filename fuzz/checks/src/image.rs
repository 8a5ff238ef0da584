//! Manifests, indexes and configurations of images: anybody may have written them.

use parallax_format::digest::{DiffId, Digest};
use parallax_format::oci::Index;
use parallax_migrate_cli::image::{Image, parse_manifest};
use parallax_migrate_cli::migration::flat;
use parallax_store::hash::sha256;
use serde_json::json;

/// Any bytes are refused, or are a configuration whose layers can be fetched, whose date Podman takes, and which has one layer
/// when it is flattened.
///
/// # Panics
/// If it is not so.
pub fn check(input: &[u8]) {
    let _ = parse_manifest(input);
    if let Ok(index) = serde_json::from_slice::<Index>(input) {
        for platform in index.manifests.into_iter().filter_map(|entry| entry.platform) {
            assert!(!platform.to_string().is_empty() && platform.takes(&platform));
        }
    }
    let _ = flat::source_of(&String::from_utf8_lossy(input));
    for layers in 1..4 {
        configured(input, layers);
    }
}

/// With a manifest of so many layers that fits.
fn configured(config: &[u8], layers: usize) {
    let layer = json!({"digest": Digest::from(sha256(b"a layer")), "size": u64::MAX});
    let config_digest = Digest::from(sha256(config));
    let manifest = json!({"config": {"digest": config_digest, "size": config.len()}, "layers": vec![layer; layers]});
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::from(sha256(&manifest));
    let Ok(image) = Image::new(&digest.to_string(), manifest, Vec::new(), config.to_vec()) else { return };
    assert_eq!(image.layers.len(), layers);
    sound(&image);
    let diff_id = DiffId::from(sha256(b"all layers"));
    if let Ok(flat) = flat::flattened(&image, diff_id, 1) {
        sound(&flat);
        assert_eq!((flat.layers.len(), flat.layers[0].diff_id), (1, diff_id));
        assert_eq!(flat::source_of(&flat.manifest), Some(image.digest));
    }
}

fn sound(image: &Image) {
    assert_eq!(*image.id, sha256(image.config.as_bytes()));
    for layer in &image.layers {
        let digest = Digest::from(layer.diff_id);
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
    }
    // Go's time.RFC3339 begins so; a store with another text in it is refused as a whole.
    let date = image.created.as_bytes();
    assert!(date.len() >= 20 && date.is_ascii() && date[10] == b'T', "{}", image.created);
}
