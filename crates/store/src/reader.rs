//! Lists the images of a store, for people. (Nodes read records in `open`, which trusts nothing.)

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_names::{ImageName, IndexPath, name_from_index_entry};

use crate::files::{IoContext as _, StoreError};
use crate::record::{ImageRecord, RecordError};

/// The images of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The images, by name and then by id.
    pub images: Vec<Listed>,
    /// Records that cannot be used.
    pub damaged: Vec<(PathBuf, RecordError)>,
}

/// One image and the names it has now.
#[derive(Debug)]
pub struct Listed {
    /// Its record.
    pub record: ImageRecord,
    /// The names that lead to it, sorted. A name that another image took over is not among them.
    pub names: Vec<ImageName>,
}

/// All images of the store at `root`.
///
/// # Errors
/// [`StoreError::Io`] if there is no store or it cannot be read.
pub fn list(root: &Path) -> Result<Listing, StoreError> {
    let mut names = names_by_id(root)?;
    let directory = root.join("parallax/images");
    let mut listing = Listing::default();
    for entry in fs::read_dir(&directory).context("read", &directory)? {
        let path = entry.context("read", &directory)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = match fs::read(&path) {
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes.context("read", &path)?,
        };
        match ImageRecord::parse(&bytes) {
            Ok(record) => {
                let names = names.remove(&record.id).unwrap_or_default();
                listing.images.push(Listed { record, names });
            }
            Err(error) => listing.damaged.push((path, error)),
        }
    }
    listing.images.sort_by(|a, b| {
        // Images without a name come last.
        let key = |listed: &Listed| (listed.names.is_empty(), listed.names.first().cloned(), listed.record.id.clone());
        key(a).cmp(&key(b))
    });
    Ok(listing)
}

fn names_by_id(root: &Path) -> Result<BTreeMap<String, Vec<ImageName>>, StoreError> {
    let directory = root.join(IndexPath::names_directory());
    let mut names: BTreeMap<String, Vec<ImageName>> = BTreeMap::new();
    for entry in fs::read_dir(&directory).context("read", &directory)? {
        let entry = entry.context("read", &directory)?;
        let name = entry.file_name().to_str().and_then(name_from_index_entry);
        let target = fs::read_link(entry.path()).ok();
        let id = target.as_deref().and_then(Path::to_str).and_then(IndexPath::id_from_link);
        if let (Some(name), Some(id)) = (name, id) {
            names.entry(id.to_owned()).or_default().push(name);
        }
    }
    names.values_mut().for_each(|names| names.sort());
    Ok(names)
}
