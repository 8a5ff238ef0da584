//! A layer's file that is read without a cache on a disk: in memory is only what the next read probably needs as well.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use parallax_chunks::{ChunkId, Index, Part};
use parallax_format::digest::Sha256;
use parallax_lazy_file::Content;

use crate::source::Sources;

/// Maximum number of errors that are logged: nobody shortens the log of a process that lasts.
const MAX_LOGGED: usize = 100;
/// Maximum size in bytes of the chunks that are kept in memory.
const MAX_KEPT: usize = 16 << 20;

/// The file of a layer.
#[derive(Debug)]
pub struct UncachedLayer {
    name: Sha256,
    index: Index,
    parts: Vec<Part>,
    sources: Sources,
    state: Mutex<State>,
    changed: Condvar,
    /// Number of errors that readers got.
    errors: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Chunks in memory, the one that was read last at the end.
    kept: VecDeque<(ChunkId, Arc<[u8]>)>,
    /// Their size in bytes.
    bytes: usize,
    /// The chunks that are being fetched.
    in_progress: HashSet<ChunkId>,
}

impl UncachedLayer {
    /// Returns the file with this SHA-256 that an index describes.
    #[must_use]
    pub fn new(name: Sha256, index: Index, sources: Sources) -> Self {
        let parts = index.parts().collect();
        let (state, changed, errors) = (Mutex::default(), Condvar::new(), AtomicUsize::new(0));
        Self { name, index, parts, sources, state, changed, errors }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a chunk, from memory or from the chunk stores. Waits for another thread that fetches it already.
    fn chunk(&self, part: &Part) -> Result<Arc<[u8]>, String> {
        let mut state = self.state();
        loop {
            if let Some(content) = state.get(&part.id) {
                return Ok(content);
            }
            if state.in_progress.insert(part.id) {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _fetch = Fetch { layer: self, id: part.id };
        let max = usize::try_from(self.index.parameters().max()).unwrap_or(usize::MAX);
        let content = self.sources.fetch(&self.name, &part.id, self.index.algorithm(), max);
        let content = content.map_err(|error| error.to_string())?;
        if content.len() as u64 != part.size {
            return Err(format!("the index is corrupt: chunk {} has {} bytes", part.id, content.len()));
        }
        let content: Arc<[u8]> = content.into();
        self.state().keep(part.id, &content);
        Ok(content)
    }

    /// Reads from the file. Returns the number of bytes, which is less than the buffer has only at the end of the file.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn try_read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, String> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        self.fill(buffer.get_mut(..size).unwrap_or_default(), offset)?;
        Ok(size)
    }

    /// Fills the buffer from the file.
    fn fill(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<(), String> {
        while !buffer.is_empty() {
            let number = self.parts.partition_point(|part| part.offset + part.size <= offset);
            let part = self.parts.get(number).ok_or("the index is corrupt: it ends early")?;
            let chunk = self.chunk(part)?;
            let within = usize::try_from(offset - part.offset).unwrap_or(usize::MAX);
            let content = chunk.get(within..).unwrap_or_default();
            let size = content.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(size);
            now.copy_from_slice(content.get(..size).unwrap_or_default());
            buffer = later;
            offset += size as u64;
        }
        Ok(())
    }
}

impl Content for UncachedLayer {
    fn size(&self) -> u64 {
        self.index.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.try_read(buffer, offset).map_err(|reason| {
            match self.errors.fetch_add(1, Ordering::Relaxed) {
                number if number < MAX_LOGGED => tracing::error!("a reader gets an error: {reason}"),
                MAX_LOGGED => tracing::error!("further errors are not logged"),
                _ => {}
            }
            io::Error::other(reason)
        })
    }
}

impl State {
    fn get(&mut self, id: &ChunkId) -> Option<Arc<[u8]>> {
        let place = self.kept.iter().position(|(kept, _)| kept == id)?;
        let found = self.kept.remove(place)?;
        let content = Arc::clone(&found.1);
        self.kept.push_back(found);
        Some(content)
    }

    fn keep(&mut self, id: ChunkId, content: &Arc<[u8]>) {
        self.kept.push_back((id, Arc::clone(content)));
        self.bytes += content.len();
        while self.bytes > MAX_KEPT {
            let Some((_, oldest)) = self.kept.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }
}

/// A fetch that others wait for.
struct Fetch<'a> {
    layer: &'a UncachedLayer,
    id: ChunkId,
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.layer.state().in_progress.remove(&self.id);
        self.layer.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
