//! images.json and layers.json, changed without losing what others wrote into them.
//!
//! There may be very many entries. Of each only a few fields are understood; its text is kept and written again as it was,
//! unless its names change. So the fields that podman-hpc and the Go tool need stay, and a change costs little more than
//! reading and writing the file.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use parallax_names::ImageName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::containers_storage::{Image, Layer};
use crate::files::{StoreError, read_if_there};

/// The fields of an entry that are understood.
trait Fields: Default + DeserializeOwned {
    fn id(&self) -> &str;
}

#[derive(Debug)]
struct Entry<T> {
    fields: T,
    text: Box<RawValue>,
}

#[derive(Debug)]
struct List<T> {
    path: PathBuf,
    entries: Vec<Entry<T>>,
    changed: bool,
}

impl<T: Fields> List<T> {
    fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = read_if_there(path)?.unwrap_or_default();
        // containers/storage takes an empty file as an empty list.
        let texts = if bytes.is_empty() { Ok(None) } else { serde_json::from_slice(&bytes) };
        let texts: Option<Vec<Box<RawValue>>> =
            texts.map_err(|error| StoreError::Damaged { path: path.to_owned(), what: error.to_string() })?;
        let entries = texts.into_iter().flatten().map(Entry::new).collect();
        Ok(Self { path: path.to_owned(), entries, changed: false })
    }

    fn find(&self, id: &str) -> Option<&Entry<T>> {
        self.entries.iter().find(|entry| entry.fields.id() == id)
    }

    /// Takes out the entries with these ids.
    fn remove(&mut self, ids: &BTreeSet<String>) {
        let before = self.entries.len();
        self.entries.retain(|entry| !ids.contains(entry.fields.id()));
        self.changed |= self.entries.len() != before;
    }

    fn push(&mut self, entry: &impl Serialize) -> Result<(), StoreError> {
        let text = to_raw_value(entry)
            .map_err(|error| StoreError::Damaged { path: self.path.clone(), what: error.to_string() })?;
        self.entries.push(Entry::new(text));
        self.changed = true;
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(self.entries.iter().map(|entry| entry.text.get().len() + 1).sum::<usize>() + 2);
        bytes.push(b'[');
        for (number, entry) in self.entries.iter().enumerate() {
            if number > 0 {
                bytes.push(b',');
            }
            bytes.extend(entry.text.get().as_bytes());
        }
        bytes.push(b']');
        bytes
    }
}

impl<T: Fields> Entry<T> {
    /// An entry of another shape than known belongs to nobody here and is kept.
    fn new(text: Box<RawValue>) -> Self {
        Self { fields: serde_json::from_str(text.get()).unwrap_or_default(), text }
    }

    fn value(&self) -> Value {
        serde_json::from_str(self.text.get()).unwrap_or_default()
    }

