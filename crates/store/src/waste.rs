//! What of a store is to go, found first and removed then.
//!
//! Removing an image and collecting garbage are one and the same: images are doomed, and with them goes what only they
//! had. The order is publishing's backwards: index, record, list of images, list of layers, layer directories, SquashFS
//! files. So a reader may fail to find an image, but never finds one whose parts are missing already; and what a writer
//! that dies leaves can be found again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use parallax_names::IndexPath;

use crate::containers_storage::{IMAGES_JSON, LAYERS_JSON, LINKS, Link};
use crate::files::{StoreError, entries, remove_file, remove_tree, sync_parent};
use crate::lists::{ImageList, LayerList};
use crate::lock::WriteLock;
use crate::record::ImageRecord;
use crate::writer::Store;

/// Where Podman keeps the layers.
const OVERLAY: &str = "overlay";
/// Where the SquashFS files lie.
const FILES: &str = "parallax/layers";

/// Something that was removed, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Relative to the store's root; for an entry of a list the list and the id.
    pub path: String,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
}

/// The lists and records of a store, as they are under its locks.
pub(crate) struct Contents {
    pub(crate) layers: LayerList,
    pub(crate) images: ImageList,
    pub(crate) records: Vec<ImageRecord>,
}

/// Paths relative to the root, each kind in the order in which it is to go.
#[derive(Debug, Default)]
pub(crate) struct Waste {
    index: Vec<String>,
    records: Vec<String>,
    images: BTreeSet<String>,
    image_directories: Vec<String>,
    layers: BTreeSet<String>,
    links: Vec<String>,
    layer_directories: Vec<String>,
    files: Vec<String>,
    pub(crate) temporary: Vec<String>,
}

impl Contents {
    /// Reads all of it. `except` names the images whose records need not be readable.
    ///
    /// A record that cannot be read, of a later version say, may need any layer: nothing can be removed then.
    pub(crate) fn read(store: &Store, except: &BTreeSet<String>) -> Result<Self, StoreError> {
        let layers = LayerList::read(&store.root().join(LAYERS_JSON))?;
        let images = ImageList::read(&store.root().join(IMAGES_JSON))?;
        let directory = store.root().join("parallax/images");
        let mut records = Vec::new();
        for name in entries(&directory)? {
            let Some(id) = name.strip_suffix(".json") else { continue };
            let path = directory.join(&name);
            let bytes =
                fs::read(&path).map_err(|source| StoreError::Io { action: "read", path: path.clone(), source })?;
            match ImageRecord::parse(&bytes) {
                Ok(record) => records.push(record),
                Err(_) if except.contains(id) => {}
                Err(error) => return Err(StoreError::Damaged { path, what: error.to_string() }),
            }
        }
        Ok(Self { layers, images, records })
    }
}

impl Waste {
    /// What goes with the images `doomed`, or is there for no image.
    pub(crate) fn find(store: &Store, now: &mut Contents, doomed: &BTreeSet<String>) -> Result<Self, StoreError> {
        let mut waste = Self::default();
        for directory in [IndexPath::names_directory(), "parallax/digests"] {
            for name in entries(&store.root().join(directory))? {
                let entry = format!("{directory}/{name}");
                let is_waste = |id: String| doomed.contains(&id) || !exists(store, &IndexPath::record(&id));
                if store.id_at(&entry).is_some_and(is_waste) {
                    waste.index.push(entry);
                }
            }
        }
        for id in doomed {
            waste.records.extend(Some(IndexPath::record(id)).filter(|path| exists(store, path)));
            waste.image_directories.extend(Some(format!("overlay-images/{id}")).filter(|path| exists(store, path)));
            if now.images.has(id) {
                waste.images.insert(id.clone());
            }
        }
        now.images.remove(doomed);
        now.records.retain(|record| !doomed.contains(&record.id));
        waste.find_layers(store, now)?;
        Ok(waste)
    }

