//! Recognises what is read in sequence (pure): a reader of a large file would otherwise wait for each chunk.

/// Number of sequences that are remembered at a time: a layer's metadata and a few files.
const MAX_STREAMS: usize = 8;
/// Number of chunks in sequence after which it counts as one.
const MIN_RUN: usize = 4;
/// Maximum number of chunks that are fetched ahead: 2 MiB.
const MAX_AHEAD: usize = 32;

/// The sequences in which a file's chunks are read.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// The one that continued last is the last.
    streams: Vec<Stream>,
}

/// Chunks read in sequence.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// Number of the last chunk that was read.
    last: usize,
    /// Number of chunks that were read in sequence.
    run: usize,
    /// Number of the first chunk that was not fetched ahead.
    ahead: usize,
}

impl Streams {
    /// Notes that the chunks from `first` to `last` are read. Returns the numbers of those that should be fetched ahead: half as many as
    /// were read in sequence, so that little is fetched in vain.
    pub(crate) fn read(&mut self, first: usize, last: usize) -> std::ops::Range<usize> {
        // A read may begin in the chunk where the one before ended.
        let known = self.streams.iter().position(|stream| (stream.last..=stream.last + 1).contains(&first));
        let mut stream = match known {
            Some(at) => self.streams.remove(at),
            None => Stream { last: first, run: 1, ahead: first },
        };
        stream.run += last.saturating_sub(stream.last);
        stream.last = last.max(stream.last);
        let from = stream.ahead.max(stream.last + 1);
        let until = if stream.run < MIN_RUN { from } else { stream.last + 1 + (stream.run / 2).min(MAX_AHEAD) };
        stream.ahead = until.max(stream.ahead);
        if self.streams.len() == MAX_STREAMS {
            self.streams.remove(0);
        }
        self.streams.push(stream);
        from..until.max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_fetched_ahead_by_half_of_its_length() {
        let mut streams = Streams::default();
        assert_eq!(streams.read(10, 11), 12..12);
        assert_eq!(streams.read(11, 11), 12..12);
        assert_eq!(streams.read(12, 13), 14..16);
        assert_eq!(streams.read(13, 14), 16..17);
        assert_eq!(streams.read(14, 14), 17..17);
        let mut fetched = 17;
        for number in 15..200 {
            let ahead = streams.read(number, number);
            assert_eq!(ahead.start, fetched.max(number + 1), "nothing twice, no gap");
            assert!(ahead.end <= number + 1 + MAX_AHEAD);
            fetched = ahead.end;
        }
        assert_eq!(fetched, 200 + MAX_AHEAD);
    }

    #[test]
    fn reads_here_and_there_are_no_sequence() {
        let mut streams = Streams::default();
        for number in 0..100 {
            assert!(streams.read(number * 7 % 100, number * 7 % 100).is_empty());
        }
        for _ in 0..100 {
            assert!(streams.read(3, 3).is_empty());
        }
    }

    #[test]
    fn several_sequences_are_told_apart() {
        let mut streams = Streams::default();
        for number in 0..10 {
            for stream in 0..MAX_STREAMS {
                let first = stream * 1000 + number;
                assert_eq!(streams.read(first, first).is_empty(), number < 3, "{number} of {stream}");
            }
        }
    }
}
