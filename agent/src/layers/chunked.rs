//! Layers whose chunks are fetched as they are read: a file served by FUSE, a loop device over it, and the kernel's SquashFS.
//!
//! `parallax-lazy`, which has no privilege, serves the file ([`parallax_lazy_file`]). For each layer the agent has a thread ([`supervisor`])
//! that keeps a copy of the file's descriptors, so a worker that ends fails no read: the next one answers what was asked for. systemd keeps
//! further copies ([`kept`]) for the case that both end. When the file is complete, and its SHA-256 is the recorded one, the thread puts it below the loop device, and FUSE is gone. Where the worker cannot
//! go on, the layer's whole file in the store takes that place ([`rescue`]).

mod adoption;
mod arrival;
mod kept;
mod overdue;
mod rescue;
mod shared;
mod supervisor;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use parallax_config::Lazy;
use parallax_format::digest::{DiffId, Sha256};
use parallax_lazy_file::Device;
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use parallax_sys::shared_slots::SharedSlots;

use self::adoption::Orphan;
use self::kept::{Keeping, KeptLayer};
use self::shared::Shared;
use self::supervisor::{RefusalKind, SERVE_TIMEOUT, Supervisor};

pub(super) use self::adoption::ChunksEntry;
pub use self::kept::KeptLayers;
pub use self::shared::Swaps;

/// Number of requests that the worker answers at a time.
const SLOTS: usize = 16;

/// How long no layer is asked for after `parallax-lazy` did not answer: each step would wait.
const SILENCE: Duration = Duration::from_secs(60);

/// The way to `parallax-lazy`.
#[derive(Debug)]
pub(super) struct Worker {
    socket: PathBuf,
    /// How long a read may take that nothing can answer.
    timeout: Duration,
    /// How plain files are read.
    reads: Reads,
    /// Where layers are counted that became complete.
    swaps: Arc<Swaps>,
    /// When it last did not answer.
    silent_since: Mutex<Option<Instant>>,
}

impl Worker {
    /// Returns the configured way.
    pub(super) fn new(config: &Lazy, reads: Reads, swaps: &Arc<Swaps>) -> Self {
        let timeout = Duration::from_secs(config.timeout.into());
        let (socket, swaps) = (config.socket.clone(), Arc::clone(swaps));
        Self { socket, timeout, reads, swaps, silent_since: Mutex::default() }
    }

    fn silent_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer that has chunks.
#[derive(Debug)]
pub(super) struct Chunked {
    pub(super) diff_id: DiffId,
    /// SHA-256 of its file.
    pub(super) sha256: Sha256,
    /// Size of its file in bytes.
    pub(super) size: u64,
    /// The index of its chunks.
    pub(super) index: File,
    /// The chunks that an earlier start read, if they were recorded.
    pub(super) trace: Option<File>,
    /// Its whole file, if the store has it.
    pub(super) whole: Option<File>,
    /// Whether the whole file is checked before it is used.
    pub(super) verify: bool,
    /// The chunk store beside the index.
    pub(super) chunk_store: PathBuf,
    /// The name of its mount point, which no other layer has.
    pub(super) mount: String,
}

impl Chunked {
    /// Mounts the layer.
    ///
    /// # Errors
    /// The reason, a part of a sentence; nothing is left.
    pub(super) fn mount(self, worker: &Worker) -> Result<(DetachedMount, Supervised), String> {
        // Without a whole file there is nothing better than to ask again.
        if self.whole.is_some() && worker.silent_since().is_some_and(|since| since.elapsed() < SILENCE) {
            return Err(format!("parallax-lazy did not answer in the last {SILENCE:?}"));
        }
        let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let device = Device::open().map_err(failed("cannot open /dev/fuse"))?;
        let file = device.make_file(self.size).map_err(failed("cannot make a file by FUSE"))?;
        let slots = SharedSlots::new(SLOTS).map_err(failed("cannot share memory"))?;
        let Self { diff_id, sha256, size, index, trace, whole, verify, chunk_store, mount } = self;
        let socket = worker.socket.clone();
        let entry = ChunksEntry {
            socket: socket.clone(),
            mount,
            sha256,
            size,
            chunk_store,
            timeout: worker.timeout.as_secs(),
            reads_directly: worker.reads == Reads::Direct,
        };
        let request = entry.request();
        let keeping = Keeping::of(&entry.mount);
        let shared = Arc::new(Shared::new(diff_id, entry.reads()));
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            socket,
            request,
            device,
            slots,
            index,
            trace,
            whole,
            verify,
            timeout: worker.timeout,
            keeping,
            begun: Some((Instant::now(), Arc::clone(&worker.swaps))),
        };
        supervisor.keep();
        let channel = supervisor.connect(SERVE_TIMEOUT).map_err(|refusal| {
            *worker.silent_since() = (refusal.kind == RefusalKind::Silent).then(Instant::now);
            refusal.reason
        })?;
        // From here on it ends with this value.
        let supervised = Supervised { shared, entry };
        supervised.shared.end_with(&channel);
        let thread = thread::Builder::new().name("lazy layer".to_owned());
        thread.spawn(move || supervisor.run(Some(channel))).map_err(failed("cannot start a thread"))?;
        // The worker has the file in its cache.
        let device = LoopDevice::attach(file.as_fd(), Reads::Direct).map_err(failed("no loop device"))?;
        let path = device.path().to_owned();
        supervised.shared.set_device(device);
        let mount = DetachedMount::squashfs(&path);
        Ok((mount.map_err(failed("the kernel does not accept it as SquashFS"))?, supervised))
    }
}

/// The supervision of a mounted layer, which ends with this value.
#[derive(Debug)]
pub struct Supervised {
    shared: Arc<Shared>,
    entry: ChunksEntry,
}

impl Supervised {
    /// Goes on with the supervision of a layer that an earlier agent mounted, and of which systemd may have `kept` the descriptors.
    pub(super) fn adopt(diff_id: DiffId, entry: ChunksEntry, mount_point: PathBuf, kept: Option<KeptLayer>) -> Self {
        let shared = Arc::new(Shared::new(diff_id, entry.reads()));
        let orphan = Orphan { shared: Arc::clone(&shared), entry: entry.clone(), mount_point, kept };
        let thread = thread::Builder::new().name("lazy layer".to_owned());
        if let Err(error) = thread.spawn(move || orphan.run()) {
            shared.poison();
            tracing::error!(layer = %diff_id, "the layer of an earlier agent is not supervised: no thread: {error}");
        }
        Self { shared, entry }
    }

    /// Returns what a later agent needs to go on.
    pub(super) fn entry(&self) -> ChunksEntry {
        self.entry.clone()
    }

    /// Returns `true` if a reader got an error: the kernel may remember it, so no other step gets this mount.
    pub(super) fn is_poisoned(&self) -> bool {
        self.shared.is_poisoned()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.shared.end();
    }
}
