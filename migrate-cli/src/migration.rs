//! Migration of images from sources into a store. All sources of one call share its working directory, its memory, and their common
//! layers.

mod below;
pub mod flat;
mod layers;
mod settings;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use parallax_format::digest::{DiffId, Digest, ImageId};
use parallax_format::{ImageName, LayerFormat, layout};
use parallax_layers::{ConvertError, Maker, MkfsErofs, Mksquashfs};
use parallax_store::{Collection, LayerFile, NewImage, OwnFiles, Store, StoreError};
use serde::Serialize;

pub(crate) use settings::compression;
pub use settings::{Formats, Settings, SettingsOptions};

use crate::image::Image;
use crate::interrupt::{self, Guarded};
use crate::progress::Progress;
use crate::source::Source;
use shared::{Once, Slots};

/// Maximum number of attempts if layers disappear meanwhile, with images that other processes remove.
const ATTEMPTS: u32 = 3;

/// A finished file of a layer and its properties.
type Finished = (PathBuf, LayerFile);

/// One call of `parallax migrate`.
#[derive(Debug)]
pub struct Migration<'a> {
    store: &'a Store,
    settings: Settings,
    progress: &'a Progress,
    slots: Slots,
    mksquashfs: Mutex<Option<Mksquashfs>>,
    mkfs_erofs: Mutex<Option<MkfsErofs>>,
    /// The files that were made, by [`file_name`] or the id of the layer that has one for itself.
    made: Once<Finished>,
    /// The working directory, made when the first layer needs it: a call without work changes nothing.
    work: Mutex<Option<Guarded>>,
    /// Set when the warning about unchecked layers was printed.
    warned_unchecked: std::sync::Once,
}

/// Result of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Brought {
    /// The image id.
    pub id: ImageId,
    /// The manifest's digest.
    pub digest: Digest,
    /// Number of the image's layers.
    pub layers: usize,
    /// Number of layers that the store lacked.
    pub new_layers: usize,
    /// Size of the new layers in the store, in bytes.
    pub new_stored: u64,
    /// `true` if the store already had the image under this name, so that nothing was done.
    pub unchanged: bool,
    /// Reasons why steps may be unable to use the image.
    pub warnings: Vec<String>,
}

