//! Pending-operation records: they name the image that a writer changes, so that an interrupted change can be finished or
//! undone.
//!
//! The record is written before the first change of an image and removed after the last one, under the store's locks. A
//! process that has the locks and finds a record knows that its writer died. Without these records an image in Podman's
//! lists that has no image record could be another tool's: podman-hpc and the Go tool write none.

use std::iter;

use parallax_format::digest::{ImageId, Sha256};

use crate::atomic::{read_if_there, remove_file, replace_file};
use crate::error::StoreError;
use crate::write::store::Store;

/// Prefix of the names of pending-operation records.
const PREFIX: &str = "pending-";

/// An operation on an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Adds an image that was in no list.
    Adding,
    /// Changes the names of an image.
    Naming,
    /// Removes an image.
    Removing,
}

impl Operation {
    const ALL: [(Self, &str); 3] = [(Self::Adding, "adding"), (Self::Naming, "naming"), (Self::Removing, "removing")];

    /// Returns the image id in the name of a pending-operation record.
    pub(crate) fn image_id(file_name: &str) -> Option<ImageId> {
        file_name.strip_prefix(PREFIX).and_then(ImageId::parse)
    }
}

impl Store {
    /// Writes the pending-operation record of an image, with the digests that are to lead to it, or the ids of the layers that
    /// are removed with it. The record of a dead writer is kept if the new operation only changes names: it is still valid.
    pub(crate) fn record_pending(&self, id: &ImageId, mark: Operation, digests: &[Sha256]) -> Result<(), StoreError> {
        let path = self.pending_path(id);
        if mark == Operation::Naming && path.exists() {
            return Ok(());
        }
        let word = Operation::ALL.iter().find(|(known, _)| *known == mark).map_or("", |(_, word)| word);
        let text = iter::once(word).chain(digests.iter().map(Sha256::as_str)).collect::<Vec<_>>().join(" ");
        replace_file(&self.temporary(), &path, text.as_bytes())
    }

    /// Removes the pending-operation record of an image, if it exists.
    pub(crate) fn clear_pending(&self, id: &ImageId) -> Result<(), StoreError> {
        remove_file(&self.pending_path(id))
    }

    /// Returns the interrupted operation on an image, and the digests or layer ids in its record.
    pub(crate) fn pending(&self, id: &ImageId) -> Result<(Option<Operation>, Vec<Sha256>), StoreError> {
        let bytes = read_if_there(&self.pending_path(id))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut words = text.split(' ');
        let word = words.next().unwrap_or_default();
        let mark = Operation::ALL.iter().find(|(_, known)| *known == word).map(|(mark, _)| *mark);
        Ok((mark, words.filter_map(Sha256::parse).collect()))
    }

    fn pending_path(&self, id: &ImageId) -> std::path::PathBuf {
        self.temporary().join(format!("{PREFIX}{id}"))
    }
}
