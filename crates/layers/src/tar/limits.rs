//! Limits for layers. An archive of a few kilobytes can claim to be petabytes, or millions of files.

use crate::error::EntryError;

/// Limits for a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size in bytes of the uncompressed stream, and of all files with their holes filled.
    pub bytes: u64,
    /// Maximum number of entries. Directories without an entry count too, and long names and attributes count
    /// once more for every 256 bytes: all of them are kept in memory while the layer is read.
    pub entries: u64,
}

impl Default for Limits {
    /// 1 TiB and 10 million entries, about ten times as much as the largest images have.
    fn default() -> Self {
        Self { bytes: 1 << 40, entries: 10_000_000 }
    }
}

/// The remaining part of [`Limits::entries`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance(u64);

impl Allowance {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(limits.entries)
    }

    /// Takes the share of an entry's name.
    pub(crate) fn take(&mut self, name: &[u8]) -> Result<(), EntryError> {
        self.take_bytes(name.len())
    }

    /// Takes the share of bytes beyond an entry's name: a link's target, or the growth of the name by following links.
    pub(crate) fn take_more(&mut self, bytes: usize) -> Result<(), EntryError> {
        if bytes < 256 { Ok(()) } else { self.take_bytes(bytes) }
    }

    /// Takes the share of a directory's extended attributes, which are kept until the end. `bytes` is their size.
    pub(crate) fn take_xattrs(&mut self, bytes: usize) -> Result<(), EntryError> {
        if bytes == 0 { Ok(()) } else { self.take_bytes(bytes) }
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), EntryError> {
        let share = 1 + bytes as u64 / 256;
        self.0 = self.0.checked_sub(share).ok_or(EntryError::TooMany)?;
        Ok(())
    }
}
