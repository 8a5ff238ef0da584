//! Publication of images' layers as chunks: `parallax chunk` and `parallax migrate --chunked`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use anyhow::{Context as _, bail, ensure};
use parallax_chunks::{Algorithm, ChunkId, Cutter, Index, Parameters, split};
use parallax_format::LayerFormat;
use parallax_format::digest::ImageId;
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_store::hash::Digester;
use parallax_store::{ChunkTotals, ChunkWriter, NewChunks, Store};
use serde::Serialize;

use crate::interrupt::{self, Guarded};
use crate::progress::Progress;

/// Digest of the chunks' ids, casync's default.
const ALGORITHM: Algorithm = Algorithm::Sha512_256;

/// One call that publishes chunks.
#[derive(Debug)]
pub(crate) struct Chunking<'a> {
    store: &'a Store,
    progress: &'a Progress,
    /// Number of threads that compress chunks.
    processors: usize,
    /// Whether chunks are written that are there.
    again: bool,
    /// The working directory, made when the first layer needs it. Layers are chunked one at a time, each by all threads.
    work: Mutex<Option<Guarded>>,
}

/// Result of one image. Future versions only add fields.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Chunked {
    /// Number of the image's SquashFS files.
    pub files: usize,
    /// Number of those that were chunked now.
    pub new_files: usize,
    /// Number of chunks; those that several files share count for each.
    pub chunks: u64,
    /// Number of chunks that were written.
    pub new_chunks: u64,
    /// Size of those in the chunk store, in bytes.
    pub new_stored: u64,
}

impl<'a> Chunking<'a> {
    /// Returns a call that writes to `store`, with at most `processors` threads that compress.
    pub(crate) fn new(store: &'a Store, progress: &'a Progress, processors: Option<NonZeroUsize>, again: bool) -> Self {
        let processors = processors.or(available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN).get();
        Self { store, progress, processors, again, work: Mutex::new(None) }
    }

    /// Publishes the chunks of an image's layers. Layers that have complete chunks are left as they are.
    ///
    /// # Errors
    /// If a file of the image cannot be read or is corrupt, or the store cannot be written. Layers before have their chunks.
    pub(crate) fn image(&self, id: &ImageId) -> anyhow::Result<Chunked> {
        let record = own_record(self.store, id)?;
        if let Some(directory) = record.tree() {
            bail!("{}", without_files(id, directory));
        }
        let mut done = Chunked::default();
        let mut files = BTreeSet::new();
        if let Some(layer) = record.layers.iter().find(|layer| layer.format != LayerFormat::Squashfs) {
            bail!(
                "the layer {} is in the store in {} alone, and only SquashFS files are cut into chunks; migrate the image with \
                 --format squashfs too",
                layer.diff_id.short(),
                layer.format.title()
            );
        }
        for layer in record.layers.iter().filter(|layer| files.insert(layer.file_path())) {
            done.files += 1;
            // One layer after another, also of several images.
            let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
            let complete = if self.again { None } else { self.store.complete_chunks(layer)? };
            if let Some(totals) = complete {
                done.chunks += totals.chunks;
                continue;
            }
            let work = match &mut *work {
                Some(work) => work,
                none => none.insert(Guarded::new(|| self.store.chunk_directory())?),
            };
            let NewChunks { totals, new } = self.layer(&record, layer, work.path())?;
            done.new_files += 1;
            done.chunks += totals.chunks;
            done.new_chunks += new.chunks;
            done.new_stored += new.stored;
        }
        Ok(done)
    }

    fn layer(&self, record: &ImageRecord, layer: &LayerRecord, work: &Path) -> anyhow::Result<NewChunks> {
        let path = self.store.root().join(layer.file_path());
        ensure!(
            !self.store.is_in_chunks_only(layer)?,
            "the store has the layer {} in chunks only; run parallax chunk --whole with the image first",
            layer.diff_id.short()
        );
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let shown = self.progress.layer(&layer.diff_id, layer.squashfs_size);
        let mut digest = Digester::default();
        let source = Digested { source: shown.count(file), digest: &mut digest };
        let writer = ChunkWriter::new(self.store, work, self.again);
        let add = |id: &ChunkId, content: &[u8]| -> anyhow::Result<()> { Ok(writer.add(id, content)?) };
        let parameters = Parameters::default();
        let chunks = split(source, Cutter::new(parameters), ALGORITHM, self.processors, add);
        let chunks = chunks.with_context(|| format!("cannot cut {} into chunks", path.display()))?;
        // Nobody else may have to find out.
        ensure!(
            layer.squashfs_sha256.is_none_or(|recorded| recorded == digest.finish()),
            "{} has changed since it was stored; run parallax verify",
            path.display()
        );
        let index = Index::new(ALGORITHM, parameters, &chunks);
        let _uninterrupted = interrupt::hold();
        let done = writer.publish(&record.id, layer, &index)?;
        shown.chunked(done.totals.chunks, done.new.chunks, done.new.stored, self.progress);
        Ok(done)
    }
}

/// A reader that takes the digest of what is read.
struct Digested<'a, R> {
    source: R,
    digest: &'a mut Digester,
}

impl<R: Read> Read for Digested<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.digest.update(buffer.get(..got).unwrap_or_default());
        Ok(got)
    }
}

/// Returns the record of an image whose files Parallax has stored.
///
/// # Errors
/// If the store has no file of the image, or another tool stored it.
pub(crate) fn own_record(store: &Store, id: &ImageId) -> anyhow::Result<ImageRecord> {
    if let Some(record) = store.record(id)? {
        return Ok(record);
    }
    if let Some(directory) = store.unpacked_image(id)? {
        bail!("{}", without_files(id, &directory));
    }
    bail!("another tool stored the image {}; adopt it first: parallax migrate --adopt", id.short())
}

/// Returns the reason why an image in a directory has nothing to be chunked.
pub(crate) fn without_files(id: &ImageId, directory: &Path) -> String {
    format!("the image {} lies unpacked in {}, and the store has no file of it", id.short(), directory.display())
}

/// Returns the totals of the chunks of an image's SquashFS files, each file once; `None` unless all are chunked.
///
/// # Errors
/// If the store cannot be read.
pub(crate) fn totals(store: &Store, record: &ImageRecord) -> anyhow::Result<Option<ChunkTotals>> {
    let mut all = ChunkTotals::default();
    let mut files = BTreeSet::new();
    for layer in record.layers.iter().filter(|layer| files.insert(layer.file_path())) {
        let Some(totals) = store.chunk_totals(layer)? else { return Ok(None) };
        all.chunks = all.chunks.saturating_add(totals.chunks);
        all.stored = all.stored.saturating_add(totals.stored);
    }
    Ok(Some(all))
}
