//! The superblock of a SquashFS file (Documentation/filesystems/squashfs.rst in the kernel's source).
//!
//! No crate serves: `backhand` reads and unpacks whole file systems; wanted is the superblock alone.

/// The first bytes of a SquashFS file.
pub const MAGIC: &[u8; 4] = b"hsqs";

/// The used fields of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Size of the file system in bytes: a shorter file is truncated.
    pub bytes_used: u64,
    /// Compression of the file, as the format numbers it.
    pub compressor: u16,
}

impl Superblock {
    /// Size of a superblock in bytes.
    pub const BYTES: u64 = 96;

    /// Reads the first bytes of a file; `None` if it is no SquashFS.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const COMPRESSOR: std::ops::Range<usize> = 20..22;
        const BYTES_USED: std::ops::Range<usize> = 40..48;
        if !bytes.starts_with(MAGIC) || (bytes.len() as u64) < Self::BYTES {
            return None;
        }
        let compressor = u16::from_le_bytes(bytes.get(COMPRESSOR)?.try_into().ok()?);
        let bytes_used = u64::from_le_bytes(bytes.get(BYTES_USED)?.try_into().ok()?);
        Some(Self { bytes_used, compressor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_squashfs_has_no_superblock() {
        let mut bytes = MAGIC.to_vec();
        bytes.resize(40, 0);
        bytes[20] = 6;
        bytes.extend(1000_u64.to_le_bytes());
        assert_eq!(Superblock::parse(&bytes), None);
        bytes.resize(96, 0);
        assert_eq!(Superblock::parse(&bytes), Some(Superblock { bytes_used: 1000, compressor: 6 }));
        bytes[0] = b'x';
        assert_eq!(Superblock::parse(&bytes), None);
    }
}
