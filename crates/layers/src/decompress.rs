//! Decompression of layers, and digests.

use std::io::{self, BufRead, BufReader, Read};

use parallax_format::digest;
use sha2::{Digest as _, Sha256};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// A zstd stream may begin with a frame to be skipped: `?? 2A 4D 18` (zstd:chunked ends with one).
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2: &[u8] = b"BZh";

/// Returns a reader of the uncompressed bytes. The stream decides, not its media type: an image in Podman's storage
/// has a manifest that says "gzip" and uncompressed layers.
pub(crate) fn decompress<'a, R: Read + 'a>(source: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(256 << 10, source);
    let start = source.fill_buf()?;
    if start.starts_with(GZIP) {
        // Parallel compressors and lazy-loading formats write several members in sequence.
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(source)))
    } else if start.starts_with(ZSTD) || start.get(1..4) == Some(ZSTD_SKIPPABLE) {
        // zstd itself refuses windows of more than 128 MiB.
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(source)?))
    } else if start.starts_with(XZ) || start.starts_with(BZIP2) {
        Err(io::Error::new(io::ErrorKind::Unsupported, "it is compressed with xz or bzip2, which images do not use"))
    } else {
        Ok(Box::new(source))
    }
}

/// Writes a finished hash in digits.
pub(crate) fn hex(hash: Sha256) -> digest::Sha256 {
    <[u8; 32]>::from(hash.finalize()).into()
}

/// Returns the SHA-256 and the size in bytes of all that `source` yields.
pub(crate) fn digest(mut source: impl Read) -> io::Result<(digest::Sha256, u64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok((hex(hash), size)),
            got => {
                hash.update(buffer.get(..got).unwrap_or_default());
                size += got as u64;
            }
        }
    }
}
