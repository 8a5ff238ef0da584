//! What is read of a SquashFS file without mounting it (Documentation/filesystems/squashfs.rst in the kernel's source).
//!
//! No crate serves: `backhand` reads and unpacks whole file systems; wanted is the superblock alone.

/// The part of a file's superblock that tells whether the file is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// How many bytes of the file the file system takes.
    pub bytes_used: u64,
}

impl Superblock {
    /// How many bytes a superblock has.
    pub const BYTES: u64 = 96;

    /// Reads the first bytes of a file; `None` if it is no SquashFS.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const BYTES_USED: std::ops::Range<usize> = 40..48;
        let whole = bytes.starts_with(b"hsqs") && bytes.len() as u64 >= Self::BYTES;
        let used = bytes.get(BYTES_USED).filter(|_| whole)?;
        Some(Self { bytes_used: u64::from_le_bytes(used.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_squashfs_has_no_superblock() {
        let mut bytes = b"hsqs".to_vec();
        bytes.resize(40, 0);
        bytes.extend(1000_u64.to_le_bytes());
        assert_eq!(Superblock::parse(&bytes), None);
        bytes.resize(96, 0);
        assert_eq!(Superblock::parse(&bytes), Some(Superblock { bytes_used: 1000 }));
        bytes[0] = b'x';
        assert_eq!(Superblock::parse(&bytes), None);
    }
}
