//! A layer that is served: its file, whose chunks are fetched as they are read, and completed in the background.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parallax_chunks::{ChunkId, Trace};
use parallax_format::digest::Sha256;
use parallax_lazy_file::Content;
use parallax_lazy_file::message::{Channel, FromWorker};
use parallax_lazy_file::status::LayerStatus;

use crate::ahead::{self, Ahead};
use crate::cache::bounded::CacheError;
use crate::cache::layer::CachedLayer;
use crate::queue::{Queue, QueueError, Urgency};
use crate::source::Sources;
use crate::streams::Streams;
use crate::uncached::UncachedLayer;

/// Number of threads that complete a layer.
const FILLERS: usize = 4;
/// Number of chunks after which what was fetched is made durable.
const SAVE_INTERVAL: usize = 256;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// A layer that is served.
#[derive(Debug)]
pub struct Served {
    /// This layer.
    pub me: Weak<Self>,
    /// SHA-256 of its file.
    pub name: Sha256,
    /// What of the file is there.
    pub layer: Arc<CachedLayer>,
    /// Where its chunks are.
    pub sources: Sources,
    /// The fetches of the node.
    pub queue: Arc<Queue>,
    /// What is fetched before it is read.
    pub ahead: Arc<Ahead>,
    /// How long a reader waits for a chunk that cannot be had.
    pub timeout: Duration,
    /// The connection to the agent.
    pub agent: Mutex<Arc<Channel>>,
    /// Its readers.
    pub state: State,
}

/// The readers that wait for chunks that cannot be had.
#[derive(Debug, Default)]
struct Waiting {
    readers: usize,
    /// Why the first of them waits.
    reason: String,
}

/// A layer that the cache cannot take.
#[derive(Debug)]
struct Uncached {
    reason: String,
    /// Reads the layer without the cache.
    layer: UncachedLayer,
}

/// The state of a layer that is served.
#[derive(Debug, Default)]
pub struct State {
    waiting: Mutex<Waiting>,
    /// Whether a reader got an error; the reason.
    failed: Mutex<Option<String>>,
    /// The complete file, once its SHA-256 was compared.
    complete: Mutex<Option<File>>,
    streams: Mutex<Streams>,
    /// Present once the cache could not take a chunk.
    uncached: OnceLock<Uncached>,
    is_over: Mutex<bool>,
    over: Condvar,
}

