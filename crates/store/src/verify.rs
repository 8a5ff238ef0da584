//! Checks a store against itself: what records say against what is there.

mod chunks;
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::Path;

use parallax_chunks::ChunkId;
use parallax_format::digest::{Digest, ImageId};
use parallax_format::layer_file::{LayerFile, TarSplit};
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON};
use parallax_format::podman::{big_data_file, lower_file};
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_format::{IndexPath, layout};
use serde_json::Value;

use crate::atomic::{entries, read_if_there};
use crate::error::StoreError;
use crate::hash::sha256;
use crate::lock::fcntl::ReadLock;
use crate::podman_lists::{self, ImageList, LayerList};
use crate::read::trusted::OpenError;
use crate::write::store::Store;

/// Remedy for a changed SquashFS file.
const REPLACE_FILE: &str = "remove the file and migrate an image that has the layer again";
/// Remedy for a layer that the store has in chunks alone.
const REPLACE_CHUNKS: &str = "remove all images that have the layer (parallax rm --force) and migrate them again";
/// Remedy for invalid files that are derived from images.
const MIGRATE_AGAIN: &str = "remove the image (parallax rm --force) and migrate it again";
/// Remedy for an image of another tool.
const BRING_AGAIN: &str = "remove the image (parallax rm) and migrate it";
/// Remedy for leftovers.
const COLLECT: &str = "run parallax gc";
/// Remedy for an index of chunks that is wrong, or names chunks that are.
const CHUNK_AGAIN: &str = "run parallax chunk --again with the image";
/// Remedy for a trace of chunks that is of no use.
const TRACE_AGAIN: &str = "run parallax trace with the image, or remove the file";
/// Remedy for index entries and lists that disagree.
const TAG_AGAIN: &str = "give the image the name again (parallax tag)";

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The id of the image that has it, if it is one's.
    pub image: Option<ImageId>,
    /// The file, relative to the store's root.
    pub path: String,
    /// The problem.
    pub what: String,
    /// The remedy.
    pub remedy: &'static str,
}

/// Checks images one by one; each SquashFS file and each chunk is read once.
#[derive(Debug)]
pub struct Verifier<'a> {
    store: &'a Store,
    layers: LayerList,
    images: ImageList,
    /// Results for the files that were read already.
    files: BTreeMap<String, Option<String>>,
    /// The chunks that were read and are intact.
    chunks: BTreeSet<ChunkId>,
    problems: Vec<Problem>,
    /// Held while what was found is looked at again.
    _lock: Option<ReadLock>,
}

impl<'a> Verifier<'a> {
    /// Reads the store's lists. Nothing is locked, since reading all files may take hours: what is found may be a writer
    /// at work, until it is found [`again`](Self::again).
    ///
    /// # Errors
    /// [`StoreError`] if a list cannot be read; that nothing can be checked then says enough.
    pub fn new(store: &'a Store) -> Result<Self, StoreError> {
        let (layers, images) = podman_lists::read_both(store.root())?;
        let (files, chunks, problems) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Ok(Self { store, layers, images, files, chunks, problems, _lock: None })
    }

    /// Forgets the problems found so far and keeps writers out, so that whoever checks again finds those that are real.
    /// SquashFS files that were well are not read a second time. Returns whether writers could be kept out; they can't
    /// where the file system has no locks, or another tool's are closed to the user.
    ///
    /// # Errors
    /// [`StoreError`] if the locks or the lists can't be read.
    pub fn again(&mut self) -> Result<bool, StoreError> {
        let lock = ReadLock::take(self.store.root())?;
        let files = mem::take(&mut self.files).into_iter().filter(|(_, wrong)| wrong.is_none()).collect();
        let (locked, chunks) = (lock.is_some(), mem::take(&mut self.chunks));
        *self = Self { files, chunks, _lock: lock, ..Self::new(self.store)? };
        Ok(locked)
    }

