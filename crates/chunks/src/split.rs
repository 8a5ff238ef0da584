//! The chunks of a stream.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::cutter::Cutter;
use crate::id::{Algorithm, ChunkId};

/// Size of the buffer in bytes, if it is more than two chunks.
const BUFFER: usize = 1 << 20;

/// Cuts a stream into chunks.
#[derive(Debug)]
pub struct Chunks<R> {
    source: R,
    cutter: Cutter,
    /// What was read and not yet returned is `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
}

impl<R: Read> Chunks<R> {
    /// Returns the chunks of `source`.
    pub fn new(source: R, cutter: Cutter) -> Self {
        let size = BUFFER.max(2 * cutter.max());
        Self { source, cutter, buffer: vec![0; size], start: 0, end: 0, at_end: false }
    }

    /// Returns the next chunk; `None` at the end of the stream.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if self.end - self.start < self.cutter.max() && !self.at_end {
            self.fill()?;
        }
        let rest = self.buffer.get(self.start..self.end).unwrap_or_default();
        let chunk = rest.get(..self.cutter.cut(rest)).unwrap_or_default();
        self.start += chunk.len();
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Reads until the buffer is full or the stream ends.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while let Some(free) = self.buffer.get_mut(self.end..).filter(|free| !free.is_empty()) {
            match self.source.read(free) {
                Ok(0) => {
                    self.at_end = true;
                    return Ok(());
                }
                Ok(got) => self.end += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Cuts a stream into chunks and passes each to `take`, in up to `workers` threads at once. Returns the ids and sizes in bytes of all
/// chunks in their order.
///
/// # Errors
/// The first error of the source or of `take`, which ends the work.
pub fn split<E: From<io::Error> + Send>(
    source: impl Read,
    cutter: Cutter,
    algorithm: Algorithm,
    workers: usize,
    take: impl Fn(&ChunkId, &[u8]) -> Result<(), E> + Sync,
) -> Result<Vec<(ChunkId, u64)>, E> {
    let workers = workers.max(1);
    let mut chunks = Chunks::new(source, cutter);
    let (send, receive) = sync_channel::<(usize, Vec<u8>)>(2 * workers);
    // The workers' alone: if all have panicked, sending fails.
    let receive = Arc::new(Mutex::new(receive));
    let results = Mutex::new(Vec::new());
    let failure = Mutex::new(None);
    let failed = AtomicBool::new(false);
    let work = |receive: Arc<Mutex<Receiver<_>>>| {
        // After a failure the others are still received, so that the sender is not left waiting.
        while let Some((number, content)) = received(&receive) {
            if failed.load(Ordering::Relaxed) {
                continue;
            }
            let id = ChunkId::of(&content, algorithm);
            match take(&id, &content) {
                Ok(()) => lock(&results).push((number, id, content.len() as u64)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    lock(&failure).get_or_insert(error);
                }
            }
        }
    };
    let work = &work;
    let read: io::Result<()> = thread::scope(|scope| {
        for _ in 0..workers {
            let receive = Arc::clone(&receive);
            scope.spawn(move || work(receive));
        }
        drop(receive);
        let mut number = 0;
        let read = loop {
            match chunks.next_chunk() {
                Ok(Some(_)) if failed.load(Ordering::Relaxed) => break Ok(()),
                // Fails only if a worker panicked, which the scope passes on.
                Ok(Some(content)) => drop(send.send((number, content.to_vec()))),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            number += 1;
        };
        drop(send);
        read
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    read?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(number, ..)| *number);
    Ok(results.into_iter().map(|(_, id, size)| (id, size)).collect())
}

/// Returns the next chunk for any worker.
fn received(receive: &Mutex<Receiver<(usize, Vec<u8>)>>) -> Option<(usize, Vec<u8>)> {
    lock(receive).recv().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Index, Parameters};

    /// A reader that returns few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = buffer.len().min(self.1);
            self.0.read(&mut buffer[..size])
        }
    }

    /// A reader that fails.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }

    fn data() -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(3);
        (0..5 << 20).map(|_| random.u8(..)).collect()
    }

    #[test]
    fn the_chunks_are_the_stream_and_do_not_depend_on_how_it_comes() {
        let cutter = Cutter::new(Parameters::default());
        let data = data();
        let mut expected = Vec::new();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(cutter.cut(rest));
            expected.push((ChunkId::of(chunk, Algorithm::Sha256), chunk.len() as u64));
            rest = behind;
        }
        for (workers, piece) in [(1, usize::MAX), (3, 4097), (8, 100_000)] {
            let taken = Mutex::new(0);
            let count = |_: &ChunkId, content: &[u8]| {
                *lock(&taken) += content.len();
                Ok::<_, io::Error>(())
            };
            let found = split(Slow(&data, piece), cutter, Algorithm::Sha256, workers, count).unwrap();
            assert_eq!(found, expected);
            assert_eq!(*lock(&taken), data.len());
        }
        assert_eq!(Index::new(Algorithm::Sha256, Parameters::default(), &expected).size(), data.len() as u64);
    }

    #[test]
    fn a_failure_ends_the_work() {
        let cutter = Cutter::new(Parameters::default());
        let data = data();
        let fail = |_: &ChunkId, _: &[u8]| Err::<(), _>(io::Error::other("full"));
        let error = split(&data[..], cutter, Algorithm::Sha256, 2, fail).unwrap_err();
        assert_eq!(error.to_string(), "full");

        let take = |_: &ChunkId, _: &[u8]| Ok::<_, io::Error>(());
        let error = split(data.chain(Broken), cutter, Algorithm::Sha256, 2, take).unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }
}
