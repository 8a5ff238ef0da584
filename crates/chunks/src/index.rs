//! Indexes: which chunks make up a file, in casync's format for blobs (`.caibx`).
//!
//! All numbers are 64-bit and little-endian. A header of 48 bytes (its size, [`HEADER`], flags, minimum, average and maximum size
//! of chunks) is followed by the table: [`TABLE_SIZE`], [`TABLE`], for each chunk the offset of its end in the file and its id, and
//! a tail of 40 bytes (twice 0, the offset of the table, the table's size with its tail, [`TAIL`]).

use crate::cutter::{InvalidParameters, Parameters};
use crate::id::{Algorithm, ChunkId};

/// Type of the header.
const HEADER: u64 = 0x9682_4d9c_7b12_9ff9;
/// Type of the table.
const TABLE: u64 = 0xe75b_9e11_2f17_417d;
/// The table's size in its first field, which writers do not know yet.
const TABLE_SIZE: u64 = u64::MAX;
/// Last field of the tail.
const TAIL: u64 = 0x4b4f_050e_5549_ecd1;
/// Size of the header in bytes.
const HEADER_BYTES: u64 = 48;
/// Size in bytes of the table without its entries.
const TABLE_BYTES: u64 = 56;
/// Size of an entry in bytes.
const ENTRY_BYTES: u64 = 40;
/// Flag for ids by SHA-512/256; without it by SHA-256.
const SHA512_256: u64 = 0x2000_0000_0000_0000;
/// The other flags of the indexes of files that casync writes. They concern archives: leave out files with the attribute
/// "nodump", and those that `.caexclude` names.
const CASYNC_FLAGS: u64 = 0x9000_0000_0000_0000;

/// An error of reading an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Not an index of a file, or truncated.
    #[error("it is not an index of casync for a file")]
    NoIndex,
    /// The sizes of chunks are impossible.
    #[error(transparent)]
    Parameters(#[from] InvalidParameters),
    /// An entry does not continue the one before.
    #[error("the size of chunk {0} is invalid")]
    Size(usize),
}

/// The chunks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    flags: u64,
    parameters: Parameters,
    entries: Vec<Entry>,
}

/// A chunk's end in the file, and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    end: u64,
    id: ChunkId,
}

/// A chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its offset in the file in bytes.
    pub offset: u64,
    /// Its size in bytes, at least 1.
    pub size: u64,
    /// Its id.
    pub id: ChunkId,
}

impl Index {
    /// Returns the index of a file with these chunks: their ids and sizes in bytes, which [`crate::split()`] returns.
    #[must_use]
    pub fn new(algorithm: Algorithm, parameters: Parameters, chunks: &[(ChunkId, u64)]) -> Self {
        let digest = if algorithm == Algorithm::Sha512_256 { SHA512_256 } else { 0 };
        let entries = chunks.iter().scan(0, |end: &mut u64, (id, size)| {
            *end = end.saturating_add(*size);
            Some(Entry { end: *end, id: *id })
        });
        Self { flags: CASYNC_FLAGS | digest, parameters, entries: entries.collect() }
    }

