//! Checks the chunks that indexes name.

use parallax_chunks::{ChunkId, Index, Trace};
use parallax_format::layout::CHUNK_STORE;

use super::Verifier;
use crate::atomic::read_if_there;
use crate::error::StoreError;
use crate::parallel;

impl Verifier<'_> {
    /// Returns an index, or its problem; `None` if it does not exist.
    pub(super) fn read_index(&self, path: &str) -> Result<Option<Result<Index, String>>, StoreError> {
        let bytes = read_if_there(&self.store.root().join(path))?;
        Ok(bytes.map(|bytes| Index::parse(&bytes).map_err(|error| format!("is corrupt: {error}"))))
    }

    /// Returns the problem of a trace of chunks, if it exists and has one.
    pub(super) fn broken_trace(&self, path: &str, index: &str) -> Result<Option<String>, StoreError> {
        let Some(bytes) = read_if_there(&self.store.root().join(path))? else { return Ok(None) };
        let Some(Ok(index)) = self.read_index(index)? else { return Ok(None) };
        Ok(Trace::parse(&bytes, &index).err().map(|error| format!("cannot be used: {error}")))
    }

    /// Checks the chunks of an index that were not read yet. Returns the index's problem if any is missing or corrupt.
    pub(super) fn broken_chunks(&mut self, index: &Index) -> Result<Option<String>, StoreError> {
        let mut ids: Vec<ChunkId> = index.parts().map(|part| part.id).filter(|id| !self.chunks.contains(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let store = self.store;
        let mut broken = Vec::new();
        // The content of all of them would be that of the file.
        let check = |id: &ChunkId| Ok::<_, StoreError>(store.chunk(id, index)?.map(drop));
        for (id, checked) in ids.iter().zip(parallel::map(&ids, check)) {
            match checked? {
                Ok(()) => drop(self.chunks.insert(*id)),
                Err(wrong) => broken.push(format!("{CHUNK_STORE}/{} {wrong}", id.path())),
            }
        }
        Ok(broken.first().map(|first| match broken.len() {
            1 => format!("names a chunk that cannot be used: {first}"),
            count => format!("names {count} chunks that cannot be used, such as {first}"),
        }))
    }
}
