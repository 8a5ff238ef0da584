//! Garbage: what nothing in the store needs, found first and then removed.
//!
//! Removing an image and collecting garbage are the same operation: with an image everything is removed that no other image
//! needs. The order is publishing's backwards: index, record, list of images, list of layers, layer directories, SquashFS
//! files. So a reader may fail to find an image, but never finds one whose parts are missing already; and what a writer
//! that dies leaves can be found again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use parallax_format::digest::{ImageId, LayerId};
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON};
use parallax_format::podman::Link;
use parallax_format::record::ImageRecord;
use parallax_format::{ImageName, IndexPath, LayerFormat, layout};

use crate::atomic::{entries, remove_file, remove_tree, sync_parent};
use crate::error::StoreError;
use crate::hash::link_of_layer;
use crate::lock::fcntl::WriteLock;
use crate::parallel;
use crate::podman_lists::{ImageList, LayerList};
use crate::write::store::Store;

/// Extensions of the files of a layer, in the order in which they are to go.
const FILES_OF_A_LAYER: [&str; 8] = [
    layout::CHUNK_TRACE,
    layout::CHUNK_INDEX,
    layout::CHUNK_TOTALS,
    layout::JSON,
    layout::EROFS_JSON,
    layout::TAR_SPLIT,
    layout::SQUASHFS,
    layout::EROFS,
];
/// Extensions of files that steps may be reading; an index keeps the chunks that it names.
const FILES_OF_STEPS: [&str; 3] = [layout::SQUASHFS, layout::EROFS, layout::CHUNK_INDEX];

/// A file or list entry that was removed, or is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Relative to the store's root; for an entry of a list the list and the id.
    pub path: String,
    /// Size on disk in bytes.
    pub bytes: u64,
}

/// The lists and records of a store, as they are under its locks.
pub(crate) struct Contents {
    pub(crate) layers: LayerList,
    pub(crate) images: ImageList,
    pub(crate) records: Vec<ImageRecord>,
}

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    /// All.
    All,
    /// Records of images that Podman's list lacks: the needs of the others are in that list and in the list of layers. A
    /// record is written after its image is in the list and goes before it, so there is none unless something broke.
    Unlisted,
}

/// Where garbage is searched.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Index entries.
    pub(crate) index: Vec<String>,
    /// Podman's ids of layers.
    pub(crate) layers: BTreeSet<String>,
    /// DiffIDs of SquashFS files, or what files there have for one.
    pub(crate) diff_ids: BTreeSet<String>,
    /// Layers that may go although another tool made them.
    pub(crate) foreign: BTreeSet<String>,
}

/// Paths relative to the root, each kind in the order in which it is to go.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    index: Vec<String>,
    records: Vec<String>,
    images: BTreeSet<ImageId>,
    image_directories: Vec<String>,
    layers: BTreeSet<String>,
    links: Vec<String>,
    layer_directories: Vec<String>,
    files: Vec<String>,
    pub(crate) temporary: Vec<String>,
    /// Whether SquashFS files and indexes of chunks are moved to the trash, not deleted.
    pub(crate) to_trash: bool,
}

impl Contents {
    /// Reads the lists and records. `except` names the images whose records need not be readable.
    ///
    /// A record that cannot be read, of a later version say, may need any layer: nothing can be removed then.
    pub(crate) fn read(
        store: &Store,
        images: ImageList,
        which: Records,
        except: &BTreeSet<ImageId>,
    ) -> Result<Self, StoreError> {
        let layers = LayerList::read(&store.root().join(LAYERS_JSON))?;
        let directory = store.root().join(IndexPath::records_directory());
        let names = entries(&directory)?;
        let records = names.iter().filter(|name| Path::new(name).extension().is_some_and(|kind| kind == layout::JSON));
        let mut ids = records.map(|name| id_of_record(&directory, name)).collect::<Result<Vec<_>, _>>()?;
        ids.retain(|id| which == Records::All || !images.has(id));
        let mut records = Vec::new();
        for (id, record) in ids.iter().zip(parallel::map(&ids, |id| store.record(id))) {
            match record {
                Err(StoreError::Corrupt { .. }) if except.contains(id) => {}
                record => records.extend(record?),
            }
        }
        Ok(Self { layers, images, records })
    }
}

