//! Where a file is cut: after a byte at which the hash of the bytes before it has a certain value.
//!
//! The hash (buzhash) covers the last [`WINDOW`] bytes, so a change in a file moves cuts nearby only. The parameters are casync's,
//! and so is each detail, since an index is only useful to others if all cut alike. desync differs in one: it never tests the
//! hash at exactly the minimum size.

use crate::table::number;

/// Number of bytes that the hash covers.
const WINDOW: usize = 48;
/// Largest permitted size of a chunk in bytes, as in casync.
const MAX_SIZE: u32 = 128 << 20;
/// Largest average size in bytes for which the formula of [`Parameters::divisor`] gives sensible values.
const MAX_AVERAGE: u32 = 8 << 20;

/// Sizes of chunks in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    min: u32,
    average: u32,
    max: u32,
}

/// Sizes that no chunks can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid chunk sizes: minimum {min}, average {average}, maximum {max}")]
pub struct InvalidParameters {
    /// The minimum in bytes.
    pub min: u64,
    /// The average in bytes.
    pub average: u64,
    /// The maximum in bytes.
    pub max: u64,
}

impl Default for Parameters {
    /// casync's: 16 KiB, 64 KiB and 256 KiB.
    fn default() -> Self {
        Self { min: 16 << 10, average: 64 << 10, max: 256 << 10 }
    }
}

impl Parameters {
    /// Checks sizes in bytes.
    ///
    /// # Errors
    /// The minimum is less than the hash covers, a size is larger than the next one, or a size exceeds its limit.
    pub fn new(min: u64, average: u64, max: u64) -> Result<Self, InvalidParameters> {
        let sizes = (u32::try_from(min), u32::try_from(average), u32::try_from(max));
        match sizes {
            (Ok(least), Ok(mean), Ok(most))
                if WINDOW as u32 <= least
                    && least <= mean
                    && mean <= most
                    && mean <= MAX_AVERAGE
                    && most <= MAX_SIZE =>
            {
                Ok(Self { min: least, average: mean, max: most })
            }
            _ => Err(InvalidParameters { min, average, max }),
        }
    }

    /// Returns the minimum size in bytes. The last chunk of a file may be smaller.
    #[must_use]
    pub fn min(&self) -> u32 {
        self.min
    }

    /// Returns the size in bytes that chunks of random data have on average.
    #[must_use]
    pub fn average(&self) -> u32 {
        self.average
    }

    /// Returns the maximum size in bytes.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max
    }

    /// The number by which hashes are divided: at a cut the remainder is the largest possible one. The formula is casync's
    /// approximation of the divisor by which the average size is reached in spite of minimum and maximum.
    fn divisor(self) -> u32 {
        let average = f64::from(self.average);
        ((average / (-1.428_888_52e-7 * average + 1.332_375_15)) as u32).max(1)
    }
}

/// Cuts files.
#[derive(Debug, Clone, Copy)]
pub struct Cutter {
    min: usize,
    max: usize,
    divisor: u32,
}

