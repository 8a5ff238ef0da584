//! Adds images and names to a store.
//!
//! Everything becomes visible in an order in which no reader, Podman or ours, can see half an image: SquashFS files,
//! layer directories, the list of layers, the list of images, the record, the index. Each step is one `rename` of
//! something that is durable already. All of it happens under the store's locks, the new SquashFS files included, so
//! that a process with the locks sees no layer whose image is still to be published. A killed writer leaves a working store,
//! at most files that nothing refers to, and a pending-operation record for [`Store::collect`].

use std::collections::BTreeSet;
use std::iter;
use std::path::{Path, PathBuf};

use parallax_format::digest::{DiffId, Digest, ImageId, LayerId, Sha256};
use parallax_format::layer_file::LayerFile;
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON, LINKS};
use parallax_format::podman::{Image, Layer, Link, lower_file, manifest_key};
use parallax_format::record::{ImageRecord, LayerRecord, VERSION_WITH_FORMATS};
use parallax_format::{ImageName, IndexPath, LayerFormat, layout};

use crate::atomic::{
    ensure_directory, ensure_link, move_into_place, read_if_there, remove_tree, replace_file, replace_file_by,
    replace_link, sync_parent,
};
use crate::error::{IoContext as _, StoreError};
use crate::hash::{big_data, chain_ids, link_of_layer};
use crate::lock::fcntl::WriteLock;
use crate::podman_lists::{self, ImageList, LayerList};
use crate::write::own_file::OwnFiles;
use crate::write::pending::Operation;
use crate::write::store::{NewImage, Store};

/// The file that a layer of an image is to have, by its record.
struct ChosenFile<'a> {
    layer: LayerFile,
    /// Whether Podman's layer has it for itself.
    own: bool,
    /// Its path while it is not in the store.
    new: Option<&'a Path>,
}

impl Store {
    /// Makes an image visible, or gives one that is there another name. If the name stood for another image, that one
    /// keeps its other names. `converted` are finished SquashFS files, durable already; those that another writer has
    /// brought meanwhile are left where they are. `own` are those that the image's chain of layers has for itself.
    ///
    /// # Errors
    /// [`StoreError`]; readers see the image whole or not at all. [`StoreError::LayerGone`] if a layer that the store had
    /// was removed meanwhile.
    pub fn publish(
        &self,
        image: &NewImage,
        converted: &[(PathBuf, LayerFile)],
        own: &OwnFiles,
    ) -> Result<ImageRecord, StoreError> {
        entry_of(&image.name)?;
        let lock = WriteLock::take(self.root())?;
        let ids = chain_ids(image.diff_ids.iter().copied());
        let is_shared = |(id, _): &(&LayerId, _)| !own.contains_key(*id);
        let shared: BTreeSet<&DiffId> =
            ids.iter().zip(&image.diff_ids).filter(is_shared).map(|(_, diff)| diff).collect();
        for (file, layer) in converted.iter().filter(|(_, layer)| shared.contains(&layer.diff_id)) {
            self.add_layer(&lock, file, layer)?;
        }
        let file = |(id, diff_id): (&LayerId, &DiffId)| self.chosen(id, diff_id, own);
        let files: Vec<ChosenFile<'_>> = ids.iter().zip(&image.diff_ids).map(file).collect::<Result<_, _>>()?;
        let (mut layers, mut images) = podman_lists::read_both(self.root())?;
        let digests: Vec<Digest> = iter::once(image.digest).chain(image.other_digests.iter().copied()).collect();
        let marked: Vec<Sha256> = digests.iter().map(|digest| *digest.sha256()).collect();
        self.record_pending(
            &image.id,
            if images.has(&image.id) { Operation::Naming } else { Operation::Adding },
            &marked,
        )?;

        let chain = self.publish_layers(image, &files, &mut layers)?;
        self.write_layers(&lock, &layers)?;
        self.publish_big_data(image, &mut images, &chain)?;
        if let Some(top) = chain.last().filter(|_| !self.root().join(IndexPath::record(&image.id)).exists()) {
            // podman-hpc's image of the same id has one file for all; this one shares its layers.
            images.set_top(&image.id, &top.id);
        }
        let losers = images.move_name(&image.name.to_string(), &image.id);
        self.write_images(&lock, &images)?;
        // The image was there already with a manifest of its own, which stays: compressed otherwise, say.
        let mut record = self.image(&image.id)?.unwrap_or_else(|| new_record(image, chain.clone()));
        let version = self.version_for(&chain)?;
        if (record.version, &record.layers) != (version, &chain) && version == VERSION_WITH_FORMATS {
            // The layers have files in a format that they did not have before.
            record.version = version;
            record.layers = chain;
        }
        for digest in &image.other_digests {
            if !record.other_digests.contains(digest) {
                record.other_digests.push(*digest);
            }
        }
        let record = self.write_named(record, &images)?;
        for digest in &digests {
            self.point(&IndexPath::digest(digest), &image.id)?;
        }
        self.follow(&images, &image.name, &image.id, &losers)?;
        self.clear_pending(&image.id)?;
        Ok(record)
    }

