//! Where chunks come from.

pub(crate) mod directory;
pub(crate) mod http;
mod private;
pub(crate) mod registry;
pub(crate) mod s3;
pub(crate) mod settings;
pub(crate) mod ssh;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use parallax_chunks::{Algorithm, ChunkId, decode};
use parallax_format::digest::Sha256;
use parallax_lazy_file::status::SourceStatus;

/// Bytes that the file of a chunk may have beyond those of the chunk: zstd does not make data much larger.
const MAX_OVERHEAD: usize = 64 << 10;

/// Why a source does not return a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The source does not have it.
    #[error("not found")]
    NotFound,
    /// The source may return it later: it is down, or busy.
    #[error("{0}")]
    Temporary(String),
    /// The source denies access.
    #[error("{0}")]
    Denied(String),
    /// The source refuses it, and asking again does not help.
    #[error("{0}")]
    Permanent(String),
}

/// A place that has chunks, each in a file of casync's format.
pub trait Source: fmt::Debug + Send + Sync {
    /// Returns the file of a chunk, which has at most `max` bytes. Its content is not checked. The call takes a bounded time. `layer` is the
    /// SHA-256 of the layer's file: some sources need to know which layer needs the chunk.
    ///
    /// # Errors
    /// [`SourceError`].
    fn file(&self, layer: &Sha256, id: &ChunkId, max: usize) -> Result<Vec<u8>, SourceError>;

    /// Returns the name of the source for messages.
    fn name(&self) -> &str;
}

/// A chunk that no source returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot fetch chunk {id}: {}", reasons.join("; "))]
pub struct FetchError {
    /// The chunk.
    pub id: ChunkId,
    /// For each source its name and the reason.
    pub reasons: Vec<String>,
}

/// A source, and what came from it.
#[derive(Debug)]
pub struct Counted {
    source: Box<dyn Source>,
    chunks: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    /// The reason of the last failure.
    reason: Mutex<Option<String>>,
}

impl Counted {
    /// Begins to count.
    pub fn new(source: impl Source + 'static) -> Arc<Self> {
        let none = || AtomicU64::new(0);
        Arc::new(Self {
            source: Box::new(source),
            chunks: none(),
            bytes: none(),
            failures: none(),
            reason: Mutex::default(),
        })
    }

    /// Returns what was counted.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let [chunks, bytes, failures] =
            [&self.chunks, &self.bytes, &self.failures].map(|count| count.load(Ordering::Relaxed));
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SourceStatus { name: self.source.name().to_owned(), chunks, bytes, failures, reason }
    }
}

/// Sources in the order in which they are asked. A copy shares their connections and counts.
#[derive(Debug, Clone)]
pub struct Sources(Vec<Arc<Counted>>);

impl Sources {
    /// Returns these sources.
    #[must_use]
    pub fn new(sources: Vec<Arc<Counted>>) -> Self {
        Self(sources)
    }

    /// Returns these sources, which share their connections with the result, and then another one.
    #[must_use]
    pub fn with(&self, source: Arc<Counted>) -> Self {
        Self(self.0.iter().cloned().chain([source]).collect())
    }

    /// Returns what came from each.
    pub fn status(&self) -> impl Iterator<Item = SourceStatus> {
        self.0.iter().map(|source| source.status())
    }

    /// Returns a chunk of the layer whose file has this SHA-256, checked against its id. A source that returns a wrong one is asked once
    /// more before the next one is: the transfer may have been at fault. `max` is the maximum size of a chunk in bytes.
    ///
    /// # Errors
    /// [`FetchError`] if no source returns the chunk.
    pub fn fetch(&self, layer: &Sha256, id: &ChunkId, algorithm: Algorithm, max: usize) -> Result<Vec<u8>, FetchError> {
        const ATTEMPTS: usize = 2;
        let mut reasons = Vec::new();
        for counted in &self.0 {
            let source = &counted.source;
            for attempt in 1..=ATTEMPTS {
                let reason = match source.file(layer, id, max + MAX_OVERHEAD) {
                    Err(error) => error.to_string(),
                    Ok(file) => match decode(&file, id, algorithm, max) {
                        Ok(content) => {
                            counted.chunks.fetch_add(1, Ordering::Relaxed);
                            counted.bytes.fetch_add(file.len() as u64, Ordering::Relaxed);
                            return Ok(content);
                        }
                        Err(_) if attempt < ATTEMPTS => continue,
                        Err(error) => format!("the chunk is corrupt: {error}"),
                    },
                };
                counted.failures.fetch_add(1, Ordering::Relaxed);
                *counted.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
                reasons.push(format!("{}: {reason}", source.name()));
                break;
            }
        }
        if reasons.is_empty() {
            reasons.push("there is no source".to_owned());
        }
        Err(FetchError { id: *id, reasons })
    }
}

#[cfg(test)]
mod tests {
    use parallax_chunks::compress;

    use super::*;

    type Answer = Result<Vec<u8>, SourceError>;

    /// A source with prepared answers; the last one is repeated.
    #[derive(Debug)]
    struct Prepared(&'static str, Mutex<Vec<Answer>>);

    impl Source for Prepared {
        fn file(&self, _: &Sha256, _: &ChunkId, _: usize) -> Result<Vec<u8>, SourceError> {
            let mut answers = self.1.lock().unwrap();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        }

        fn name(&self) -> &str {
            self.0
        }
    }

    fn fetch(sources: Vec<(&'static str, Vec<Answer>)>) -> Result<Vec<u8>, String> {
        let of = |(name, answers)| Counted::new(Prepared(name, Mutex::new(answers)));
        let sources = Sources::new(sources.into_iter().map(of).collect());
        let id = ChunkId::of(b"content", Algorithm::Sha256);
        sources.fetch(&Sha256::from([1; 32]), &id, Algorithm::Sha256, 100).map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_chunk_is_fetched_once_more_and_then_elsewhere() {
        let good = || Ok(compress(b"content").unwrap());
        let bad = || Ok(compress(b"another").unwrap());
        let content = Ok(b"content".to_vec());
        assert_eq!(fetch(vec![("a", vec![bad(), good()])]), content);
        assert_eq!(fetch(vec![("a", vec![bad()]), ("b", vec![good()])]), content);
        assert_eq!(fetch(vec![("a", vec![Err(SourceError::NotFound)]), ("b", vec![bad(), good()])]), content);
        let error = fetch(vec![
            ("a", vec![Err(SourceError::NotFound)]),
            ("b", vec![Err(SourceError::Temporary("timeout".into()))]),
            ("c", vec![bad(), bad(), good()]),
            ("d", vec![Ok(b"x".to_vec())]),
        ])
        .unwrap_err();
        for part in [
            "a: not found; b: timeout; c: the chunk is corrupt: its content is another chunk's",
            "d: the chunk is corrupt: it is not compressed by zstd",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(fetch(Vec::new()).unwrap_err().ends_with("there is no source"));
    }
}
