//! images.json and layers.json, changed without losing what others wrote into them.
//!
//! There may be very many entries. Of each only a few fields are understood; its text is kept and written again as it was,
//! unless its names change. So the fields that podman-hpc and the Go tool need stay, and a change costs little more than
//! reading and writing the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

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
    entries: Vec<Entry<T>>,
    changed: bool,
}

impl<T: Fields> List<T> {
    fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        // containers/storage takes an empty file as an empty list.
        let texts: Option<Vec<Box<RawValue>>> = if bytes.is_empty() { None } else { serde_json::from_slice(bytes)? };
        Ok(Self { entries: texts.into_iter().flatten().map(Entry::new).collect(), changed: false })
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

    fn push(&mut self, entry: &impl Serialize) -> serde_json::Result<()> {
        self.entries.push(Entry::new(to_raw_value(entry)?));
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
        // serde takes an array for a structure too.
        let object = Some(text.get()).filter(|text| text.starts_with('{'));
        Self { fields: object.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(), text }
    }

    fn value(&self) -> Value {
        serde_json::from_str(self.text.get()).unwrap_or_default()
    }

    /// Writes a field anew. The others come out in another order, with the same texts: their values may be of a depth or
    /// a size that would not be understood.
    fn set(&mut self, field: &str, to: &impl Serialize) {
        let write = || -> serde_json::Result<Box<RawValue>> {
            let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(self.text.get())?;
            fields.insert(field.to_owned(), to_raw_value(to)?);
            to_raw_value(&fields)
        };
        // An entry with fields that are understood is an object.
        if let Ok(text) = write() {
            *self = Self::new(text);
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
pub struct LayerList(List<LayerFields>);

impl LayerList {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// They are no JSON array.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        List::parse(bytes).map(Self)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        Self::parse(&read_if_there(path)?.unwrap_or_default()).map_err(|error| damaged(path, &error))
    }

    /// Adds a layer unless one with its id is there.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn add(&mut self, layer: &Layer) -> serde_json::Result<()> {
        if self.0.find(&layer.id).is_some() { Ok(()) } else { self.0.push(layer) }
    }

    /// Takes out the entries with these ids.
    pub fn remove(&mut self, ids: &BTreeSet<String>) {
        self.0.remove(ids);
    }

    /// What is written of a layer.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Value> {
        self.0.find(id).map(Entry::value)
    }

    fn fields(&self) -> impl Iterator<Item = &LayerFields> {
        self.0.entries.iter().map(|entry| &entry.fields)
    }

    /// Corrects what Podman shows as a layer's size, if the layer stands alone.
    pub fn set_size(&mut self, id: &str, size: u64) {
        let Some(entry) = self.0.entries.iter_mut().find(|entry| entry.fields.id == id) else { return };
        let alone = entry.fields.parent.as_deref().unwrap_or_default().is_empty();
        if alone && entry.value().get("diff-size") != Some(&size.into()) {
            entry.set("diff-size", &size);
            self.0.changed = true;
        }
    }

    /// The ids of all layers.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<String> {
        self.fields().map(|layer| layer.id.clone()).filter(|id| !id.is_empty()).collect()
    }

    /// The diffIDs of all layers, hexadecimal.
    #[must_use]
    pub fn diff_ids(&self) -> BTreeSet<String> {
        let digests = self.fields().filter_map(|layer| layer.diff_digest.as_deref());
        digests.filter_map(|digest| digest.strip_prefix("sha256:")).map(str::to_owned).collect()
    }

    /// The ids of these layers and of all below them.
    #[must_use]
    pub fn with_parents(&self, tops: impl IntoIterator<Item = String>) -> BTreeSet<String> {
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

    /// Whether it is not any more what was read.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.changed
    }

    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
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
pub struct ImageList(List<ImageFields>);

impl ImageList {
    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// They are no JSON array.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        List::parse(bytes).map(Self)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        Self::parse(&read_if_there(path)?.unwrap_or_default()).map_err(|error| damaged(path, &error))
    }

    /// Whether an image with this id is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.find(id).is_some()
    }

    /// Adds an image.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn add(&mut self, image: &Image) -> serde_json::Result<()> {
        self.0.push(image)
    }

    /// Takes out the entries with these ids.
    pub fn remove(&mut self, ids: &BTreeSet<String>) {
        self.0.remove(ids);
    }

    /// The id of the image with this name, however it is spelt: other tools write names without a registry too.
    #[must_use]
    pub fn id_of_name(&self, name: &ImageName) -> Option<String> {
        let is_it = |spelt: &String| ImageName::for_storing(spelt).is_ok_and(|it| it == *name);
        self.fields().find(|image| image.names.iter().flatten().any(is_it)).map(|image| image.id.clone())
    }

    fn fields(&self) -> impl Iterator<Item = &ImageFields> {
        self.0.entries.iter().map(|entry| &entry.fields)
    }

    /// The ids of all images.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<&str> {
        self.fields().map(|image| image.id.as_str()).collect()
    }

    /// The top layers of all images, those with an id map too.
    #[must_use]
    pub fn top_layers(&self) -> Vec<String> {
        self.fields().flat_map(tops).cloned().collect()
    }

    /// The top layers of one image.
    #[must_use]
    pub fn tops_of(&self, id: &str) -> Vec<String> {
        self.0.find(id).into_iter().flat_map(|entry| tops(&entry.fields)).cloned().collect()
    }

    /// What is written of an image.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Value> {
        self.0.find(id).map(Entry::value)
    }

    /// Takes `name` from all images.
    pub fn remove_name(&mut self, name: &str) {
        for entry in &mut self.0.entries {
            let names = entry.fields.names.as_deref().unwrap_or_default();
            if names.iter().any(|known| known == name) {
                let left: Vec<&String> = names.iter().filter(|known| *known != name).collect();
                let left: Vec<String> = left.into_iter().cloned().collect();
                entry.set("names", &left);
                self.0.changed = true;
            }
        }
    }

    /// Gives `name` to the image `id` and takes it from all others: Podman refuses a store in which two have it. Returns
    /// the ids of those that lost it.
    pub fn move_name(&mut self, name: &str, id: &str) -> Vec<String> {
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
            entry.set("names", &names);
            self.0.changed = true;
        }
        losers
    }

    /// Gives an image another top layer.
    pub fn set_top(&mut self, id: &str, top: &str) {
        if let Some(entry) = self.0.entries.iter_mut().find(|entry| entry.fields.id == id) {
            if entry.fields.layer.as_deref() != Some(top) {
                entry.set("layer", &top);
                self.0.changed = true;
            }
        }
    }

    /// The names of one image.
    #[must_use]
    pub fn names(&self, id: &str) -> Vec<String> {
        self.0.find(id).and_then(|entry| entry.fields.names.clone()).unwrap_or_default()
    }

    /// The names of all images that have any, by their ids.
    #[must_use]
    pub fn all_names(&self) -> HashMap<&str, &[String]> {
        self.fields().filter_map(|image| Some((image.id.as_str(), image.names.as_deref()?))).collect()
    }

    /// Whether it is not any more what was read.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.0.changed
    }

    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}

fn tops(image: &ImageFields) -> impl Iterator<Item = &String> {
    image.mapped_layers.iter().flatten().chain(&image.layer)
}

fn damaged(path: &Path, error: &serde_json::Error) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), what: error.to_string() }
}
