//! A tiny EROFS image, written by hand: a directory with one file in it (`erofs_fs.h` of the kernel). Nothing in it is compressed.

use crate::image::{Bytes, FILE_CONTENT, FILE_NAME, FILE_OWNER};

/// The block size, as a power of two.
const BLOCK_BITS: u8 = 12;
/// Position of the superblock, and its size.
const SUPERBLOCK: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;
/// Inodes are numbered by their positions in units of 32 bytes.
const UNIT: usize = 32;
/// Positions of the inodes. Each is compact, and what the file or directory holds follows it.
const ROOT: usize = SUPERBLOCK + SUPERBLOCK_BYTES;
const FILE: usize = ROOT + 96;
/// `EROFS_INODE_FLAT_INLINE` of a compact inode.
const INLINE: u16 = 2 << 1;
/// `S_IFDIR` and `S_IFREG` with permissions.
const DIRECTORY_MODE: u16 = 0o040_755;
const FILE_MODE: u16 = 0o100_644;
/// `EROFS_FT_REG_FILE`, `EROFS_FT_DIR`.
const REGULAR: u8 = 1;
const DIRECTORY: u8 = 2;
/// Size of an entry of a directory without its name.
const ENTRY: u16 = 12;

/// Returns the image's bytes.
#[must_use]
pub(crate) fn image() -> Vec<u8> {
    let directory = directory();
    let owner = u16::try_from(FILE_OWNER).unwrap_or_default();
    let pieces = [
        (SUPERBLOCK, superblock()),
        (ROOT, inode(DIRECTORY_MODE, 2, directory.len(), 1, 0)),
        (ROOT + UNIT, directory),
        (FILE, inode(FILE_MODE, 1, FILE_CONTENT.len(), 2, owner)),
        (FILE + UNIT, FILE_CONTENT.to_vec()),
    ];
    let mut image = vec![0; 1 << BLOCK_BITS];
    for (position, bytes) in pieces {
        image.iter_mut().skip(position).zip(bytes).for_each(|(to, byte)| *to = byte);
    }
    image
}

fn number(position: usize) -> u64 {
    (position / UNIT) as u64
}

fn superblock() -> Vec<u8> {
    let root = u16::try_from(number(ROOT)).unwrap_or_default();
    let mut superblock = Bytes::default()
        .raw(&parallax_format::erofs::MAGIC)
        .u32(0) // no checksum
        .u32(0) // no compatible features
        .raw(&[BLOCK_BITS, 0])
        .u16(root)
        .u64(2) // inodes
        .u64(0) // made when
        .u32(0)
        .u32(1) // blocks
        .u32(0) // inodes begin in block 0
        .u32(0)
        .0;
    superblock.resize(SUPERBLOCK_BYTES, 0);
    superblock
}

fn inode(mode: u16, links: u16, size: usize, number: u32, owner: u16) -> Vec<u8> {
    let mut inode = Bytes::default()
        .u16(INLINE)
        .u16(0) // no attributes
        .u16(mode)
        .u16(links)
        .u32(u32::try_from(size).unwrap_or_default())
        .u32(0)
        .u32(0) // no block
        .u32(number)
        .u16(owner)
        .u16(owner)
        .0;
    inode.resize(UNIT, 0);
    inode
}

fn directory() -> Vec<u8> {
    let entries = [(".", ROOT, DIRECTORY), ("..", ROOT, DIRECTORY), (FILE_NAME, FILE, REGULAR)];
    let mut name_at = ENTRY * 3;
    let (mut table, mut names) = (Bytes::default(), Vec::new());
    for (name, position, kind) in entries {
        table = table.u64(number(position)).u16(name_at).raw(&[kind, 0]);
        name_at += u16::try_from(name.len()).unwrap_or_default();
        names.extend(name.as_bytes());
    }
    table.raw(&names).0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel reads the image in `cluster::backend::a_node_tells_what_it_can_do`.
    #[test]
    fn nothing_overlaps_and_the_superblock_is_read() {
        assert!(UNIT + directory().len() <= FILE - ROOT);
        let found = parallax_format::erofs::Superblock::parse(&image()).unwrap();
        assert_eq!((found.bytes_used, found.inodes), (4096, 2));
    }
}
