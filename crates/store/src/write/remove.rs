//! Takes names and images away, and tidies up after writers that died.

use std::collections::BTreeSet;
use std::time::Duration;

use parallax_format::digest::{Digest, ImageId, Sha256};
use parallax_format::layout::IMAGES_JSON;
use parallax_format::record::ImageRecord;
use parallax_format::{ImageName, IndexPath, layout::TEMPORARY};

use crate::atomic::{entries, remove_file, sync_parent};
use crate::error::StoreError;
use crate::lock::fcntl::WriteLock;
use crate::lock::file::LockFile;
use crate::lock::work_directory;
use crate::podman_lists::ImageList;
use crate::write::garbage::{Contents, Garbage, Records, Scope, Sweep};
use crate::write::pending::Operation;
use crate::write::publish::entry_of;
use crate::write::store::Store;

/// An object to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A name, and the image with its last one.
    Name(ImageName),
    /// The image with this id, and its names.
    Image(ImageId),
}

/// Result of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The id of the image that was meant.
    pub id: ImageId,
    /// The names it does not have any more.
    pub names: Vec<String>,
    /// The removed files and entries, if the image itself was removed.
    pub image: Option<Vec<Garbage>>,
}

/// Settings of a garbage collection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collection {
    /// Whether this is a dry run.
    pub dry_run: bool,
    /// Retention time of removed SquashFS files, for steps that have them mounted.
    pub grace: Duration,
    /// On a file system without locks: take the store's lock from whoever has it, and take all writers for dead.
    pub break_lock: bool,
}

/// Result of a garbage collection.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Collected {
    /// The garbage.
    pub garbage: Vec<Garbage>,
    /// The ids of images whose names were brought in step.
    pub repaired: Vec<ImageId>,
    /// Working directories of writers that are still at it: these were left alone.
    pub live: usize,
    /// Whether the file system has no locks.
    pub no_locks: bool,
}

impl Store {
    /// Removes a name or an image. An image with several names is removed by its id only if `force`, and one that a node
    /// holds only then too. SquashFS files are moved to the trash, which [`Store::collect`] empties after the retention time.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], [`StoreError::SeveralNames`], [`StoreError::InUse`], or why the store could not be changed.
    pub fn remove(&self, target: &Target, force: bool) -> Result<Removed, StoreError> {
        self.make_directories()?;
        let lock = WriteLock::take(self.root())?;
        let images = ImageList::read(&self.root().join(IMAGES_JSON))?;
        let (id, name) = match target {
            Target::Image(id) => (*id, None),
            Target::Name(name) => {
                let id = self.id_of_name(name).or_else(|| ImageId::parse(&images.id_of_name(name)?));
                (id.ok_or_else(|| StoreError::NoImage(name.to_string()))?, Some(name))
            }
        };
        let record = match self.record(&id) {
            // Damage is a reason to remove an image.
            Err(StoreError::Corrupt { .. }) => None,
            record => record?,
        };
        if !self.root().join(IndexPath::record(&id)).exists() && !images.has(&id) {
            return Err(StoreError::NoImage(id.to_string()));
        }
        // The union, should a crash have left them apart: an image goes only with its very last name.
        let mut names: BTreeSet<String> = images.names(&id).into_iter().collect();
        names.extend(record.iter().flat_map(|record| record.names.clone()));
        let names: Vec<String> = names.into_iter().collect();
        let is_it = |other: &String| name.is_some_and(|name| ImageName::for_storing(other).is_ok_and(|it| it == *name));
        match name {
            Some(name) if names.iter().any(|other| !is_it(other)) => {
                self.remove_name(&lock, images, &id, name)?;
                return Ok(Removed { id, names: vec![name.to_string()], image: None });
            }
            _ => {}
        }
        let nodes_using = self.nodes_using(&id)?;
        if !nodes_using.is_empty() && !force {
            return Err(StoreError::InUse(nodes_using));
        }
        if name.is_none() && names.len() > 1 && !force {
            return Err(StoreError::SeveralNames(names));
        }
        let garbage = self.remove_image(&lock, images, &id, record.as_ref())?;
        Ok(Removed { id, names, image: Some(garbage) })
    }