    /// Layers that neither a record nor an image in Podman's list needs.
    fn find_layers(&mut self, store: &Store, now: &mut Contents) -> Result<(), StoreError> {
        let recorded = || now.records.iter().flat_map(|record| &record.layers);
        let mut needed = now.layers.with_parents(now.images.top_layers());
        needed.extend(recorded().map(|layer| layer.id.clone()));
        for id in now.layers.ids().difference(&needed) {
            // What another tool wrote is its own, in use or not: it may be about to add the image.
            if is_ours(store, id)? || !exists(store, &format!("{OVERLAY}/{id}")) {
                self.layers.insert(id.clone());
            }
        }
        now.layers.remove(&self.layers);
        needed.extend(now.layers.ids());
        for id in entries(&store.root().join(OVERLAY))?.into_iter().filter(|name| name.len() == 64) {
            if !needed.contains(&id) && is_ours(store, &id)? {
                let link = Link::of_layer(&id);
                let links = [format!("{LINKS}/{}.squash", link.as_str()), format!("{LINKS}/{}", link.as_str())];
                self.links.extend(links.into_iter().filter(|path| exists(store, path)));
                self.layer_directories.push(format!("{OVERLAY}/{id}"));
            }
        }
        let mut diff_ids = now.layers.diff_ids();
        diff_ids.extend(recorded().map(|layer| layer.diff_id.clone()));
        let unneeded = |name: &String| name.split_once('.').is_some_and(|(diff_id, _)| !diff_ids.contains(diff_id));
        self.files = entries(&store.root().join(FILES))?.into_iter().filter(unneeded).collect();
        self.files.iter_mut().for_each(|name| *name = format!("{FILES}/{name}"));
        Ok(())
    }

    /// All of it, with what it takes on disk.
    pub(crate) fn list(&self, store: &Store) -> Vec<Garbage> {
        let entry = |list: &str, id: &String| Garbage { path: format!("{list}: {id}"), bytes: 0 };
        let file = |path: &String| Garbage { path: path.clone(), bytes: size(&store.root().join(path)) };
        let files = |paths: &[String]| paths.iter().map(file).collect::<Vec<_>>();
        let mut all = [files(&self.index), files(&self.records)].concat();
        all.extend(self.images.iter().map(|id| entry(IMAGES_JSON, id)));
        all.extend(files(&self.image_directories));
        all.extend(self.layers.iter().map(|id| entry(LAYERS_JSON, id)));
        for paths in [&self.links, &self.layer_directories, &self.files, &self.temporary] {
            all.extend(files(paths));
        }
        all
    }

    /// Removes all of it; `now` are the lists without it.
    pub(crate) fn remove(&self, store: &Store, lock: &WriteLock, now: &Contents) -> Result<(), StoreError> {
        remove_files(store, &self.index)?;
        remove_files(store, &self.records)?;
        store.write_images(lock, &now.images)?;
        remove_directories(store, &self.image_directories)?;
        store.write_layers(lock, &now.layers)?;
        remove_files(store, &self.links)?;
        remove_directories(store, &self.layer_directories)?;
        remove_files(store, &self.files)?;
        self.temporary.iter().try_for_each(|path| remove_tree(&store.root().join(path)))
    }
}

fn remove_files(store: &Store, paths: &[String]) -> Result<(), StoreError> {
    let mut directories = BTreeSet::new();
    for path in paths {
        let path = store.root().join(path);
        remove_file(&path)?;
        directories.insert(path.parent().unwrap_or(Path::new("/")).join("x"));
    }
    // The next kind may go only when these are gone for good.
    directories.iter().try_for_each(|inside| sync_parent(inside))
}

/// Each goes in one step, by a rename to where unfinished files lie.
fn remove_directories(store: &Store, paths: &[String]) -> Result<(), StoreError> {
    for path in paths {
        let (path, scratch) = (store.root().join(path), store.temporary().join("removed"));
        remove_tree(&scratch)?;
        crate::fault::point();
        fs::rename(&path, &scratch).map_err(|source| StoreError::Io {
            action: "remove",
            path: path.clone(),
            source,
        })?;
        sync_parent(&path)?;
        remove_tree(&scratch)?;
    }
    Ok(())
}

/// Whether a layer's directory was made by this program: its link is made from the layer's id, others draw lots.
fn is_ours(store: &Store, layer: &str) -> Result<bool, StoreError> {
    Ok(store.link_of(layer)?.is_some_and(|link| link == Link::of_layer(layer)))
}

fn exists(store: &Store, path: &str) -> bool {
    store.root().join(path).symlink_metadata().is_ok()
}

/// What a file or a directory with all in it takes on disk, in bytes.
fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let below = || fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum::<u64>();
    metadata.blocks() * 512 + if metadata.is_dir() { below() } else { 0 }
}
