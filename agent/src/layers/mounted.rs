//! A mounted layer, and the record by which a later agent adopts it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use parallax_format::digest::DiffId;
use parallax_store::read::OpenError;
use parallax_sys::mount::{DetachedMount, take_down};
use serde::{Deserialize, Serialize};

use super::chunked::{ChunksEntry, Supervised};
use super::digest::DigestError;
use super::erofs::ReadBy;

/// An error of mounting a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's file cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The agent cannot take on the user's credentials.
    #[error("cannot take on the user's credentials: {0}")]
    Credentials(io::Error),
    /// The layer's file differs from the migrated one.
    #[error("the layer {path} is not what was migrated: {cause} (\"parallax verify\" tells more)")]
    Digest {
        /// The SquashFS file, relative to its store.
        path: String,
        /// The difference.
        cause: DigestError,
    },
    /// The store has the layer in chunks only, and they cannot be used.
    #[error(
        "cannot mount the layer {path}: the store has it in chunks only, and {reason}; \"parallax chunk --whole\" makes its file again"
    )]
    OnlyChunks {
        /// The SquashFS file, relative to its store.
        path: String,
        /// Why the chunks cannot be used.
        reason: String,
    },
    /// A mount or its preparation failed.
    #[error("cannot mount the layer {path}: {what}: {cause}")]
    Mount {
        /// The SquashFS file, relative to its store.
        path: String,
        /// The failed operation.
        what: &'static str,
        /// The error of the system call.
        cause: io::Error,
    },
}

/// The identity of a mounted file: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileKey {
    device: u64,
    inode: u64,
}

impl FileKey {
    /// Returns the identity of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// A layer that is mounted on this node, for as long as this value lives.
#[derive(Debug)]
pub struct MountedLayer {
    pub(super) key: FileKey,
    pub(super) diff_id: DiffId,
    pub(super) mount_point: PathBuf,
    /// Its file, or the index of its chunks, by which access is checked; an earlier agent's layer has none.
    pub(super) file: Option<File>,
    pub(super) form: Form,
}

/// What a layer was mounted from.
#[derive(Debug)]
pub enum Form {
    /// Its file.
    File,
    /// Its file, though it has chunks; the reason, a part of a sentence.
    FileBecause(String),
    /// Its chunks.
    Chunks(Supervised),
    /// Its EROFS file.
    Erofs(ReadBy),
    /// Its SquashFS file, though it has an EROFS file; the reason, a part of a sentence.
    SquashfsBecause(String),
}

/// The record of a mounted layer, by which a later agent adopts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// The layer's diffID.
    pub diff_id: DiffId,
    /// The file it was mounted from.
    pub file: FileKey,
    /// The mount point.
    pub mount_point: PathBuf,
    /// Present for a layer in chunks. An agent that does not know it leaves the layer without supervision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<ChunksEntry>,
    /// Present for a layer in EROFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erofs: Option<ReadBy>,
}

impl MountedLayer {
    /// Returns the layer's diffID.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Returns what the layer was mounted from.
    #[must_use]
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Returns `true` unless a reader got an error that the kernel may remember.
    pub(super) fn is_good(&self) -> bool {
        !matches!(&self.form, Form::Chunks(supervised) if supervised.is_poisoned())
    }

    /// Makes a second, detached mount of the layer.
    ///
    /// # Errors
    /// Those of `open_tree(2)`.
    pub fn another_mount(&self) -> io::Result<DetachedMount> {
        DetachedMount::clone_of(&self.mount_point)
    }

    /// Returns the layer's record for the journal.
    #[must_use]
    pub fn entry(&self) -> LayerEntry {
        let chunks = if let Form::Chunks(supervised) = &self.form { Some(supervised.entry()) } else { None };
        let erofs = if let Form::Erofs(by) = &self.form { Some(*by) } else { None };
        LayerEntry { diff_id: self.diff_id, file: self.key, mount_point: self.mount_point.clone(), chunks, erofs }
    }
}

impl Drop for MountedLayer {
    fn drop(&mut self) {
        if let Err(error) = take_down(&self.mount_point) {
            tracing::error!(mount_point = %self.mount_point.display(), "cannot unmount a layer: {error}");
        }
    }
}
