//! A small store and images for it.

use std::fs;

use parallax_names::ImageName;
use serde_json::Value;
use tempfile::TempDir;

use crate::containers_storage::sha256_hex;
use crate::files::StoreError;
use crate::layer_file::LayerFile;
use crate::record::ImageRecord;
use crate::writer::{NewImage, Store};

pub(crate) fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(&directory.path().join("a/store")).unwrap();
    (directory, store)
}

/// Something that begins like a SquashFS file.
fn squashfs(content: &str) -> Vec<u8> {
    let mut bytes = b"hsqs".to_vec();
    bytes.resize(40, 0);
    bytes.extend(((96 + content.len()) as u64).to_le_bytes());
    bytes.resize(96, 0);
    bytes.extend(content.as_bytes());
    bytes
}

/// An image whose layers are told apart by their contents.
pub(crate) fn image(config: &str, name: &str, layers: &[&str]) -> NewImage {
    let manifest = format!("manifest of {config}");
    NewImage {
        id: sha256_hex(config.as_bytes()),
        digest: format!("sha256:{}", sha256_hex(manifest.as_bytes())),
        other_digests: vec![sha256_hex(format!("index of {config}").as_bytes())],
        name: ImageName::for_storing(name).unwrap(),
        created: "2026-01-01T00:00:00Z".into(),
        manifest,
        config: config.into(),
        diff_ids: layers.iter().map(|content| sha256_hex(content.as_bytes())).collect(),
    }
}

/// Publishes an image as a migration does.
pub(crate) fn publish(store: &Store, image: &NewImage, layers: &[&str]) -> Result<ImageRecord, StoreError> {
    let work = store.work_directory()?;
    let mut converted = Vec::new();
    for content in layers {
        let (diff_id, bytes) = (sha256_hex(content.as_bytes()), squashfs(content));
        if store.layer(&diff_id)?.is_none() {
            let file = work.path().join(&diff_id);
            fs::write(&file, &bytes).unwrap();
            let (squashfs_size, squashfs_sha256) = (bytes.len() as u64, sha256_hex(&bytes));
            converted.push((
                file,
                LayerFile {
                    diff_id,
                    size: 1000,
                    squashfs_size,
                    squashfs_sha256,
                    max_uid: 1,
                    max_gid: 2,
                    content: None,
                },
            ));
        }
    }
    store.publish(image, &converted)
}

pub(crate) fn json(store: &Store, name: &str) -> Value {
    serde_json::from_slice(&fs::read(store.root().join(name)).unwrap()).unwrap()
}
