//! Errors of converting a layer.

use std::io;

use parallax_format::digest::Sha256;

/// An error of converting a layer.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The compressed or uncompressed stream could not be read to its end.
    #[error("the layer cannot be read: {0}")]
    Read(io::Error),
    /// The stream has another digest than the image's configuration names.
    #[error("the layer's content has the digest sha256:{found}, the image's configuration says sha256:{expected}")]
    Digest {
        /// The diffID in the configuration, hexadecimal.
        expected: String,
        /// The SHA-256 of the stream.
        found: Sha256,
    },
    /// The stream is not a valid tar archive of a layer.
    #[error("the layer is not a usable tar archive: {0}")]
    Archive(ArchiveError),
    /// mksquashfs is missing or too old.
    #[error("{0}; install squashfs-tools 4.5 or newer")]
    NoTool(String),
    /// mkfs.erofs is missing or too old.
    #[error("{0}; install erofs-utils 1.8.9 or newer, or migrate with --format squashfs")]
    NoMkfs(String),
    /// sqfs2tar is missing.
    #[error("{0}; install squashfs-tools-ng")]
    NoReader(String),
    /// The program that makes the file failed.
    #[error("{program} failed ({status}): {message}")]
    Tool {
        /// The program.
        program: &'static str,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its output on standard error.
        message: String,
    },
    /// The SquashFS file differs from the layer.
    #[error(
        "the file that mksquashfs wrote differs from its input: a defect of versions up to 4.7.5 with hard links; try again, or \
         install a later version"
    )]
    Miswritten,
    /// The layer's file could not be written.
    #[error("the layer's file cannot be written: {0}")]
    Write(io::Error),
}

// The text contains the cause, which is therefore not a source: it would be printed twice.
impl From<ArchiveError> for ConvertError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl ConvertError {
    /// The error of writing to the program that makes the file, which may carry the reason why the program stopped reading.
    pub(crate) fn of_write(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Write)
    }

    /// Returns `true` if the layer has more entries than the limit.
    #[must_use]
    pub fn has_too_many_entries(&self) -> bool {
        matches!(self, Self::Archive(ArchiveError::Entry { error: EntryError::TooMany, .. }))
    }

    /// Returns `true` if the unpacked layer exceeds the limit for bytes.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Read(error) => error.kind() == io::ErrorKind::FileTooLarge,
            Self::Archive(ArchiveError::Entry { error, .. }) => *error == EntryError::TooMuch,
            _ => false,
        }
    }
}

/// An error in a tar archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream ended inside an entry.
    #[error("it is truncated: it ends in the middle of an entry")]
    Truncated,
    /// A header is invalid.
    #[error("the header of entry {index} {what}")]
    Header {
        /// The number of the header, from 1.
        index: u64,
        /// The error: a predicate.
        what: &'static str,
    },
    /// An entry cannot be part of a layer.
    #[error("entry \"{name}\" {error}")]
    Entry {
        /// The entry's name, escaped for a terminal.
        name: String,
        /// The error: a predicate.
        error: EntryError,
    },
}

/// The reason why an entry cannot be part of a layer: a predicate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The name contains a NUL byte.
    #[error("has a NUL byte in its name")]
    Nul,
    /// The name, or the target of a symbolic link, is longer than Linux allows.
    #[error("has a name or link target that is longer than Linux allows")]
    TooLong,
    /// The root is not a directory.
    #[error("is the root of the layer but not a directory")]
    RootNotDirectory,
    /// A symbolic link without a target.
    #[error("is a symbolic link without a target")]
    NoTarget,
    /// Symbolic links on the path of the entry form a loop.
    #[error("has a name that leads through too many symbolic links")]
    LinkLoop,
    /// The parent is not a directory.
    #[error("lies in \"{0}\", which is not a directory")]
    ParentNotDirectory(String),
    /// The target of a hard link is not in the layer.
    #[error("is a hard link to \"{0}\", which is not a file earlier in the layer")]
    HardLinkTarget(String),
    /// A whiteout without the name of what it hides.
    #[error("is a whiteout without a name")]
    EmptyWhiteout,
    /// A user or group id beyond 32 bits, or below zero.
    #[error("has an invalid user or group id")]
    Id,
    /// An unsupported type.
    #[error("has the unsupported type {0:#04x}")]
    Type(u8),
    /// A device number that SquashFS cannot store.
    #[error("has a device number that is out of range")]
    Device,
    /// With this entry the layer exceeds the limit for entries.
    #[error("exceeds the limit for entries")]
    TooMany,
    /// With this entry the layer exceeds the limit for bytes.
    #[error("exceeds the limit for the size of a layer")]
    TooMuch,
    /// A sparse map that contradicts itself.
    #[error("has an invalid sparse map")]
    SparseMap,
}