impl Served {
    /// Fetches the chunks that the beginning of the file has, all at once. If the cache cannot take them, that is an error only of a layer that
    /// has a whole file: the others are read without the cache.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn fetch_beginning(&self, size: u64, has_whole: bool) -> Result<(), String> {
        match self.fetch(0, size) {
            Err(QueueError::Cache(CacheError::Full { .. } | CacheError::Io { .. })) if !has_whole => Ok(()),
            fetched => fetched.map_err(|error| error.to_string()),
        }
    }

    /// Fetches the chunks that a part of the file needs, all at once.
    fn fetch(&self, offset: u64, size: u64) -> Result<(), QueueError> {
        let missing = self.layer.missing(offset, size);
        let Some((first, others)) = missing.split_first() else { return Ok(()) };
        thread::scope(|scope| {
            let fetch = |id| self.fetch_chunk(id, Urgency::Demand);
            let mut all = Ok(());
            let mut threads = Vec::new();
            for id in others {
                let thread = thread::Builder::new().name("fetch".to_owned());
                match thread.spawn_scoped(scope, move || fetch(id)) {
                    Ok(thread) => threads.push(thread),
                    // Without threads it takes longer.
                    Err(_) => all = all.and(fetch(id)),
                }
            }
            all = all.and(fetch(first));
            let results = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            results.fold(all, Result::and)
        })
    }

    /// Has fetched ahead what an earlier start read, in its order.
    pub fn fetch_ahead_of(&self, trace: &Trace) {
        let missing = self.layer.missing_of(trace.numbers().iter().copied());
        tracing::info!(layer = %self.name, chunks = missing.len(), traced = trace.numbers().len(), "trace fetched");
        let me = Weak::clone(&self.me);
        self.ahead.add(me, missing, false);
    }

    /// Has fetched ahead what follows a part of the file that is read, if it is read in sequence.
    fn read_ahead(&self, offset: u64, size: u64) {
        if self.layer.is_complete() {
            return;
        }
        let numbers = self.layer.numbers(offset, size);
        let Some(last) = numbers.clone().last() else { return };
        let ahead = self.state.streams.lock().unwrap_or_else(PoisonError::into_inner).read(numbers.start, last);
        let me = Weak::clone(&self.me);
        self.ahead.add(me, self.layer.missing_of(ahead), true);
    }

    fn fetch_chunk(&self, id: &ChunkId, urgency: Urgency) -> Result<(), QueueError> {
        self.queue.fetch(&self.layer, &self.sources, id, urgency)
    }

    fn try_read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, String> {
        match self.fetch(offset, buffer.len() as u64) {
            Err(QueueError::Cache(error @ (CacheError::Full { .. } | CacheError::Io { .. }))) => {
                return self.uncached(&error).layer.try_read(buffer, offset);
            }
            fetched => fetched.map_err(|error| error.to_string())?,
        }
        let read = self.layer.read_at(buffer, offset).map_err(|error| format!("cannot read the cache: {error}"))?;
        read.ok_or_else(|| "a chunk was removed from the cache".to_owned())
    }

    /// Returns what reads the layer without the cache, which cannot take it for this reason. The agent is told: it may have the whole file.
    fn uncached(&self, reason: &CacheError) -> &Uncached {
        self.state.uncached.get_or_init(|| {
            let reason = format!("{reason}; each read fetches its chunks");
            tracing::warn!(layer = %self.name, reason, "layer not cached");
            self.send(&FromWorker::Waiting { reason: reason.clone() }, None);
            Uncached { reason, layer: UncachedLayer::new(self.name, self.layer.index().clone(), self.sources.clone()) }
        })
    }

    /// Fetches all of the file in the background, and hands it to the agent. Returns early when the file is used by nothing any more.
    pub fn complete(&self) {
        let chunks: Vec<ChunkId> = self.layer.index().parts().map(|part| part.id).collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..FILLERS {
                scope.spawn(|| while self.fill_next(&chunks, next.fetch_add(1, Ordering::Relaxed)) {});
            }
        });
        if !self.layer.is_complete() {
            return;
        }
        let checked = self.layer.save().and_then(|()| self.layer.sha256());
        match checked {
            Ok(Some(found)) if found == self.name => match self.layer.file() {
                Ok(file) => {
                    tracing::info!(layer = %self.name, "layer complete");
                    *self.state.complete.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
                    self.send_complete();
                }
                Err(error) => tracing::error!(layer = %self.name, "cannot open the complete file: {error}"),
            },
            Ok(found) => {
                let found = found.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
                let reason = format!("the SHA-256 of its chunks is {found}, and {} was recorded", self.name);
                tracing::error!(layer = %self.name, reason, "layer corrupt");
                self.fail(reason);
            }
            Err(error) => tracing::error!(layer = %self.name, "cannot check the complete file: {error}"),
        }
    }

    /// Fetches a chunk that nobody waits for. Returns whether there may be another one.
    fn fill_next(&self, chunks: &[ChunkId], number: usize) -> bool {
        let Some(id) = chunks.get(number) else { return false };
        let mut reported = false;
        while let Err(reason) = self.fetch_chunk(id, Urgency::Fill) {
            if !std::mem::replace(&mut reported, true) {
                tracing::warn!(layer = %self.name, %reason, "cannot complete the layer yet");
            }
            if self.is_over_after(PAUSE) {
                return false;
            }
        }
        if number % SAVE_INTERVAL == SAVE_INTERVAL - 1 {
            if let Err(error) = self.layer.save() {
                tracing::warn!(layer = %self.name, "cannot save the cache: {error}");
            }
        }
        !self.is_over_after(Duration::ZERO)
    }

    /// Ends all waiting: the file is used by nothing any more.
    pub fn end(&self) {
        *self.state.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.state.over.notify_all();
    }

    fn is_over_after(&self, pause: Duration) -> bool {
        let is_over = self.state.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.state.over.wait_timeout_while(is_over, pause, |is_over| !*is_over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Returns what of the layer is there.
    pub fn status(&self) -> LayerStatus {
        LayerStatus {
            sha256: self.name,
            size: self.layer.index().size(),
            there: self.layer.bytes(),
            waits: self.waiting().readers > 0,
            failed: self.state.failed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Has another agent told of what comes, and of what an earlier one may not have heard.
    pub fn set_agent(&self, agent: &Arc<Channel>) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(agent);
        let failed = self.state.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = failed {
            self.send(&FromWorker::Failed { reason }, None);
        }
        let waiting = self.waiting();
        let reason = (waiting.readers > 0).then(|| waiting.reason.clone());
        drop(waiting);
        let reason = reason.or_else(|| self.state.uncached.get().map(|uncached| uncached.reason.clone()));
        if let Some(reason) = reason {
            self.send(&FromWorker::Waiting { reason }, None);
        }
        self.send_complete();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.state.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a reader that waits, until the result is dropped. The agent is told of the first one.
    fn wait(&self, reason: &str) -> Waits<'_> {
        let mut waiting = self.waiting();
        waiting.readers += 1;
        let is_first = waiting.readers == 1;
        if is_first {
            reason.clone_into(&mut waiting.reason);
        }
        drop(waiting);
        if is_first {
            tracing::warn!(layer = %self.name, reason, "readers wait");
            self.send(&FromWorker::Waiting { reason: reason.to_owned() }, None);
        }
        Waits(self)
    }

    /// Notes that a reader gets an error, or would get other bytes than the layer's.
    pub fn fail(&self, reason: String) {
        *self.state.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
        self.send(&FromWorker::Failed { reason }, None);
    }

    fn send_complete(&self) {
        let complete = self.state.complete.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*complete {
            self.send(&FromWorker::Complete, Some(file));
        }
    }

    /// Sends a message to the agent; an agent that has ended gets none.
    fn send(&self, message: &FromWorker, file: Option<&File>) {
        let descriptors: Vec<_> = file.map(|file| file.as_fd()).into_iter().collect();
        let agent = Arc::clone(&self.agent.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(error) = agent.send(message, &descriptors) {
            tracing::debug!(layer = %self.name, "cannot send to the agent: {error}");
        }
    }
}

/// A reader that waits.
struct Waits<'a>(&'a Served);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting().readers -= 1;
    }
}

impl ahead::Layer for Served {
    fn fetch_ahead(&self, chunk: &ChunkId) {
        if let Err(reason) = self.fetch_chunk(chunk, Urgency::Ahead) {
            tracing::debug!(layer = %self.name, %reason, "cannot fetch ahead");
        }
    }
}

impl Content for Served {
    fn size(&self) -> u64 {
        self.layer.index().size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let deadline = Instant::now() + self.timeout;
        self.queue.count_read(self.layer.missing(offset, buffer.len() as u64).is_empty());
        self.read_ahead(offset, buffer.len() as u64);
        let mut waits = None;
        loop {
            let reason = match self.try_read(buffer, offset) {
                Ok(read) => return Ok(read),
                Err(reason) => reason,
            };
            if Instant::now() >= deadline {
                tracing::error!(layer = %self.name, reason, "a reader gets an error");
                self.fail(reason.clone());
                return Err(io::Error::other(reason));
            }
            if waits.is_none() {
                waits = Some(self.wait(&reason));
            }
            if self.is_over_after(PAUSE) {
                return Err(io::Error::other(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests;
