//! The part of a layer's file that is on the node: a sparse file, and the bits of its chunks.
//!
//! A chunk is checked against its id, then written, and readable from then on. [`CachedLayer::save`] makes what was written durable
//! and only then records it. So after a crash or a power failure the record names no chunk whose content could be missing; what
//! it does not name is fetched again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use parallax_chunks::{ChunkId, Index, Part};
use parallax_format::digest::Sha256;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use sha2::Digest as _;

use super::bits::Bits;

/// Extension of the sparse file.
pub(crate) const DATA: &str = "data";
/// Extension of the file with the bits.
pub(crate) const BITS: &str = "bits";
/// Size of the buffer in bytes by which the whole file is read.
const BUFFER: usize = 1 << 20;

/// The part of a layer's file that is in a cache.
#[derive(Debug)]
pub struct CachedLayer {
    /// SHA-256 of the layer's file.
    name: Sha256,
    data: File,
    data_path: PathBuf,
    bits: File,
    index: Index,
    parts: Vec<Part>,
    /// The positions of each chunk.
    places: HashMap<ChunkId, Vec<usize>>,
    /// SHA-256 of the index.
    index_digest: [u8; 32],
    state: Mutex<State>,
    /// Held while chunks are saved: the kernel tells of a failure once, and one of two attempts at a time would miss it.
    saving: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// The chunks that can be read.
    present: Bits,
    /// Their size in bytes.
    bytes: u64,
    /// Those of them that are durable and recorded.
    saved: Bits,
    /// Whether some of them are not.
    unsaved: bool,
    /// Number of times that the disk failed.
    failures: u64,
}

impl CachedLayer {
    /// Opens the files `NAME.data` and `NAME.bits` in `directory`, or makes them. Files that are not about this index are replaced.
    pub(crate) fn open(directory: &Path, name: &Sha256, index: Index) -> io::Result<Self> {
        let [data_path, bits_path] = paths(directory, name);
        let index_digest: [u8; 32] = sha2::Sha256::digest(index.to_bytes()).into();
        let parts: Vec<Part> = index.parts().collect();
        let found = fs::read(&bits_path).ok().and_then(|file| Bits::of_file(&file, &index_digest, parts.len()));
        // Both are there or neither counts.
        let found = found.filter(|_| fs::metadata(&data_path).is_ok_and(|data| data.len() == index.size()));
        if found.is_none() {
            remove(&bits_path)?;
            remove(&data_path)?;
        }
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let data = open(&data_path)?;
        let present = match found {
            Some(bits) => bits,
            None => {
                data.set_len(index.size())?;
                // A power failure must not leave the new bits beside earlier data.
                File::open(directory)?.sync_all()?;
                Bits::new(parts.len())
            }
        };
        let bits = open(&bits_path)?;
        bits.write_all_at(&present.to_file(&index_digest), 0)?;
        let mut places: HashMap<ChunkId, Vec<usize>> = HashMap::new();
        for (number, part) in parts.iter().enumerate() {
            places.entry(part.id).or_default().push(number);
        }
        let bytes = size_of(&present, &parts);
        let state = Mutex::new(State { saved: present.clone(), present, bytes, unsaved: false, failures: 0 });
        Ok(Self {
            name: *name,
            data,
            data_path,
            bits,
            index,
            parts,
            places,
            index_digest,
            state,
            saving: Mutex::default(),
        })
    }