    /// Gives an image another name. If the name stood for another image, that one keeps its other names.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NoImage`] if the store does not have it.
    pub fn tag(&self, id: &ImageId, name: &ImageName) -> Result<ImageRecord, StoreError> {
        entry_of(name)?;
        let lock = WriteLock::take(self.root())?;
        let record = self.image(id)?.ok_or_else(|| StoreError::NoImage(id.to_string()))?;
        let mut images = ImageList::read(&self.root().join(IMAGES_JSON))?;
        if !images.has(id) {
            return Err(
                self.corrupt(IMAGES_JSON, &format!("the image {id} is missing in it; parallax verify says more"))
            );
        }
        self.record_pending(id, Operation::Naming, &[])?;
        let losers = images.move_name(&name.to_string(), id);
        self.write_images(&lock, &images)?;
        let record = self.write_named(record, &images)?;
        self.follow(&images, name, id, &losers)?;
        self.clear_pending(id)?;
        Ok(record)
    }

    /// Points the index entry of a name to an image, and takes the name from the records of others.
    pub(crate) fn follow(
        &self,
        images: &ImageList,
        name: &ImageName,
        id: &ImageId,
        losers: &[String],
    ) -> Result<(), StoreError> {
        self.point(&entry_of(name)?, id)?;
        self.rename_losers(images, losers)
    }

    /// Takes a name that moved from the records of the images that had it.
    pub(crate) fn rename_losers(&self, images: &ImageList, losers: &[String]) -> Result<(), StoreError> {
        // An id of another form is no record's.
        for loser in losers.iter().filter_map(|id| ImageId::parse(id)) {
            if let Some(record) = self.image(&loser)? {
                self.write_named(record, images)?;
            }
        }
        Ok(())
    }

    /// Writes a record with the names that the list of images has.
    pub(crate) fn write_named(&self, mut record: ImageRecord, images: &ImageList) -> Result<ImageRecord, StoreError> {
        record.names = images.names(&record.id);
        self.write_record(&record)?;
        Ok(record)
    }

    /// Points an index entry to an image.
    pub(crate) fn point(&self, entry: &str, id: &ImageId) -> Result<(), StoreError> {
        replace_link(&self.temporary().join("link"), &self.root().join(entry), &IndexPath::link_target(id))
    }

    /// Writes the list of layers if it has changed.
    pub(crate) fn write_layers(&self, lock: &WriteLock, list: &LayerList) -> Result<(), StoreError> {
        let path = self.root().join(LAYERS_JSON);
        if list.changed() {
            replace_file_by(&self.temporary(), &path, &list.pieces())?;
            lock.layers_changed().context("write the lock of", &path)?;
        }
        Ok(())
    }

    /// Writes the list of images if it has changed.
    pub(crate) fn write_images(&self, lock: &WriteLock, list: &ImageList) -> Result<(), StoreError> {
        let path = self.root().join(IMAGES_JSON);
        if list.changed() {
            replace_file_by(&self.temporary(), &path, &list.pieces())?;
            lock.images_changed().context("write the lock of", &path)?;
        }
        Ok(())
    }

