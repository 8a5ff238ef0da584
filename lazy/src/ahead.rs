//! Chunks that are fetched before they are read: those that an earlier start read, and what follows in a sequence. A few threads fetch for
//! all layers of the node, so what somebody waits for has most of the way to the sources for itself.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use parallax_chunks::ChunkId;

/// Number of chunks that are fetched at a time: with 10 ms for an answer, 100 MB/s.
const FETCHERS: usize = 16;

/// What is to be fetched.
#[derive(Debug, Default)]
pub struct Ahead {
    lists: Mutex<VecDeque<List>>,
    changed: Condvar,
}

/// A layer whose chunks are fetched ahead.
pub trait Layer: fmt::Debug + Send + Sync {
    /// Fetches a chunk. Whoever waits for a chunk that cannot be had asks again, and reports.
    fn fetch_ahead(&self, chunk: &ChunkId);
}

/// Chunks of a layer, which is forgotten when it is not served any more.
#[derive(Debug)]
struct List {
    layer: Weak<dyn Layer>,
    chunks: VecDeque<ChunkId>,
}

impl Ahead {
    /// Starts the threads, which last as long as the process.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> io::Result<Arc<Self>> {
        let ahead = Arc::new(Self::default());
        for _ in 0..FETCHERS {
            let ahead = Arc::clone(&ahead);
            let fetch = move || {
                loop {
                    let (layer, chunk) = ahead.next();
                    layer.fetch_ahead(&chunk);
                }
            };
            thread::Builder::new().name("ahead".to_owned()).spawn(fetch)?;
        }
        Ok(ahead)
    }

    /// Adds chunks in the order in which they are needed. Chunks that are needed `soon` are fetched before those of other lists.
    pub fn add(&self, layer: Weak<dyn Layer>, chunks: Vec<ChunkId>, soon: bool) {
        let list = List { layer, chunks: chunks.into() };
        if list.chunks.is_empty() {
            return;
        }
        let mut lists = self.lists();
        if soon {
            lists.push_front(list);
        } else {
            lists.push_back(list);
        }
        drop(lists);
        self.changed.notify_all();
    }

    /// Waits for a chunk. The lists take turns: layers of one image are needed at the same time.
    fn next(&self) -> (Arc<dyn Layer>, ChunkId) {
        let mut lists = self.lists();
        loop {
            let Some(mut list) = lists.pop_front() else {
                lists = self.changed.wait(lists).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (Some(layer), Some(chunk)) = (list.layer.upgrade(), list.chunks.pop_front()) else { continue };
            if !list.chunks.is_empty() {
                lists.push_back(list);
            }
            return (layer, chunk);
        }
    }

    fn lists(&self) -> MutexGuard<'_, VecDeque<List>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use parallax_chunks::Algorithm;

    use super::*;

    #[derive(Debug)]
    struct Other;

    impl Layer for Other {
        fn fetch_ahead(&self, _: &ChunkId) {}
    }

    fn chunk(number: u8) -> ChunkId {
        ChunkId::of(&[number], Algorithm::Sha256)
    }

    fn add(ahead: &Ahead, layer: &Arc<dyn Layer>, chunks: &[u8], soon: bool) {
        ahead.add(Arc::downgrade(layer), chunks.iter().copied().map(chunk).collect(), soon);
    }

    #[test]
    fn lists_take_turns_and_what_is_needed_soon_comes_first() {
        let ahead = Ahead::default();
        let [one, two]: [Arc<dyn Layer>; 2] = [Arc::new(Other), Arc::new(Other)];
        add(&ahead, &one, &[10, 11, 12], false);
        add(&ahead, &two, &[20, 21], false);
        add(&ahead, &two, &[], true);
        add(&ahead, &one, &[13], true);
        let gone: Arc<dyn Layer> = Arc::new(Other);
        add(&ahead, &gone, &[30], true);
        drop(gone);
        let order: Vec<ChunkId> = (0..6).map(|_| ahead.next().1).collect();
        assert_eq!(order, [13, 10, 20, 11, 21, 12].map(chunk));
        assert!(ahead.lists().is_empty());
    }
}
