//! images.json and layers.json, changed without losing what others wrote into them.
//!
//! There may be very many entries. Of each only a few fields are understood; its text is kept and written again as it was,
//! unless what it says changes. So the fields that podman-hpc and the Go tool need stay, and a change costs little more than
//! reading and writing the file.
//!
//! No crate serves: the format is containers/storage's own, which has no library but in Go.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use parallax_format::ImageName;
use parallax_format::digest::{DiffId, Digest};
use parallax_format::layout::{IMAGES_JSON, LAYERS_JSON};
use parallax_format::podman::{Image, ImageFields, Layer, LayerFields};
use serde_json::Value;

use crate::atomic::read_if_there;
use crate::error::StoreError;
use entries::{Fields, List};

mod entries;

/// Reads both lists of the store with this root, at the same time: they are long, and under locks others wait.
pub(crate) fn read_both(root: &Path) -> Result<(LayerList, ImageList), StoreError> {
    let (layers, images) = std::thread::scope(|scope| {
        let layers = scope.spawn(|| LayerList::read(&root.join(LAYERS_JSON)));
        let images = ImageList::read(&root.join(IMAGES_JSON));
        (layers.join(), images)
    });
    Ok((layers.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, images?))
}

impl Fields for LayerFields {
    fn id(&self) -> &str {
        &self.id
    }
}

/// layers.json.
#[derive(Debug)]
pub struct LayerList(List<LayerFields>);

impl LayerList {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// They are no JSON array.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> serde_json::Result<Self> {
        List::parse(bytes.into()).map(Self)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        Self::parse(read_if_there(path)?.unwrap_or_default()).map_err(|error| corrupt(path, &error))
    }

    /// Adds a layer unless one with its id is there.
    ///
    /// # Errors
    /// The entry cannot be written as JSON.
    pub fn add(&mut self, layer: &Layer) -> serde_json::Result<()> {
        if self.has(&layer.id) { Ok(()) } else { self.0.push(layer) }
    }

    /// Takes out the entries with these ids.
    pub fn remove<Id: Borrow<str> + Ord>(&mut self, ids: &BTreeSet<Id>) {
        self.0.remove(ids);
    }

    /// Returns the whole entry of a layer.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Value> {
        self.0.value(id)
    }

    /// Corrects what Podman shows as a layer's size, if the layer stands alone.
    pub fn set_size(&mut self, id: &str, size: u64) {
        let Some(at) = self.0.place(id) else { return };
        let alone = self.0.fields(at).parent.unwrap_or_default().is_empty();
        if alone && self.0.value(id).is_some_and(|entry| entry.get("diff-size") != Some(&size.into())) {
            self.0.set(at, "diff-size", &size);
        }
    }

    /// The ids of all layers.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<String> {
        self.0.all().map(|layer| layer.id).filter(|id| !id.is_empty()).collect()
    }

    /// The diffIDs of all layers, hexadecimal.
    #[must_use]
    pub fn diff_ids(&self) -> BTreeSet<DiffId> {
        let digests = self.0.all().filter_map(|layer| layer.diff_digest);
        digests.filter_map(|digest| Digest::parse(&digest)).map(|digest| DiffId::from(*digest.sha256())).collect()
    }

    /// The ids of these layers and of all below them.
    #[must_use]
    pub fn with_parents(&self, tops: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for top in tops {
            let mut next = Some(top);
            // Seen before: its parents were too, and a circle ends.
            while let Some(id) = next.filter(|id| !id.is_empty() && !all.contains(id)) {
                next = self.0.find(&id).and_then(|layer| layer.parent);
                all.insert(id);
            }
        }
        all
    }

    /// Whether a layer with this id is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.place(id).is_some()
    }

    /// Whether it was changed since it was read.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.changed()
    }

    /// The bytes of the file, in pieces to be written one after the other.
    #[must_use]
    pub fn pieces(&self) -> Vec<&[u8]> {
        self.0.pieces()
    }
}

impl Fields for ImageFields {
    fn id(&self) -> &str {
        &self.id
    }
}

/// images.json.
#[derive(Debug)]
pub struct ImageList(List<ImageFields>);

