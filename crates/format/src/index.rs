//! The index of a store: the images that references mean.
//!
//! An index entry is a symbolic link to the image's record, so that one `readlink` answers "which image is this?" and
//! one read gives all of it. Moving a tag is one `rename`.

use crate::digest::{Digest, ImageId};
use crate::layout::{DIGESTS, JSON, NAMES, RECORDS};
use crate::name::ImageName;
use crate::reference::ImageRef;

/// The longest file name that Linux file systems take, in bytes.
const MAX_FILE_NAME: usize = 255;
/// The directory of the records, as seen from the directory of an index entry.
const RECORDS_FROM_ENTRY: &str = "../images/";

/// The paths of index entries and records, relative to the store's root.
///
/// None has a component of `..` or an absolute part: names have passed [`ImageRef::parse`] or a sibling of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexPath;

impl IndexPath {
    /// Returns the entry of a name; `None` if the name is too long to be a file name.
    #[must_use]
    pub fn name(name: &ImageName) -> Option<String> {
        let file = name.to_string().replace('/', "%2F");
        (file.len() <= MAX_FILE_NAME).then(|| format!("{NAMES}/{file}"))
    }

    /// Returns the entry of a manifest's or index's digest.
    #[must_use]
    pub fn digest(digest: &Digest) -> String {
        format!("{DIGESTS}/{}", digest.sha256())
    }

    /// Returns the record of the image with this id.
    #[must_use]
    pub fn record(id: &ImageId) -> String {
        format!("{RECORDS}/{id}.{JSON}")
    }

    /// Returns the target of an index entry's link: the record's path, relative to the entry's directory.
    #[must_use]
    pub fn link_target(id: &ImageId) -> String {
        format!("{RECORDS_FROM_ENTRY}{id}.{JSON}")
    }

    /// Returns the image id that an index entry's link names; `None` if the link does not lead to a record.
    #[must_use]
    pub fn id_from_link(target: &str) -> Option<ImageId> {
        Self::id_from_record(target.strip_prefix(RECORDS_FROM_ENTRY)?)
    }

    /// Returns all paths to try for a reference, in order; the first that exists is the image meant.
    #[must_use]
    pub fn candidates(reference: &ImageRef) -> Vec<String> {
        match reference {
            ImageRef::Id(id) => vec![Self::record(id)],
            ImageRef::Digest(digest) => vec![Self::digest(digest)],
            ImageRef::Name(names) => names.iter().filter_map(Self::name).collect(),
        }
    }

    /// Returns the directory of the records, whose file names [`IndexPath::id_from_record`] reads.
    #[must_use]
    pub fn records_directory() -> &'static str {
        RECORDS
    }

    /// Returns the image id of a record's file name; `None` for a file that is not a record.
    #[must_use]
    pub fn id_from_record(file_name: &str) -> Option<ImageId> {
        ImageId::parse(file_name.strip_suffix(JSON)?.strip_suffix('.')?)
    }

    /// Returns the directory whose entries [`name_from_index_entry`] reads.
    #[must_use]
    pub fn names_directory() -> &'static str {
        NAMES
    }
}

/// Returns the name that an entry of the names directory stands for; `None` for a file that is no entry.
#[must_use]
pub fn name_from_index_entry(file_name: &str) -> Option<ImageName> {
    ImageName::for_storing(&file_name.replace("%2F", "/")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_file_and_leads_back_to_its_name() {
        let name = ImageName::for_storing("docker.io/library/python:3.12").unwrap();
        let path = IndexPath::name(&name).unwrap();
        assert_eq!(path, "parallax/names/docker.io%2Flibrary%2Fpython:3.12");
        assert_eq!(name_from_index_entry(path.rsplit_once('/').unwrap().1), Some(name));
    }

    #[test]
    fn a_link_leads_to_the_id() {
        let id = ImageId::parse(&"ab".repeat(32)).unwrap();
        assert_eq!(IndexPath::link_target(&id), format!("../images/{id}.json"));
        assert_eq!(IndexPath::id_from_link(&IndexPath::link_target(&id)), Some(id));
        assert_eq!(IndexPath::id_from_link("../images/../../etc/passwd"), None);
    }

    #[test]
    fn a_name_too_long_for_a_file_has_no_entry() {
        let name = ImageName::for_storing(&format!("{}:{}", "a".repeat(200), "t".repeat(100))).unwrap();
        assert_eq!(IndexPath::name(&name), None);
    }
}
