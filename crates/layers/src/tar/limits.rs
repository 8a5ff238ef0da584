//! How much a layer may hold. A few kilobytes can claim to be petabytes, or millions of files.

use crate::error::EntryError;

/// How much a layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that its uncompressed stream, and that its files with their holes filled, may come to.
    pub bytes: u64,
    /// The most entries. Directories that no entry describes count too, and what has a long name or long attributes counts
    /// once more for every 256 bytes of them: all this is kept in memory while the layer is read.
    pub entries: u64,
}

impl Default for Limits {
    /// 1 TiB in 10 million entries: the largest images have about a tenth of each.
    fn default() -> Self {
        Self { bytes: 1 << 40, entries: 10_000_000 }
    }
}

/// What is left of [`Limits::entries`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance(u64);

impl Allowance {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(limits.entries)
    }

    /// Takes the part of a name that is kept.
    pub(crate) fn take(&mut self, name: &[u8]) -> Result<(), EntryError> {
        self.take_bytes(name.len())
    }

    /// Takes what an entry needs beyond its name: a link's target, which is kept, or what following links made its name
    /// longer by.
    pub(crate) fn take_more(&mut self, bytes: usize) -> Result<(), EntryError> {
        if bytes < 256 { Ok(()) } else { self.take_bytes(bytes) }
    }

    /// Takes the part of a directory's extended attributes, which are kept until the end. `bytes` is their size.
    pub(crate) fn take_xattrs(&mut self, bytes: usize) -> Result<(), EntryError> {
        if bytes == 0 { Ok(()) } else { self.take_bytes(bytes) }
    }

    fn take_bytes(&mut self, bytes: usize) -> Result<(), EntryError> {
        let share = 1 + bytes as u64 / 256;
        self.0 = self.0.checked_sub(share).ok_or(EntryError::TooMany)?;
        Ok(())
    }
}
