//! What a layer's mount and its supervisor share.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use parallax_format::digest::DiffId;
use parallax_lazy_file::message::Channel;
use parallax_sys::loop_device::{LoopDevice, Reads};
use rustix::event::{EventfdFlags, eventfd};

/// How many layers became complete, and how long that took.
#[derive(Debug, Default)]
pub struct Swaps {
    count: AtomicU64,
    milliseconds: AtomicU64,
}

impl Swaps {
    /// Counts a layer whose file took the place of its chunks, and the time since it was mounted.
    pub(super) fn count(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.milliseconds.fetch_add(took.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the number of layers, and the sum of their times.
    #[must_use]
    pub fn total(&self) -> (u64, Duration) {
        let milliseconds = self.milliseconds.load(Ordering::Relaxed);
        (self.count.load(Ordering::Relaxed), Duration::from_millis(milliseconds))
    }
}

/// A layer that is mounted, or is about to be.
#[derive(Debug)]
pub(super) struct Shared {
    diff_id: DiffId,
    /// How a plain file is read.
    reads: Reads,
    is_poisoned: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// Readable from the end of the supervision on; missing if this process had no descriptor left.
    ended: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    /// The loop device, once there is one.
    device: Option<LoopDevice>,
    /// The connection to the worker, which is ended to wake the supervisor.
    channel: Option<Arc<Channel>>,
    /// Whether the layer is unmounted.
    is_over: bool,
}

impl Shared {
    /// Makes the state of a layer that has no loop device yet. `reads` is how a plain file is read that takes the place of chunks.
    pub(super) fn new(diff_id: DiffId, reads: Reads) -> Self {
        Self {
            diff_id,
            reads,
            is_poisoned: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: eventfd(0, EventfdFlags::CLOEXEC).ok(),
        }
    }

    /// Returns the layer's diffID.
    pub(super) fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Returns how a plain file is read that takes the place of chunks.
    pub(super) fn reads(&self) -> Reads {
        self.reads
    }

    /// Notes that a reader got an error.
    pub(super) fn poison(&self) {
        self.is_poisoned.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if a reader got an error.
    pub(super) fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_device(&self, device: LoopDevice) {
        self.state().device = Some(device);
        self.changed.notify_all();
    }

    /// Ends the supervision: the layer is unmounted.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        if let Some(channel) = state.channel.take() {
            channel.end();
        }
        // Closed without the lock.
        let device = state.device.take();
        drop(state);
        self.changed.notify_all();
        // Its counter is far from the limit at which this would wait.
        let _ = self.ended.as_ref().map(|ended| rustix::io::write(ended, &1_u64.to_ne_bytes()));
        drop(device);
    }

    /// Has the connection ended with the supervision.
    pub(super) fn end_with(&self, channel: &Arc<Channel>) {
        let mut state = self.state();
        if state.is_over {
            channel.end();
        }
        state.channel = Some(Arc::clone(channel));
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// Returns a descriptor that becomes readable when the supervision ends, if there is one.
    pub(super) fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.ended.as_ref().map(|ended| ended.as_fd())
    }

    /// Puts a file below the layer's loop device, once there is one. Reads in progress are waited for.
    pub(super) fn change_file(&self, file: &File) -> io::Result<()> {
        let state = self.changed.wait_while(self.state(), |state| !state.is_over && state.device.is_none());
        match &state.unwrap_or_else(PoisonError::into_inner).device {
            Some(device) => {
                device.change_file(file.as_fd())?;
                if let Err(error) = device.set_reads(self.reads) {
                    tracing::warn!(layer = %self.diff_id, "the layer's file is not read as configured: {error}");
                }
                Ok(())
            }
            None => Err(io::Error::other("the layer is no longer mounted")),
        }
    }
}
