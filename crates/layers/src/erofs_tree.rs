//! Reads directories of an EROFS file without mounting it (`fs/erofs/erofs_fs.h` in the kernel's source).
//!
//! `dump.erofs` shows no mode bits beyond 0777 and no attributes. Wanted are owner and mode of a few directories of files that
//! [`crate::convert()`] wrote: neither inodes nor directories are compressed in these.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

use parallax_format::erofs::Superblock;

use crate::convert::below::Attributes;

/// Position of the superblock.
const SUPERBLOCK: u64 = 1024;
/// The only block size that is written.
const BLOCK: u64 = 4096;
/// `EROFS_FEATURE_INCOMPAT_48BIT`: the root has another place then.
const WIDE: u32 = 0x80;
/// Size of an entry of a directory without its name.
const ENTRY: usize = 12;
/// The largest directory that is read, in bytes.
const MAX_DIRECTORY: u64 = 1 << 30;
const KIND: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;

/// An EROFS file, open for reading.
#[derive(Debug)]
pub struct ErofsTree {
    file: File,
    inodes: u64,
    root: u64,
}

/// An inode.
#[derive(Debug, Clone, Copy)]
struct Inode {
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    /// Position of the whole blocks, and of what follows the inode.
    blocks: u64,
    inline: Option<u64>,
}

impl ErofsTree {
    /// Reads the superblock.
    ///
    /// # Errors
    /// Those of reading; [`ErrorKind::InvalidData`] for a file in another form.
    pub fn open(file: File) -> io::Result<Self> {
        let mut start = vec![0; usize::try_from(Superblock::BYTES).unwrap_or_default()];
        file.read_exact_at(&mut start, 0)?;
        let is_wide = number::<4>(&start, SUPERBLOCK as usize + 80)? as u32 & WIDE != 0;
        let bits = start.get(SUPERBLOCK as usize + 12).copied();
        if Superblock::parse(&start).is_none() || bits.map(|bits| 1_u64 << bits) != Some(BLOCK) || is_wide {
            return Err(ErrorKind::InvalidData.into());
        }
        let root = number::<2>(&start, SUPERBLOCK as usize + 14)?;
        let inodes = number::<4>(&start, SUPERBLOCK as usize + 40)? * BLOCK;
        Ok(Self { file, inodes, root })
    }

    /// Returns the attributes of a directory; `Some(None)` for something else, `None` if there is no such path. Symbolic links are not followed.
    ///
    /// # Errors
    /// As [`ErofsTree::open`].
    pub fn look_up(&self, path: &str) -> io::Result<Option<Option<Attributes>>> {
        let mut inode = self.inode(self.root)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if inode.mode & KIND != DIRECTORY {
                return Ok(None);
            }
            let found = self.entries(inode)?.into_iter().find(|(entry, _)| entry == name.as_bytes());
            let Some((_, number)) = found else { return Ok(None) };
            inode = self.inode(number)?;
        }
        let attributes = Attributes { mode: u32::from(inode.mode & !KIND), uid: inode.uid, gid: inode.gid };
        Ok(Some(Some(attributes).filter(|_| inode.mode & KIND == DIRECTORY)))
    }

    /// Returns the names in the root.
    ///
    /// # Errors
    /// As [`ErofsTree::open`].
    pub fn root_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let entries = self.entries(self.inode(self.root)?)?;
        Ok(entries.into_iter().map(|(name, _)| name).filter(|name| *name != b"." && *name != b"..").collect())
    }

    fn inode(&self, inode: u64) -> io::Result<Inode> {
        let position = inode.checked_mul(32).and_then(|offset| offset.checked_add(self.inodes));
        let position = position.ok_or(ErrorKind::InvalidData)?;
        let mut bytes = [0; 64];
        self.file.read_exact_at(bytes.get_mut(..32).unwrap_or_default(), position)?;
        let format = number::<2>(&bytes, 0)?;
        let is_extended = format & 1 == 1;
        if is_extended {
            self.file.read_exact_at(&mut bytes, position)?;
        }
        let attributes = match number::<2>(&bytes, 2)? {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        let after = position + if is_extended { 64 } else { 32 } + attributes;
        let (size, uid, gid) = if is_extended {
            (number::<8>(&bytes, 8)?, number::<4>(&bytes, 24)?, number::<4>(&bytes, 28)?)
        } else {
            (number::<4>(&bytes, 8)?, number::<2>(&bytes, 24)?, number::<2>(&bytes, 26)?)
        };
        let mode = number::<2>(&bytes, 4)? as u16;
        let inline = match (format >> 1) & 7 {
            0 => None,
            2 => Some(after),
            // Other layouts are those of files.
            _ if mode & KIND != DIRECTORY => None,
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        let blocks = number::<4>(&bytes, 16)? * BLOCK;
        Ok(Inode { mode, uid: uid as u32, gid: gid as u32, size, blocks, inline })
    }

    /// Returns the names in a directory, with their inodes.
    fn entries(&self, directory: Inode) -> io::Result<Vec<(Vec<u8>, u64)>> {
        if directory.size > MAX_DIRECTORY {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut entries = Vec::new();
        let mut offset = 0;
        while offset < directory.size {
            let length = BLOCK.min(directory.size - offset);
            let position = match directory.inline {
                // The last block, whole or not.
                Some(inline) if offset + BLOCK >= directory.size => inline,
                _ => directory.blocks + offset,
            };
            let mut block = vec![0; usize::try_from(length).unwrap_or_default()];
            self.file.read_exact_at(&mut block, position)?;
            add_entries(&block, &mut entries)?;
            offset += BLOCK;
        }
        Ok(entries)
    }
}

fn add_entries(block: &[u8], entries: &mut Vec<(Vec<u8>, u64)>) -> io::Result<()> {
    let place = |index: usize| number::<2>(block, index * ENTRY + 8).map(|place| place as usize);
    let count = place(0)? / ENTRY;
    for index in 0..count {
        let end = if index + 1 < count { place(index + 1)? } else { block.len() };
        let name = block.get(place(index)?..end).ok_or(ErrorKind::InvalidData)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        entries.push((name.to_vec(), number::<8>(block, index * ENTRY)?));
    }
    Ok(())
}

/// Returns the little-endian number of `N` bytes at a position.
fn number<const N: usize>(bytes: &[u8], position: usize) -> io::Result<u64> {
    let bytes = bytes.get(position..position + N).ok_or(ErrorKind::InvalidData)?;
    Ok(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}
