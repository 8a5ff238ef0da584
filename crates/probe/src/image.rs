//! A tiny SquashFS image, written by hand: a directory with one file in it (SquashFS 4.0; `squashfs_fs.h` of the kernel).
//!
//! Nothing in it is compressed, so one function makes it for every compressor: the number in the superblock alone decides whether a
//! reader takes it.

/// The compressors there are: the superblock's number and the name by which mksquashfs knows it.
pub const COMPRESSORS: [(u16, &str); 5] = [(1, "gzip"), (3, "lzo"), (4, "xz"), (5, "lz4"), (6, "zstd")];
/// The compressor of images that are to be read by anything.
pub(crate) const GZIP: u16 = 1;

/// The file's name.
pub(crate) const FILE_NAME: &str = "file";
/// The file's contents.
pub(crate) const FILE_CONTENT: &[u8] = b"parallax\n";
/// The file's owner, user and group; the directory is root's.
pub(crate) const FILE_OWNER: u32 = 7;

/// Compressors that put options behind the superblock, and lz4 does not do without.
const LZ4: u16 = 5;
/// `SQUASHFS_LZ4_LEGACY` and no flags.
const LZ4_OPTIONS: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

const SUPERBLOCK: usize = 96;
const BLOCK_LOG: u16 = 17;
/// Inodes, data, fragments and ids are not compressed; there are no fragments and no attributes.
const FLAGS: u16 = 0x0001 | 0x0002 | 0x0008 | 0x0010 | 0x0200 | 0x0800;
const HAS_OPTIONS: u16 = 0x0400;
/// Says of a metadata block, or of a data block, that it is not compressed.
const PLAIN_METADATA: u16 = 0x8000;
const PLAIN_DATA: u32 = 1 << 24;
/// A table that is not there, and a fragment that is not.
const NO_TABLE: u64 = u64::MAX;
const NO_FRAGMENT: u32 = u32::MAX;
/// `SQUASHFS_DIR_TYPE`, `SQUASHFS_REG_TYPE`.
const DIRECTORY: u16 = 1;
const REGULAR: u16 = 2;
/// Files are padded so that a block device over them has whole blocks.
const PADDING: usize = 4096;

/// Little-endian bytes, put together field by field.
#[derive(Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// The image's bytes, for a compressor of [`COMPRESSORS`].
#[must_use]
pub(crate) fn image(compressor: u16) -> Vec<u8> {
    let mut image = vec![0; SUPERBLOCK];
    metadata(&mut image, &LZ4_OPTIONS);
    let data = place(&mut image, FILE_CONTENT);
    let inodes = inodes(data);
    // The directory's inode is the second one.
    let root = u64::try_from(inodes.len() - DIRECTORY_INODE).unwrap_or_default();
    let inode_table = metadata(&mut image, &inodes);
    let directory_table = metadata(&mut image, &directory());
    let ids = metadata(&mut image, &Bytes::default().u32(0).u32(FILE_OWNER).0);
    let id_table = place(&mut image, &Bytes::default().u64(ids).0);
    let used = image.len() as u64;
    let flags = if compressor == LZ4 { FLAGS | HAS_OPTIONS } else { FLAGS };
    let superblock = Bytes::default()
        .raw(parallax_format::squashfs::MAGIC)
        .u32(2) // inodes
        .u32(0) // made when
        .u32(1 << BLOCK_LOG)
        .u32(0) // fragments
        .u16(compressor)
        .u16(BLOCK_LOG)
        .u16(flags)
        .u16(2) // ids
        .u16(4) // version 4.0
        .u16(0)
        .u64(root)
        .u64(used)
        .u64(id_table)
        .u64(NO_TABLE) // attributes
        .u64(inode_table)
        .u64(directory_table)
        .u64(used) // fragments: an empty table
        .u64(NO_TABLE); // exports
    image.splice(..SUPERBLOCK, superblock.0);
    image.resize(image.len().next_multiple_of(PADDING), 0);
    image
}

/// Size of the directory's inode in bytes.
const DIRECTORY_INODE: usize = 32;

fn inodes(data: u64) -> Vec<u8> {
    let length = u32::try_from(FILE_CONTENT.len()).unwrap_or_default();
    let listing = u16::try_from(directory().len()).unwrap_or_default();
    Bytes::default()
        .u16(REGULAR)
        .u16(0o644)
        .u16(1) // the second id, twice
        .u16(1)
        .u32(0)
        .u32(1) // inode number
        .u32(u32::try_from(data).unwrap_or_default())
        .u32(NO_FRAGMENT)
        .u32(0)
        .u32(length)
        .u32(PLAIN_DATA | length)
        .u16(DIRECTORY)
        .u16(0o755)
        .u16(0)
        .u16(0)
        .u32(0)
        .u32(2) // inode number
        .u32(0) // where its listing begins in the table
        .u32(2) // links
        .u16(listing + 3) // "." and ".." count
        .u16(0)
        .u32(3) // the parent: none, so one more than there are
        .0
}

fn directory() -> Vec<u8> {
    let name_length = u16::try_from(FILE_NAME.len()).unwrap_or_default();
    Bytes::default()
        .u32(0) // one entry, less one
        .u32(0) // its inode's block
        .u32(1) // its inode number
        .u16(0) // its inode's place in the block
        .u16(0) // the number's difference
        .u16(REGULAR)
        .u16(name_length - 1)
        .raw(FILE_NAME.as_bytes())
        .0
}

/// Appends bytes; returns where they begin.
fn place(image: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    let begin = image.len() as u64;
    image.extend(bytes);
    begin
}

/// Appends a metadata block; returns where it begins.
fn metadata(image: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    let header = PLAIN_METADATA | u16::try_from(bytes.len()).unwrap_or_default();
    place(image, &Bytes::default().u16(header).raw(bytes).0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// squashfs-tools know the format too, and say what they do not like.
    #[test]
    fn unsquashfs_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        for (compressor, name) in COMPRESSORS {
            let path = directory.path().join(name);
            fs::write(&path, image(compressor)).unwrap();
            let listed = Command::new("unsquashfs").args(["-lln", "-no-progress"]).arg(&path).output().unwrap();
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(listed.status.success() && listed.stderr.is_empty(), "{name}: {listed:?}");
            assert!(text.lines().any(|line| line.contains(" 7/7 ") && line.ends_with("/file")), "{name}: {text}");
            let content = Command::new("unsquashfs").arg("-cat").arg(&path).arg(FILE_NAME).output().unwrap();
            assert_eq!(content.stdout, FILE_CONTENT, "{name}");
        }
    }
}