impl<'a> Migration<'a> {
    /// Returns a call that writes to `store`.
    pub fn new(store: &'a Store, settings: Settings, progress: &'a Progress) -> Self {
        let slots = Slots::new(settings.jobs);
        Self {
            store,
            settings,
            progress,
            slots,
            mksquashfs: Mutex::new(None),
            mkfs_erofs: Mutex::new(None),
            made: Once::new(),
            work: Mutex::new(None),
            warned_unchecked: std::sync::Once::new(),
        }
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &Store {
        self.store
    }

    /// Migrates the image of a source into the store, with unchanged layers.
    ///
    /// # Errors
    /// If the source or the store fails. The store then has the complete image or nothing of it.
    pub fn bring(&self, source: &Source, name: &ImageName) -> anyhow::Result<Brought> {
        let image = source.image()?;
        if self.is_there(&image, name)? {
            return Ok(Brought::unchanged(image));
        }
        refuse_unpacked(self.store, &image.id)?;
        let mut new = BTreeMap::new();
        let mut attempt = 1;
        loop {
            let finished = self.convert_missing(source, &image, &mut new)?;
            let own_files = self.convert_own(source, &image, &finished, &mut new)?;
            let mut own = inodes(&finished);
            own.extend(inodes(own_files.values()));
            match self.publish(&image, name, Vec::new(), &finished, &own_files) {
                Err(StoreError::LayerGone(gone)) if attempt < ATTEMPTS => {
                    for format in LayerFormat::ALL {
                        self.made.forget(&file_name(&gone, format));
                    }
                    attempt += 1;
                }
                done => return Ok(self.tidied(done, &own).map(|()| Brought::new(image, &new))?),
            }
        }
    }

    /// Migrates the image of a source into the store with all its layers merged into one.
    ///
    /// # Errors
    /// As [`Self::bring`].
    pub fn bring_flat(&self, source: &Source, name: &ImageName) -> anyhow::Result<Brought> {
        let image = source.image()?;
        if let Some(id) = self.flattened_before(&image, name)? {
            let mut brought = Brought::unchanged(image);
            brought.layers = 1;
            if self.store.id_of_name(name) != Some(id) {
                let _uninterrupted = interrupt::hold();
                self.store.tag(&id, name)?;
                brought.unchanged = false;
            }
            return Ok(Brought { id, ..brought });
        }
        let flatten = |format: &LayerFormat| self.flatten(source, &image, *format);
        let files = self.settings.formats.iter().map(flatten).collect::<anyhow::Result<Vec<Finished>>>()?;
        let [(_, layer), ..] = &files[..] else { bail!("no format was chosen; this is a defect of parallax") };
        let flat = flat::flattened(&image, layer.diff_id, layer.size)?;
        // The image with all its layers may be there too, and keeps its digests.
        let free = digests(&image).filter(|digest| self.leads_to_no_layers(digest)).collect();
        let mut new = BTreeMap::new();
        for (_, layer) in &files {
            if self.store.layer_in(&layer.diff_id, layer.format)?.is_none() {
                *new.entry(layer.diff_id).or_insert(0) += layer.squashfs_size;
            }
        }
        let own = inodes(&files);
        self.tidied(self.publish(&flat, name, free, &files, &OwnFiles::new()), &own)?;
        Ok(Brought { warnings: image.warnings, ..Brought::new(flat, &new) })
    }

    /// Adds names to an image of the store; returns whether any was new.
    ///
    /// # Errors
    /// If the store fails.
    pub fn also_name(&self, id: ImageId, names: &[ImageName]) -> anyhow::Result<bool> {
        let _uninterrupted = interrupt::hold();
        let missing = names.iter().filter(|name| self.store.id_of_name(name) != Some(id));
        let mut changed = false;
        for name in missing {
            self.store.tag(&id, name)?;
            changed = true;
        }
        Ok(changed)
    }

    /// Returns the id of the store's image that was flattened from `image`, if its name or digest leads to that image.
    fn flattened_before(&self, image: &Image, name: &ImageName) -> anyhow::Result<Option<ImageId>> {
        let by_digest = self.store.id_of_digest(&image.digest);
        for id in [self.store.id_of_name(name), by_digest].into_iter().flatten() {
            let record = self.store.image(&id)?;
            if record.is_some_and(|record| flat::source_of(&record.manifest) == Some(image.digest)) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn leads_to_no_layers(&self, digest: &Digest) -> bool {
        let record = self.store.id_of_digest(digest).and_then(|id| self.store.image(&id).ok().flatten());
        record.is_none_or(|record| flat::source_of(&record.manifest).is_some())
    }

    /// Moves the new layers into the store and makes the image visible: all of it, even if the process is interrupted.
    fn publish(
        &self,
        image: &Image,
        name: &ImageName,
        other_digests: Vec<Digest>,
        finished: &[Finished],
        own: &OwnFiles,
    ) -> Result<(), StoreError> {
        let _uninterrupted = interrupt::hold();
        // Those that another source of this call has published are in the store.
        let finished: Vec<Finished> = finished.iter().filter(|(file, _)| file.exists()).cloned().collect();
        let image = NewImage {
            id: image.id,
            digest: image.digest,
            other_digests: image.other_digests.iter().copied().chain(other_digests).collect(),
            name: name.clone(),
            created: image.created.clone(),
            manifest: image.manifest.clone(),
            config: image.config.clone(),
            diff_ids: image.layers.iter().map(|layer| layer.diff_id).collect(),
        };
        self.store.publish(&image, &finished, own).map(drop)
    }

    /// Undoes the changes of a failed publication, for example on a full file system. If undoing fails too, the
    /// store still works, and `parallax gc` cleans up later.
    fn tidied(&self, published: Result<(), StoreError>, own: &BTreeSet<u64>) -> Result<(), StoreError> {
        if published.is_err() {
            let _uninterrupted = interrupt::hold();
            // What others have removed stays for those who have it mounted.
            let collected = self.store.collect(Collection { grace: Duration::MAX, ..Collection::default() });
            if let Err(error) = collected.map_err(anyhow::Error::from).and_then(|_| self.delete_removed(own)) {
                tracing::debug!(%error, "cannot clean up the store");
            }
        }
        published
    }

    /// Deletes those of the removed SquashFS files that have these inodes.
    fn delete_removed(&self, own: &BTreeSet<u64>) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(self.store.root().join(layout::REMOVED))? {
            let entry = entry?;
            if own.contains(&entry.metadata()?.ino()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns the path of an unfinished file.
    fn unfinished(&self, name: &str) -> anyhow::Result<PathBuf> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = match &mut *work {
            Some(work) => work,
            none => none.insert(Guarded::new(|| self.store.work_directory())?),
        };
        Ok(work.path().join(name))
    }

    /// Warns once that the output of mksquashfs cannot be checked.
    fn warn_unchecked(&self, reason: &str) {
        self.warned_unchecked.call_once(|| {
            tracing::warn!(
                "layers with hard links cannot be compared with what was written of them, which versions of mksquashfs up to \
                 4.7.5 need: {reason}"
            );
        });
    }

    /// Returns the program that makes files in a format, searched when the first layer needs it.
    fn maker(&self, format: LayerFormat) -> anyhow::Result<Maker> {
        Ok(match format {
            LayerFormat::Squashfs => {
                Maker::Squashfs(found(&self.mksquashfs, Mksquashfs::find)?, self.settings.squashfs)
            }
            LayerFormat::Erofs => Maker::Erofs(found(&self.mkfs_erofs, MkfsErofs::find)?, self.settings.erofs),
        })
    }

    /// Returns `true` if the store has the complete image, under this name, with these digests and in the formats that were asked for.
    fn is_there(&self, image: &Image, name: &ImageName) -> anyhow::Result<bool> {
        let is_it = |id: Option<ImageId>| id == Some(image.id);
        let is_there = is_it(self.store.id_of_name(name))
            && digests(image).all(|digest| is_it(self.store.id_of_digest(&digest)))
            && self.store.image(&image.id)?.is_some_and(|record| record.tree().is_none());
        if !is_there || !self.settings.asked_formats {
            return Ok(is_there);
        }
        for (layer, id) in image.layers.iter().zip(image.chain_ids()) {
            for format in self.settings.formats {
                if self.store.layer_in(&layer.diff_id, *format)?.is_none() && self.store.own_file(&id)?.is_none() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Returns the name of an unfinished file.
fn file_name(diff_id: &DiffId, format: LayerFormat) -> String {
    format!("{diff_id}.{}", layout::extension_of(format))
}

/// Returns a program that was found before, or searches it.
fn found<T: Copy>(known: &Mutex<Option<T>>, find: impl FnOnce() -> Result<T, ConvertError>) -> Result<T, ConvertError> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        Some(found) => Ok(found),
        None => Ok(*known.insert(find()?)),
    }
}

/// Returns the inodes of finished files, which stay the same when the files are moved.
fn inodes<'a>(finished: impl IntoIterator<Item = &'a Finished>) -> BTreeSet<u64> {
    finished.into_iter().filter_map(|(file, _)| std::fs::metadata(file).ok()).map(|metadata| metadata.ino()).collect()
}

impl Brought {
    fn new(image: Image, new: &BTreeMap<DiffId, u64>) -> Self {
        let (new_layers, new_stored) = (new.len(), new.values().sum());
        Self {
            id: image.id,
            digest: image.digest,
            layers: image.layers.len(),
            new_layers,
            new_stored,
            unchanged: false,
            warnings: image.warnings,
        }
    }

    fn unchanged(image: Image) -> Self {
        Self { unchanged: true, ..Self::new(image, &BTreeMap::new()) }
    }
}

/// Returns all digests of an image.
fn digests(image: &Image) -> impl Iterator<Item = Digest> {
    std::iter::once(image.digest).chain(image.other_digests.iter().copied())
}

/// Refuses an image that the store has as a directory: Podman's lists say so until it is removed.
fn refuse_unpacked(store: &Store, id: &ImageId) -> anyhow::Result<()> {
    let of_record = store.record(id).ok().flatten().and_then(|record| record.tree().map(ToOwned::to_owned));
    let directory = match of_record {
        Some(directory) => Some(directory),
        None => store.unpacked_image(id)?,
    };
    match directory {
        None => Ok(()),
        Some(directory) => anyhow::bail!(
            "the store has the image {} as the directory {} (parallax import); remove it first: parallax rm {0}",
            id.short(),
            directory.display()
        ),
    }
}
