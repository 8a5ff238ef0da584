//! Ids of chunks.

use std::fmt;

use parallax_format::digest::Sha256;
use sha2::Digest as _;

/// Extension of the files of chunks that are compressed by zstd, gzip or xz.
const EXTENSION: &str = "cacnk";
/// Number of digits of an id that name a directory of a chunk store.
const DIRECTORY_DIGITS: usize = 4;

/// Digest that gives chunks their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-512/256 (FIPS 180-4), casync's default.
    Sha512_256,
    /// SHA-256, `casync --digest=sha256`.
    Sha256,
}

/// The id of a chunk: the digest of its uncompressed content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId([u8; 32]);

impl From<[u8; 32]> for ChunkId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl ChunkId {
    /// Returns the id of a chunk with this content.
    #[must_use]
    pub fn of(content: &[u8], algorithm: Algorithm) -> Self {
        let mut hasher = IdHasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// Returns the 32 bytes of the digest.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the name of the directory in which a chunk store has the chunk.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{self:.DIRECTORY_DIGITS$}")
    }

    /// Returns the name of the chunk's file.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{self}.{EXTENSION}")
    }

    /// Returns the path of the chunk's file, relative to the chunk store, for a directory and for a URL.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.directory(), self.file_name())
    }

    /// Returns the id in the name of a chunk's file; `None` for names of other files.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<Self> {
        let digits = Sha256::parse(name.strip_suffix(EXTENSION)?.strip_suffix('.')?)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written as a SHA-256, whichever the algorithm.
        f.pad(Sha256::from(self.0).as_str())
    }
}

/// Takes the id of a chunk that comes in pieces.
#[derive(Debug, Clone)]
pub(crate) enum IdHasher {
    Sha512_256(sha2::Sha512_256),
    Sha256(sha2::Sha256),
}

impl IdHasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha512_256 => Self::Sha512_256(sha2::Sha512_256::new()),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha512_256(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> ChunkId {
        ChunkId(match self {
            Self::Sha512_256(hash) => hash.finalize().into(),
            Self::Sha256(hash) => hash.finalize().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_digests_of_the_standard() {
        // FIPS 180-4's examples for "abc".
        let of = |algorithm| ChunkId::of(b"abc", algorithm).to_string();
        assert_eq!(of(Algorithm::Sha512_256), "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23");
        assert_eq!(of(Algorithm::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_path_begins_with_four_digits_and_leads_back_to_the_id() {
        let id = ChunkId::of(b"abc", Algorithm::Sha512_256);
        assert_eq!(id.path(), format!("5304/{id}.cacnk"));
        assert_eq!(ChunkId::of_file_name(&id.file_name()), Some(id));
        for name in
            ["", ".cacnk", &id.to_string(), &format!("{id}.cacnk.tmp"), &format!("{id}cacnk"), &format!("x{id}.cacnk")]
        {
            assert_eq!(ChunkId::of_file_name(name), None, "{name}");
        }
    }
}
