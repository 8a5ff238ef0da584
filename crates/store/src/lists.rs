//! images.json and layers.json, changed without losing what others wrote into them.
//!
//! Entries are kept as JSON values: those of podman-hpc and of the Go tool have fields that are not needed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use crate::containers_storage::{Image, Layer};
use crate::files::{StoreError, read_if_there};

#[derive(Debug)]
struct List {
    path: PathBuf,
    entries: Vec<Value>,
    changed: bool,
}

impl List {
    fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = read_if_there(path)?.unwrap_or_default();
        // containers/storage takes an empty file as an empty list.
        let entries = if bytes.is_empty() { Ok(None) } else { serde_json::from_slice(&bytes) };
        let entries: Option<Vec<Value>> =
            entries.map_err(|error| StoreError::Damaged { path: path.to_owned(), what: error.to_string() })?;
        Ok(Self { path: path.to_owned(), entries: entries.unwrap_or_default(), changed: false })
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry["id"] == id)
    }

    /// Takes out the entries with these ids.
    fn remove(&mut self, ids: &BTreeSet<String>) {
        let before = self.entries.len();
        self.entries.retain(|entry| !text(entry, "id").is_some_and(|id| ids.contains(id)));
        self.changed |= self.entries.len() != before;
    }

    fn push(&mut self, entry: &impl Serialize) -> Result<(), StoreError> {
        let entry = serde_json::to_value(entry)
            .map_err(|error| StoreError::Damaged { path: self.path.clone(), what: error.to_string() })?;
        self.entries.push(entry);
        self.changed = true;
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        Value::Array(self.entries.clone()).to_string().into_bytes()
    }
}

fn text<'a>(entry: &'a Value, field: &str) -> Option<&'a str> {
    entry.get(field).and_then(Value::as_str)
}

/// layers.json.
#[derive(Debug)]
pub(crate) struct LayerList(List);

impl LayerList {
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        List::read(path).map(Self)
    }

    /// Adds a layer unless one with its id is there.
    pub(crate) fn add(&mut self, layer: &Layer) -> Result<(), StoreError> {
        if self.0.position(&layer.id).is_some() { Ok(()) } else { self.0.push(layer) }
    }

    pub(crate) fn remove(&mut self, ids: &BTreeSet<String>) {
        self.0.remove(ids);
    }

    /// What is written of a layer.
    pub(crate) fn get(&self, id: &str) -> Option<&Value> {
        self.0.position(id).map(|at| &self.0.entries[at])
    }

    /// The ids of all layers.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.0.entries.iter().filter_map(|entry| text(entry, "id")).map(str::to_owned).collect()
    }

    /// The diffIDs of all layers, hexadecimal.
    pub(crate) fn diff_ids(&self) -> BTreeSet<String> {
        let digests = self.0.entries.iter().filter_map(|entry| text(entry, "diff-digest"));
        digests.filter_map(|digest| digest.strip_prefix("sha256:")).map(str::to_owned).collect()
    }

    /// The ids of these layers and of all below them.
    pub(crate) fn with_parents(&self, tops: impl IntoIterator<Item = String>) -> BTreeSet<String> {
        let parents: BTreeMap<&str, &str> =
            self.0.entries.iter().filter_map(|entry| Some((text(entry, "id")?, text(entry, "parent")?))).collect();
        let mut all = BTreeSet::new();
        for top in tops {
            let mut next = Some(top);
            // Seen before: its parents were too, and a circle ends.
            while let Some(id) = next.filter(|id| !all.contains(id)) {
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

/// images.json.
#[derive(Debug)]
pub(crate) struct ImageList(List);

impl ImageList {
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        List::read(path).map(Self)
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.position(id).is_some()
    }

    pub(crate) fn add(&mut self, image: &Image) -> Result<(), StoreError> {
        self.0.push(image)
    }

    pub(crate) fn remove(&mut self, ids: &BTreeSet<String>) {
        self.0.remove(ids);
    }

    /// The top layers of all images, those with an id map too.
    pub(crate) fn top_layers(&self) -> Vec<String> {
        let tops = self.0.entries.iter().flat_map(|entry| {
            let mapped = entry.get("mapped-layers").and_then(Value::as_array).into_iter().flatten();
            mapped.chain(entry.get("layer")).filter_map(Value::as_str).map(str::to_owned)
        });
        tops.collect()
    }

    /// What is written of an image.
    pub(crate) fn get(&self, id: &str) -> Option<&Value> {
        self.0.position(id).map(|at| &self.0.entries[at])
    }

    /// Takes `name` from all images.
    pub(crate) fn remove_name(&mut self, name: &str) {
        for names in self.0.entries.iter_mut().filter_map(|entry| entry.get_mut("names")?.as_array_mut()) {
            let before = names.len();
            names.retain(|known| known != name);
            self.0.changed |= names.len() != before;
        }
    }

    /// Gives `name` to the image `id` and takes it from all others: Podman refuses a store in which two have it. Returns
    /// the ids of those that lost it.
    pub(crate) fn move_name(&mut self, name: &str, id: &str) -> Vec<String> {
        let mut losers = Vec::new();
        for entry in &mut self.0.entries {
            let is_new = entry["id"] == id;
            let Some(fields) = entry.as_object_mut() else { continue };
            let names = fields.entry("names").or_insert_with(|| json!([]));
            if !names.is_array() {
                *names = json!([]);
            }
            let Some(names) = names.as_array_mut() else { continue };
            let has = names.iter().any(|known| known == name);
            if is_new && !has {
                names.push(name.into());
                self.0.changed = true;
            } else if !is_new && has {
                names.retain(|known| known != name);
                losers.extend(fields.get("id").and_then(Value::as_str).map(str::to_owned));
                self.0.changed = true;
            }
        }
        losers
    }

    pub(crate) fn names(&self, id: &str) -> Vec<String> {
        let names = self.0.position(id).and_then(|at| self.0.entries[at]["names"].as_array());
        names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub(crate) fn changed(&self) -> bool {
        self.0.changed
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }
}