    /// The link in a layer's directory.
    pub(crate) fn link_of(&self, layer: &str) -> Result<Option<Link>, StoreError> {
        let bytes = read_if_there(&self.root().join(layout::layer_directory(layer)).join(layout::LINK))?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        Ok(text.and_then(|text| Link::try_from(text.trim().to_owned()).ok()))
    }

    /// The SquashFS file that a layer of the image is to have.
    fn chosen<'a>(&self, id: &LayerId, diff_id: &DiffId, own: &'a OwnFiles) -> Result<ChosenFile<'a>, StoreError> {
        if let Some(layer) = self.own_file(id)? {
            return Ok(ChosenFile { layer, own: true, new: None });
        }
        if let Some((file, layer)) = own.get(id) {
            if self.link_of(id)?.is_some_and(|link| link != link_of_layer(id)) {
                // Its file may be the whole image's.
                return Err(self.corrupt(
                    &format!("the layer {id}"),
                    &"another tool brought it, and it would need another file; remove that tool's image first",
                ));
            }
            return Ok(ChosenFile { layer: layer.clone(), own: true, new: Some(file.as_path()) });
        }
        let layer = self.layer(diff_id)?.ok_or(StoreError::LayerGone(*diff_id))?;
        Ok(ChosenFile { layer, own: false, new: None })
    }

    /// The layers' directories, and their entries in the list.
    fn publish_layers(
        &self,
        image: &NewImage,
        files: &[ChosenFile<'_>],
        list: &mut LayerList,
    ) -> Result<Vec<LayerRecord>, StoreError> {
        let ids = chain_ids(files.iter().map(|file| file.layer.diff_id));
        let mut chain: Vec<LayerRecord> = Vec::with_capacity(ids.len());
        for (id, chosen) in ids.into_iter().zip(files) {
            let link = self.layer_directory(&id, chosen, &chain)?;
            self.advise(&id)?;
            let file = &chosen.layer;
            let entry = Layer {
                id,
                parent: chain.last().map(|below| below.id),
                created: image.created.clone(),
                diff_digest: file.diff_id.into(),
                diff_size: file.size,
                uidmap: Vec::new(),
                gidmap: Vec::new(),
            };
            list.add(&entry).map_err(|error| self.corrupt(LAYERS_JSON, &error))?;
            chain.push(LayerRecord {
                id,
                link,
                diff_id: file.diff_id,
                size: file.size,
                format: file.format,
                squashfs_size: file.squashfs_size,
                squashfs_sha256: Some(file.squashfs_sha256),
                max_uid: file.max_uid,
                max_gid: file.max_gid,
                sidecar: chosen.own,
                tree: None,
                parts: Vec::new(),
            });
        }
        sync_parent(&self.root().join(LINKS).join("x"))?;
        sync_parent(&self.root().join(layout::layer_directory("x")))?;
        sync_parent(&self.root().join(LAYERS_JSON))?;
        Ok(chain)
    }

    /// Makes what is missing of one layer's directory and links, and returns its link: a base layer has the same id
    /// when podman-hpc brought it, and a link of its own then.
    fn layer_directory(
        &self,
        id: &LayerId,
        chosen: &ChosenFile<'_>,
        below: &[LayerRecord],
    ) -> Result<Link, StoreError> {
        let directory = self.root().join(layout::layer_directory(id));
        let lower = lower_file(below.iter().rev().map(|layer| &layer.link));
        let link = match self.link_of(id)? {
            Some(link) => {
                ensure_directory(&directory.join(layout::DIFF))?;
                let path = directory.join(layout::LOWER);
                if let Some(lower) = lower.filter(|_| !path.exists()) {
                    replace_file(&self.temporary(), &path, lower.as_bytes())?;
                }
                link
            }
            None => self.make_layer_directory(&directory, id, lower)?,
        };
        let links = self.root().join(LINKS);
        ensure_link(&links.join(link.as_str()), &layout::link_target(id))?;
        if let Some(file) = chosen.new {
            self.add_tar_split(file, &chosen.layer)?;
            self.add_own_file(id, file, &chosen.layer)?;
        }
        if !chosen.own {
            self.link_files(&link, &chosen.layer.diff_id)?;
        }
        Ok(link)
    }

    /// Returns the version of a record with these layers. Nodes look for EROFS files of images of the later version only: a look-up for each
    /// layer is not for nothing.
    fn version_for(&self, layers: &[LayerRecord]) -> Result<u32, StoreError> {
        for layer in layers.iter().filter(|layer| !layer.sidecar) {
            if self.layer_in(&layer.diff_id, LayerFormat::Erofs)?.is_some() {
                return Ok(VERSION_WITH_FORMATS);
            }
        }
        Ok(ImageRecord::version_for(layers))
    }

    /// Links the files of a layer beside the link of one of Podman's layers.
    fn link_files(&self, link: &Link, diff_id: &DiffId) -> Result<(), StoreError> {
        for format in LayerFormat::ALL {
            if self.layer_in(diff_id, format)?.is_some() {
                let file = layout::from_links(&LayerFile::path_in(diff_id, format));
                ensure_link(&self.root().join(layout::sidecar_of(link.as_str(), format)), &file)?;
            }
        }
        Ok(())
    }

    /// Makes a layer's directory. It appears whole, so that one without a link is never ours.
    fn make_layer_directory(&self, directory: &Path, id: &str, lower: Option<String>) -> Result<Link, StoreError> {
        let scratch = self.temporary().join("layer");
        remove_tree(&scratch)?;
        let is_there = directory.is_dir();
        let place = if is_there { directory } else { &scratch };
        ensure_directory(place)?;
        ensure_directory(&place.join(layout::DIFF))?;
        if let Some(lower) = lower {
            replace_file(&self.temporary(), &place.join(layout::LOWER), lower.as_bytes())?;
        }
        let link = link_of_layer(id);
        replace_file(&self.temporary(), &place.join(layout::LINK), link.as_str().as_bytes())?;
        if is_there { Ok(()) } else { move_into_place(&scratch, directory) }.map(|()| link)
    }

    fn publish_big_data(
        &self,
        image: &NewImage,
        list: &mut ImageList,
        chain: &[LayerRecord],
    ) -> Result<(), StoreError> {
        if list.has(&image.id) {
            return Ok(());
        }
        let Some(top) = chain.last() else { return Err(self.corrupt("the image", &"it has no layers")) };
        let directory = self.root().join(layout::image_directory(&image.id));
        ensure_directory(&directory)?;
        let config_key = Digest::from(image.id).to_string();
        let manifest_key = manifest_key(&image.digest);
        let data = [
            big_data(&manifest_key, image.manifest.as_bytes()),
            big_data("manifest", image.manifest.as_bytes()),
            big_data(&config_key, image.config.as_bytes()),
        ];
        for piece in &data {
            replace_file(&self.temporary(), &directory.join(piece.file_name()), piece.bytes)?;
        }
        sync_parent(&directory)?;
        list.add(&Image::new(image.id, image.digest, Vec::new(), top.id, &image.created, &data))
            .map_err(|error| self.corrupt(IMAGES_JSON, &error))
    }
}

/// The index entry of a name.
pub(crate) fn entry_of(name: &ImageName) -> Result<String, StoreError> {
    IndexPath::name(name).ok_or_else(|| StoreError::NameTooLong(name.to_string()))
}

fn new_record(image: &NewImage, layers: Vec<LayerRecord>) -> ImageRecord {
    ImageRecord {
        version: ImageRecord::version_for(&layers),
        id: image.id,
        digest: image.digest,
        other_digests: Vec::new(),
        names: Vec::new(),
        created: image.created.clone(),
        manifest: image.manifest.clone(),
        config: image.config.clone(),
        layers,
    }
}