impl Cutter {
    /// Returns a cutter for chunks of these sizes.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self { min: parameters.min as usize, max: parameters.max as usize, divisor: parameters.divisor() }
    }

    /// Returns the maximum size of a chunk in bytes.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Returns the size in bytes of the chunk at the start of `data`. `data` must have the maximum size or more, unless the file
    /// ends with it; the result is 0 only if `data` is empty.
    #[must_use]
    pub fn cut(&self, data: &[u8]) -> usize {
        let data = data.get(..self.max).unwrap_or(data);
        let Some(first) = data.get(..self.min).and_then(<[u8]>::last_chunk::<WINDOW>) else { return data.len() };
        let mut hash = first.iter().fold(0_u32, |hash, byte| hash.rotate_left(1) ^ number(*byte));
        if self.is_cut(hash) {
            return self.min;
        }
        // The byte that enters the window, and the byte that leaves it.
        let entering = data.get(self.min..).unwrap_or_default();
        let leaving = data.get(self.min - WINDOW..).unwrap_or_default();
        for (passed, (new, old)) in entering.iter().zip(leaving).enumerate() {
            hash = hash.rotate_left(1) ^ number(*old).rotate_left(WINDOW as u32 % u32::BITS) ^ number(*new);
            if self.is_cut(hash) {
                return self.min + passed + 1;
            }
        }
        data.len()
    }

    fn is_cut(&self, hash: u32) -> bool {
        hash % self.divisor == self.divisor - 1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The hash of the bytes before `end`, by its definition.
    fn hash(data: &[u8], end: usize) -> u32 {
        let window = data[end - WINDOW..end].iter().enumerate();
        window.fold(0, |hash, (at, byte)| hash ^ number(*byte).rotate_left((WINDOW - 1 - at) as u32 % 32))
    }

    fn random(seed: u64, size: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..size).map(|_| random.u8(..)).collect()
    }

    /// Data of `size` bytes that is cut after `at` bytes by the hash, not by the maximum, and not before.
    pub(crate) fn cut_at(at: usize, size: usize) -> Vec<u8> {
        let cutter = Cutter::new(Parameters::default());
        let mut random = fastrand::Rng::with_seed(at as u64);
        // Zeros are never cut, so what is before the window matters as little as what is behind.
        let mut data = vec![0; size];
        loop {
            data[at - 8..at].copy_from_slice(&random.u64(..).to_le_bytes());
            if cutter.is_cut(hash(&data, at)) && cutter.cut(&data) == at {
                return data;
            }
        }
    }

    #[test]
    fn sizes_must_fit_together() {
        let default = Parameters::default();
        assert_eq!(Parameters::new(16 << 10, 64 << 10, 256 << 10), Ok(default));
        assert_eq!(default.divisor(), 49535);
        for (min, average, max) in [
            (47, 64, 256),
            (65, 64, 256),
            (48, 257, 256),
            (48, 64, u64::MAX),
            (48, 64, 129 << 20),
            (48, 9 << 20, 1 << 27),
        ] {
            assert_eq!(Parameters::new(min, average, max), Err(InvalidParameters { min, average, max }));
        }
        assert!(Parameters::new(48, 8 << 20, 128 << 20).unwrap().divisor() > 1);
    }

    #[test]
    fn the_rolling_hash_is_the_hash_of_the_window() {
        let cutter = Cutter::new(Parameters::default());
        let data = random(1, 4 << 20);
        let mut start = 0;
        let mut by_hash = 0;
        while start < data.len() {
            let rest = &data[start..];
            let size = cutter.cut(rest);
            let most = rest.len().min(cutter.max);
            let first = (cutter.min..most).find(|end| cutter.is_cut(hash(rest, *end)));
            assert_eq!(size, first.unwrap_or(most), "at {start}");
            by_hash += usize::from(first.is_some());
            start += size;
        }
        assert!(by_hash > 30, "only {by_hash} cuts by the hash");
    }

    #[test]
    fn short_data_and_data_without_a_cut() {
        let cutter = Cutter::new(Parameters::default());
        for size in [0, 1, 47, 48, (16 << 10) - 1, 16 << 10, 256 << 10] {
            assert_eq!(cutter.cut(&vec![0; size]), size);
        }
        assert_eq!(cutter.cut(&vec![0; (256 << 10) + 1]), 256 << 10);
        assert_eq!(cutter.cut(&cut_at(16 << 10, 40 << 10)), 16 << 10);
    }

    #[test]
    fn a_byte_inserted_at_the_head_changes_few_chunks() {
        let cutter = Cutter::new(Parameters::default());
        let chunks = |mut data: &[u8]| {
            let mut chunks = Vec::new();
            while !data.is_empty() {
                let (chunk, rest) = data.split_at(cutter.cut(data));
                chunks.push(chunk.to_vec());
                data = rest;
            }
            chunks
        };
        let data = random(2, 16 << 20);
        let before = chunks(&data);
        let after = chunks(&[&[7], &data[..]].concat());
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new * 50 <= after.len(), "{new} of {} chunks changed", after.len());
    }
}