impl ImageList {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// They are no JSON array.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> serde_json::Result<Self> {
        List::parse(bytes.into()).map(Self)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        Self::parse(read_if_there(path)?.unwrap_or_default()).map_err(|error| corrupt(path, &error))
    }

    /// Whether an image with this id is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.place(id).is_some()
    }

    /// Adds an image.
    ///
    /// # Errors
    /// The entry cannot be written as JSON.
    pub fn add(&mut self, image: &Image) -> serde_json::Result<()> {
        self.0.push(image)
    }

    /// Takes out the entries with these ids.
    pub fn remove<Id: Borrow<str> + Ord>(&mut self, ids: &BTreeSet<Id>) {
        self.0.remove(ids);
    }

    /// The id of the image with this name, however it is spelt: other tools write names without a registry too.
    #[must_use]
    pub fn id_of_name(&self, name: &ImageName) -> Option<String> {
        let is_it = |spelt: &String| ImageName::for_storing(spelt).is_ok_and(|it| it == *name);
        self.0.all().find(|image| image.names.iter().flatten().any(is_it)).map(|image| image.id)
    }

    /// The ids of all images.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<String> {
        self.0.all().map(|image| image.id).filter(|id| !id.is_empty()).collect()
    }

    /// The top layers of all images, those with an id map too.
    #[must_use]
    pub fn top_layers(&self) -> Vec<String> {
        self.0.all().flat_map(tops).collect()
    }

    /// The top layers of one image.
    #[must_use]
    pub fn tops_of(&self, id: &str) -> Vec<String> {
        self.0.find(id).into_iter().flat_map(tops).collect()
    }

    /// Returns the whole entry of an image.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Value> {
        self.0.value(id)
    }

    /// Takes `name` from all images.
    pub fn remove_name(&mut self, name: &str) {
        self.remove_name_but(name, None);
    }

    /// Gives `name` to the image `id` and takes it from all others: Podman refuses a store in which two have it. Returns
    /// the ids of those that lost it.
    pub fn move_name(&mut self, name: &str, id: &str) -> Vec<String> {
        let place = self.0.place(id);
        let mut losers = self.remove_name_but(name, place);
        losers.retain(|loser| loser != id);
        if let Some(at) = place {
            let mut names = self.0.fields(at).names.unwrap_or_default();
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
                self.0.set(at, "names", &names);
            }
        }
        losers
    }

    /// Takes `name` from all images but the one at `keeper`, and returns their ids.
    fn remove_name_but(&mut self, name: &str, keeper: Option<usize>) -> Vec<String> {
        let holding: Vec<(usize, ImageFields)> = self.0.holding(name).filter(|(at, _)| Some(*at) != keeper).collect();
        let mut losers = Vec::new();
        for (at, ImageFields { id, names, .. }) in holding {
            let names = names.unwrap_or_default();
            let left: Vec<&String> = names.iter().filter(|known| *known != name).collect();
            if left.len() < names.len() {
                self.0.set(at, "names", &left);
                losers.push(id);
            }
        }
        losers
    }

    /// Gives an image another top layer.
    pub fn set_top(&mut self, id: &str, top: &str) {
        let Some(at) = self.0.place(id) else { return };
        if self.0.fields(at).layer.as_deref() != Some(top) {
            self.0.set(at, "layer", &top);
        }
    }

    /// The names of one image.
    #[must_use]
    pub fn names(&self, id: &str) -> Vec<String> {
        self.0.find(id).and_then(|image| image.names).unwrap_or_default()
    }

    /// The names of all images that have any, by their ids.
    #[must_use]
    pub fn all_names(&self) -> HashMap<String, Vec<String>> {
        self.0.all().filter_map(|image| Some((image.id, image.names?))).collect()
    }

    /// Whether it was changed since it was read.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.changed()
    }

    /// The bytes of the file, in pieces to be written one after the other.
    #[must_use]
    pub fn pieces(&self) -> Vec<&[u8]> {
        self.0.pieces()
    }
}

fn tops(image: ImageFields) -> impl Iterator<Item = String> {
    image.mapped_layers.into_iter().flatten().chain(image.layer)
}

fn corrupt(path: &Path, error: &serde_json::Error) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), what: error.to_string() }
}

#[cfg(test)]
mod tests;