    /// Writes a field anew. The others come out in another order, with the same values.
    fn set(&mut self, field: &str, to: Value) {
        let mut value = self.value();
        if let Some(fields) = value.as_object_mut() {
            fields.insert(field.to_owned(), to);
            if let Ok(text) = to_raw_value(&value) {
                *self = Self::new(text);
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LayerFields {
    id: String,
    parent: Option<String>,
    #[serde(rename = "diff-digest")]
    diff_digest: Option<String>,
}

impl Fields for LayerFields {
    fn id(&self) -> &str {
        &self.id
    }
}

/// layers.json.
#[derive(Debug)]
pub(crate) struct LayerList(List<LayerFields>);

impl LayerList {
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        List::read(path).map(Self)
    }

    /// Adds a layer unless one with its id is there.
    pub(crate) fn add(&mut self, layer: &Layer) -> Result<(), StoreError> {
        if self.0.find(&layer.id).is_some() { Ok(()) } else { self.0.push(layer) }
    }

    pub(crate) fn remove(&mut self, ids: &BTreeSet<String>) {
        self.0.remove(ids);
    }

    /// What is written of a layer.
    pub(crate) fn get(&self, id: &str) -> Option<Value> {
        self.0.find(id).map(Entry::value)
    }

    fn fields(&self) -> impl Iterator<Item = &LayerFields> {
        self.0.entries.iter().map(|entry| &entry.fields)
    }

    /// Corrects what Podman shows as a layer's size, if the layer stands alone.
    pub(crate) fn set_size(&mut self, id: &str, size: u64) {
        let Some(entry) = self.0.entries.iter_mut().find(|entry| entry.fields.id == id) else { return };
        let alone = entry.fields.parent.as_deref().unwrap_or_default().is_empty();
        if alone && entry.value().get("diff-size") != Some(&size.into()) {
            entry.set("diff-size", size.into());
            self.0.changed = true;
        }
    }

    /// The ids of all layers.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.fields().map(|layer| layer.id.clone()).filter(|id| !id.is_empty()).collect()
    }

    /// The diffIDs of all layers, hexadecimal.
    pub(crate) fn diff_ids(&self) -> BTreeSet<String> {
        let digests = self.fields().filter_map(|layer| layer.diff_digest.as_deref());
        digests.filter_map(|digest| digest.strip_prefix("sha256:")).map(str::to_owned).collect()
    }

    /// The ids of these layers and of all below them.
    pub(crate) fn with_parents(&self, tops: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let parents: HashMap<&str, &str> =
            self.fields().filter_map(|layer| Some((layer.id.as_str(), layer.parent.as_deref()?))).collect();
        let mut all = BTreeSet::new();
        for top in tops {
            let mut next = Some(top);
            // Seen before: its parents were too, and a circle ends.
            while let Some(id) = next.filter(|id| !id.is_empty() && !all.contains(id)) {
                next = parents.get(id.as_str()).map(|parent| (*parent).to_owned());
                all.insert(id);
            }
        }
        all
    }

    pub(crate) fn changed(&self) -> bool {
        self.0.changed
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ImageFields {
    id: String,
    names: Option<Vec<String>>,
    layer: Option<String>,
    #[serde(rename = "mapped-layers")]
    mapped_layers: Option<Vec<String>>,
}

impl Fields for ImageFields {
    fn id(&self) -> &str {
        &self.id
    }
}

/// images.json.
#[derive(Debug)]
pub(crate) struct ImageList(List<ImageFields>);

impl ImageList {
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        List::read(path).map(Self)
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.find(id).is_some()
    }

    pub(crate) fn add(&mut self, image: &Image) -> Result<(), StoreError> {
        self.0.push(image)
    }

    pub(crate) fn remove(&mut self, ids: &BTreeSet<String>) {
        self.0.remove(ids);
    }

    /// The id of the image with this name, however it is spelt: other tools write names without a registry too.
    pub(crate) fn id_of_name(&self, name: &ImageName) -> Option<String> {
        let is_it = |spelt: &String| ImageName::for_storing(spelt).is_ok_and(|it| it == *name);
        self.fields().find(|image| image.names.iter().flatten().any(is_it)).map(|image| image.id.clone())
    }

    fn fields(&self) -> impl Iterator<Item = &ImageFields> {
        self.0.entries.iter().map(|entry| &entry.fields)
    }

    /// The ids of all images.
    pub(crate) fn ids(&self) -> BTreeSet<&str> {
        self.fields().map(|image| image.id.as_str()).collect()
    }

    /// The top layers of all images, those with an id map too.
    pub(crate) fn top_layers(&self) -> Vec<String> {
        self.fields().flat_map(tops).cloned().collect()
    }

    /// The top layers of one image.
    pub(crate) fn tops_of(&self, id: &str) -> Vec<String> {
        self.0.find(id).into_iter().flat_map(|entry| tops(&entry.fields)).cloned().collect()
    }

    /// What is written of an image.
    pub(crate) fn get(&self, id: &str) -> Option<Value> {
        self.0.find(id).map(Entry::value)
    }

    /// Takes `name` from all images.
    pub(crate) fn remove_name(&mut self, name: &str) {
        for entry in &mut self.0.entries {
            let names = entry.fields.names.as_deref().unwrap_or_default();
            if names.iter().any(|known| known == name) {
                let left: Vec<&String> = names.iter().filter(|known| *known != name).collect();
                let left = serde_json::json!(left);
                entry.set("names", left);
                self.0.changed = true;
            }
        }
    }

    /// Gives `name` to the image `id` and takes it from all others: Podman refuses a store in which two have it. Returns
    /// the ids of those that lost it.
    pub(crate) fn move_name(&mut self, name: &str, id: &str) -> Vec<String> {
        let mut losers = Vec::new();
        for entry in &mut self.0.entries {
            let is_new = entry.fields.id == id;
            let mut names = entry.fields.names.clone().unwrap_or_default();
            let has = names.iter().any(|known| known == name);
            if is_new == has {
                continue;
            }
            if is_new {
                names.push(name.to_owned());
            } else {
                names.retain(|known| known != name);
                losers.push(entry.fields.id.clone());
            }
            entry.set("names", serde_json::json!(names));
            self.0.changed = true;
        }
        losers
    }

    /// Gives an image another top layer.
    pub(crate) fn set_top(&mut self, id: &str, top: &str) {
        if let Some(entry) = self.0.entries.iter_mut().find(|entry| entry.fields.id == id) {
            if entry.fields.layer.as_deref() != Some(top) {
                entry.set("layer", top.into());
                self.0.changed = true;
            }
        }
    }

    pub(crate) fn names(&self, id: &str) -> Vec<String> {
        self.0.find(id).and_then(|entry| entry.fields.names.clone()).unwrap_or_default()
    }

    pub(crate) fn changed(&self) -> bool {
        self.0.changed
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

fn tops(image: &ImageFields) -> impl Iterator<Item = &String> {
    image.mapped_layers.iter().flatten().chain(&image.layer)
}
