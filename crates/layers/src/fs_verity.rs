//! The digest by which the kernel checks a file (fs-verity), computed from its bytes.
//!
//! It is the SHA-256 of a descriptor with the root of a Merkle tree over blocks of 4096 bytes (`Documentation/filesystems/fsverity.rst` of
//! Linux). It depends on the bytes alone, so it is known wherever a layer is converted, and a store has the same description of a file
//! whether or not its file system has fs-verity. The crates that compute it come with much else (`composefs`: repositories and OCI).

use std::io::{self, Read};

use parallax_format::digest;
use sha2::{Digest as _, Sha256};

/// Size of a block in bytes: the one that all kernels have.
const BLOCK: usize = 4096;
/// Size of one read in bytes.
const CHUNK: usize = 64 * BLOCK;

/// Returns the digest of all that a source yields.
///
/// # Errors
/// Those of reading.
pub fn fs_verity_digest(mut source: impl Read) -> io::Result<digest::Sha256> {
    let (mut tree, mut size, mut buffer) = (Tree::default(), 0, vec![0; CHUNK]);
    loop {
        let mut filled = 0;
        while let Some(rest @ [_, ..]) = buffer.get_mut(filled..) {
            match source.read(rest)? {
                0 => break,
                got => filled += got,
            }
        }
        let read = buffer.get(..filled).unwrap_or_default();
        read.chunks(BLOCK).for_each(|block| tree.push(0, &hash(block)));
        size += filled as u64;
        if filled < CHUNK {
            return Ok(descriptor(size, &tree.root()));
        }
    }
}

/// The SHA-256 of a block that is filled up with zeros.
fn hash(block: &[u8]) -> [u8; 32] {
    let padding = [0; BLOCK];
    Sha256::new().chain_update(block).chain_update(padding.get(block.len()..).unwrap_or_default()).finalize().into()
}

/// The SHA-256 of a file's descriptor (`struct fsverity_descriptor`).
fn descriptor(size: u64, root: &[u8; 32]) -> digest::Sha256 {
    let (version, sha256, block_size_log2, salt_size) = (1, 1, 12, 0);
    let hash = Sha256::new()
        .chain_update([version, sha256, block_size_log2, salt_size])
        .chain_update([0; 4])
        .chain_update(size.to_le_bytes())
        .chain_update(root)
        .chain_update([0; 208]);
    <[u8; 32]>::from(hash.finalize()).into()
}

/// The unfinished blocks of a Merkle tree, those of the lowest level first.
#[derive(Default)]
struct Tree {
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    block: Vec<u8>,
    has_several: bool,
}

impl Tree {
    /// Adds a hash to a level.
    fn push(&mut self, number: usize, hash: &[u8; 32]) {
        if self.levels.len() <= number {
            self.levels.push(Level::default());
        }
        if self.levels.get(number).is_some_and(|level| level.block.len() == BLOCK) {
            self.raise(number);
        }
        if let Some(level) = self.levels.get_mut(number) {
            level.has_several |= !level.block.is_empty();
            level.block.extend_from_slice(hash);
        }
    }

    /// Adds the hash of a level's block to the level above.
    fn raise(&mut self, number: usize) {
        let Some(level) = self.levels.get_mut(number) else { return };
        let above = hash(&level.block);
        level.block.clear();
        self.push(number + 1, &above);
    }

    /// The root: the only hash of the highest level, zeros for a file without bytes.
    fn root(mut self) -> [u8; 32] {
        let mut number = 0;
        while self.levels.get(number).is_some_and(|level| level.has_several) {
            self.raise(number);
            number += 1;
        }
        let only = self.levels.get(number).and_then(|level| level.block.first_chunk::<32>());
        only.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> String {
        fs_verity_digest(bytes).unwrap().to_string()
    }

    /// Files of the letter "a", with one to three levels, by fsverity(1) 1.5. `tests/guest/verity.rs` compares with Linux.
    #[test]
    fn digests_are_those_of_fsverity_utils() {
        for (size, expected) in [
            (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (1, "bce75948b9e7510293f8f2720412af9697c1479281323f3f220623fb8e94b557"),
            (4096, "a2a808ddaced77f0b6b3068f47b14b5a1fb3fc43674993ab11b8e7e6f2d089e2"),
            (128 * 4096, "35ce0df2a57eb54aeba7969570bac9dfadfac295ec181a03f13ac7a7da54909e"),
            (129 * 4096, "86ca2993bfc7a6fdb0dbea51f8a3c9217566a136b9aa7356d0313a438a6cf31a"),
            (128 * 128 * 4096, "e3f26eb8c0065f882ae73c915108975ca3d1b91b6bc38f4d12f2bf99665d3e50"),
            (16_385 * 4096, "c0c49666091659eb52d6ed5dd3b0ad85a48827d7401c3db003b982ad665f52ab"),
        ] {
            assert_eq!(fs_verity_digest(io::repeat(b'a').take(size)).unwrap().to_string(), expected, "{size}");
        }
    }

    #[test]
    fn every_byte_and_the_size_count() {
        let sizes = [1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1];
        let digests: std::collections::BTreeSet<String> = sizes.map(|size| of(&vec![7; size])).into();
        assert_eq!(digests.len(), sizes.len());
        let mut bytes = vec![7; 128 * 4096 + 1];
        bytes[4096 * 77] = 8;
        assert!(!digests.contains(&of(&bytes)));
        // What comes in pieces is the same.
        let (first, second) = bytes.split_at(1000);
        assert_eq!(fs_verity_digest(first.chain(second)).unwrap().to_string(), of(&bytes));
    }
}
