//! Layers in chunks that an earlier agent mounted. Its descriptors ended with it, but `parallax-lazy` has copies and gives them back. If that
//! ended too, those that systemd kept are there, and another worker goes on with them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parallax_format::digest::{DiffId, Sha256};
use parallax_lazy_file::Device;
use parallax_lazy_file::message::{Adoption, Channel, ChannelError, FromWorker, Layer, ToWorker, VERSION};
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::shared_slots::SharedSlots;
use serde::{Deserialize, Serialize};

use super::kept::{Keeping, KeptLayer};
use super::shared::Shared;
use super::supervisor::Supervisor;

/// How many times `parallax-lazy` is asked: it may be restarting, too. systemd keeps its socket, where the request waits for it.
const ATTEMPTS: usize = 3;
/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a later agent needs to go on with a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunksEntry {
    /// The socket of `parallax-lazy`.
    pub(super) socket: PathBuf,
    /// The mount's name, by which `parallax-lazy` knows it.
    pub(in crate::layers) mount: String,
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
    /// What systemd kept.
    pub(super) kept: Option<KeptLayer>,
}

/// Why a layer's supervision does not go on.
enum Failure {
    /// `parallax-lazy` ended or does not answer. If it is the latter, it may have the layer.
    Silent(String),
    /// There is no `parallax-lazy`, or it does not have the layer.
    Unknown(String),
}

impl Orphan {
    /// Supervises the layer, once its descriptors are there. Returns early if FUSE is out of its way.
    pub(super) fn run(mut self) {
        let layer: DiffId = self.shared.diff_id();
        // Systemd forgets what it kept when this ends.
        let keeping = Keeping::of(&self.entry.mount);
        let mut attempts = 0;
        let failure = loop {
            attempts += 1;
            match is_on_fuse(&self.mount_point) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => break Failure::Unknown(format!("cannot determine what it is mounted from: {error}")),
            }
            match self.ask() {
                Ok((descriptors, channel)) => match self.supervisor(descriptors, keeping) {
                    Ok(supervisor) => {
                        tracing::info!(%layer, "layer adopted from an earlier agent");
                        supervisor.keep();
                        supervisor.shared.end_with(&channel);
                        return supervisor.run(Some(channel));
                    }
                    Err(error) => return self.give_up(&format!("unusable descriptors: {error}")),
                },
                Err(failure @ Failure::Unknown(_)) => break failure,
                Err(failure) if attempts >= ATTEMPTS => break failure,
                Err(_) => {}
            }
            if self.shared.is_over() {
                return;
            }
        };
        let (Failure::Silent(reason) | Failure::Unknown(reason)) = &failure;
        let Some(kept) = self.kept.take() else { return self.give_up(reason) };
        match self.supervisor(kept, keeping) {
            Ok(mut supervisor) => {
                tracing::info!(%layer, reason, "layer adopted by what systemd kept");
                match failure {
                    Failure::Unknown(_) => supervisor.run(None),
                    // No other worker may take what this one has.
                    Failure::Silent(reason) => drop(supervisor.use_whole_file(&reason)),
                }
            }
            Err(error) => self.give_up(&format!("unusable descriptors: {error}")),
        }
    }

    /// Leaves the layer as it is.
    fn give_up(&self, reason: &str) {
        // It may have been completed by the earlier agent a moment ago.
        if is_on_fuse(&self.mount_point).unwrap_or(true) {
            self.shared.poison();
            let layer = self.shared.diff_id();
            tracing::error!(%layer, reason, "the layer of an earlier agent is not supervised; new steps get another mount of it");
        }
    }

    /// Asks the worker for the layer's descriptors.
    fn ask(&self) -> Result<(KeptLayer, Arc<Channel>), Failure> {
        let silent = |error: &dyn std::fmt::Display| Failure::Silent(error.to_string());
        let socket = &self.entry.socket;
        let channel = Channel::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => silent(&error),
            _ => Failure::Unknown(format!("no parallax-lazy on {}: {error}", socket.display())),
        })?;
        let request = ToWorker::Adopt(Adoption { version: VERSION, mount: self.entry.mount.clone() });
        channel.send(&request, &[]).map_err(|error| silent(&error))?;
        let descriptors = match channel.receive(Some(ANSWER_TIMEOUT)) {
            Ok((FromWorker::Adopted, descriptors)) => descriptors,
            Ok((FromWorker::Refused { reason }, _)) => return Err(Failure::Unknown(reason)),
            Ok(_) | Err(ChannelError::Malformed(_)) => return Err(Failure::Unknown("unexpected answer".to_owned())),
            Err(error) => return Err(silent(&error)),
        };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| Failure::Unknown("descriptors are missing".to_owned()));
        let (device, slots, index) = (next()?, next()?, next()?.into());
        Ok((KeptLayer { device, slots, index, whole: descriptors.next().map(File::from) }, Arc::new(channel)))
    }

    fn supervisor(&self, descriptors: KeptLayer, keeping: Keeping) -> io::Result<Supervisor> {
        let Self { shared, entry, mount_point, .. } = self;
        let KeptLayer { device, slots, index, whole } = descriptors;
        let (device, slots) = (fuse_device(device)?, SharedSlots::of_file(slots)?);
        if slots.has_failed() {
            shared.poison();
        }
        shared.set_device(loop_device(mount_point)?);
        Ok(Supervisor {
            shared: Arc::clone(shared),
            socket: entry.socket.clone(),
            request: entry.request(),
            device,
            slots,
            index,
            trace: None,
            whole,
            // It came from another process.
            verify: true,
            timeout: Duration::from_secs(entry.timeout),
            keeping,
            begun: None,
        })
    }
}

/// Takes a descriptor of `/dev/fuse`, and no other.
fn fuse_device(descriptor: OwnedFd) -> io::Result<Device> {
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
