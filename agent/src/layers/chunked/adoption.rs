//! Layers in chunks that an earlier agent mounted. Its descriptors ended with it, but `parallax-lazy` has copies and gives them back.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_format::digest::{DiffId, Sha256};
use parallax_lazy_file::Device;
use parallax_lazy_file::message::{Adoption, Channel, FromWorker, Layer, ToWorker, VERSION};
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::shared_slots::SharedSlots;
use serde::{Deserialize, Serialize};

use super::shared::Shared;
use super::supervisor::Supervisor;

/// How long `parallax-lazy` is asked for: it may be restarting, too.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two attempts.
const INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a later agent needs to go on with a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunksEntry {
    /// The socket of `parallax-lazy`.
    pub(super) socket: PathBuf,
    /// The mount's name, by which `parallax-lazy` knows it.
    pub(super) mount: String,
    /// SHA-256 of the layer's file.
    pub(super) sha256: Sha256,
    /// Size of the layer's file in bytes.
    pub(super) size: u64,
    /// The chunk store beside the index.
    pub(super) chunk_store: PathBuf,
    /// How long a read may take that nothing can answer, in seconds.
    pub(super) timeout: u64,
    /// Whether a plain file that takes the place of chunks is read past the page cache.
    #[serde(default)]
    pub(super) reads_directly: bool,
}

impl ChunksEntry {
    /// Returns how a plain file is read that takes the place of chunks.
    pub(super) fn reads(&self) -> Reads {
        if self.reads_directly { Reads::Direct } else { Reads::Buffered }
    }

    /// Returns the request to serve the layer.
    pub(super) fn request(&self) -> Layer {
        let Self { mount, sha256, size, chunk_store, .. } = self.clone();
        Layer { version: VERSION, mount, sha256, size, chunk_store, has_trace: false, has_whole: false }
    }
}

/// A layer whose supervision is to go on.
pub(super) struct Orphan {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: ChunksEntry,
    pub(super) mount_point: PathBuf,
}

/// Why a layer's supervision does not go on.
enum Failure {
    /// Another attempt may succeed.
    Temporary(String),
    /// `parallax-lazy` does not have the layer.
    Unknown(String),
}

impl Orphan {
    /// Supervises the layer, once its descriptors are there. Returns early if FUSE is out of its way.
    pub(super) fn run(self) {
        let layer: DiffId = self.shared.diff_id();
        let deadline = Instant::now() + TIMEOUT;
        let reason = loop {
            match is_on_fuse(&self.mount_point) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => break format!("cannot determine what it is mounted from: {error}"),
            }
            match self.ask() {
                Ok((supervisor, channel)) => {
                    tracing::info!(%layer, "layer adopted from an earlier agent");
                    supervisor.shared.end_with(&channel);
                    return supervisor.run(channel);
                }
                Err(Failure::Unknown(reason)) => break reason,
                Err(Failure::Temporary(reason)) if Instant::now() >= deadline => break reason,
                Err(Failure::Temporary(_)) => {}
            }
            if self.shared.is_over_after(INTERVAL) {
                return;
            }
        };
        // It may have been completed by the earlier agent a moment ago.
        if is_on_fuse(&self.mount_point).unwrap_or(true) {
            self.shared.poison();
            tracing::error!(%layer, reason, "the layer of an earlier agent is not supervised; new steps get another mount of it");
        }
    }

    fn ask(&self) -> Result<(Supervisor, Arc<Channel>), Failure> {
        let Self { shared, entry, mount_point } = self;
        let failed = |error: &dyn std::fmt::Display| Failure::Temporary(error.to_string());
        let channel = Channel::connect(&entry.socket).map_err(|error| failed(&error))?;
        let request = ToWorker::Adopt(Adoption { version: VERSION, mount: entry.mount.clone() });
        channel.send(&request, &[]).map_err(|error| failed(&error))?;
        let descriptors = match channel.receive(Some(ANSWER_TIMEOUT)).map_err(|error| failed(&error))? {
            (FromWorker::Adopted, descriptors) => descriptors,
            (FromWorker::Refused { reason }, _) => return Err(Failure::Unknown(reason)),
            _ => return Err(Failure::Unknown("unexpected answer".to_owned())),
        };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| Failure::Unknown("descriptors are missing".to_owned()));
        let wrong = |error: io::Error| Failure::Unknown(format!("unusable descriptors: {error}"));
        let (device, slots, index) = (device(next()?).map_err(wrong)?, next()?, File::from(next()?));
        let slots = SharedSlots::of_file(slots).map_err(wrong)?;
        shared.set_device(loop_device(mount_point).map_err(wrong)?);
        let supervisor = Supervisor {
            shared: Arc::clone(shared),
            socket: entry.socket.clone(),
            request: entry.request(),
            device,
            slots,
            index,
            trace: None,
            whole: descriptors.next().map(File::from),
            // It came from a process without privileges.
            verify: true,
            timeout: Duration::from_secs(entry.timeout),
        };
        Ok((supervisor, Arc::new(channel)))
    }
}

/// Takes a descriptor of `/dev/fuse`, and no other.
fn device(descriptor: OwnedFd) -> io::Result<Device> {
    let expected = fs::metadata("/dev/fuse")?.rdev();
    let found = rustix::fs::fstat(&descriptor)?.st_rdev;
    if found == expected { Ok(Device::from(descriptor)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The directory of the kernel's information about the block device of a mount.
fn block_device(mount_point: &Path) -> io::Result<PathBuf> {
    let device = fs::metadata(mount_point)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))
}

fn loop_device(mount_point: &Path) -> io::Result<LoopDevice> {
    let device = block_device(mount_point)?;
    let name = device.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidData)?;
    LoopDevice::open(name)
}

/// Whether the file below a mount's loop device is one of FUSE's that is attached nowhere.
fn is_on_fuse(mount_point: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(block_device(mount_point)?.join("loop/backing_file"))?.trim_end() == "/")
}
