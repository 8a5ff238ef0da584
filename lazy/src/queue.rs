//! The order of fetches: a chunk is fetched once, however many wait for it, and what only completes a layer comes last.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use parallax_chunks::ChunkId;
use parallax_lazy_file::status::{CacheStatus, ReadStatus};

use crate::cache::bounded::{Cache, CacheError};
use crate::cache::layer::CachedLayer;
use crate::source::{FetchError, Sources};

/// Why a chunk is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Demand,
    /// It will probably be read soon.
    Ahead,
    /// To complete the layer.
    Fill,
}

/// Why a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// No source returns it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The cache cannot take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// The fetches of a node, and its cache.
#[derive(Debug)]
pub struct Queue {
    cache: Cache,
    state: Mutex<State>,
    changed: Condvar,
    /// Number of chunks that another layer of the cache had.
    shared: AtomicU64,
    /// Number of reads for which the cache had all chunks.
    cached: AtomicU64,
    /// Number of the other reads.
    fetched: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The chunks that are being fetched.
    in_progress: HashSet<ChunkId>,
    /// Number of fetches that are not [`Urgency::Fill`].
    urgent: usize,
}

impl Queue {
    /// Makes an empty queue.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        let [shared, cached, fetched] = [0; 3].map(AtomicU64::new);
        Self { cache, state: Mutex::default(), changed: Condvar::new(), shared, cached, fetched }
    }

    /// Returns the cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Returns the state of the cache.
    #[must_use]
    pub fn cache_status(&self) -> CacheStatus {
        let shared_chunks = self.shared.load(Ordering::Relaxed);
        CacheStatus { used: self.cache.bytes(), limit: self.cache.limit(), shared_chunks }
    }

    /// Counts a read; `cached` if the cache has all of its chunks.
    pub fn count_read(&self, cached: bool) {
        let count = if cached { &self.cached } else { &self.fetched };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the numbers of reads and of chunks that are being fetched.
    #[must_use]
    pub fn read_status(&self) -> ReadStatus {
        let [cached, fetched] = [&self.cached, &self.fetched].map(|count| count.load(Ordering::Relaxed));
        ReadStatus { cached, fetched, chunks_in_progress: self.state().in_progress.len() as u64 }
    }

    /// Fetches a chunk of a layer into the cache, unless it is there: from another layer of the cache, or from the sources. Waits for another
    /// thread that fetches it already, and with [`Urgency::Fill`] as long as others fetch what is more urgent.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn fetch(
        &self,
        layer: &CachedLayer,
        sources: &Sources,
        id: &ChunkId,
        urgency: Urgency,
    ) -> Result<(), QueueError> {
        let urgent = (urgency != Urgency::Fill).then(|| Urgent::begin(self));
        let mut state = self.state();
        let _fetch = loop {
            if layer.needed(id) == 0 {
                return Ok(());
            }
            let yields = urgent.is_none() && state.urgent > 0;
            if !yields && state.in_progress.insert(*id) {
                drop(state);
                break Fetch { queue: self, id };
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        // What a full cache could not take is not asked for: all who wait try again.
        self.cache.make_room_for(layer, id)?;
        let content = match self.cache.chunk(id) {
            Some(content) => {
                self.shared.fetch_add(1, Ordering::Relaxed);
                content
            }
            None => {
                let max = usize::try_from(layer.index().parameters().max()).unwrap_or(usize::MAX);
                sources.fetch(layer.name(), id, layer.index().algorithm(), max)?
            }
        };
        Ok(self.cache.put(layer, id, &content)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

/// A fetch that others give way to.
struct Urgent<'a>(&'a Queue);

impl<'a> Urgent<'a> {
    fn begin(queue: &'a Queue) -> Self {
        queue.state().urgent += 1;
        Self(queue)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.urgent -= 1);
    }
}

/// A chunk that is being fetched.
struct Fetch<'a> {
    queue: &'a Queue,
    id: &'a ChunkId,
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        self.queue.change(|state| {
            state.in_progress.remove(self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use parallax_chunks::{Algorithm, Index, Parameters, compress};
    use parallax_format::digest::Sha256;

    use super::*;
    use crate::source::{Counted, Source, SourceError};

    /// Tells which chunk is asked for, and answers when it may.
    #[derive(Debug)]
    struct Slow {
        chunks: Vec<Vec<u8>>,
        asked: Sender<ChunkId>,
        may_answer: Mutex<Receiver<()>>,
        answers: AtomicUsize,
    }

    impl Source for Slow {
        fn file(&self, _: &Sha256, id: &ChunkId, _: usize) -> Result<Vec<u8>, SourceError> {
            self.asked.send(*id).unwrap();
            self.may_answer.lock().unwrap().recv().unwrap();
            self.answers.fetch_add(1, Ordering::Relaxed);
            let chunk = self.chunks.iter().find(|chunk| ChunkId::of(chunk, Algorithm::Sha256) == *id);
            chunk.map_or(Err(SourceError::NotFound), |chunk| Ok(compress(chunk).unwrap()))
        }

        fn name(&self) -> &'static str {
            "slow"
        }
    }

    struct Fixture {
        queue: Queue,
        layer: Arc<CachedLayer>,
        sources: Sources,
        ids: Vec<ChunkId>,
        asked: Receiver<ChunkId>,
        answer: Sender<()>,
        _directory: tempfile::TempDir,
    }

    fn fixture() -> Fixture {
        with_cache(1 << 30)
    }

    /// With a cache of so many bytes.
    fn with_cache(limit: u64) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let chunks: Vec<Vec<u8>> = (1..=3_u8).map(|byte| vec![byte; 70_000]).collect();
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| ChunkId::of(chunk, Algorithm::Sha256)).collect();
        let sizes: Vec<_> = ids.iter().map(|id| (*id, 70_000)).collect();
        let index = Index::new(Algorithm::Sha256, Parameters::default(), &sizes);
        let cache = Cache::open(&directory.path().join("cache"), limit).unwrap();
        let layer = cache.layer(&Sha256::from([1; 32]), &index).unwrap();
        let (asked_sender, asked) = channel();
        let (answer, may_answer) = channel();
        let may_answer = Mutex::new(may_answer);
        let source = Slow { chunks, asked: asked_sender, may_answer, answers: AtomicUsize::new(0) };
        let sources = Sources::new(vec![Counted::new(source)]);
        Fixture { queue: Queue::new(cache), layer, sources, ids, asked, answer, _directory: directory }
    }

    #[test]
    fn one_fetch_serves_all_who_wait() {
        let Fixture { queue, layer, sources, ids, asked, answer, .. } = fixture();
        thread::scope(|scope| {
            let fetches: Vec<_> =
                (0..8).map(|_| scope.spawn(|| queue.fetch(&layer, &sources, &ids[0], Urgency::Demand))).collect();
            assert_eq!(asked.recv().unwrap(), ids[0]);
            answer.send(()).unwrap();
            for fetch in fetches {
                fetch.join().unwrap().unwrap();
            }
        });
        assert!(asked.try_recv().is_err());
        assert_eq!(layer.bytes(), 70_000);
        // What failed may be asked for again.
        let unknown = ChunkId::of(b"unknown", Algorithm::Sha256);
        queue.fetch(&layer, &sources, &unknown, Urgency::Demand).unwrap();
    }

    #[test]
    fn what_only_completes_the_layer_comes_last() {
        let Fixture { queue, layer, sources, ids, asked, answer, .. } = fixture();
        thread::scope(|scope| {
            let demand = scope.spawn(|| queue.fetch(&layer, &sources, &ids[0], Urgency::Ahead));
            assert_eq!(asked.recv().unwrap(), ids[0]);
            let fill = scope.spawn(|| queue.fetch(&layer, &sources, &ids[1], Urgency::Fill));
            let second = scope.spawn(|| queue.fetch(&layer, &sources, &ids[2], Urgency::Demand));
            // What somebody waits for does not wait for what is fetched ahead, and the fill waits for both.
            assert_eq!(asked.recv().unwrap(), ids[2]);
            answer.send(()).unwrap();
            answer.send(()).unwrap();
            demand.join().unwrap().unwrap();
            second.join().unwrap().unwrap();
            assert_eq!(asked.recv().unwrap(), ids[1]);
            answer.send(()).unwrap();
            fill.join().unwrap().unwrap();
        });
        assert!(layer.is_complete());
    }

    #[test]
    fn nothing_is_asked_for_that_a_full_cache_cannot_take() {
        let Fixture { queue, layer, sources, ids, asked, answer, .. } = with_cache(100_000);
        answer.send(()).unwrap();
        queue.fetch(&layer, &sources, &ids[0], Urgency::Demand).unwrap();
        assert_eq!(asked.recv().unwrap(), ids[0]);
        for urgency in [Urgency::Demand, Urgency::Fill] {
            let full = queue.fetch(&layer, &sources, &ids[1], urgency);
            assert!(matches!(full, Err(QueueError::Cache(CacheError::Full { .. }))), "{full:?}");
        }
        assert!(asked.try_recv().is_err());
    }

    #[test]
    fn a_failure_is_everybodys_own_and_not_remembered() {
        let Fixture { queue, layer, ids, .. } = fixture();
        let none = Sources::new(Vec::new());
        for _ in 0..2 {
            assert!(matches!(queue.fetch(&layer, &none, &ids[0], Urgency::Demand), Err(QueueError::Fetch(_))));
        }
        let state = queue.state();
        assert_eq!((state.urgent, state.in_progress.len()), (0, 0));
    }
}
