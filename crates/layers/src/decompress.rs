//! Finds out how a layer is compressed, and takes its digest.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest as _, Sha256};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// A zstd stream may begin with a frame to be skipped: `?? 2A 4D 18` (zstd:chunked ends with one).
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2: &[u8] = b"BZh";

/// The uncompressed bytes of a layer. What is in the stream counts, not its media type: an image in Podman's storage
/// has a manifest that says "gzip" and layers that are not compressed any more.
pub(crate) fn decompress<'a, R: Read + 'a>(source: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(256 << 10, source);
    let start = source.fill_buf()?;
    if start.starts_with(GZIP) {
        // Parallel compressors and lazy-loading formats write several members one after the other.
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(source)))
    } else if start.starts_with(ZSTD) || start.get(1..4) == Some(ZSTD_SKIPPABLE) {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(source)?))
    } else if start.starts_with(XZ) || start.starts_with(BZIP2) {
        Err(io::Error::new(io::ErrorKind::Unsupported, "it is compressed with xz or bzip2, which images do not use"))
    } else {
        Ok(Box::new(source))
    }
}

/// Passes bytes on and takes their SHA-256.
pub(crate) struct HashingReader<R> {
    source: R,
    hash: Sha256,
    size: u64,
    most: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, hash: Sha256::new(), size: 0, most: u64::MAX }
    }

    /// Fails when more bytes than this come.
    pub(crate) fn limited_to(mut self, bytes: u64) -> Self {
        self.most = bytes;
        self
    }

    /// The digest of what was read, hexadecimal, and its size in bytes.
    pub(crate) fn finish(self) -> (String, u64) {
        (hex(&self.hash.finalize()), self.size)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.size += got as u64;
        if self.size > self.most {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it unpacks to more than {} bytes", self.most),
            ));
        }
        Ok(got)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 and the size of all that `source` holds.
pub(crate) fn digest(source: impl Read) -> io::Result<(String, u64)> {
    let mut reader = HashingReader::new(source);
    let mut buffer = vec![0; 256 << 10];
    while reader.read(&mut buffer)? > 0 {}
    Ok(reader.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_unpacks_to_too_much_is_cut_off() {
        let mut all = Vec::new();
        HashingReader::new(&[0; 1000][..]).limited_to(1000).read_to_end(&mut all).unwrap();
        let error = HashingReader::new(&[0; 1001][..]).limited_to(1000).read_to_end(&mut all).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