    /// Reads an index.
    ///
    /// # Errors
    /// [`IndexError`]; the sizes of an index that is returned are possible ones.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let mut rest = bytes;
        let mut next = || number(&mut rest).ok_or(IndexError::NoIndex);
        let head = [next()?, next()?];
        let (flags, min, average, max) = (next()?, next()?, next()?, next()?);
        if head != [HEADER_BYTES, HEADER] || [next()?, next()?] != [TABLE_SIZE, TABLE] {
            return Err(IndexError::NoIndex);
        }
        let parameters = Parameters::new(min, average, max)?;
        let table = (bytes.len() as u64).saturating_sub(HEADER_BYTES);
        let entries = table.checked_sub(TABLE_BYTES).filter(|size| size % ENTRY_BYTES == 0);
        let count =
            usize::try_from(entries.ok_or(IndexError::NoIndex)? / ENTRY_BYTES).map_err(|_| IndexError::NoIndex)?;
        let mut entries = Vec::with_capacity(count);
        let mut start = 0;
        for at in 0..count {
            let end = number(&mut rest).ok_or(IndexError::NoIndex)?;
            let (id, behind) = rest.split_first_chunk::<32>().ok_or(IndexError::NoIndex)?;
            rest = behind;
            let size = end.checked_sub(start).filter(|size| (1..=max).contains(size));
            size.ok_or(IndexError::Size(at))?;
            entries.push(Entry { end, id: ChunkId::from(*id) });
            start = end;
        }
        let mut tail = || number(&mut rest);
        let tail = [tail(), tail(), tail(), tail(), tail()];
        if tail != [0, 0, HEADER_BYTES, table, TAIL].map(Some) {
            return Err(IndexError::NoIndex);
        }
        Ok(Self { flags, parameters, entries })
    }

    /// Returns the index as it is stored; for an index that was parsed, the bytes it was parsed from.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let sizes = [self.parameters.min(), self.parameters.average(), self.parameters.max()].map(u64::from);
        let table = TABLE_BYTES + ENTRY_BYTES * self.entries.len() as u64;
        let mut bytes = Vec::with_capacity(usize::try_from(HEADER_BYTES + table).unwrap_or(0));
        let mut put = |numbers: &[u64]| numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        put(&[HEADER_BYTES, HEADER, self.flags]);
        put(&sizes);
        put(&[TABLE_SIZE, TABLE]);
        for Entry { end, id } in &self.entries {
            bytes.extend(end.to_le_bytes());
            bytes.extend(id.as_bytes());
        }
        for number in [0, 0, HEADER_BYTES, table, TAIL] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    /// Returns the digest that gives the chunks their ids.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        if self.flags & SHA512_256 == 0 { Algorithm::Sha256 } else { Algorithm::Sha512_256 }
    }

    /// Returns the sizes of chunks.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// Returns the file's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.end)
    }

    /// Returns the chunk at this position, from 0.
    pub(crate) fn part(&self, number: usize) -> Option<Part> {
        let entry = self.entries.get(number)?;
        let offset = number.checked_sub(1).and_then(|before| self.entries.get(before)).map_or(0, |before| before.end);
        Some(Part { offset, size: entry.end - offset, id: entry.id })
    }

    /// Returns the file's chunks in their order. One may come several times.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = Part> {
        let mut offset = 0;
        self.entries.iter().map(move |Entry { end, id }| {
            let start = std::mem::replace(&mut offset, *end);
            Part { offset: start, size: end - start, id: *id }
        })
    }
}

/// Takes a number from the start of `bytes`.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(algorithm: Algorithm) -> Index {
        let id = |content: &[u8]| ChunkId::of(content, algorithm);
        Index::new(algorithm, Parameters::default(), &[(id(b"a"), 16 << 10), (id(b"b"), 256 << 10), (id(b"a"), 1)])
    }

    #[test]
    fn what_is_written_is_read_again() {
        for algorithm in [Algorithm::Sha512_256, Algorithm::Sha256] {
            let index = index(algorithm);
            let bytes = index.to_bytes();
            assert_eq!(bytes.len(), 104 + 3 * 40);
            assert_eq!(Index::parse(&bytes), Ok(index.clone()));
            assert_eq!((index.algorithm(), index.size()), (algorithm, (272 << 10) + 1));
            let parts: Vec<_> = index.parts().map(|part| (part.offset, part.size)).collect();
            assert_eq!(parts, [(0, 16 << 10), (16 << 10, 256 << 10), (272 << 10, 1)]);
        }
        let empty = Index::new(Algorithm::Sha256, Parameters::default(), &[]);
        assert_eq!(Index::parse(&empty.to_bytes()), Ok(empty.clone()));
        assert_eq!((empty.size(), empty.parts().count()), (0, 0));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let bytes = index(Algorithm::Sha512_256).to_bytes();
        for size in 0..bytes.len() {
            assert_eq!(Index::parse(&bytes[..size]), Err(IndexError::NoIndex), "{size} bytes");
        }
        assert_eq!(Index::parse(&[&bytes[..], &[0; 40]].concat()), Err(IndexError::Size(3)));
        let changed = |at: usize, number: u64| {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            Index::parse(&bytes).unwrap_err().to_string()
        };
        let no_index = IndexError::NoIndex.to_string();
        let tail = bytes.len() - 40;
        for at in [0, 8, 48, 56, tail, tail + 8, tail + 16, tail + 24, tail + 32] {
            assert_eq!(changed(at, 1), no_index, "at {at}");
        }
        for at in [24, 32, 40] {
            assert!(changed(at, 7).contains("invalid chunk sizes"), "at {at}");
        }
        // No bytes, too many, and backwards.
        for end in [16 << 10, (16 << 10) + (256 << 10) + 1, 1, u64::MAX] {
            assert_eq!(changed(64 + 40, end), "the size of chunk 1 is invalid", "{end}");
        }
    }
}
