//! A layer's uncompressed bytes and their digest, computed in threads.
//!
//! Decompression, hashing and rewriting take about the same time each, and mksquashfs waits for them. They therefore run in
//! parallel, on a few buffers that circulate.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use parallax_format::digest;
use sha2::{Digest as _, Sha256};

use crate::decompress::{decompress, hex};

/// Size of a buffer in bytes.
const BUFFER: usize = 256 << 10;
/// Number of buffers: one for each of three threads, and one on the way between any two.
const BUFFERS: usize = 6;

/// The bytes that one thread sends to the next.
type Piece = io::Result<Buffer>;

struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

/// The uncompressed bytes of a layer.
pub(crate) struct Stream {
    from: Receiver<Piece>,
    back: SyncSender<Buffer>,
    current: Option<Buffer>,
    position: usize,
}

/// The SHA-256 and the number of the bytes, available once all have been read.
pub(crate) type Digest<'scope> = ScopedJoinHandle<'scope, (digest::Sha256, u64)>;

/// Starts to read `source`, compressed or not. The threads end at the end of the stream, or when the stream is dropped.
pub(crate) fn start<'scope, R: Read + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: R,
    max_bytes: u64,
) -> (Stream, Digest<'scope>) {
    let (read, to_hash) = sync_channel(BUFFERS);
    let (hashed, from) = sync_channel(BUFFERS);
    let (back, empty) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // The channel has room for all buffers.
        let _ = back.try_send(Buffer { bytes: vec![0; BUFFER].into(), filled: 0 });
    }
    scope.spawn(move || unpack(source, max_bytes, &empty, &read));
    let digest = scope.spawn(move || hash(&to_hash, &hashed));
    (Stream { from, back, current: None, position: 0 }, digest)
}

/// Fills buffers until the end, an error, or until the receiver is dropped.
fn unpack<R: Read>(source: R, max_bytes: u64, empty: &Receiver<Buffer>, to: &SyncSender<Piece>) {
    let mut size = 0_u64;
    let mut source = match decompress(source) {
        Ok(source) => source,
        Err(error) => return drop(to.send(Err(error))),
    };
    while let Ok(mut buffer) = empty.recv() {
        let end = fill(&mut source, &mut buffer);
        size += buffer.filled as u64;
        let limit = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("its unpacked size exceeds the limit of {max_bytes} bytes"),
        );
        let (piece, last) = match end {
            _ if size > max_bytes => (Err(limit), true),
            Err(error) => (Err(error), true),
            Ok(last) => (Ok(buffer), last),
        };
        if to.send(piece).is_err() || last {
            return;
        }
    }
}

/// Fills one buffer. Returns `true` at the end of the source.
fn fill(source: &mut dyn Read, buffer: &mut Buffer) -> io::Result<bool> {
    buffer.filled = 0;
    while let Some(free) = buffer.bytes.get_mut(buffer.filled..).filter(|free| !free.is_empty()) {
        match source.read(free) {
            Ok(0) => return Ok(true),
            Ok(got) => buffer.filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn hash(from: &Receiver<Piece>, to: &SyncSender<Piece>) -> (digest::Sha256, u64) {
    let (mut hash, mut size) = (Sha256::new(), 0);
    for piece in from {
        if let Ok(buffer) = &piece {
            hash.update(buffer.bytes());
            size += buffer.filled as u64;
        }
        if to.send(piece).is_err() {
            break;
        }
    }
    (hex(hash), size)
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(buffer) = &self.current {
                let mut left = buffer.bytes().get(self.position..).unwrap_or_default();
                if !left.is_empty() {
                    let count = left.read(to)?;
                    self.position += count;
                    return Ok(count);
                }
            }
            if let Some(used) = self.current.take() {
                // Fails if the filling thread has ended, which needs no more buffers.
                let _ = self.back.try_send(used);
            }
            match self.from.recv() {
                Ok(piece) => (self.current, self.position) = (Some(piece?), 0),
                // Both threads have ended: the end of the layer.
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &[u8], max: u64) -> (io::Result<Vec<u8>>, digest::Sha256, u64) {
        std::thread::scope(|scope| {
            let (mut stream, digest) = start(scope, source, max);
            let mut all = Vec::new();
            let read = stream.read_to_end(&mut all).map(|_| all);
            drop(stream);
            let (hex, size) = digest.join().unwrap();
            (read, hex, size)
        })
    }

    #[test]
    fn all_bytes_come_in_order_with_their_digest() {
        let bytes: Vec<u8> = (0..2_000_003_u32).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, BUFFER, BUFFER + 1, bytes.len()] {
            let (read, hex, size) = read(&bytes[..length], u64::MAX);
            assert!(read.unwrap() == bytes[..length], "{length}");
            assert_eq!((hex, size), (crate::decompress::hex(Sha256::new_with_prefix(&bytes[..length])), length as u64));
        }
    }

    #[test]
    fn a_stream_that_unpacks_to_too_much_is_cut_off() {
        assert!(read(&[7; 1000], 1000).0.is_ok());
        assert_eq!(read(&[7; 1001], 1000).0.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn whoever_stops_reading_ends_it() {
        std::thread::scope(|scope| {
            let (mut stream, _) = start(scope, io::repeat(7), u64::MAX);
            stream.read_exact(&mut [0; 10]).unwrap();
        });
    }
}
