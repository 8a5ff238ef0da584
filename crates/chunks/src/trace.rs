//! Traces: the chunks of a file that a start reads, in the order of their first use.
//!
//! A text file: the line [`HEADER`], the line `index` with the SHA-256 of the index's file, then one line for each chunk, or for
//! chunks that follow each other in the file: `17`, or `20-31`. Numbers are positions in the index, from 0.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use parallax_format::digest::Sha256;
use sha2::Digest as _;

use crate::index::Index;

/// First line, which changes with the format.
const HEADER: &str = "parallax-trace 1";
/// Name of the second line.
const INDEX: &str = "index ";

/// An error of reading a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Another format.
    #[error("it is not a trace of chunks")]
    NoTrace,
    /// Another index: the file has been cut into chunks again.
    #[error("it is that of another index")]
    OtherIndex,
    /// A line that is no chunk of the index, or names one again.
    #[error("line {0} is invalid")]
    Line(usize),
}

/// The chunks that a start reads, in the order of their first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    index: Sha256,
    numbers: Vec<usize>,
}

impl Trace {
    /// Returns the trace of reads, given by their offsets and sizes in bytes, of a file with this index.
    pub fn of_reads(index: &Index, reads: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let ends: Vec<u64> = index.parts().map(|part| part.offset + part.size).collect();
        let (mut seen, mut numbers) = (HashSet::new(), Vec::new());
        for (offset, size) in reads {
            let first = ends.partition_point(|end| *end <= offset);
            // The chunk that has the last byte.
            let last = ends.partition_point(|end| *end < offset.saturating_add(size));
            let read = (first..ends.len()).take_while(|number| size > 0 && *number <= last);
            numbers.extend(read.filter(|number| seen.insert(*number)));
        }
        Self { index: digest(index), numbers }
    }

    /// Reads a trace of a file with this index.
    ///
    /// # Errors
    /// [`TraceError`]; the numbers of a trace that is returned are those of chunks, each once.
    pub fn parse(bytes: &[u8], index: &Index) -> Result<Self, TraceError> {
        let text = std::str::from_utf8(bytes).map_err(|_| TraceError::NoTrace)?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(TraceError::NoTrace);
        }
        let found = lines.next().and_then(|line| line.strip_prefix(INDEX)).and_then(Sha256::parse);
        let found = found.ok_or(TraceError::NoTrace)?;
        if found != digest(index) {
            return Err(TraceError::OtherIndex);
        }
        let count = index.parts().len();
        let (mut seen, mut numbers) = (HashSet::new(), Vec::new());
        for (line, text) in (3..).zip(lines) {
            let range = range(text).filter(|range| *range.end() < count).ok_or(TraceError::Line(line))?;
            for number in range {
                if !seen.insert(number) {
                    return Err(TraceError::Line(line));
                }
                numbers.push(number);
            }
        }
        Ok(Self { index: found, numbers })
    }

    /// Returns the trace as it is stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{HEADER}\n{INDEX}{}\n", self.index);
        for run in self.numbers.chunk_by(|one, next| one + 1 == *next) {
            let _ = match run {
                [] => Ok(()),
                [number] => writeln!(text, "{number}"),
                [first, .., last] => writeln!(text, "{first}-{last}"),
            };
        }
        text.into_bytes()
    }

    /// Returns the positions of the chunks in the index.
    #[must_use]
    pub fn numbers(&self) -> &[usize] {
        &self.numbers
    }
}

/// Parses a line; `None` unless it is one that is written: without signs and leading zeros, and the smaller number first.
fn range(line: &str) -> Option<RangeInclusive<usize>> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| number.to_string() == text);
    match line.split_once('-') {
        None => number(line).map(|number| number..=number),
        Some((first, last)) => Some(number(first)?..=number(last)?).filter(|range| range.start() < range.end()),
    }
}

fn digest(index: &Index) -> Sha256 {
    <[u8; 32]>::from(sha2::Sha256::digest(index.to_bytes())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutter::Parameters;
    use crate::id::{Algorithm, ChunkId};

    fn index_of(chunks: u8) -> Index {
        let chunks: Vec<_> = (0..chunks).map(|byte| (ChunkId::of(&[byte], Algorithm::Sha256), 100)).collect();
        Index::new(Algorithm::Sha256, Parameters::default(), &chunks)
    }

    #[test]
    fn reads_become_chunks_in_the_order_of_their_first_use() {
        let index = index_of(10);
        let numbers = |reads: &[(u64, u64)]| Trace::of_reads(&index, reads.iter().copied()).numbers().to_vec();
        assert_eq!(numbers(&[(500, 100), (0, 1), (99, 2), (99, 1), (550, 0), (499, 202)]), [5, 0, 1, 4, 6, 7]);
        assert_eq!(numbers(&[(950, 1000), (1000, 1), (u64::MAX, 9)]), [9]);
        assert_eq!(numbers(&[(0, u64::MAX)]), (0..10).collect::<Vec<_>>());
        assert!(numbers(&[]).is_empty());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let index = index_of(10);
        let trace = Trace::of_reads(&index, [(300, 300), (0, 1), (900, 1), (800, 1)]);
        let text = String::from_utf8(trace.to_bytes()).unwrap();
        assert!(text.ends_with("\n3-5\n0\n9\n8\n"), "{text}");
        assert_eq!(Trace::parse(text.as_bytes(), &index), Ok(trace));
        let empty = Trace::of_reads(&index, []);
        assert_eq!(Trace::parse(&empty.to_bytes(), &index), Ok(empty));
    }

    #[test]
    fn what_is_no_trace_of_this_index_is_refused() {
        let index = index_of(10);
        let begin = String::from_utf8(Trace::of_reads(&index, []).to_bytes()).unwrap();
        let parse = |text: &str| Trace::parse(text.as_bytes(), &index).unwrap_err();
        for text in ["", "parallax-trace 2\n", HEADER, "parallax-trace 1\nindex abc\n"] {
            assert_eq!(parse(text), TraceError::NoTrace, "{text}");
        }
        assert_eq!(Trace::parse(&[0xff], &index), Err(TraceError::NoTrace));
        for line in ["10", "-1", "+1", "01", "1-", "1-1", "5-3", "0-10", "", "x", "0-18446744073709551616"] {
            assert_eq!(parse(&format!("{begin}{line}\n")), TraceError::Line(3), "{line}");
        }
        assert_eq!(parse(&format!("{begin}1-3\n2\n")), TraceError::Line(4));
        assert_eq!(Trace::parse(begin.as_bytes(), &index_of(9)), Err(TraceError::OtherIndex));
    }
}
