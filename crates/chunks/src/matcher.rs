//! Whether a file is what an index says, without the chunks.

use crate::id::IdHasher;
use crate::index::{Index, Part};

/// Compares a file that comes in pieces with an index.
#[derive(Debug)]
pub struct Matcher<'a> {
    index: &'a Index,
    /// Number of chunks that have passed.
    passed: usize,
    /// The chunk that comes now: what is left of it in bytes, and the hash of what has come.
    left: u64,
    hasher: IdHasher,
    matches: bool,
}

impl<'a> Matcher<'a> {
    /// Begins at the start of the file.
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        let hasher = IdHasher::new(index.algorithm());
        let left = index.part(0).map_or(0, |part| part.size);
        Self { index, passed: 0, left, hasher, matches: true }
    }

    /// Takes the file's next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while self.matches && !bytes.is_empty() {
            let Some(Part { id, .. }) = self.index.part(self.passed) else {
                self.matches = false;
                return;
            };
            let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (of_chunk, rest) = bytes.split_at(now);
            self.hasher.update(of_chunk);
            self.left -= now as u64;
            bytes = rest;
            if self.left == 0 {
                let hasher = std::mem::replace(&mut self.hasher, IdHasher::new(self.index.algorithm()));
                self.matches = hasher.finish() == id;
                self.passed += 1;
                self.left = self.index.part(self.passed).map_or(0, |part| part.size);
            }
        }
    }

    /// Whether all bytes were those of the index's chunks, and none are missing.
    #[must_use]
    pub fn finish(&self) -> bool {
        self.matches && self.index.part(self.passed).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, ChunkId, Parameters};

    #[test]
    fn a_file_matches_however_it_comes() {
        let file: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let chunks: Vec<_> =
            file.chunks(30_000).map(|chunk| (ChunkId::of(chunk, Algorithm::Sha256), chunk.len() as u64)).collect();
        let index = Index::new(Algorithm::Sha256, Parameters::default(), &chunks);
        let matches = |file: &[u8], piece: usize| {
            let mut matcher = Matcher::new(&index);
            file.chunks(piece).for_each(|piece| matcher.update(piece));
            matcher.finish()
        };
        for piece in [1, 29_999, 30_000, 70_001, file.len()] {
            assert!(matches(&file, piece), "{piece}");
            assert!(!matches(&file[..file.len() - 1], piece), "{piece}");
            assert!(!matches(&[&file[..], &[0]].concat(), piece), "{piece}");
            let mut changed = file.clone();
            changed[45_000] ^= 1;
            assert!(!matches(&changed, piece), "{piece}");
        }
        let empty = Index::new(Algorithm::Sha256, Parameters::default(), &[]);
        assert!(Matcher::new(&empty).finish());
    }
}
