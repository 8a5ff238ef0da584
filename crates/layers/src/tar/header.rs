//! One header block of a tar archive.

/// Size of a block in bytes. A header has one block; the last block of data is filled up with zeros.
pub(crate) const BLOCK: usize = 512;

pub(crate) struct Header(pub(crate) [u8; BLOCK]);

impl Header {
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = until_nul(&self.0[345..500]);
        // Only the POSIX format has a prefix; GNU's format has times in these bytes.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(crate) fn has_valid_checksum(&self) -> bool {
        let bytes = || self.0.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { b' ' } else { b });
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some old writers summed signed bytes.
        let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
        Self::signed(&self.0[148..156]).is_some_and(|sum| sum == unsigned || sum == signed)
    }

    pub(crate) fn number(field: &[u8]) -> Option<u64> {
        Self::signed(field).and_then(|number| u64::try_from(number).ok())
    }

    /// Parses octal digits between blanks, or a big-endian number with the first bit set (GNU's form for large numbers).
    pub(crate) fn signed(field: &[u8]) -> Option<i64> {
        let (&first, rest) = field.split_first()?;
        if first & 0x80 != 0 {
            let negative = first & 0x40 != 0;
            let first = if negative { i128::from(first as i8) } else { i128::from(first & 0x7f) };
            let number = rest.iter().try_fold(first, |sum, &b| sum.checked_mul(256)?.checked_add(i128::from(b)))?;
            return i64::try_from(number).ok();
        }
        let digits = field.trim_ascii_start().split(|&b| b == 0 || b == b' ').next()?;
        digits.iter().try_fold(0_i64, |sum, &b| match b {
            b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(b - b'0')),
            _ => None,
        })
    }
}

/// Returns the number of bytes that fill up the last block of `size` bytes.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Returns a field up to its first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}
