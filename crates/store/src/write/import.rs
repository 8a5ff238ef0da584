//! Puts images that lie unpacked in a directory elsewhere into Podman's lists, without a file of theirs.
//!
//! All that is written follows from the image: two hosts write the same bytes. The list of images is changed last, so what readers see is
//! whole; [`Store::collect`] removes what a writer leaves that dies before.

use std::fs;
use std::path::{Path, PathBuf};

use parallax_format::digest::{DiffId, Digest, ImageId, LayerId, Sha256};
use parallax_format::layer_file::LayerFile;
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON};
use parallax_format::oci::{CONFIGURATION_TYPE, LAYER_TYPE, MANIFEST_TYPE};
use parallax_format::podman::{Image, Layer};
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_format::{ImageName, IndexPath, layout};
use serde_json::{Map, Value, json};

use crate::atomic::{
    ensure_directory, ensure_link, move_into_place, remove_file, remove_tree, replace_file, replace_link, sync_parent,
};
use crate::error::StoreError;
use crate::hash::{big_data, link_of_layer, sha256};
use crate::lock::fcntl::WriteLock;
use crate::podman_lists::{self, ImageList};
use crate::write::pending::Operation;
use crate::write::store::Store;

/// An image that lies unpacked in a directory.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The image id.
    pub id: ImageId,
    /// The name for the store.
    pub name: ImageName,
    /// The directory, an absolute path that all hosts have.
    pub directory: PathBuf,
    /// The directories below it that are the image's layers, the topmost first; empty if the directory is the image. An image in layers needs a
    /// metadata image.
    pub parts: Vec<String>,
    /// The image's configuration, a JSON object.
    pub configuration: Map<String, Value>,
    /// When the image was built, RFC 3339 in the form that Podman parses.
    pub created: String,
    /// What Podman is to show as the image's size in bytes.
    pub size: u64,
}

impl Unpacked {
    /// The text of the list of its layers ([`layout::PARTS`]).
    fn part_list(&self) -> String {
        self.parts.iter().map(|part| format!("{}\n", self.directory.join(part).display())).collect()
    }
}

/// The metadata image of an unpacked image, which nodes mount over the directory.
#[derive(Debug)]
pub struct Metadata {
    /// The SquashFS file, durable, in a working directory of the store.
    pub file: PathBuf,
    /// Sum of the sizes of the image's files in bytes.
    pub size: u64,
    /// The size of the SquashFS file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the SquashFS file.
    pub squashfs_sha256: Sha256,
    /// The highest user id that owns a file.
    pub max_uid: u32,
    /// The highest group id that owns a file.
    pub max_gid: u32,
}

impl Metadata {
    fn layer_file(&self, diff_id: DiffId) -> LayerFile {
        let file = LayerFile::new(diff_id, self.size, self.squashfs_size, self.squashfs_sha256);
        LayerFile { max_uid: self.max_uid, max_gid: self.max_gid, ..file }
    }
}

/// The documents of an image for Podman. The configuration has one layer, as the store does.
struct Documents {
    layer: LayerId,
    manifest: String,
    configuration: String,
}

impl Documents {
    fn new(image: &Unpacked) -> Self {
        let layer = layer_of(&image.id);
        let diff_id = Digest::from(*layer).to_string();
        let mut configuration = image.configuration.clone();
        configuration.insert("created".to_owned(), image.created.clone().into());
        configuration.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": [diff_id] }));
        // It has an entry for each layer of the original.
        configuration.remove("history");
        let configuration = Value::Object(configuration).to_string();
        let config = json!({
            "mediaType": CONFIGURATION_TYPE, "digest": digest_of(&configuration).to_string(), "size": configuration.len(),
        });
        let layers = json!([{ "mediaType": LAYER_TYPE, "digest": diff_id, "size": image.size }]);
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers });
        Self { layer, manifest: manifest.to_string(), configuration }
    }

    /// What stands for a diffID: the layer has no archive.
    fn diff_id(&self) -> DiffId {
        DiffId::from(*self.layer)
    }
}

/// The layer of an unpacked image: the image id says what is in it.
fn layer_of(image: &ImageId) -> LayerId {
    sha256(format!("unpacked {image}").as_bytes()).into()
}

fn digest_of(document: &str) -> Digest {
    Digest::from(sha256(document.as_bytes()))
}