impl Scope {
    /// Everything in the store.
    pub(crate) fn all(store: &Store, now: &Contents, foreign: BTreeSet<String>) -> Result<Self, StoreError> {
        let mut index = Vec::new();
        for directory in [IndexPath::names_directory(), layout::DIGESTS] {
            index.extend(entries(&store.root().join(directory))?.iter().map(|name| format!("{directory}/{name}")));
        }
        let mut layers = now.layers.ids();
        layers.extend(
            entries(&store.root().join(layout::OVERLAY))?.into_iter().filter(|name| LayerId::parse(name).is_some()),
        );
        let files = entries(&store.root().join(layout::LAYERS))?;
        let diff_ids = files.iter().filter_map(|name| name.split_once('.')).map(|(diff_id, _)| diff_id.to_owned());
        Ok(Self { index, layers, diff_ids: diff_ids.collect(), foreign })
    }

    /// Returns the scope of one image. Its layers of other tools may be removed with it.
    pub(crate) fn of_image(now: &Contents, id: &ImageId, record: Option<&ImageRecord>) -> Self {
        let mut scope = Self { layers: now.layers.with_parents(now.images.tops_of(id)), ..Self::default() };
        if record.is_none_or(|record| record.layers.iter().any(|layer| layer.sidecar)) {
            scope.foreign.clone_from(&scope.layers);
        }
        let mut names = now.images.names(id);
        if let Some(record) = record {
            scope.layers.extend(record.layers.iter().map(|layer| layer.id.to_string()));
            scope.diff_ids.extend(record.layers.iter().map(|layer| layer.diff_id.to_string()));
            scope.index.push(IndexPath::digest(&record.digest));
            scope.index.extend(record.other_digests.iter().map(IndexPath::digest));
            names.extend(record.names.iter().cloned());
        }
        let names: BTreeSet<ImageName> = names.iter().filter_map(|name| ImageName::for_storing(name).ok()).collect();
        scope.index.extend(names.iter().filter_map(IndexPath::name));
        scope
    }
}

impl Sweep {
    /// Finds what in the scope belongs only to the images `to_remove`, or to no image.
    pub(crate) fn find(
        store: &Store,
        now: &mut Contents,
        to_remove: &BTreeSet<ImageId>,
        scope: Scope,
    ) -> Result<Self, StoreError> {
        let mut sweep = Self { to_trash: true, ..Self::default() };
        let is_garbage = |id: ImageId| to_remove.contains(&id) || !exists(store, &IndexPath::record(&id));
        sweep.index = scope.index.iter().filter(|entry| store.id_at(entry).is_some_and(is_garbage)).cloned().collect();
        for id in to_remove {
            sweep.records.extend(Some(IndexPath::record(id)).filter(|path| exists(store, path)));
            sweep.image_directories.extend(Some(layout::image_directory(id)).filter(|path| exists(store, path)));
            if now.images.has(id) {
                sweep.images.insert(*id);
            }
        }
        now.images.remove(to_remove);
        now.records.retain(|record| !to_remove.contains(&record.id));
        sweep.find_layers(store, now, &scope)?;
        Ok(sweep)
    }

