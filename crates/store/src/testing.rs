//! A small store and images for it, and images as other tools leave them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use parallax_format::digest::{DiffId, Digest, ImageId, LayerId};
use parallax_format::layer_file::LayerFile;
use parallax_format::layout::{IMAGES_JSON, IMAGES_LOCK, LAYERS_JSON, LAYERS_LOCK};
use parallax_format::podman::Image;
use parallax_format::record::ImageRecord;
use parallax_format::{ImageName, LayerFormat};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::error::StoreError;
use crate::hash::{big_data, link_of_layer, sha256};
use crate::write::own_file::OwnFiles;
use crate::write::store::{NewImage, Store};

pub(crate) fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create_or_open(&directory.path().join("a/store")).unwrap();
    (directory, store)
}

/// Something that begins like a SquashFS file.
pub(crate) fn squashfs(content: &str) -> Vec<u8> {
    let mut bytes = parallax_format::squashfs::MAGIC.to_vec();
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
        id: sha256(config.as_bytes()).into(),
        digest: sha256(manifest.as_bytes()).into(),
        other_digests: vec![sha256(format!("index of {config}").as_bytes()).into()],
        name: ImageName::for_storing(name).unwrap(),
        created: "2026-01-01T00:00:00Z".into(),
        manifest,
        config: config.into(),
        diff_ids: layers.iter().map(|content| sha256(content.as_bytes()).into()).collect(),
    }
}

/// Publishes an image as a migration does.
pub(crate) fn publish(store: &Store, image: &NewImage, layers: &[&str]) -> Result<ImageRecord, StoreError> {
    let work = store.work_directory()?;
    let mut converted = Vec::new();
    for content in layers {
        let (diff_id, bytes) = (DiffId::from(sha256(content.as_bytes())), squashfs(content));
        if store.layer_in(&diff_id, LayerFormat::Squashfs)?.is_none() {
            let file = work.path().join(diff_id.as_str());
            fs::write(&file, &bytes).unwrap();
            let layer = LayerFile::new(diff_id, 1000, bytes.len() as u64, sha256(&bytes));
            converted.push((file, LayerFile { max_uid: 1, max_gid: 2, ..layer }));
        }
    }
    store.publish(image, &converted, &OwnFiles::new())
}

/// The beginning of an EROFS file with some content.
fn erofs_bytes(content: &str) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes.extend(parallax_format::erofs::MAGIC);
    bytes.resize(1024 + 128, 0);
    bytes[1024 + 12] = 9;
    bytes.extend(content.as_bytes());
    bytes
}

/// Writes EROFS files of layers as a migration does.
pub(crate) fn erofs(directory: &Path, layers: &[&str]) -> Vec<(PathBuf, LayerFile)> {
    let file = |content: &&str| {
        let (diff_id, bytes) = (DiffId::from(sha256(content.as_bytes())), erofs_bytes(content));
        let file = directory.join(format!("{diff_id}.erofs"));
        fs::write(&file, &bytes).unwrap();
        let layer = LayerFile::new(diff_id, 1000, bytes.len() as u64, sha256(&bytes));
        (file, LayerFile { format: LayerFormat::Erofs, ..layer })
    };
    layers.iter().map(file).collect()
}

/// Publishes an image with these files of its layers.
pub(crate) fn publish_files(
    store: &Store,
    image: &NewImage,
    files: &[(PathBuf, LayerFile)],
) -> Result<ImageRecord, StoreError> {
    store.publish(image, files, &OwnFiles::new())
}

pub(crate) fn json(store: &Store, name: &str) -> Value {
    serde_json::from_slice(&fs::read(store.root().join(name)).unwrap()).unwrap()
}

/// The tool that stored an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    GoTool,
    PodmanHpc,
}

/// Adds an image to a store as another tool does, and returns its id. The tests of the command and of the mount program
/// have real ones; this one's parts are of the same shape.
pub(crate) fn foreign_image(root: &Path, tool: Foreign, name: &str) -> ImageId {
    for directory in ["overlay/l", "overlay-images", "overlay-layers", "squash"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for lock in [IMAGES_LOCK, LAYERS_LOCK] {
        fs::write(root.join(lock), [b'x'; 64]).unwrap();
    }
    let config = json!({"architecture": "amd64", "config": {"Env": ["TOOL=1"]}, "name": name}).to_string();
    let config_digest = Digest::from(sha256(config.as_bytes()));
    let descriptor = json!({"digest": config_digest, "size": config.len()});
    let manifest = json!({"schemaVersion": 0, "config": descriptor, "layers": []}).to_string();
    // The Go tool draws ids at random.
    let id = ImageId::from(match tool {
        Foreign::GoTool => sha256(format!("id of {name}").as_bytes()),
        Foreign::PodmanHpc => *config_digest.sha256(),
    });
    let layers: Vec<LayerId> = match tool {
        Foreign::GoTool => vec![sha256(format!("marker of {name}").as_bytes()).into()],
        Foreign::PodmanHpc => {
            ["base", "middle", "top"].map(|at| sha256(format!("{at} {name}").as_bytes()).into()).to_vec()
        }
    };
    let mut list = entries(root, LAYERS_JSON);
    for (number, layer) in layers.iter().enumerate() {
        let link = link_of_layer(&format!("drawn for {layer}"));
        fs::create_dir_all(root.join("overlay").join(layer.as_str()).join("diff")).unwrap();
        fs::write(root.join("overlay").join(layer.as_str()).join("link"), link.as_str()).unwrap();
        symlink(format!("../{layer}/diff"), root.join("overlay/l").join(link.as_str())).unwrap();
        fs::write(root.join(format!("overlay-layers/{layer}.tar-split.gz")), "x").unwrap();
        list.push(json!({"id": layer, "parent": number.checked_sub(1).map_or("", |below| &layers[below]),
            "created": "2026-01-01T00:00:00Z", "diff-digest": Digest::from(**layer), "diff-size": 1000}));
        if number + 1 == layers.len() {
            let (file, sidecar) = (format!("squash/{}.squash", link.as_str()), root.join(link.sidecar()));
            match tool {
                Foreign::GoTool => {
                    fs::write(root.join("overlay").join(layer.as_str()).join("diff/.migrationv3-x"), "0\n").unwrap();
                    fs::write(root.join(&file), squashfs(name)).unwrap();
                    symlink(format!("../../{file}"), sidecar).unwrap();
                }
                Foreign::PodmanHpc => fs::write(sidecar, squashfs(name)).unwrap(),
            }
        }
    }
    fs::write(root.join(LAYERS_JSON), Value::Array(list).to_string()).unwrap();
    let config_key = config_digest.to_string();
    let data = [big_data("manifest", manifest.as_bytes()), big_data(&config_key, config.as_bytes())];
    fs::create_dir_all(root.join("overlay-images").join(id.as_str())).unwrap();
    for piece in &data {
        fs::write(root.join("overlay-images").join(id.as_str()).join(piece.file_name()), piece.bytes).unwrap();
    }
    let digest = sha256(manifest.as_bytes()).into();
    let names = vec![ImageName::for_storing(name).unwrap().to_string()];
    let top = *layers.last().unwrap();
    let mut list = entries(root, IMAGES_JSON);
    list.push(json!(Image::new(id, digest, names, top, "2026-01-01T00:00:00Z", &data)));
    fs::write(root.join(IMAGES_JSON), Value::Array(list).to_string()).unwrap();
    id
}

fn entries(root: &Path, list: &str) -> Vec<Value> {
    fs::read(root.join(list)).map_or_else(|_| Vec::new(), |bytes| serde_json::from_slice(&bytes).unwrap())
}
