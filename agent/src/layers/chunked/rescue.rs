//! What the agent does where a worker cannot go on: it answers the requests from the layer's whole file, and puts that file below the
//! loop device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use parallax_lazy_file::Content;
use parallax_sys::shared_slots::HEAD;

use super::supervisor::Supervisor;

/// Number of threads that answer.
const THREADS: usize = 4;
/// Interval of looks at the requests that the worker has read.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The layer's whole file.
struct Whole<'a> {
    file: &'a File,
    size: u64,
}

impl Content for Whole<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        self.file.read_exact_at(buffer.get_mut(..size).unwrap_or_default(), offset)?;
        Ok(size)
    }
}

impl Supervisor {
    /// Answers requests from the whole file until that file is below the loop device, and FUSE is gone; also those requests that the worker
    /// has read.
    ///
    /// # Errors
    /// The reason, a part of a sentence: the file is not the layer's, or cannot be put there. In the second case it is served until the
    /// layer is unmounted.
    pub(super) fn rescue(&self, file: &File) -> Result<(), String> {
        if self.verify {
            self.check(file)?;
        }
        self.put_below(file, Duration::ZERO)
    }

    /// Puts a file below the layer's loop device, once there is one, which waits for the reads in progress. If that takes longer than `grace`, the
    /// worker answers them no more: they are answered from the file.
    ///
    /// # Errors
    /// The reason, a part of a sentence. If it took longer than that, the file is served until the layer is unmounted.
    pub(super) fn put_below(&self, file: &File, grace: Duration) -> Result<(), String> {
        let content = Whole { file, size: self.request.size };
        let (end, ended) = channel::<()>();
        let exchanged = thread::scope(|scope| {
            let late = thread::Builder::new().name("lazy layer".to_owned());
            late.spawn_scoped(scope, || {
                // The sender is dropped after the exchange.
                let ended = ended;
                if ended.recv_timeout(grace) == Err(RecvTimeoutError::Timeout) {
                    self.answer(&content);
                }
            })?;
            let exchanged = self.shared.change_file(file);
            drop(end);
            exchanged
        });
        exchanged.map_err(|error| format!("its file cannot be exchanged: {error}"))
    }

    /// Answers all requests until FUSE is gone.
    fn answer(&self, content: &Whole<'_>) {
        let is_over = AtomicBool::new(false);
        let serve = || {
            if let Err(error) = self.device.serve_without_slot(content) {
                tracing::error!(layer = %self.shared.diff_id(), "cannot serve the layer: {error}");
            }
            is_over.store(true, Ordering::Relaxed);
        };
        thread::scope(|scope| {
            let look = thread::Builder::new().name("lazy layer".to_owned());
            if let Err(error) = look.spawn_scoped(scope, || self.answer_slots(content, &is_over)) {
                tracing::error!(layer = %self.shared.diff_id(), "cannot answer for the worker: no thread: {error}");
            }
            for _ in 1..THREADS {
                let thread = thread::Builder::new().name("lazy layer".to_owned());
                // Without further threads it takes longer.
                let _ = thread.spawn_scoped(scope, serve);
            }
            serve();
        });
    }

    /// Answers the requests that the worker has read. A worker that hangs may still fill a slot, so a request counts when it was there in
    /// two looks.
    fn answer_slots(&self, content: &Whole<'_>, is_over: &AtomicBool) {
        let mut seen = vec![[0; HEAD]; self.slots.count()];
        let mut answered = seen.clone();
        let mut buffer = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            for (number, (seen, answered)) in seen.iter_mut().zip(&mut answered).enumerate() {
                let head = self.slots.head(number);
                if head == *seen && head != *answered {
                    let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_ne_bytes()).collect();
                    if let Err(error) = self.device.serve_request(&bytes, content, &mut buffer) {
                        tracing::error!(layer = %self.shared.diff_id(), "cannot answer for the worker: {error}");
                    }
                    *answered = head;
                }
                *seen = head;
            }
            // Nothing tells of a change: the kernel fills a slot for a read(2) of the worker, which wakes nobody else. The looks go on for as
            // long as the exchange, some 0.1 s.
            thread::sleep(LOOK_INTERVAL);
        }
    }
}
