//! One blob of a source, as a blocking reader.

use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use containers_image_proxy::{BlobStream, BlobStreamSource, Error};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Runtime;

use super::skopeo::skopeo_error;

/// Timeout without data after which skopeo is asked to finish the blob.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

type Driver<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Bytes from skopeo.
///
/// skopeo reports whether it read the complete blob, with the right size and digest, only when it is asked to finish
/// (the "driver"), and handles no other request meanwhile. So it is asked when all bytes have arrived, according to the size;
/// if the size is unknown, it must be asked at the start.
///
/// If its source fails, skopeo leaves the stream open and reports nothing until it is asked. So it is also asked if no byte
/// arrives before a timeout. If the source is only slow, other blobs wait for this one then.
pub struct Blob<'a> {
    runtime: &'a Runtime,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    driver: Option<Driver<'a>>,
    /// Number of remaining bytes, if known.
    left: Option<u64>,
    /// `true` if the stream ends by itself; otherwise it ends only after the driver was asked.
    ends_by_itself: bool,
    /// `true` if skopeo was asked because of the timeout.
    stalled: bool,
    /// `true` if the size is a placeholder: skopeo's error about the size is ignored.
    unsized_blob: bool,
}

impl std::fmt::Debug for Blob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<'a> Blob<'a> {
    pub(super) fn new(runtime: &'a Runtime, stream: BlobStream<'a>, size: Option<u64>) -> Self {
        let ends_by_itself = stream.source() == BlobStreamSource::GetRawBlob;
        let (reader, driver) = stream.into_parts();
        Self {
            runtime,
            reader,
            driver: Some(driver),
            left: size,
            ends_by_itself,
            stalled: false,
            unsized_blob: size.is_none(),
        }
    }

    fn poll_reader(&mut self, cx: &mut std::task::Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        Pin::new(&mut self.reader).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
    }

    /// Reads, and drives skopeo's check meanwhile if `drive`.
    fn read_some(&mut self, buffer: &mut [u8], drive: bool) -> io::Result<usize> {
        let runtime = self.runtime;
        runtime.block_on(poll_fn(|cx| {
            if let Some(driver) = self.driver.as_mut().filter(|_| drive) {
                if let Poll::Ready(result) = driver.as_mut().poll(cx) {
                    self.driver = None;
                    if let Err(error) = self.checked(result) {
                        return Poll::Ready(Err(error));
                    }
                }
            }
            self.poll_reader(cx, buffer)
        }))
    }

    /// Reads as long as bytes arrive; `None` on a timeout.
    fn read_unless_stalled(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let runtime = self.runtime;
        runtime.block_on(async {
            let read = poll_fn(|cx| self.poll_reader(cx, buffer));
            tokio::time::timeout(STALL_TIMEOUT, read).await.ok()
        })
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(driver) = self.driver.take() else { return Ok(()) };
        let result = self.runtime.block_on(driver);
        self.checked(result)
    }

    fn checked(&self, result: Result<(), Error>) -> io::Result<()> {
        match result {
            // The converter checks the digest of the bytes.
            Err(error) if self.unsized_blob => {
                tracing::debug!(%error, "skopeo on a blob of unknown size");
                Ok(())
            }
            result => result.map_err(|error| io::Error::other(skopeo_error(error).to_string())),
        }
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == Some(0) && !self.ends_by_itself {
            return self.finish().map(|()| 0);
        }
        let drive = self.left.is_none() && !self.ends_by_itself;
        let read = if drive || self.stalled { None } else { self.read_unless_stalled(buffer) };
        let got = match read {
            Some(read) => read?,
            None => {
                self.stalled |= !drive;
                self.read_some(buffer, true)?
            }
        };
        self.left = self.left.map(|left| left.saturating_sub(got as u64));
        if got == 0 && !buffer.is_empty() {
            self.finish()?;
        }
        Ok(got)
    }
}