    /// All that was found since the beginning or since [`again`](Self::again), in the order in which it was.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Checks what is no single image's: that index entries lead to records.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a directory cannot be read.
    pub fn index(&mut self) -> Result<(), StoreError> {
        for directory in [IndexPath::names_directory(), layout::DIGESTS] {
            for name in entries(&self.store.root().join(directory))? {
                let entry = format!("{directory}/{name}");
                match self.store.id_at(&entry) {
                    None => self.note(None, &entry, "is no link to a record", "remove it"),
                    Some(id) if !self.store.root().join(IndexPath::record(&id)).exists() => {
                        self.note(None, &entry, "leads to no record", COLLECT);
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Checks the images that another tool brought, as far as that can be: nobody recorded what is in their files.
    /// Returns how many there are.
    ///
    /// # Errors
    /// [`StoreError`] if Podman's list can't be read.
    pub fn foreign(&mut self) -> Result<usize, StoreError> {
        let images = self.store.foreign_images()?;
        for image in &images {
            if let Some(id) = ImageId::parse(&image.id) {
                self.foreign_image(&id)?;
            }
        }
        Ok(images.len())
    }

    fn foreign_image(&mut self, id: &ImageId) -> Result<(), StoreError> {
        if let Some(directory) = self.store.unpacked_image(id)? {
            if !directory.is_dir() {
                self.missing_directory(id, IMAGES_JSON, &directory);
            }
            return self.big_data(id);
        }
        match self.store.foreign_image(id) {
            Ok(_) => self.big_data(id),
            Err(StoreError::Open(OpenError::Foreign { reason, .. })) => {
                self.note(Some(id), IMAGES_JSON, &format!("lists an image that can't be used: {reason}"), BRING_AGAIN);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Checks one image.
    ///
    /// # Errors
    /// [`StoreError::Io`] if something cannot be read, which says nothing about what it holds.
    pub fn image(&mut self, id: &ImageId) -> Result<(), StoreError> {
        let path = IndexPath::record(id);
        let record = match self.store.record(id) {
            Err(StoreError::Corrupt { what, .. }) => {
                self.note(Some(id), &path, &format!("cannot be used: {what}"), MIGRATE_AGAIN);
                return Ok(());
            }
            record => record?,
        };
        let Some(record) = record else {
            if self.images.has(id) {
                return self.foreign_image(id);
            }
            self.note(Some(id), &path, "is not there", "migrate the image");
            return Ok(());
        };
        let manifest = Digest::from(sha256(record.manifest.as_bytes()));
        let config = Digest::from(sha256(record.config.as_bytes()));
        // The Go tool draws an image's id at random. An image in a directory has the configuration of one layer.
        let has_other = record.layers.iter().any(|layer| layer.sidecar) || record.tree().is_some();
        let names_config =
            config == Digest::from(*id) || has_other && record.manifest.contains(&format!("\"{config}\""));
        if record.id != *id || !names_config || manifest != record.digest {
            self.note(Some(id), &path, "does not match its digests", MIGRATE_AGAIN);
        }
        for (index, layer) in record.layers.iter().enumerate() {
            self.layer(id, layer, record.layers.get(..index).unwrap_or_default())?;
        }
        self.names(&record);
        self.listed_image(&record)
    }

    /// Checks that the files of an image that lies elsewhere are there.
    fn tree(&mut self, image: &ImageId, tree: &Path, parts: &[String]) {
        let places =
            if parts.is_empty() { vec![tree.to_owned()] } else { parts.iter().map(|part| tree.join(part)).collect() };
        for missing in places.iter().filter(|place| !place.is_dir()) {
            self.missing_directory(image, &IndexPath::record(image), missing);
        }
    }

    /// Notes that the directory of an unpacked image, which `path` has, is not there.
    fn missing_directory(&mut self, image: &ImageId, path: &str, directory: &Path) {
        let what = format!("lists an image whose directory {} is not there", directory.display());
        self.note(Some(image), path, &what, "mount its file system, or remove the image (parallax rm)");
    }

    fn note(&mut self, image: Option<&ImageId>, path: &str, what: &str, remedy: &'static str) {
        let image = image.copied();
        self.problems.push(Problem { image, path: path.to_owned(), what: what.to_owned(), remedy });
    }

    fn layer(&mut self, image: &ImageId, layer: &LayerRecord, below: &[LayerRecord]) -> Result<(), StoreError> {
        let root = self.store.root();
        self.layer_file(image, layer)?;
        let (own, shared) = (self.store.own_file(&layer.id)?, self.store.layer_in(&layer.diff_id, layer.format)?);
        let described = if layer.sidecar { own } else { shared };
        let is_it = |there: &LayerFile| Some(there.squashfs_sha256) == layer.squashfs_sha256;
        // Another tool's file has no description.
        if !layer.sidecar && !described.as_ref().is_some_and(is_it) {
            let description = LayerFile::description_path_in(&layer.diff_id, layer.format);
            self.note(Some(image), &description, "does not describe the layer's file", REPLACE_FILE);
        }
        if let Some(recorded) = described.as_ref().filter(|there| is_it(there)).and_then(|there| there.fs_verity) {
            self.by_kernel(image, layer, recorded);
        }
        self.other_file(image, layer)?;
        if let Some(tar_split) = described.and_then(|there| there.tar_split) {
            self.tar_split(image, &LayerFile::tar_split_path(&layer.diff_id), &tar_split)?;
        }
        let directory = layout::layer_directory(&layer.id);
        let within = |name: &str| format!("{directory}/{name}");
        let text = |name: &str| read_if_there(&root.join(within(name)));
        match &layer.tree {
            Some(tree) => self.tree(image, tree, &layer.parts),
            None if !root.join(within(layout::DIFF)).is_dir() => {
                self.note(Some(image), &within(layout::DIFF), "is not there", MIGRATE_AGAIN);
            }
            _ => {}
        }
        if text(layout::LINK)?.as_deref().map(<[u8]>::trim_ascii) != Some(layer.link.as_str().as_bytes()) {
            self.note(Some(image), &within(layout::LINK), "does not hold the layer's link", MIGRATE_AGAIN);
        }
        let lower = lower_file(below.iter().rev().map(|layer| &layer.link));
        if text(layout::LOWER)?.as_deref().map(<[u8]>::trim_ascii) != lower.as_deref().map(str::as_bytes) {
            self.note(Some(image), &within(layout::LOWER), "does not name the layers below", MIGRATE_AGAIN);
        }
        let link = layout::link(layer.link.as_str());
        let leads = |path: &str, to: &str| match (root.join(path).canonicalize(), root.join(to).canonicalize()) {
            (Ok(there), Ok(wanted)) => there == wanted,
            _ => false,
        };
        let is_there = layer.tree.as_ref().is_none_or(|tree| tree.is_dir() || !layer.parts.is_empty());
        if is_there && !leads(&link, &within(layout::DIFF)) {
            self.note(Some(image), &link, "does not lead to the layer", MIGRATE_AGAIN);
        }
        // Another tool's link may lead to a SquashFS file of its own.
        let sidecar = layout::sidecar_of(layer.link.as_str(), layer.format);
        let has_no_file = layer.tree.is_some() || self.store.is_in_chunks_only(layer)?;
        if !has_no_file && !root.join(&sidecar).is_file() {
            let what = format!("leads to no {} file", layer.format.title());
            self.note(Some(image), &sidecar, &what, MIGRATE_AGAIN);
        }
        let entry = self.layers.get(&layer.id);
        let parent = below.last().map(|below| below.id.as_str());
        let right = entry.is_some_and(|entry| {
            // What another tool flattened has other layers below in the list than in files.
            layer.sidecar
                || text_of(&entry, "diff-digest") == Some(&Digest::from(layer.diff_id).to_string())
                    && text_of(&entry, "parent") == parent
        });
        if !right {
            self.note(Some(image), LAYERS_JSON, &format!("does not list the layer {}", layer.id), MIGRATE_AGAIN);
        }
        Ok(())
    }

    /// Checks the data by which Podman gives a layer's archive back.
    fn tar_split(&mut self, image: &ImageId, path: &str, expected: &TarSplit) -> Result<(), StoreError> {
        if !self.files.contains_key(path) {
            let there = read_if_there(&self.store.root().join(path))?;
            let right = there.is_some_and(|bytes| sha256(&bytes) == expected.sha256);
            let wrong =
                (!right).then(|| "is missing or does not match its digest, so Podman cannot save the image".to_owned());
            self.files.insert(path.to_owned(), wrong);
        }
        if let Some(Some(wrong)) = self.files.get(path).cloned() {
            self.note(Some(image), path, &wrong, MIGRATE_AGAIN);
        }
        Ok(())
    }

    fn names(&mut self, record: &ImageRecord) {
        if self.store.id_of_digest(&record.digest) != Some(record.id) {
            let entry = IndexPath::digest(&record.digest);
            self.note(Some(&record.id), &entry, "does not lead to the image", MIGRATE_AGAIN);
        }
        for name in &record.names {
            let entry = parallax_format::ImageName::for_storing(name).ok().and_then(|name| IndexPath::name(&name));
            let entry = entry.unwrap_or_else(|| format!("{}/{name}", IndexPath::names_directory()));
            if self.store.id_at(&entry) != Some(record.id) {
                self.note(Some(&record.id), &entry, "does not lead to the image that has the name", TAG_AGAIN);
            }
        }
    }

    fn listed_image(&mut self, record: &ImageRecord) -> Result<(), StoreError> {
        let id = &record.id;
        let Some(entry) = self.images.get(id) else {
            self.note(Some(id), IMAGES_JSON, "does not list the image, so Podman does not see it", MIGRATE_AGAIN);
            return Ok(());
        };
        let names = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        if names(&self.images.names(id)) != names(&record.names) {
            self.note(Some(id), IMAGES_JSON, "gives the image other names than its record", TAG_AGAIN);
        }
        if entry.get("layer").and_then(Value::as_str) != record.layers.last().map(|top| top.id.as_str()) {
            self.note(Some(id), IMAGES_JSON, "gives the image another top layer than its record", MIGRATE_AGAIN);
        }
        self.big_data(id)
    }

    /// Checks the files that Podman keeps of an image.
    fn big_data(&mut self, id: &ImageId) -> Result<(), StoreError> {
        let Some(entry) = self.images.get(id) else { return Ok(()) };
        for (key, digest) in entry.get("big-data-digests").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{}/{}", layout::image_directory(id), big_data_file(key));
            let there = read_if_there(&self.store.root().join(&path))?;
            if there.is_none_or(|bytes| *digest != Digest::from(sha256(&bytes)).to_string()) {
                self.note(Some(id), &path, "is missing or does not match its digest", MIGRATE_AGAIN);
            }
        }
        Ok(())
    }
}

/// A text of an entry in one of Podman's lists; `None` if it has none or an empty one.
fn text_of<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
