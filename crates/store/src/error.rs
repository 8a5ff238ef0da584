//! Errors of reading and changing a store.

use std::io;
use std::path::{Path, PathBuf};

use parallax_format::digest::DiffId;

use crate::read::trusted::OpenError;

/// An error of changing or reading a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// An image of another tool is unusable, or a file of it cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file of the store is corrupt.
    #[error("{} is corrupt: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The problem.
        what: String,
    },
    /// A layer that a new image needs is not in the store, or no longer.
    #[error("the layer {0} is not in the store")]
    LayerGone(DiffId),
    /// The image does not exist, or no longer.
    #[error("the store has no image {0}")]
    NoImage(String),
    /// An image that was to be removed by its id has several names.
    #[error("the image has several names ({}); remove it with --force, or name by name", .0.join(", "))]
    SeveralNames(Vec<String>),
    /// Another writer has locked the store, on a file system without locks.
    #[error("{}: the store is locked by {who}; if that process is gone, run parallax gc --break-lock", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Its owner.
        who: String,
    },
    /// Nodes use an image that was to be removed.
    #[error("steps use the image on {}; remove it when they have ended, or with --force", .0.join(", "))]
    InUse(Vec<String>),
    /// The store has the image, or an image of this name, with files of its own.
    #[error(
        "the store has {0} with files of its own, and an unpacked image does not replace it; to have that, remove it with parallax rm"
    )]
    Taken(String),
    /// The name is too long for a file.
    #[error("the image name {0} is too long to be stored; give the image another one")]
    NameTooLong(String),
}

pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|cause| StoreError::Io { action, path: path.to_owned(), cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::other("the disk burns");
        let path = PathBuf::from("/store");
        let store = path.clone();
        for error in [
            StoreError::Io { action: "read", path: path.clone(), cause: cause() },
            StoreError::Open(OpenError::Store { path: path.clone(), cause: cause() }),
            StoreError::Open(OpenError::Read { store, path: "a".to_owned(), cause: cause() }),
        ] {
            let mut told = error.to_string();
            let mut next = std::error::Error::source(&error);
            while let Some(cause) = next {
                told.push_str(&cause.to_string());
                next = cause.source();
            }
            assert_eq!(told.matches("the disk burns").count(), 1, "{told}");
        }
    }
}