    fn remove_image(
        &self,
        lock: &WriteLock,
        images: ImageList,
        id: &ImageId,
        record: Option<&ImageRecord>,
    ) -> Result<Vec<Garbage>, StoreError> {
        let to_remove = BTreeSet::from([*id]);
        let mut now = Contents::read(self, images, Records::Unlisted, &to_remove)?;
        let scope = Scope::of_image(&now, id, record);
        let foreign: Vec<Sha256> = scope.foreign.iter().filter_map(|id| Sha256::parse(id)).collect();
        let sweep = Sweep::find(self, &mut now, &to_remove, scope)?;
        // A collector could not tell another tool's layers that are to go from those that are to stay.
        self.record_pending(id, Operation::Removing, &foreign)?;
        let garbage = sweep.list(self);
        sweep.remove(self, lock, &now)?;
        self.clear_pending(id)?;
        Ok(garbage)
    }

    fn remove_name(
        &self,
        lock: &WriteLock,
        mut images: ImageList,
        id: &ImageId,
        name: &ImageName,
    ) -> Result<(), StoreError> {
        self.record_pending(id, Operation::Naming, &[])?;
        let entry = self.root().join(entry_of(name)?);
        remove_file(&entry)?;
        sync_parent(&entry)?;
        for spelling in images.names(id) {
            if ImageName::for_storing(&spelling).is_ok_and(|it| it == *name) {
                images.remove_name(&spelling);
            }
        }
        if let Some(record) = self.image(id)? {
            self.write_named(record, &images)?;
        }
        self.write_images(lock, &images)?;
        self.clear_pending(id)
    }

    /// Removes what interrupted writers and removed images left, and finishes what the former began.
    ///
    /// # Errors
    /// [`StoreError`]. A record that cannot be read is one: nobody knows what it needs.
    pub fn collect(&self, collection: Collection) -> Result<Collected, StoreError> {
        let Collection { dry_run, grace, break_lock } = collection;
        if break_lock && !dry_run {
            LockFile::break_it(self.root())?;
        }
        if !dry_run {
            self.make_directories()?;
        }
        let lock = WriteLock::take(self.root())?;
        let mut collected = Collected { no_locks: lock.is_file(), ..Collected::default() };
        let (mut to_remove, mut to_name, mut foreign) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        let mut temporary = self.expired_trash(grace)?;
        temporary.extend(self.stale_markers()?);
        for name in entries(&self.temporary())? {
            if name.starts_with(work_directory::PREFIX)
                && !(break_lock && lock.is_file())
                && work_directory::is_live(&self.temporary().join(&name))
            {
                collected.live += 1;
                continue;
            }
            if let Some(id) = Operation::image_id(&name) {
                let recorded = self.root().join(IndexPath::record(&id)).exists();
                let (mark, digests) = self.pending(&id)?;
                match mark {
                    Some(Operation::Removing) => {
                        to_remove.insert(id);
                        foreign.extend(digests.iter().map(ToString::to_string));
                    }
                    // One that lies unpacked has no record, and is whole as soon as it is in the list.
                    Some(Operation::Adding) if !recorded && self.unpacked_image(&id)?.is_none() => {
                        to_remove.insert(id);
                    }
                    _ => to_name.extend(recorded.then_some((id, digests))),
                }
            }
            // Everything else there is written under the locks, which are held: its writer is dead.
            temporary.push(format!("{TEMPORARY}/{name}"));
        }
        let images = ImageList::read(&self.root().join(IMAGES_JSON))?;
        let mut now = Contents::read(self, images, Records::All, &to_remove)?;
        if !dry_run && !to_name.is_empty() {
            self.finish_naming(&mut now, &to_name)?;
        }
        collected.repaired = to_name.into_iter().map(|(id, _)| id).collect();
        let scope = Scope::all(self, &now, foreign)?;
        let mut sweep = Sweep::find(self, &mut now, &to_remove, scope)?;
        sweep.temporary = temporary;
        sweep.to_trash = !grace.is_zero();
        collected.garbage = sweep.list(self);
        if !dry_run {
            sweep.remove(self, &lock, &now)?;
        }
        Ok(collected)
    }

    /// Makes index and records say what the list of images, which is changed first, says of names.
    fn finish_naming(&self, now: &mut Contents, images: &[(ImageId, Vec<Sha256>)]) -> Result<(), StoreError> {
        for (id, digests) in images {
            for digest in digests {
                self.point(&IndexPath::digest(&Digest::from(*digest)), id)?;
            }
            for name in now.images.names(id) {
                let name = ImageName::for_storing(&name).ok();
                if let Some(entry) = name.as_ref().and_then(IndexPath::name) {
                    self.point(&entry, id)?;
                }
            }
        }
        let listed = now.images.all_names();
        for record in &mut now.records {
            if record.names != listed.get(record.id.as_str()).map(Vec::as_slice).unwrap_or_default() {
                *record = self.write_named(record.clone(), &now.images)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
