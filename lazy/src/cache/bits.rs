//! Which chunks of a file are there, and the file that keeps it.
//!
//! The file has a header of 40 bytes ([`MAGIC`], the SHA-256 of the index) and one bit for each chunk of the index. A file of another
//! length or with another header says nothing.

/// Begins the file, and changes with its format.
const MAGIC: &[u8; 8] = b"PLXBITS1";
/// Size of the header in bytes.
const HEADER: usize = 40;

/// A bit for each chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    /// Returns `count` bits that are not set.
    pub(crate) fn new(count: usize) -> Self {
        Self { bytes: vec![0; count.div_ceil(8)], count }
    }

    pub(crate) fn get(&self, number: usize) -> bool {
        self.bytes.get(number / 8).is_some_and(|byte| byte & (1 << (number % 8)) != 0)
    }

    /// Sets a bit; numbers behind the last one are ignored.
    pub(crate) fn set(&mut self, number: usize) {
        if let Some(byte) = self.bytes.get_mut(number / 8).filter(|_| number < self.count) {
            *byte |= 1 << (number % 8);
        }
    }

    /// Returns the numbers of the bits that are set.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..self.count).filter(|number| self.get(*number))
    }

    /// Returns the file.
    pub(crate) fn to_file(&self, index: &[u8; 32]) -> Vec<u8> {
        [&MAGIC[..], index, &self.bytes].concat()
    }

    /// Reads the file; `None` if it says nothing about this index.
    pub(crate) fn of_file(file: &[u8], index: &[u8; 32], count: usize) -> Option<Self> {
        let (header, bytes) = file.split_at_checked(HEADER)?;
        let is_header = header.strip_prefix(MAGIC).is_some_and(|digest| digest == index);
        let bits = Self { bytes: bytes.to_vec(), count };
        // Bits behind the last chunk are nobody's.
        let behind = bytes.last().is_some_and(|last| count % 8 != 0 && last >> (count % 8) != 0);
        (is_header && bytes.len() == count.div_ceil(8) && !behind).then_some(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        for count in [0, 1, 7, 8, 9, 1000] {
            let mut bits = Bits::new(count);
            (0..count + 9).step_by(3).for_each(|number| bits.set(number));
            assert_eq!(bits.numbers().collect::<Vec<_>>(), (0..count).step_by(3).collect::<Vec<_>>());
            let file = bits.to_file(&[7; 32]);
            assert_eq!(Bits::of_file(&file, &[7; 32], count), Some(bits));
            assert_eq!(Bits::of_file(&file, &[8; 32], count), None);
            assert_eq!(Bits::of_file(&file, &[7; 32], count + 8), None);
            for size in 0..file.len() {
                assert_eq!(Bits::of_file(&file[..size], &[7; 32], count), None);
            }
        }
        let mut file = Bits::new(9).to_file(&[7; 32]);
        *file.last_mut().unwrap() = 2;
        assert_eq!(Bits::of_file(&file, &[7; 32], 9), None);
    }
}
