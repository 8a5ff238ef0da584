//! Lists the images of a store, for people. (Nodes read records in `open`, which trusts nothing.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use parallax_format::digest::{Digest, ImageId};
use parallax_format::record::{ImageRecord, RecordError};
use parallax_format::{ImageName, IndexPath, name_from_index_entry};

use crate::atomic::{entries, read_if_there};
use crate::error::StoreError;
use crate::parallel;
use crate::read::trusted::TrustedStore;

/// The images of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The images, by name and then by id.
    pub images: Vec<Listed>,
    /// Records that cannot be used.
    pub corrupt: Vec<(PathBuf, RecordError)>,
    /// Problems of unusable images of other tools.
    pub unusable: Vec<String>,
    /// Images that lie unpacked elsewhere.
    pub unpacked: Vec<ListedUnpacked>,
}

/// An image that lies unpacked in a directory elsewhere, and its current names.
#[derive(Debug)]
pub struct ListedUnpacked {
    /// Its id.
    pub id: ImageId,
    /// Its names, sorted.
    pub names: Vec<ImageName>,
    /// The directory.
    pub directory: PathBuf,
    /// The digest of its manifest for Podman.
    pub digest: Digest,
    /// When it was built, RFC 3339.
    pub created: String,
}

/// An image and its current names.
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
    let directory = root.join(IndexPath::records_directory());
    let mut files = entries(&directory)?;
    files.retain(|file| file.ends_with(".json"));
    let read = |file: &String| -> Result<_, StoreError> {
        let path = directory.join(file);
        // It may have been removed since the directory was read.
        let bytes = read_if_there(&path)?;
        Ok(bytes.map(|bytes| ImageRecord::parse(&bytes).map_err(|error| (path, error))))
    };
    let mut listing = Listing::default();
    for record in parallel::map(&files, read).into_iter().filter_map(Result::transpose) {
        match record? {
            Ok(record) => {
                let names = names.remove(&record.id).unwrap_or_default();
                listing.images.push(Listed { record, names, foreign: false });
            }
            Err(corrupt) => listing.corrupt.push(corrupt),
        }
    }
    let known = files.iter().filter_map(|file| IndexPath::id_from_record(file)).collect();
    add_foreign(root, &known, &mut listing)?;
    // Images without a name come last.
    let key = |listed: &Listed| (listed.names.is_empty(), listed.names.first().cloned(), listed.record.id);
    listing.images.sort_by_cached_key(key);
    Ok(listing)
}

/// Adds the images in Podman's list that have no record.
fn add_foreign(root: &Path, known: &BTreeSet<ImageId>, listing: &mut Listing) -> Result<(), StoreError> {
    let store = TrustedStore::open_lenient(root)?;
    let images = store.images_but(known)?;
    if images.is_empty() {
        return Ok(());
    }
    let sizes = store.layer_sizes()?;
    for image in images {
        let directory = store.unpacked(&image)?;
        let described = ImageId::parse(&image.id).zip(Digest::parse(&image.digest));
        if let (Some(directory), Some((id, digest))) = (directory, described) {
            let mut names = image.names();
            names.sort();
            listing.unpacked.push(ListedUnpacked { id, names, directory, digest, created: image.created });
            continue;
        }
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

fn names_by_id(root: &Path) -> Result<BTreeMap<ImageId, Vec<ImageName>>, StoreError> {
    let directory = root.join(IndexPath::names_directory());
    let entries = entries(&directory)?;
    let targets = parallel::map(&entries, |entry| fs::read_link(directory.join(entry)).ok());
    let mut names: BTreeMap<ImageId, Vec<ImageName>> = BTreeMap::new();
    for (entry, target) in entries.iter().zip(targets) {
        let id = target.as_deref().and_then(Path::to_str).and_then(IndexPath::id_from_link);
        if let (Some(name), Some(id)) = (name_from_index_entry(entry), id) {
            names.entry(id).or_default().push(name);
        }
    }
    for names in names.values_mut() {
        names.sort();
    }
    Ok(names)
}
