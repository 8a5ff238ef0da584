//! Marks that say which image a writer is at, so that what it leaves when it dies can be finished or taken back.
//!
//! A mark is written before the first change of an image and removed after the last one, under the store's locks. Who
//! holds the locks and finds one knows that its writer died. Without marks an image in Podman's lists that has no record
//! could be anybody's: podman-hpc and the Go tool write no records.

use std::iter;

use parallax_format::digest::{ImageId, Sha256};

use crate::atomic::{read_if_there, remove_file, replace_file};
use crate::error::StoreError;
use crate::write::store::Store;

/// How the name of a mark begins.
const PREFIX: &str = "pending-";

/// What a writer is doing to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Adds one that was in no list.
    Adding,
    /// Changes the names of one that is there.
    Naming,
    /// Removes one.
    Removing,
}

impl Mark {
    const ALL: [(Self, &str); 3] = [(Self::Adding, "adding"), (Self::Naming, "naming"), (Self::Removing, "removing")];

    /// The image id in the name of a mark.
    pub(crate) fn image_id(file_name: &str) -> Option<ImageId> {
        file_name.strip_prefix(PREFIX).and_then(ImageId::parse)
    }
}

impl Store {
    /// Writes a mark, with the digests that are to lead to the image, or the ids of layers that go with it. One that a dead writer left stays if
    /// the new one only concerns names: what it tells still holds.
    pub(crate) fn mark(&self, id: &ImageId, mark: Mark, digests: &[Sha256]) -> Result<(), StoreError> {
        let path = self.mark_path(id);
        if mark == Mark::Naming && path.exists() {
            return Ok(());
        }
        let word = Mark::ALL.iter().find(|(known, _)| *known == mark).map_or("", |(_, word)| word);
        let text = iter::once(word).chain(digests.iter().map(Sha256::as_str)).collect::<Vec<_>>().join(" ");
        replace_file(&self.temporary(), &path, text.as_bytes())
    }

    /// Removes the mark of an image, if there is one.
    pub(crate) fn unmark(&self, id: &ImageId) -> Result<(), StoreError> {
        remove_file(&self.mark_path(id))
    }

    /// What a dead writer was doing to an image, and the digests or layers of its mark.
    pub(crate) fn marked(&self, id: &ImageId) -> Result<(Option<Mark>, Vec<Sha256>), StoreError> {
        let bytes = read_if_there(&self.mark_path(id))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut words = text.split(' ');
        let word = words.next().unwrap_or_default();
        let mark = Mark::ALL.iter().find(|(_, known)| *known == word).map(|(mark, _)| *mark);
        Ok((mark, words.filter_map(Sha256::parse).collect()))
    }

    fn mark_path(&self, id: &ImageId) -> std::path::PathBuf {
        self.temporary().join(format!("{PREFIX}{id}"))
    }
}
