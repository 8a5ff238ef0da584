//! The content digest of a layer, which does not depend on compression and order.
//!
//! A SquashFS file does not contain the tar archive that it was made from, so its content cannot be compared with a diffID.
//! Instead a second digest is computed while the layer is converted, of the archive's entries, in the same pass in
//! which the diffID is checked. The same digest can be computed from the SquashFS file at any time.
//!
//! The digest is the sum of a hash for each name: of the path, the kind, owner, mode, time, attributes and content. It is a sum
//! because the order of the names is not kept and sorting millions of names would need too much memory. Hard links of one file
//! only show in the number of links.

use std::io::{self, Write};

use blake3::Hasher;

use crate::path::LayerPath;
use crate::tar::entry::{Kind, MAX_MTIME, Meta};

/// A content digest: `blake3-sum:` and 64 hexadecimal digits.
pub type ContentDigest = String;

/// The hash of a file's content and metadata without its name.
pub(crate) type FileId = [u8; 16];

/// A content digest under construction.
#[derive(Debug, Default)]
pub(crate) struct Content {
    sum: [u64; 4],
    links: u64,
}

impl Content {
    /// Adds a name of a file with this hash.
    pub(crate) fn add(&mut self, path: &LayerPath, id: FileId) {
        let mut hash = Hasher::new();
        hash.update(&id).update(path.as_bytes());
        for (lane, bytes) in self.sum.iter_mut().zip(hash.finalize().as_bytes().chunks_exact(8)) {
            let part = bytes.iter().rev().fold(0, |part, &byte| (part << 8) | u64::from(byte));
            *lane = lane.wrapping_add(part);
        }
    }

    /// Adds a further name of a file.
    pub(crate) fn add_link(&mut self, path: &LayerPath, id: FileId) {
        self.links += 1;
        self.add(path, id);
    }

    /// Returns `true` if any file has several names.
    pub(crate) fn has_links(&self) -> bool {
        self.links > 0
    }

    pub(crate) fn finish(&self) -> ContentDigest {
        let mut hash = Hasher::new();
        for number in self.sum.iter().chain([&self.links]) {
            hash.update(&number.to_le_bytes());
        }
        format!("blake3-sum:{}", hash.finalize())
    }
}

/// Returns the hash of a file that is not a regular file.
pub(crate) fn id_of(kind: &Kind, meta: &Meta) -> FileId {
    let data = match kind {
        Kind::Symlink(target) => target.clone(),
        Kind::Char(major, minor) | Kind::Block(major, minor) => [major.to_le_bytes(), minor.to_le_bytes()].concat(),
        _ => Vec::new(),
    };
    id(kind, meta, blake3::hash(&data))
}

/// Returns the hash of the root directory. Its time is left out, which squashfs-tools 4.5 cannot set, and its extended
/// attributes, which no version can.
pub(crate) fn id_of_root(meta: &Meta) -> FileId {
    id_of(&Kind::Dir, &Meta { mtime: 0, xattrs: Vec::new(), ..meta.clone() })
}

fn id(kind: &Kind, meta: &Meta, data: blake3::Hash) -> FileId {
    let letter = match kind {
        Kind::File(_) | Kind::HardLink(_) => b'f',
        Kind::Symlink(_) => b'l',
        Kind::Char(..) => b'c',
        Kind::Block(..) => b'b',
        Kind::Dir => b'd',
        Kind::Fifo => b'p',
    };
    // Symbolic links have no mode on Linux.
    let mode = if letter == b'l' { 0o777 } else { meta.mode };
    let mut hash = Hasher::new();
    hash.update(&[letter]).update(data.as_bytes());
    for number in [mode, meta.uid, meta.gid, meta.mtime.clamp(0, MAX_MTIME) as u32] {
        hash.update(&number.to_le_bytes());
    }
    let mut xattrs: Vec<_> = meta.xattrs.iter().collect();
    xattrs.sort();
    for (name, value) in xattrs {
        for part in [name, value] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
    let mut id = FileId::default();
    hash.finalize_xof().fill(&mut id);
    id
}

/// A writer that passes a file's data on and computes its hash.
pub(crate) struct Hashing<'a, W> {
    to: &'a mut W,
    hash: Hasher,
}

impl<'a, W: Write> Hashing<'a, W> {
    pub(crate) fn new(to: &'a mut W) -> Self {
        Self { to, hash: Hasher::new() }
    }

    /// Returns the hash of the file with this data.
    pub(crate) fn id(&self, kind: &Kind, meta: &Meta) -> FileId {
        id(kind, meta, self.hash.finalize())
    }
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
