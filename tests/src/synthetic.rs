//! Stores with many images, made quickly: of each image everything is there that a store has, but all share one real layer,
//! and their own layers are one small file under many names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use parallax_format::digest::{DiffId, Digest};
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON, LINKS};
use parallax_format::podman::{Image, Layer, lower_file};
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_format::{ImageName, IndexPath};
use parallax_store::LayerFile;
use parallax_store::hash::{big_data, chain_ids, link_of_layer, sha256};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

/// Adds `count` images to a store that has one image, `base`, and nobody else at work. They are called
/// `localhost/many:NUMBER`, have the layers of `base`, of which the first one must be small enough to be no burden as often
/// as there are images, and one of their own.
///
/// # Errors
/// A file can't be made.
pub fn add_images(store: &Path, base: &str, count: usize) -> anyhow::Result<()> {
    let entry = IndexPath::name(&ImageName::for_storing(base)?).context("the name is too long")?;
    let base = ImageRecord::parse(&fs::read(store.join(entry))?)?;
    // Not the base's own file: the kernel takes no overlay of two layers that are one.
    let file = store.join("parallax/many.squash");
    fs::copy(store.join(base.layers.first().context("no layers")?.file_path()), &file)?;
    let mut lists = Lists::read(store)?;
    for number in 0..count {
        lists.add(store, &base, &file, number)?;
    }
    fs::remove_file(file)?;
    fs::write(store.join(LAYERS_JSON), serde_json::to_vec(&lists.layers)?)?;
    fs::write(store.join(IMAGES_JSON), serde_json::to_vec(&lists.images)?)?;
    Ok(())
}

struct Lists {
    layers: Vec<Box<RawValue>>,
    images: Vec<Box<RawValue>>,
}

impl Lists {
    fn read(store: &Path) -> anyhow::Result<Self> {
        let list = |name: &str| -> anyhow::Result<_> { Ok(serde_json::from_slice(&fs::read(store.join(name))?)?) };
        Ok(Self { layers: list(LAYERS_JSON)?, images: list(IMAGES_JSON)? })
    }

    fn add(&mut self, store: &Path, base: &ImageRecord, file: &Path, number: usize) -> anyhow::Result<()> {
        let mut record = base.clone();
        let layer = own_layer(base, number)?;
        add_layer(store, base, &layer, file)?;
        self.layers.push(to_raw_value(&Layer {
            id: layer.id,
            parent: base.layers.last().map(|below| below.id),
            created: base.created.clone(),
            diff_digest: layer.diff_id.into(),
            diff_size: layer.size,
            uidmap: Vec::new(),
            gidmap: Vec::new(),
        })?);
        let mut config: Value = serde_json::from_str(&base.config)?;
        config["config"]["Env"] = json!([format!("NUMBER={number}"), "PATH=/usr/bin:/bin"]);
        record.config = config.to_string();
        record.id = sha256(record.config.as_bytes()).into();
        record.manifest = base.manifest.replace(base.id.as_str(), &record.id);
        record.digest = sha256(record.manifest.as_bytes()).into();
        record.names = vec![format!("localhost/many:{number}")];
        record.layers.push(layer);
        self.images.push(to_raw_value(&add_image(store, &record)?)?);
        Ok(())
    }
}

fn own_layer(base: &ImageRecord, number: usize) -> anyhow::Result<LayerRecord> {
    let below = base.layers.first().context("no layers")?;
    let diff_id = DiffId::from(sha256(format!("layer {number}").as_bytes()));
    let chain = base.layers.iter().map(|layer| layer.diff_id).chain([diff_id]);
    let id = chain_ids(chain).pop().context("no layers")?;
    Ok(LayerRecord { link: link_of_layer(&id), id, diff_id, ..below.clone() })
}

fn add_layer(store: &Path, base: &ImageRecord, layer: &LayerRecord, file: &Path) -> anyhow::Result<()> {
    let directory = store.join("overlay").join(layer.id);
    fs::create_dir_all(directory.join("diff"))?;
    fs::write(directory.join("link"), layer.link.as_str())?;
    fs::write(
        directory.join("lower"),
        lower_file(base.layers.iter().rev().map(|layer| &layer.link)).unwrap_or_default(),
    )?;
    symlink(format!("../{}/diff", layer.id), store.join(LINKS).join(layer.link.as_str()))?;
    let squashfs = LayerFile::squashfs_path(&layer.diff_id);
    symlink(format!("../../{squashfs}"), store.join(layer.link.sidecar()))?;
    fs::hard_link(file, store.join(squashfs))?;
    let known = store.join(LayerFile::description_path(&base.layers[0].diff_id));
    let description =
        LayerFile { diff_id: layer.diff_id, tar_split: None, ..serde_json::from_slice(&fs::read(known)?)? };
    Ok(fs::write(store.join(LayerFile::description_path(&layer.diff_id)), serde_json::to_vec(&description)?)?)
}

fn add_image(store: &Path, record: &ImageRecord) -> anyhow::Result<Image> {
    let config_key = Digest::from(record.id).to_string();
    let data = [big_data("manifest", record.manifest.as_bytes()), big_data(&config_key, record.config.as_bytes())];
    let directory: PathBuf = store.join("overlay-images").join(record.id);
    fs::create_dir(&directory)?;
    for piece in &data {
        fs::write(directory.join(piece.file_name()), piece.bytes)?;
    }
    fs::write(store.join(IndexPath::record(&record.id)), record.to_bytes())?;
    let name = IndexPath::name(&ImageName::for_storing(&record.names[0])?).context("the name is too long")?;
    for entry in [IndexPath::digest(&record.digest), name] {
        symlink(IndexPath::link_target(&record.id), store.join(entry))?;
    }
    let top = record.layers.last().context("no layers")?;
    Ok(Image::new(record.id, record.digest, record.names.clone(), top.id, &record.created, &data))
}

/// Makes sure that a store has at least this many images.
///
/// # Errors
/// It has fewer.
pub fn check(store: &Path, count: usize) -> anyhow::Result<()> {
    for name in ["parallax/images", "parallax/names", "parallax/digests", "overlay-images", "overlay"] {
        let there = fs::read_dir(store.join(name))?.count();
        ensure!(there >= count, "{} has {there} entries in {name}", store.display());
    }
    Ok(())
}
