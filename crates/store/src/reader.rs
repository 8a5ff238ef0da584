//! Lists the images of a store, for people. (Nodes read records in `open`, which trusts nothing.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_names::{ImageName, IndexPath, name_from_index_entry};

use crate::files::{IoContext as _, StoreError, entries};
use crate::open::TrustedStore;
use crate::record::{ImageRecord, RecordError};

/// The images of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The images, by name and then by id.
    pub images: Vec<Listed>,
    /// Records that cannot be used.
    pub damaged: Vec<(PathBuf, RecordError)>,
    /// What is wrong with images that another tool brought and that cannot be used.
    pub unusable: Vec<String>,
}

/// One image and the names it has now.
#[derive(Debug)]
pub struct Listed {
    /// Its record.
    pub record: ImageRecord,
    /// The names that lead to it, sorted. A name that another image took over is not among them.
    pub names: Vec<ImageName>,
    /// Whether another tool brought it, so that it has no record; what nobody recorded is empty or 0.
    pub foreign: bool,
}

/// All images of the store at `root`.
///
/// # Errors
/// [`StoreError::Io`] if there is no store or it cannot be read.
pub fn list(root: &Path) -> Result<Listing, StoreError> {
    let mut names = names_by_id(root)?;
    let directory = root.join("parallax/images");
    let mut listing = Listing::default();
    let mut known = BTreeSet::new();
    for name in entries(&directory)? {
        let Some(id) = name.strip_suffix(".json") else { continue };
        known.insert(id.to_owned());
        let path = directory.join(&name);
        let bytes = match fs::read(&path) {
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.context("read", &path)?,
        };
        match ImageRecord::parse(&bytes) {
            Ok(record) => {
                let names = names.remove(&record.id).unwrap_or_default();
                listing.images.push(Listed { record, names, foreign: false });
            }
            Err(error) => listing.damaged.push((path, error)),
        }
    }
    add_foreign(root, &known, &mut listing)?;
    listing.images.sort_by(|a, b| {
        // Images without a name come last.
        let key = |listed: &Listed| (listed.names.is_empty(), listed.names.first().cloned(), listed.record.id.clone());
        key(a).cmp(&key(b))
    });
    Ok(listing)
}

/// Adds the images in Podman's list that have no record.
fn add_foreign(root: &Path, known: &BTreeSet<String>, listing: &mut Listing) -> Result<(), StoreError> {
    let store = TrustedStore::open_lenient(root)?;
    let images = store.images_but(known)?;
    if images.is_empty() {
        return Ok(());
    }
    let sizes = store.layer_sizes()?;
    for image in images {
        match store.foreign_record(&image, &sizes) {
            Ok(record) => {
                let mut names = image.names();
                names.sort();
                names.dedup();
                listing.images.push(Listed { record, names, foreign: true });
            }
            Err(error) => listing.unusable.push(error.to_string()),
        }
    }
    Ok(())
}

fn names_by_id(root: &Path) -> Result<BTreeMap<String, Vec<ImageName>>, StoreError> {
    let directory = root.join(IndexPath::names_directory());
    let mut names: BTreeMap<String, Vec<ImageName>> = BTreeMap::new();
    for entry in entries(&directory)? {
        let target = fs::read_link(directory.join(&entry)).ok();
        let id = target.as_deref().and_then(Path::to_str).and_then(IndexPath::id_from_link);
        if let (Some(name), Some(id)) = (name_from_index_entry(&entry), id) {
            names.entry(id.to_owned()).or_default().push(name);
        }
    }
    names.values_mut().for_each(|names| names.sort());
    Ok(names)
}
