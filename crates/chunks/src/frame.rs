//! The files of a chunk store: one chunk each, compressed by zstd.

use std::io::{self, Read as _};

use crate::id::{Algorithm, ChunkId};

/// Level of compression, casync's.
const LEVEL: i32 = 3;
/// Largest window of a zstd frame, as a power of two: what decompressing one chunk may take of memory. casync's frames have
/// 2 MiB, desync's up to 8 MiB.
const MAX_WINDOW: u32 = 23;
/// The first bytes of a zstd frame.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// An error of reading the file of a chunk.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Compressed by another method, which casync permits.
    #[error("it is not compressed by zstd")]
    Method,
    /// The frame cannot be decompressed.
    #[error("it cannot be decompressed: {0}")]
    Corrupt(io::Error),
    /// The content is larger than a chunk may be.
    #[error("its content is larger than {0} bytes, which no chunk is")]
    TooLarge(usize),
    /// The content does not have the id.
    #[error("its content is another chunk's: {0}")]
    OtherContent(ChunkId),
}

/// Compresses a chunk for a chunk store.
///
/// # Errors
/// zstd failed, for lack of memory.
pub fn compress(content: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(content, LEVEL)
}

/// Decompresses the file of a chunk, and checks its content against the id. `max` is the maximum size of the content in bytes.
///
/// # Errors
/// [`FrameError`]; what is returned is the chunk.
pub fn decode(frame: &[u8], id: &ChunkId, algorithm: Algorithm, max: usize) -> Result<Vec<u8>, FrameError> {
    if !frame.starts_with(ZSTD) {
        return Err(FrameError::Method);
    }
    let mut content = Vec::new();
    let mut decompress = || {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(frame)?.single_frame();
        decoder.window_log_max(MAX_WINDOW)?;
        decoder.take(max as u64 + 1).read_to_end(&mut content)
    };
    decompress().map_err(FrameError::Corrupt)?;
    if content.len() > max {
        return Err(FrameError::TooLarge(max));
    }
    let is = ChunkId::of(&content, algorithm);
    if is == *id { Ok(content) } else { Err(FrameError::OtherContent(is)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chunk_itself_is_returned() {
        let algorithm = Algorithm::Sha512_256;
        let content = [7; 5000];
        let id = ChunkId::of(&content, algorithm);
        let frame = compress(&content).unwrap();
        assert!(frame.len() < 100);
        assert_eq!(decode(&frame, &id, algorithm, 5000).unwrap(), content);
        assert!(matches!(decode(&frame, &id, algorithm, 4999), Err(FrameError::TooLarge(4999))));
        assert!(matches!(decode(&frame, &id, Algorithm::Sha256, 5000), Err(FrameError::OtherContent(_))));
        let other = compress(&[8; 5000]).unwrap();
        assert!(matches!(decode(&other, &id, algorithm, 5000), Err(FrameError::OtherContent(_))));
        assert!(matches!(decode(&content, &id, algorithm, 5000), Err(FrameError::Method)));
        assert!(matches!(decode(b"", &id, algorithm, 5000), Err(FrameError::Method)));
        for size in 4..frame.len() {
            assert!(matches!(decode(&frame[..size], &id, algorithm, 5000), Err(FrameError::Corrupt(_))), "{size}");
        }
        let empty = ChunkId::of(b"", algorithm);
        assert_eq!(decode(&compress(b"").unwrap(), &empty, algorithm, 1).unwrap(), b"");
    }

    #[test]
    fn a_frame_that_wants_much_memory_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).unwrap();
        io::Write::write_all(&mut encoder, &[7; 5000]).unwrap();
        let frame = encoder.finish().unwrap();
        let id = ChunkId::of(&[7; 5000], Algorithm::Sha256);
        assert!(matches!(decode(&frame, &id, Algorithm::Sha256, 5000), Err(FrameError::Corrupt(_))));
    }
}
