//! Puts images that lie unpacked in a directory elsewhere into Podman's lists, without a file of theirs.
//!
//! All that is written follows from the image: two hosts write the same bytes. The list of images is changed last, so what readers see is
//! whole; [`Store::collect`] removes what a writer leaves that dies before.

use std::path::{Path, PathBuf};

use parallax_format::digest::{Digest, ImageId, LayerId};
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON};
use parallax_format::oci::{CONFIGURATION_TYPE, LAYER_TYPE, MANIFEST_TYPE};
use parallax_format::podman::{Image, Layer};
use parallax_format::{ImageName, IndexPath, layout};
use serde_json::{Map, Value, json};

use crate::atomic::{
    ensure_directory, ensure_link, move_into_place, remove_tree, replace_file, replace_link, sync_parent,
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
    /// The image's configuration, a JSON object.
    pub configuration: Map<String, Value>,
    /// When the image was built, RFC 3339 in the form that Podman parses.
    pub created: String,
    /// What Podman is to show as the image's size in bytes.
    pub size: u64,
}

/// The documents of an image for Podman. The configuration has one layer, as the store does.
struct Documents {
    layer: LayerId,
    manifest: String,
    configuration: String,
}

impl Documents {
    fn new(image: &Unpacked) -> Self {
        let layer: LayerId = sha256(format!("unpacked {}", image.id).as_bytes()).into();
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
}

fn digest_of(document: &str) -> Digest {
    Digest::from(sha256(document.as_bytes()))
}

impl Store {
    /// Makes an unpacked image visible, or gives one that is there another name or directory. A name of another unpacked image moves. Returns
    /// `false` if nothing had to be changed.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Taken`] if the store has the image, or another one of the name, with files of its own.
    pub fn import(&self, image: &Unpacked) -> Result<bool, StoreError> {
        let target = image.directory.to_str().filter(|path| path.starts_with('/'));
        let target = target.ok_or_else(|| self.corrupt("the image", &"its directory is no absolute path in UTF-8"))?;
        let documents = Documents::new(image);
        let lock = WriteLock::take(self.root())?;
        let (mut layers, mut images) = podman_lists::read_both(self.root())?;
        self.check_taken(image, &images)?;
        let (id, name, is_new) = (&image.id, image.name.to_string(), !images.has(&image.id));
        let is_whole = self.leads_to(&documents.layer, target) && layers.has(&documents.layer);
        if !is_new && is_whole && images.names(id).contains(&name) {
            return Ok(false);
        }
        self.record_pending(id, if is_new { Operation::Adding } else { Operation::Naming }, &[])?;
        self.unpacked_layer(&documents.layer, target)?;
        let layer = Layer {
            id: documents.layer,
            parent: None,
            created: image.created.clone(),
            diff_digest: Digest::from(*documents.layer),
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
        images.move_name(&name, id);
        self.write_images(&lock, &images)?;
        self.clear_pending(id)?;
        Ok(true)
    }

    /// Checks that the store has neither the image nor another one of the name with files of its own.
    fn check_taken(&self, image: &Unpacked, images: &ImageList) -> Result<(), StoreError> {
        let of_index = self.id_of_name(&image.name).map(|id| id.to_string());
        let holder = images.id_of_name(&image.name).or(of_index);
        let known = self.unpacked_images()?;
        let has_files = |id: &str| ImageId::parse(id).is_none_or(|id| !known.contains_key(&id));
        if holder.is_some_and(|holder| has_files(&holder)) {
            return Err(StoreError::Taken(image.name.to_string()));
        }
        let is_there = images.has(&image.id) || self.root().join(IndexPath::record(&image.id)).exists();
        if is_there && has_files(&image.id) {
            return Err(StoreError::Taken(image.id.to_string()));
        }
        Ok(())
    }

    /// Whether the layer's directory and its short link are there, and the files are those of a directory.
    fn leads_to(&self, layer: &LayerId, target: &str) -> bool {
        let files = self.root().join(layout::layer_directory(layer)).join(layout::DIFF);
        let short = self.root().join(layout::link(link_of_layer(layer).as_str()));
        std::fs::read_link(files).is_ok_and(|now| now == Path::new(target)) && short.is_symlink()
    }

    /// Makes the layer's directory, whose files are a symbolic link, or points that elsewhere.
    fn unpacked_layer(&self, id: &LayerId, target: &str) -> Result<(), StoreError> {
        let directory = self.root().join(layout::layer_directory(id));
        let link = link_of_layer(id);
        if directory.is_dir() {
            replace_link(&self.temporary().join("link"), &directory.join(layout::DIFF), target)?;
        } else {
            let scratch = self.temporary().join("layer");
            remove_tree(&scratch)?;
            ensure_directory(&scratch)?;
            ensure_link(&scratch.join(layout::DIFF), target)?;
            // Podman names it to fuse-overlayfs, which fails where a directory is missing.
            ensure_directory(&scratch.join(layout::EMPTY))?;
            replace_file(&self.temporary(), &scratch.join(layout::LINK), link.as_str().as_bytes())?;
            move_into_place(&scratch, &directory)?;
        }
        let short = self.root().join(layout::link(link.as_str()));
        ensure_link(&short, &layout::link_target(id))?;
        sync_parent(&short)
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
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use parallax_format::ImageRef;

    use super::*;
    use crate::Verifier;
    use crate::read::foreign::Unrecorded;
    use crate::read::trusted::TrustedStore;
    use crate::testing::{Foreign, foreign_image, image, publish};
    use crate::write::remove::{Collection, Target};

    fn unpacked(directory: &Path, name: &str) -> Unpacked {
        Unpacked {
            id: "ab".repeat(32).parse().unwrap(),
            name: ImageName::for_storing(name).unwrap(),
            directory: directory.to_owned(),
            configuration: serde_json::from_str(r#"{"history":[{},{}],"config":{"Env":["A=b"]}}"#).unwrap(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            size: 7,
        }
    }

    fn directory_of(store: &Store, text: &str) -> Option<PathBuf> {
        let store = TrustedStore::open(store.root()).unwrap();
        match store.resolve_unrecorded(&ImageRef::parse(text).unwrap()).unwrap()? {
            Unrecorded::Unpacked(directory) => Some(directory),
            Unrecorded::Record(record) => panic!("{record:?}"),
        }
    }

    /// The files and links of a store but those that only keep writers apart.
    fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut left = vec![root.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_dir() {
                    left.push(path);
                } else if path.extension().is_none_or(|kind| kind != "lock") {
                    let link = || fs::read_link(&path).unwrap().to_str().unwrap().into();
                    let bytes = if kind.is_symlink() { link() } else { fs::read(&path).unwrap() };
                    found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
                }
            }
        }
        found
    }

    #[test]
    fn two_hosts_write_the_same_and_a_second_time_nothing() {
        let (one, two, tree) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stores = [&one, &two].map(|directory| Store::create_or_open(directory.path()).unwrap());
        let image = unpacked(tree.path(), "quay.io/a/b:1");
        for store in &stores {
            assert!(store.import(&image).unwrap());
        }
        let written = files(one.path());
        assert_eq!(written, files(two.path()));
        let bytes: usize = written.values().map(Vec::len).sum();
        assert!(bytes < 100_000, "{bytes} bytes for an image");
        assert!(!stores[0].import(&image).unwrap());
        assert_eq!(files(one.path()), written);
        assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_unpacked_image_is_found_verified_kept_and_removed() {
        let (directory, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::create_or_open(directory.path()).unwrap();
        let image = unpacked(tree.path(), "quay.io/a/b:1");
        store.import(&image).unwrap();
        store.import(&Unpacked { name: ImageName::for_storing("other:1").unwrap(), ..image.clone() }).unwrap();
        let found = |text: &str| directory_of(&store, text);
        for text in ["quay.io/a/b:1", "other:1", image.id.as_str()] {
            assert_eq!(found(text).as_deref(), Some(tree.path()), "{text}");
        }
        assert_eq!(found("quay.io/a/b:2"), None);
        // A layer on others is not the whole image.
        let layer = fs::read_dir(store.root().join("overlay")).unwrap().map(|entry| entry.unwrap().path());
        let lower = layer.into_iter().find(|path| !path.ends_with("l")).unwrap().join("lower");
        fs::write(&lower, "l/ABC").unwrap();
        let reference = ImageRef::parse("other:1").unwrap();
        assert!(TrustedStore::open(store.root()).unwrap().resolve_unrecorded(&reference).is_err());
        fs::remove_file(lower).unwrap();

        assert_eq!(store.collect(Collection::default()).unwrap().garbage, []);
        let problems = || {
            let mut verifier = Verifier::new(&store).unwrap();
            verifier.foreign().unwrap();
            verifier.problems().iter().map(|problem| problem.what.clone()).collect::<Vec<_>>()
        };
        assert_eq!(problems(), [""; 0]);
        let listing = crate::read::list(store.root()).unwrap();
        assert_eq!((listing.images.len(), listing.unusable.len(), listing.unpacked.len()), (0, 0, 1));
        let place = tree.path().to_owned();
        drop(tree);
        assert_eq!(problems().len(), 1);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("kept"), "").unwrap();
        store.remove(&Target::Image(image.id), true).unwrap();
        assert_eq!(found(image.id.as_str()), None);
        assert!(place.join("kept").exists(), "a file of the image was removed");
        assert!(store.collect(Collection::default()).unwrap().garbage.is_empty());
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_name_follows_the_repository_but_not_away_from_a_migrated_image() {
        let (directory, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::create_or_open(directory.path()).unwrap();
        let old = unpacked(tree.path(), "quay.io/a/b:1");
        let new = Unpacked { id: "cd".repeat(32).parse().unwrap(), directory: tree.path().join("new"), ..old.clone() };
        store.import(&old).unwrap();
        assert!(store.import(&new).unwrap());
        assert_eq!(directory_of(&store, "quay.io/a/b:1"), Some(new.directory.clone()));
        // The image that lost its name is still there by its id, and may lie elsewhere by now.
        let elsewhere =
            Unpacked { name: ImageName::for_storing("old:1").unwrap(), directory: "/elsewhere".into(), ..old };
        assert!(store.import(&elsewhere).unwrap());
        assert_eq!(directory_of(&store, elsewhere.id.as_str()), Some("/elsewhere".into()));

        publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap();
        foreign_image(store.root(), Foreign::PodmanHpc, "theirs:1");
        for name in ["app:1", "theirs:1"] {
            let taken = Unpacked { name: ImageName::for_storing(name).unwrap(), ..new.clone() };
            assert!(matches!(store.import(&taken), Err(StoreError::Taken(_))), "{name}");
        }
        let migrated = store.ids_with("").unwrap()[0];
        assert!(matches!(store.import(&Unpacked { id: migrated, ..new }), Err(StoreError::Taken(_))));
    }
}
