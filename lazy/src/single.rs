//! One layer for one user, without an agent: the mount program starts this program for a layer that a store has in chunks only, and
//! squashfuse reads the file.
//!
//! There is no cache on a disk. What squashfuse has read stays in the kernel's page cache, as of any file; here is only what the next read
//! probably needs as well. The process ends when squashfuse does.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, ensure};
use parallax_chunks::{ChunkId, Index, Part};
use parallax_config::{Config, ConfigError, Lazy};
use parallax_format::digest::Sha256;
use parallax_lazy_file::{Content, Device};
use serde::Deserialize;

use crate::configured;
use crate::connection::MAX_FILE;
use crate::source::directory::DirectorySource;
use crate::source::{Counted, Sources};

/// Number of threads that answer: as many reads wait for chunks at a time.
const THREADS: usize = 8;
/// Maximum number of errors that are logged: nobody shortens the log of a process that lasts.
const MAX_LOGGED: usize = 100;
/// Maximum size in bytes of the chunks that are kept in memory.
const MAX_KEPT: usize = 16 << 20;

/// Serves the file that an index describes, until it is used by nothing any more. The standard input is its device.
///
/// # Errors
/// The configuration or the index cannot be used, or the device cannot be read.
pub fn serve(config: &Path, index: &Path, chunk_store: &Path) -> anyhow::Result<()> {
    let device = Device::from(io::stdin().as_fd().try_clone_to_owned()?);
    let config = match Config::load(config) {
        Ok(config) => config.lazy,
        Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Lazy::default(),
        Err(error) => return Err(error.into()),
    };
    let layer = SingleLayer::new(name(index), read_index(index)?, sources(&config, chunk_store));
    // The superblock, so that what cannot be read at all is said at the start.
    layer.read(&mut [0; 96], 0).with_context(|| format!("cannot read the layer of {}", index.display()))?;
    thread::scope(|scope| {
        let serve = || device.serve_without_slot(&layer);
        let threads: Vec<_> = (1..THREADS)
            .map_while(|_| thread::Builder::new().name("serve".to_owned()).spawn_scoped(scope, serve).ok())
            .collect();
        // Without further threads it takes longer.
        let served = serve();
        let others =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        others.fold(served, Result::and).context("cannot read /dev/fuse")
    })
}

fn read_index(path: &Path) -> anyhow::Result<Index> {
    let read = || -> anyhow::Result<Index> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 <= MAX_FILE, "it is too large");
        Ok(Index::parse(&bytes)?)
    };
    read().with_context(|| format!("cannot use the index of chunks {}", path.display()))
}

/// Returns the SHA-256 of the layer's file, from its description beside the index. Without a description it is one that no registry has.
fn name(index: &Path) -> Sha256 {
    let description = File::open(index.with_extension("json")).ok();
    let found = description.and_then(|file| serde_json::from_reader(file.take(MAX_FILE)).ok());
    found.map_or(Sha256::from([0; 32]), |LayerName { squashfs_sha256 }| squashfs_sha256)
}

/// What a layer's description has of its file.
#[derive(Deserialize)]
struct LayerName {
    squashfs_sha256: Sha256,
}

/// Returns the configured chunk stores, and the one beside the index. Those that this user cannot use are left out.
fn sources(config: &Lazy, chunk_store: &Path) -> Sources {
    let usable = configured::each(config).into_iter().filter_map(|source| {
        source.inspect_err(|error| tracing::warn!("a configured chunk store is not used: {error}")).ok()
    });
    Sources::new(usable.collect()).with(Counted::new(DirectorySource::new(chunk_store)))
}

/// The file of a layer.
#[derive(Debug)]
pub struct SingleLayer {
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

impl SingleLayer {
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

impl Content for SingleLayer {
    fn size(&self) -> u64 {
        self.index.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        self.fill(buffer.get_mut(..size).unwrap_or_default(), offset).map_err(|reason| {
            match self.errors.fetch_add(1, Ordering::Relaxed) {
                number if number < MAX_LOGGED => tracing::error!("a reader gets an error: {reason}"),
                MAX_LOGGED => tracing::error!("further errors are not logged"),
                _ => {}
            }
            io::Error::other(reason)
        })?;
        Ok(size)
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
    layer: &'a SingleLayer,
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