    /// Layers that neither a record nor an image in Podman's list needs.
    fn find_layers(&mut self, store: &Store, now: &mut Contents, scope: &Scope) -> Result<(), StoreError> {
        let recorded = || now.records.iter().flat_map(|record| &record.layers);
        let mut needed = now.layers.with_parents(now.images.top_layers());
        needed.extend(recorded().map(|layer| layer.id.to_string()));
        // What another tool wrote is its own, in use or not: it may be about to add the image.
        let may_go = |id: &str| -> Result<bool, StoreError> { Ok(scope.foreign.contains(id) || is_ours(store, id)?) };
        for id in scope.layers.iter().filter(|id| !needed.contains(*id) && now.layers.has(id)) {
            if may_go(id)? || !exists(store, &layout::layer_directory(id)) {
                self.layers.insert(id.clone());
            }
        }
        now.layers.remove(&self.layers);
        for id in scope.layers.iter().filter(|id| !needed.contains(*id) && !now.layers.has(id)) {
            let directory = layout::layer_directory(id);
            if exists(store, &directory) && may_go(id)? {
                let link = store.link_of(id)?;
                let squash = link.iter().map(|link| layout::squash(link.as_str()));
                let files = |link: &Link| LayerFormat::ALL.map(|format| layout::sidecar_of(link.as_str(), format));
                let links = link.iter().flat_map(|link| files(link).into_iter().chain([layout::link(link.as_str())]));
                let others = [layout::podmans_tar_split(id), layout::own_file(id, layout::CHUNK_INDEX)];
                self.links.extend(links.chain(squash).chain(others).filter(|path| exists(store, path)));
                self.layer_directories.push(directory);
            }
        }
        let mut diff_ids = now.layers.diff_ids();
        diff_ids.extend(recorded().map(|layer| layer.diff_id));
        let unneeded = scope.diff_ids.iter().filter(|id| !diff_ids.contains(id.as_str()));
        let files =
            unneeded.flat_map(|diff_id| FILES_OF_A_LAYER.map(|extension| layout::layer_file(diff_id, extension)));
        self.files = files.filter(|path| exists(store, path)).collect();
        Ok(())
    }

    /// All of it, with what it takes on disk.
    pub(crate) fn list(&self, store: &Store) -> Vec<Garbage> {
        let entry = |list: &str, id: &str| Garbage { path: format!("{list}: {id}"), bytes: 0 };
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
        self.remove_files(store, &self.index)?;
        self.remove_files(store, &self.records)?;
        store.write_images(lock, &now.images)?;
        remove_directories(store, &self.image_directories)?;
        store.write_layers(lock, &now.layers)?;
        self.remove_files(store, &self.links)?;
        remove_directories(store, &self.layer_directories)?;
        self.remove_files(store, &self.files)?;
        self.temporary.iter().try_for_each(|path| remove_tree(&store.root().join(path)))
    }

    fn remove_files(&self, store: &Store, paths: &[String]) -> Result<(), StoreError> {
        let mut directories = BTreeSet::new();
        for path in paths {
            let path = store.root().join(path);
            let is_kept = path.extension().is_some_and(|kind| FILES_OF_STEPS.iter().any(|kept| kind == *kept))
                && path.symlink_metadata().is_ok_and(|file| file.is_file());
            if is_kept && self.to_trash {
                store.move_to_trash(&path)?;
            } else {
                remove_file(&path)?;
            }
            directories.insert(path.parent().unwrap_or(Path::new("/")).join("x"));
        }
        // The next kind may go only when these are gone for good.
        directories.iter().try_for_each(|inside| sync_parent(inside))
    }
}

/// Each goes in one step, by a rename to where unfinished files lie.
fn remove_directories(store: &Store, paths: &[String]) -> Result<(), StoreError> {
    for path in paths {
        let (path, scratch) = (store.root().join(path), store.temporary().join("removed"));
        remove_tree(&scratch)?;
        parallax_sys::fault::point();
        fs::rename(&path, &scratch).map_err(|cause| StoreError::Io { action: "remove", path: path.clone(), cause })?;
        sync_parent(&path)?;
        remove_tree(&scratch)?;
    }
    Ok(())
}

/// The image id in the name of a record.
fn id_of_record(directory: &Path, name: &str) -> Result<ImageId, StoreError> {
    let odd = || StoreError::Corrupt { path: directory.join(name), what: "its name is no image id".to_owned() };
    IndexPath::id_from_record(name).ok_or_else(odd)
}

/// Whether a layer's directory was made by this program: its link is made from the layer's id, others draw lots.
fn is_ours(store: &Store, layer: &str) -> Result<bool, StoreError> {
    Ok(store.link_of(layer)?.is_some_and(|link| link == link_of_layer(layer)))
}

fn exists(store: &Store, path: &str) -> bool {
    store.root().join(path).symlink_metadata().is_ok()
}

/// Returns the size on disk of a file, or of a directory with its content, in bytes.
fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let below = || fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum::<u64>();
    metadata.blocks() * 512 + if metadata.is_dir() { below() } else { 0 }
}
