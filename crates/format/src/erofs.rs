//! The superblock of an EROFS file (`fs/erofs/erofs_fs.h` in the kernel's source).
//!
//! No crate serves: wanted is the superblock alone.

/// Position of the superblock in a file.
const OFFSET: usize = 1024;
/// The first bytes of a superblock: 0xE0F5E1E2, little-endian.
pub const MAGIC: [u8; 4] = [0xE2, 0xE1, 0xF5, 0xE0];
/// Sizes of blocks that the kernel supports, as powers of two.
const BLOCK_BITS: std::ops::RangeInclusive<u8> = 9..=16;

/// The used fields of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Size of the file system in bytes: a shorter file is truncated.
    pub bytes_used: u64,
    /// Number of files and directories.
    pub inodes: u64,
}

impl Superblock {
    /// Number of bytes at the beginning of a file that contain the superblock.
    pub const BYTES: u64 = OFFSET as u64 + 128;

    /// Reads the first bytes of a file; `None` if it is no EROFS.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const BLOCK_BITS_AT: usize = 12;
        const INODES: std::ops::Range<usize> = 16..24;
        const BLOCKS: std::ops::Range<usize> = 36..40;
        if (bytes.len() as u64) < Self::BYTES {
            return None;
        }
        let superblock = bytes.get(OFFSET..)?;
        let bits = *superblock.get(BLOCK_BITS_AT)?;
        if !superblock.starts_with(&MAGIC) || !BLOCK_BITS.contains(&bits) {
            return None;
        }
        let inodes = u64::from_le_bytes(superblock.get(INODES)?.try_into().ok()?);
        let blocks = u32::from_le_bytes(superblock.get(BLOCKS)?.try_into().ok()?);
        Some(Self { bytes_used: u64::from(blocks) << bits, inodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_erofs_has_no_superblock() {
        let mut bytes = vec![0; 1024];
        bytes.extend(MAGIC);
        bytes.resize(1024 + 127, 0);
        bytes[1024 + 12] = 12;
        bytes[1024 + 16] = 5;
        bytes[1024 + 36] = 3;
        assert_eq!(Superblock::parse(&bytes), None);
        bytes.push(0);
        assert_eq!(Superblock::parse(&bytes), Some(Superblock { bytes_used: 3 << 12, inodes: 5 }));
        bytes[1024 + 12] = 40;
        assert_eq!(Superblock::parse(&bytes), None);
        bytes[1024 + 12] = 12;
        bytes[1024] = 0;
        assert_eq!(Superblock::parse(&bytes), None);
    }
}
