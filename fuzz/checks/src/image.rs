//! Manifests, indexes and configurations of images: anybody may have written them.

use parallax_format::digest;
use parallax_migrate_cli::image::{Image, Index, Manifest};
use parallax_migrate_cli::migration::flat;
use parallax_store::containers_storage::sha256_hex;
use serde_json::json;

/// Any bytes are refused, or are a configuration whose layers can be fetched, whose date Podman takes, and which has one layer
/// when it is flattened.
///
/// # Panics
/// If it is not so.
pub fn check(input: &[u8]) {
    let _ = Manifest::parse(input);
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
    let layer = json!({"digest": digest::of_hex(&"b".repeat(64)), "size": u64::MAX});
    let config_digest = digest::of_hex(&sha256_hex(config));
    let manifest = json!({"config": {"digest": config_digest, "size": config.len()}, "layers": vec![layer; layers]});
    let manifest = manifest.to_string().into_bytes();
    let digest = digest::of_hex(&sha256_hex(&manifest));
    let Ok(image) = Image::new(digest, manifest, Vec::new(), config.to_vec()) else { return };
    assert_eq!(image.layers.len(), layers);
    sound(&image);
    if let Ok(flat) = flat::flattened(&image, &"c".repeat(64), 1) {
        sound(&flat);
        assert_eq!((flat.layers.len(), flat.layers[0].diff_id.as_str()), (1, &*"c".repeat(64)));
        assert_eq!(flat::source_of(&flat.manifest).as_ref(), Some(&image.digest));
    }
}

fn sound(image: &Image) {
    assert_eq!(image.id, sha256_hex(image.config.as_bytes()));
    for layer in &image.layers {
        assert_eq!(digest::hex_of(&digest::of_hex(&layer.diff_id)), Some(&*layer.diff_id));
    }
    // Go's time.RFC3339 begins so; a store with another text in it is refused as a whole.
    let date = image.created.as_bytes();
    assert!(date.len() >= 20 && date.is_ascii() && date[10] == b'T', "{}", image.created);
}
