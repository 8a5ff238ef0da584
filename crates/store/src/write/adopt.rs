//! Brings an image that another tool left up to the full format, without converting it.
//!
//! Its SquashFS files stay where they are, and so do Podman's directories: what is added is the record, which says where
//! the files are, and the index entries that lead to it. They are made in the order of publishing, under the same
//! pending-operation record as other changes of names, so that a writer that dies leaves the image as it was, or one that [`Store::collect`] finishes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use parallax_format::digest::{Digest, ImageId, Sha256};
use parallax_format::layout::{IMAGES_JSON, IMAGES_LOCK, LAYERS_JSON, LAYERS_LOCK};
use parallax_format::podman::ListedImage;
use parallax_format::record::ImageRecord;
use parallax_format::{
    ImageName, IndexPath,
    layout::{self, PODMANS_DIRECTORIES},
};

use crate::atomic::{entries, share};
use crate::error::{IoContext as _, StoreError};
use crate::lock::fcntl::WriteLock;
use crate::podman_lists::{ImageList, LayerList};
use crate::read::foreign::LayerSizes;
use crate::read::trusted::TrustedStore;
use crate::write::pending::Operation;
use crate::write::publish::entry_of;
use crate::write::store::Store;

impl Store {
    /// The images that another tool brought and nobody adopted. Corrupt ones are among them.
    ///
    /// # Errors
    /// [`StoreError::Open`] if Podman's list can't be read.
    pub fn foreign_images(&self) -> Result<Vec<ListedImage>, StoreError> {
        Ok(TrustedStore::open_lenient(self.root())?.foreign_images()?)
    }

    /// Such an image as a record, with nothing in it that nobody recorded: see [`TrustedStore::foreign_record`].
    ///
    /// # Errors
    /// [`StoreError::NoImage`]; [`StoreError::Open`] says what of it is missing.
    pub fn foreign_image(&self, id: &ImageId) -> Result<ImageRecord, StoreError> {
        let store = TrustedStore::open_lenient(self.root())?;
        let entry = self.foreign_entry(&store, id)?;
        Ok(store.foreign_record(&entry, &store.layer_sizes()?)?)
    }

    /// The directory of the image with this id, if it lies unpacked elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Open`] if Podman's list can't be read.
    pub fn unpacked_image(&self, id: &ImageId) -> Result<Option<PathBuf>, StoreError> {
        let store = TrustedStore::open_lenient(self.root())?;
        let entry = store.foreign_images()?.into_iter().find(|entry| entry.id == id.as_str());
        Ok(entry.map_or(Ok(None), |entry| store.unpacked(&entry))?)
    }

    /// The images without a record that lie unpacked elsewhere: their ids and directories.
    ///
    /// # Errors
    /// [`StoreError::Open`] if Podman's list can't be read.
    pub fn unpacked_images(&self) -> Result<BTreeMap<ImageId, PathBuf>, StoreError> {
        let store = TrustedStore::open_lenient(self.root())?;
        let mut found = BTreeMap::new();
        for entry in store.foreign_images()? {
            let directory = store.unpacked(&entry)?;
            found.extend(ImageId::parse(&entry.id).zip(directory));
        }
        Ok(found)
    }

    fn foreign_entry(&self, store: &TrustedStore, id: &ImageId) -> Result<ListedImage, StoreError> {
        let found = store.foreign_images()?.into_iter().find(|entry| entry.id == id.as_str());
        found.ok_or_else(|| StoreError::NoImage(id.to_string()))
    }

    /// Adopts an image. `record` is what [`Store::foreign_image`] gave, with sizes, digests and ids of its layers filled
    /// in.
    ///
    /// # Errors
    /// [`StoreError::NoImage`] if it is gone or another process has adopted it; [`StoreError::Corrupt`] if it is not what
    /// it was when its files were read.
    pub fn adopt(&self, record: &ImageRecord) -> Result<ImageRecord, StoreError> {
        self.make_directories()?;
        let lock = WriteLock::take(self.root())?;
        let store = TrustedStore::open_lenient(self.root())?;
        let entry = self.foreign_entry(&store, &record.id)?;
        let now = store.foreign_record(&entry, &LayerSizes::default())?;
        let files = |record: &ImageRecord| -> Vec<(String, u64)> {
            record.layers.iter().map(|layer| (layer.file_path(), layer.squashfs_size)).collect()
        };
        if files(&now) != files(record) || now.config != record.config {
            return Err(self.corrupt(&format!("the image {}", record.id), &"it changed while it was read; try again"));
        }
        let digests: Vec<Digest> = entry.manifest_digests().collect();
        let marked: Vec<Sha256> = digests.iter().map(|digest| *digest.sha256()).collect();
        self.record_pending(&record.id, Operation::Naming, &marked)?;
        let mut layers = LayerList::read(&self.root().join(LAYERS_JSON))?;
        for layer in &record.layers {
            layers.set_size(&layer.id, layer.size);
        }
        self.write_layers(&lock, &layers)?;
        self.share_image(record, &layers)?;
        let images = ImageList::read(&self.root().join(IMAGES_JSON))?;
        let mut record = record.clone();
        record.other_digests.clone_from(&digests);
        record.other_digests.retain(|digest| *digest != record.digest);
        record.other_digests.sort();
        record.other_digests.dedup();
        let record = self.write_named(record, &images)?;
        for digest in &digests {
            self.point(&IndexPath::digest(digest), &record.id)?;
        }
        for name in record.names.iter().filter_map(|name| ImageName::for_storing(name).ok()) {
            self.point(&entry_of(&name)?, &record.id)?;
        }
        self.clear_pending(&record.id)?;
        Ok(record)
    }