impl Store {
    /// Whether the store has an unpacked image as it is to be, so that importing it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn has_import(&self, image: &Unpacked, with_metadata: bool) -> Result<bool, StoreError> {
        let (layers, images) = podman_lists::read_both(self.root())?;
        let layer = layer_of(&image.id);
        let listed = images.names(&image.id).contains(&image.name.to_string());
        let is_it = |record: &ImageRecord| record.tree() == Some(&image.directory) && record.parts() == image.parts;
        let of_metadata = self.image(&image.id)?.is_some_and(|record| is_it(&record));
        let is_whole = self.leads_to(&layer, image) && layers.has(&layer);
        Ok(listed && is_whole && (of_metadata || !with_metadata))
    }

    /// Makes an unpacked image visible, or gives one that is there another name or directory. A name of another unpacked image moves. Returns
    /// `false` if nothing had to be changed. `metadata` is the metadata image, if it is to have one; one that is there stays.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Taken`] if the store has the image, or another one of the name, with files of its own.
    pub fn import(&self, image: &Unpacked, metadata: Option<&Metadata>) -> Result<bool, StoreError> {
        let target = image.directory.to_str().filter(|path| path.starts_with('/'));
        let target = target.ok_or_else(|| self.corrupt("the image", &"its directory is no absolute path in UTF-8"))?;
        if !image.parts.is_empty() && metadata.is_none() {
            return Err(self.corrupt("the image", &"it lies in layers, and there is no metadata image of them"));
        }
        let documents = Documents::new(image);
        let lock = WriteLock::take(self.root())?;
        if self.has_import(image, metadata.is_some())? {
            return Ok(false);
        }
        let (mut layers, mut images) = podman_lists::read_both(self.root())?;
        self.check_taken(image, &images)?;
        let (id, name, is_new) = (&image.id, image.name.to_string(), !images.has(&image.id));
        self.record_pending(id, if is_new { Operation::Adding } else { Operation::Naming }, &[])?;
        self.unpacked_layer(&documents.layer, image, target)?;
        self.advise_unpacked(&documents.layer)?;
        if let Some(metadata) = metadata {
            let file = metadata.layer_file(documents.diff_id());
            // The directory may have been incomplete when its first metadata image was made.
            if self.layer(&file.diff_id)?.is_some_and(|there| there.squashfs_sha256 != file.squashfs_sha256) {
                self.move_to_trash(&self.root().join(LayerFile::squashfs_path(&file.diff_id)))?;
            }
            self.add_layer(&lock, &metadata.file, &file)?;
        }
        let layer = Layer {
            id: documents.layer,
            parent: None,
            created: image.created.clone(),
            diff_digest: documents.diff_id().into(),
            diff_size: image.size,
            uidmap: Vec::new(),
            gidmap: Vec::new(),
        };
        layers.add(&layer).map_err(|error| self.corrupt(LAYERS_JSON, &error))?;
        self.write_layers(&lock, &layers)?;
        if is_new {
            let entry = self.unpacked_documents(image, &documents)?;
            images.add(&entry).map_err(|error| self.corrupt(IMAGES_JSON, &error))?;
        }
        let losers = images.move_name(&name, id);
        self.write_images(&lock, &images)?;
        self.record_tree(image, &documents, &images, &losers)?;
        self.clear_pending(id)?;
        Ok(true)
    }

    /// Brings record and index in step, if the image has a metadata image, or another one of the name has.
    fn record_tree(
        &self,
        image: &Unpacked,
        documents: &Documents,
        images: &ImageList,
        losers: &[String],
    ) -> Result<(), StoreError> {
        let diff_id = documents.diff_id();
        let Some(file) = self.layer(&diff_id)? else {
            // Nodes find the image by Podman's list, unless the index has another one.
            if let Some(entry) = IndexPath::name(&image.name).filter(|entry| self.id_at(entry).is_some()) {
                remove_file(&self.root().join(entry))?;
            }
            return self.rename_losers(images, losers);
        };
        let layer = LayerRecord {
            id: documents.layer,
            link: link_of_layer(&documents.layer),
            diff_id,
            size: file.size,
            format: parallax_format::LayerFormat::Squashfs,
            squashfs_size: file.squashfs_size,
            squashfs_sha256: Some(file.squashfs_sha256),
            max_uid: file.max_uid,
            max_gid: file.max_gid,
            sidecar: false,
            tree: Some(image.directory.clone()),
            parts: image.parts.clone(),
        };
        let digest = digest_of(&documents.manifest);
        let layers = vec![layer];
        let record = ImageRecord {
            version: ImageRecord::version_for(&layers),
            id: image.id,
            digest,
            other_digests: Vec::new(),
            names: Vec::new(),
            created: image.created.clone(),
            manifest: documents.manifest.clone(),
            config: documents.configuration.clone(),
            layers,
        };
        self.write_named(record, images)?;
        self.point(&IndexPath::digest(&digest), &image.id)?;
        self.follow(images, &image.name, &image.id, losers)
    }

    /// Checks that the store has neither the image nor another one of the name with files of its own.
    fn check_taken(&self, image: &Unpacked, images: &ImageList) -> Result<(), StoreError> {
        let of_index = self.id_of_name(&image.name).map(|id| id.to_string());
        let holder = images.id_of_name(&image.name).or(of_index);
        let known = self.unpacked_images()?;
        let has_files = |id: &str| match ImageId::parse(id) {
            Some(id) if known.contains_key(&id) => Ok(false),
            Some(id) => self.record(&id).map(|record| record.is_none_or(|record| record.tree().is_none())),
            None => Ok(true),
        };
        if holder.map_or(Ok(false), |holder| has_files(&holder))? {
            return Err(StoreError::Taken(image.name.to_string()));
        }
        let is_there = images.has(&image.id) || self.root().join(IndexPath::record(&image.id)).exists();
        if is_there && has_files(&image.id)? {
            return Err(StoreError::Taken(image.id.to_string()));
        }
        Ok(())
    }

    /// Whether the layer's directory and its short link are there, and the files are those of the image's directories.
    fn leads_to(&self, layer: &LayerId, image: &Unpacked) -> bool {
        let directory = self.root().join(layout::layer_directory(layer));
        let files = directory.join(layout::DIFF);
        let is_it = if image.parts.is_empty() {
            fs::read_link(files).is_ok_and(|now| now == image.directory)
        } else {
            files.is_dir()
                && fs::read_to_string(directory.join(layout::PARTS)).is_ok_and(|now| now == image.part_list())
        };
        is_it && self.root().join(layout::link(link_of_layer(layer).as_str())).is_symlink()
    }

    /// Makes the layer's directory, or has it lead elsewhere.
    fn unpacked_layer(&self, id: &LayerId, image: &Unpacked, target: &str) -> Result<(), StoreError> {
        let directory = self.root().join(layout::layer_directory(id));
        let link = link_of_layer(id);
        if directory.is_dir() {
            self.lead(&directory, image, target)?;
        } else {
            let scratch = self.temporary().join("layer");
            remove_tree(&scratch)?;
            ensure_directory(&scratch)?;
            self.lead(&scratch, image, target)?;
            // Podman names it to fuse-overlayfs, which fails where a directory is missing.
            ensure_directory(&scratch.join(layout::EMPTY))?;
            replace_file(&self.temporary(), &scratch.join(layout::LINK), link.as_str().as_bytes())?;
            move_into_place(&scratch, &directory)?;
        }
        let short = self.root().join(layout::link(link.as_str()));
        ensure_link(&short, &layout::link_target(id))?;
        sync_parent(&short)
    }

    /// Has a layer's directory lead to the image's files: by a symbolic link to its directory, or by a list of its layers, since Podman can have one
    /// directory only.
    fn lead(&self, layer: &Path, image: &Unpacked, target: &str) -> Result<(), StoreError> {
        let (files, list) = (layer.join(layout::DIFF), layer.join(layout::PARTS));
        if image.parts.is_empty() {
            if files.is_dir() && !files.is_symlink() {
                remove_tree(&files)?;
            }
            replace_link(&self.temporary().join("link"), &files, target)?;
            return if list.exists() { remove_file(&list) } else { Ok(()) };
        }
        replace_file(&self.temporary(), &list, image.part_list().as_bytes())?;
        if files.is_symlink() {
            remove_file(&files)?;
        }
        ensure_directory(&files)
    }

    /// Writes the image's documents and returns its entry for the list of images.
    fn unpacked_documents(&self, image: &Unpacked, documents: &Documents) -> Result<Image, StoreError> {
        let Documents { layer, manifest, configuration } = documents;
        let directory = self.root().join(layout::image_directory(&image.id));
        ensure_directory(&directory)?;
        let key = digest_of(configuration).to_string();
        let data = [big_data("manifest", manifest.as_bytes()), big_data(&key, configuration.as_bytes())];
        for piece in &data {
            replace_file(&self.temporary(), &directory.join(piece.file_name()), piece.bytes)?;
        }
        sync_parent(&directory)?;
        Ok(Image::new(image.id, digest_of(manifest), Vec::new(), *layer, &image.created, &data))
    }
}

#[cfg(test)]
mod tests;