    /// Opens the file for reading. The cache does not remove the layer as long as this descriptor, or a copy of it in another process or in
    /// the kernel, is open: the shared lock on it ends with the last one (flock(2)).
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn file(&self) -> io::Result<File> {
        let file = File::open(&self.data_path)?;
        if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            tracing::warn!(layer = %self.name, "the cache may remove the layer while it is mounted: cannot lock its file: {error}");
        }
        Ok(file)
    }

    /// Returns the SHA-256 of the layer's file.
    #[must_use]
    pub fn name(&self) -> &Sha256 {
        &self.name
    }

    /// Returns the index of the layer's file.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the size of the chunks that can be read, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Whether all chunks can be read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.bytes() == self.index.size()
    }

    /// Returns the numbers of the chunks that a part of the file needs.
    #[must_use]
    pub fn numbers(&self, offset: u64, size: u64) -> Range<usize> {
        let end = offset.saturating_add(size);
        let first = self.parts.partition_point(|part| part.offset + part.size <= offset);
        first..self.parts.partition_point(|part| part.offset < end).max(first)
    }

    /// Returns those of the chunks with these numbers that cannot be read yet, in the order of the numbers, each once.
    pub fn missing_of(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<ChunkId> {
        let state = self.state();
        let absent = numbers.into_iter().filter(|number| !state.present.get(*number));
        let mut seen = HashSet::new();
        absent.filter_map(|number| self.parts.get(number)).map(|part| part.id).filter(|id| seen.insert(*id)).collect()
    }

    /// Returns the chunks that a part of the file needs and that cannot be read yet, in the order of the file, each once.
    #[must_use]
    pub fn missing(&self, offset: u64, size: u64) -> Vec<ChunkId> {
        self.missing_of(self.numbers(offset, size))
    }

    /// Reads from the file. Returns the number of bytes, which is less than the buffer has only at the end of the file; `None` if a
    /// chunk is missing.
    ///
    /// # Errors
    /// The cache's file cannot be read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let left = usize::try_from(self.index.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        if !self.missing(offset, size as u64).is_empty() {
            return Ok(None);
        }
        self.data.read_exact_at(buffer.get_mut(..size).unwrap_or_default(), offset)?;
        Ok(Some(size))
    }

    /// Returns a chunk that can be read, checked against its id.
    pub(crate) fn chunk(&self, id: &ChunkId) -> Option<Vec<u8>> {
        let places = self.places.get(id)?;
        let number = places.iter().copied().find(|number| self.state().present.get(*number))?;
        let part = self.parts.get(number)?;
        let mut content = vec![0; usize::try_from(part.size).ok()?];
        self.data.read_exact_at(&mut content, part.offset).ok()?;
        (ChunkId::of(&content, self.index.algorithm()) == *id).then_some(content)
    }

    /// Returns the number of bytes that [`Self::put`] would add.
    pub(crate) fn needed(&self, id: &ChunkId) -> u64 {
        let state = self.state();
        let absent = self.places.get(id).into_iter().flatten().filter(|number| !state.present.get(**number));
        absent.filter_map(|number| self.parts.get(*number)).map(|part| part.size).sum()
    }

    /// Writes a chunk wherever the file has it. Returns whether `content` is that chunk; else nothing is written.
    pub(crate) fn put(&self, id: &ChunkId, content: &[u8]) -> io::Result<bool> {
        if ChunkId::of(content, self.index.algorithm()) != *id {
            return Ok(false);
        }
        for number in self.places.get(id).into_iter().flatten() {
            let Some(part) = self.parts.get(*number) else { continue };
            // An index may give the id another size than the chunk has.
            if part.size != content.len() as u64 {
                return Ok(false);
            }
            let state = self.state();
            if state.present.get(*number) {
                continue;
            }
            let failures = state.failures;
            drop(state);
            self.data.write_all_at(content, part.offset)?;
            let mut state = self.state();
            if state.failures != failures {
                return Err(io::Error::other("the disk failed at the same time"));
            }
            if !state.present.get(*number) {
                state.present.set(*number);
                state.bytes += part.size;
                state.unsaved = true;
            }
        }
        Ok(true)
    }

    /// Makes the chunks that were put durable, and records them. Chunks that are put meanwhile are left for the next time. If the disk
    /// fails, chunks that are not durable count as missing: the kernel may have dropped what it could not write, and another attempt
    /// would not tell (fsync(2)).
    ///
    /// # Errors
    /// The cache's files cannot be written. What was not recorded before is forgotten when the process ends.
    pub fn save(&self) -> io::Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let present = {
            let mut state = self.state();
            if !std::mem::take(&mut state.unsaved) {
                return Ok(());
            }
            state.present.clone()
        };
        if let Err(error) = self.data.sync_data() {
            let mut state = self.state();
            state.failures += 1;
            state.present = state.saved.clone();
            state.bytes = size_of(&state.present, &self.parts);
            return Err(error);
        }
        let recorded = self.bits.write_all_at(&present.to_file(&self.index_digest), 0);
        let mut state = self.state();
        match &recorded {
            Ok(()) => state.saved = present,
            Err(_) => state.unsaved = true,
        }
        recorded
    }

    /// Returns the SHA-256 of the whole file; `None` if chunks are missing.
    ///
    /// # Errors
    /// The cache's file cannot be read.
    pub fn sha256(&self) -> io::Result<Option<Sha256>> {
        let mut hash = sha2::Sha256::new();
        let mut buffer = vec![0; BUFFER];
        let mut offset = 0;
        loop {
            match self.read_at(&mut buffer, offset)? {
                None => return Ok(None),
                Some(0) => return Ok(Some(<[u8; 32]>::from(hash.finalize()).into())),
                Some(got) => {
                    hash.update(buffer.get(..got).unwrap_or_default());
                    offset += got as u64;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size of some chunks in bytes.
fn size_of(chunks: &Bits, parts: &[Part]) -> u64 {
    chunks.numbers().filter_map(|number| parts.get(number)).map(|part| part.size).sum()
}

/// Whether a descriptor of [`CachedLayer::file`] is open somewhere, for the layer whose file is at this path.
pub(crate) fn is_in_use(data: &Path) -> bool {
    let lock = |file: File| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    File::open(data).is_ok_and(|file| lock(file) == Err(Errno::WOULDBLOCK))
}

/// The two files of a layer.
pub(crate) fn paths(directory: &Path, name: &str) -> [PathBuf; 2] {
    [DATA, BITS].map(|extension| directory.join(format!("{name}.{extension}")))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use parallax_chunks::{Algorithm, Parameters};

    use super::*;

    #[test]
    fn what_the_disk_did_not_take_is_missing_again() {
        let directory = tempfile::tempdir().unwrap();
        let chunks = [1_u8, 2, 3].map(|byte| vec![byte; 70_000]);
        let ids = chunks.each_ref().map(|chunk| ChunkId::of(chunk, Algorithm::Sha256));
        let index = Index::new(Algorithm::Sha256, Parameters::default(), &ids.map(|id| (id, 70_000)));
        let name = Sha256::from([1; 32]);
        let mut layer = CachedLayer::open(directory.path(), &name, index.clone()).unwrap();
        assert!(layer.put(&ids[0], &chunks[0]).unwrap());
        layer.save().unwrap();
        assert!(layer.put(&ids[1], &chunks[1]).unwrap());
        // A file that takes what is written and cannot be made durable: EINVAL.
        let data = std::mem::replace(&mut layer.data, File::options().write(true).open("/dev/null").unwrap());
        assert!(layer.put(&ids[2], &chunks[2]).unwrap());
        assert!(layer.save().is_err());
        layer.data = data;
        assert_eq!((layer.missing(0, 210_000), layer.bytes()), (ids[1..].to_vec(), 70_000));
        assert!(layer.put(&ids[2], &chunks[2]).unwrap());
        layer.save().unwrap();
        drop(layer);
        let layer = CachedLayer::open(directory.path(), &name, index).unwrap();
        assert_eq!(layer.missing(0, 210_000), [ids[1]]);
    }
}
