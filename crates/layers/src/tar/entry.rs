//! Entries of a tar archive, and errors of reading and writing them.

use std::io;

use crate::error::{ArchiveError, ConvertError, EntryError};
use crate::path::printable;

/// The latest time that SquashFS can store, in seconds since 1970.
pub(crate) const MAX_MTIME: i64 = u32::MAX as i64;

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file and its size in bytes, holes included.
    File(u64),
    /// A hard link to the file with this name.
    HardLink(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device, major and minor number.
    Char(u32, u32),
    /// A block device, major and minor number.
    Block(u32, u32),
    Dir,
    Fifo,
}

/// The attributes that entries of all kinds have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// Returns the size of the extended attributes, names included, in bytes.
    pub(crate) fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// One entry, without its data.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Counted from 0, without the headers that only extend others.
    pub(crate) index: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
}

/// An error of reading or passing on an entry.
#[derive(Debug)]
pub(crate) enum TarError {
    /// The source failed.
    Read(io::Error),
    /// The archive is invalid.
    Archive(ArchiveError),
    /// Writing the data failed.
    Write(io::Error),
}

impl TarError {
    /// Returns the refusal of the entry with this name.
    pub(crate) fn refuse(name: &[u8], error: EntryError) -> Self {
        Self::Archive(ArchiveError::Entry { name: printable(name), error })
    }

    /// Returns the error of a read that must not reach the archive's end.
    pub(crate) fn of_read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::Truncated.into(),
            _ => Self::Read(error),
        }
    }
}

impl From<ArchiveError> for TarError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

impl From<TarError> for ConvertError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(error) => Self::Read(error),
            TarError::Archive(error) => Self::Archive(error),
            TarError::Write(error) => Self::of_write(error),
        }
    }
}
