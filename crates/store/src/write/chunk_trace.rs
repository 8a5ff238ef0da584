//! Writes and reads the traces of layers' chunks.

use parallax_chunks::{Index, Trace};
use parallax_format::digest::ImageId;
use parallax_format::record::LayerRecord;

use crate::atomic::{read_if_there, replace_file};
use crate::error::StoreError;
use crate::lock::fcntl::WriteLock;
use crate::write::store::Store;

impl Store {
    /// Returns the index of a layer's chunks; `None` if the layer is not chunked.
    ///
    /// # Errors
    /// [`StoreError`] if the index cannot be read or is corrupt.
    pub fn chunk_index(&self, layer: &LayerRecord) -> Result<Option<Index>, StoreError> {
        let path = layer.chunk_index_path();
        let bytes = read_if_there(&self.root().join(&path))?;
        bytes.map(|bytes| Index::parse(&bytes).map_err(|error| self.corrupt(&path, &error))).transpose()
    }

    /// Writes the trace of a layer's chunks, in the place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::NoImage`] if the image was removed meanwhile.
    pub fn write_trace(&self, image: &ImageId, layer: &LayerRecord, trace: &Trace) -> Result<(), StoreError> {
        let _lock = WriteLock::take(self.root())?;
        if !self.image(image)?.is_some_and(|there| there.layers.contains(layer)) {
            return Err(StoreError::NoImage(image.to_string()));
        }
        replace_file(&self.temporary(), &self.root().join(layer.chunk_trace_path()), &trace.to_bytes())
    }

    /// Returns the number of chunks in the trace of a layer; `None` if it has no trace, or one that cannot be used.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn traced_chunks(&self, layer: &LayerRecord) -> Result<Option<usize>, StoreError> {
        let Some(bytes) = read_if_there(&self.root().join(layer.chunk_trace_path()))? else { return Ok(None) };
        let index = self.chunk_index(layer)?;
        Ok(index.and_then(|index| Trace::parse(&bytes, &index).ok()).map(|trace| trace.numbers().len()))
    }
}
