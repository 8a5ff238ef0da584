//! Traces of chunks.

use parallax_chunks::{Algorithm, ChunkId, Index, Parameters, Trace};

/// Number of chunks of the index that traces of the corpus belong to.
const CHUNKS: usize = 8;

/// Any bytes are refused, or are a trace that names chunks of its index, each once, and that is the same when it is written and read again.
///
/// # Panics
/// If it is not.
pub fn check(input: &[u8]) {
    let chunks: Vec<_> =
        (0..CHUNKS).map(|number| (ChunkId::of(&number.to_le_bytes(), Algorithm::Sha256), 1000)).collect();
    let index = Index::new(Algorithm::Sha256, Parameters::default(), &chunks);
    let Ok(trace) = Trace::parse(input, &index) else { return };
    let numbers = trace.numbers();
    assert!(numbers.iter().all(|number| *number < CHUNKS));
    assert!(numbers.iter().enumerate().all(|(at, number)| !numbers[..at].contains(number)));
    assert_eq!(Trace::parse(&trace.to_bytes(), &index), Ok(trace));
}