    /// Makes the image's files readable for everyone: the Go tool's are readable only for their owner.
    fn share_image(&self, record: &ImageRecord, layers: &LayerList) -> Result<(), StoreError> {
        let mut paths: Vec<PathBuf> = PODMANS_DIRECTORIES
            .into_iter()
            .chain([IMAGES_JSON, IMAGES_LOCK, LAYERS_JSON, LAYERS_LOCK])
            .map(PathBuf::from)
            .collect();
        let big_data = layout::image_directory(&record.id);
        let files = entries(&self.root().join(&big_data))?;
        paths.extend(files.iter().map(|file| PathBuf::from(&big_data).join(file)).chain([big_data.clone().into()]));
        for id in layers.with_parents(record.layers.iter().map(|layer| layer.id.to_string())) {
            let directory = PathBuf::from(layout::layer_directory(&id));
            paths.extend(["", layout::DIFF, layout::LINK, layout::LOWER].map(|name| directory.join(name)));
        }
        for path in paths.iter().map(|path| self.root().join(path)).filter(|path| path.symlink_metadata().is_ok()) {
            share(&path)?;
        }
        for layer in &record.layers {
            let link = self.root().join(layer.file_path());
            let file = fs::canonicalize(&link).context("read", &link)?;
            share(&file)?;
            share(file.parent().unwrap_or(&file))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use parallax_format::ImageRef;

    use super::*;
    use crate::testing::{Foreign, foreign_image, image, json, publish};
    use crate::write::remove::{Collection, Target};

    fn adopted(store: &Store, id: &ImageId) -> ImageRecord {
        let mut record = store.foreign_image(id).unwrap();
        for layer in &mut record.layers {
            let bytes = fs::read(store.root().join(layer.file_path())).unwrap();
            layer.squashfs_sha256 = Some(crate::hash::sha256(&bytes));
            (layer.size, layer.max_uid) = (5000, 7);
        }
        store.adopt(&record).unwrap()
    }

    #[test]
    fn an_adopted_image_is_as_one_of_ours_and_its_files_are_where_they_were() {
        for tool in [Foreign::GoTool, Foreign::PodmanHpc] {
            let directory = tempfile::tempdir().unwrap();
            let id = foreign_image(directory.path(), tool, "app:1");
            let other = foreign_image(directory.path(), tool, "other:1");
            let store = Store::open(directory.path()).unwrap();
            let before = json(&store, IMAGES_JSON);
            fs::set_permissions(store.root().join("overlay-images"), Permissions::from_mode(0o700)).unwrap();
            let record = adopted(&store, &id);
            assert_eq!(json(&store, IMAGES_JSON), before);
            let mode = fs::metadata(store.root().join("overlay-images")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
            let trusted = TrustedStore::open(store.root()).unwrap();
            for text in ["app:1".to_owned(), id.to_string(), format!("app@{}", record.digest)] {
                let found = trusted.resolve(&ImageRef::parse(&text).unwrap()).unwrap().unwrap();
                assert_eq!(found, record, "{text}");
            }
            trusted.open_layer(&record.layers[0]).unwrap();
            let mut verifier = crate::Verifier::new(&store).unwrap();
            verifier.index().unwrap();
            verifier.image(&id).unwrap();
            verifier.foreign().unwrap();
            assert_eq!(verifier.problems(), []);
            assert!(matches!(store.adopt(&record), Err(StoreError::NoImage(_))));
            assert_eq!(store.collect(Collection::default()).unwrap().garbage, []);

            // It goes with all it has, and nothing of the other's.
            store.remove(&Target::Image(id), false).unwrap();
            let left: Vec<_> = json(&store, LAYERS_JSON).as_array().unwrap().iter().map(|l| l["id"].clone()).collect();
            assert_eq!(left.len(), if tool == Foreign::GoTool { 1 } else { 3 });
            for layer in left {
                assert!(store.root().join("overlay").join(layer.as_str().unwrap()).join("link").exists());
            }
            assert!(store.foreign_image(&other).is_ok());
            assert!(!store.root().join(record.layers[0].file_path()).exists());
        }
    }

    #[test]
    fn a_migration_of_the_same_image_shares_its_layers() {
        let directory = tempfile::tempdir().unwrap();
        let id = foreign_image(directory.path(), Foreign::PodmanHpc, "app:1");
        let store = Store::create_or_open(directory.path()).unwrap();
        let mut new = image("config", "app:1", &["base", "top"]);
        new.id = id;
        let record = publish(&store, &new, &["base", "top"]).unwrap();
        assert_eq!(json(&store, IMAGES_JSON)[0]["layer"], record.layers[1].id.as_str());
    }
}
