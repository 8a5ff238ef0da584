//! What can be wrong with a layer, or with turning it into SquashFS.

use std::io;

/// Why a layer could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The compressed or uncompressed stream could not be read to its end.
    #[error("the layer cannot be read: {0}")]
    Read(io::Error),
    /// The stream is not the one the image's configuration names.
    #[error("the layer's content has the digest sha256:{found}, the image's configuration says sha256:{expected}")]
    Digest {
        /// The diffID in the configuration, hexadecimal.
        expected: String,
        /// The digest of what was read, hexadecimal.
        found: String,
    },
    /// The stream is no tar archive that can be used.
    #[error("the layer is not a usable tar archive: {0}")]
    Archive(ArchiveError),
    /// `sqfstar` is missing or too old.
    #[error("{0}; install squashfs-tools 4.5 or newer")]
    NoTool(String),
    /// `sqfs2tar` is missing.
    #[error("{0}; install squashfs-tools-ng")]
    NoReader(String),
    /// `sqfstar` gave up.
    #[error("mksquashfs failed ({status}): {message}")]
    Tool {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed.
        message: String,
    },
    /// What mksquashfs wrote is not the layer.
    #[error(
        "mksquashfs wrote something else than it was given: a defect of versions up to 4.7.5 with hard links; try again, or \
         install a later one"
    )]
    Miswritten,
    /// The SquashFS file could not be written.
    #[error("the SquashFS file cannot be written: {0}")]
    Write(io::Error),
}

// What is printed of these has the cause in it, so it is no source that would be printed once more.
impl From<ArchiveError> for ConvertError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl ConvertError {
    /// The error of writing to mksquashfs, which may carry the reason why mksquashfs stopped reading.
    pub(crate) fn of_write(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Write)
    }

    /// Whether the layer has more entries than was allowed.
    #[must_use]
    pub fn has_too_many_entries(&self) -> bool {
        matches!(self, Self::Archive(ArchiveError::Entry { error: EntryError::TooMany, .. }))
    }

    /// Whether the layer unpacks to more than was allowed.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Read(error) => error.kind() == io::ErrorKind::FileTooLarge,
            Self::Archive(ArchiveError::Entry { error, .. }) => *error == EntryError::TooMuch,
            _ => false,
        }
    }
}

/// Why a tar archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream ended inside an entry.
    #[error("it ends in the middle of an entry")]
    Truncated,
    /// A header is damaged.
    #[error("the header of entry {index} {what}")]
    Header {
        /// Which header, counted from 1.
        index: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry cannot be part of a layer.
    #[error("entry \"{name}\" {error}")]
    Entry {
        /// The entry's name, escaped for a terminal.
        name: String,
        /// What is wrong with it.
        error: EntryError,
    },
}

/// Why an entry cannot be part of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The name contains a NUL byte.
    #[error("has a NUL byte in its name")]
    Nul,
    /// The name, or the target of a symbolic link, is longer than Linux allows.
    #[error("has a name or link target that is longer than Linux allows")]
    TooLong,
    /// The root, or a whiteout, is not what it must be.
    #[error("is the root of the layer but no directory")]
    RootNotDirectory,
    /// A symbolic link without a target.
    #[error("is a symbolic link without a target")]
    NoTarget,
    /// Symbolic links on the way to the entry lead round in a circle.
    #[error("has a name that leads through too many symbolic links")]
    LinkLoop,
    /// The parent is something else than a directory.
    #[error("lies in \"{0}\", which is not a directory")]
    ParentNotDirectory(String),
    /// The target of a hard link is not in the layer.
    #[error("is a hard link to \"{0}\", which is no file that comes before it in the layer")]
    HardLinkTarget(String),
    /// A whiteout that hides nothing.
    #[error("is a whiteout without a name")]
    EmptyWhiteout,
    /// A user or group id beyond 32 bits, or below zero.
    #[error("has a user or group id that is no 32-bit number")]
    Id,
    /// A type this version does not know.
    #[error("has the unknown type {0:#04x}")]
    Type(u8),
    /// A device number that SquashFS cannot hold.
    #[error("has a device number that is out of range")]
    Device,
    /// With this entry the layer has more of them than was allowed.
    #[error("is one more than the number of entries that is allowed")]
    TooMany,
    /// With this entry the layer holds more than was allowed.
    #[error("makes the layer larger than is allowed")]
    TooMuch,
    /// A sparse map that contradicts itself.
    #[error("has a damaged map of its holes")]
    SparseMap,
}
