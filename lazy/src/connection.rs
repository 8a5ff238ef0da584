//! A connection of the agent: a layer that it asks for, served for as long as its file is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use parallax_chunks::{Index, Trace};
use parallax_lazy_file::Device;
use parallax_lazy_file::message::{Channel, ChannelError, FromWorker, Layer, ToWorker, VERSION};
use parallax_lazy_file::status::WorkerStatus;
use parallax_sys::shared_slots::SharedSlots;

use crate::ahead::Ahead;
use crate::handover::{Handover, Handovers};
use crate::queue::Queue;
use crate::served::{Served, State};
use crate::source::directory::DirectorySource;
use crate::source::settings::SettingsError;
use crate::source::{Counted, Sources};

/// Timeout of the first message.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of an index or a trace in bytes: that of a file of 100 GB.
pub(crate) const MAX_FILE: u64 = 64 << 20;
/// Bytes of the file's beginning that must be there before it is mounted: the superblock.
const BEGINNING: u64 = 96;

/// What the layers of a node share.
#[derive(Debug)]
pub struct Node {
    /// The fetches, and the cache.
    pub queue: Arc<Queue>,
    /// What is fetched before it is read.
    pub ahead: Arc<Ahead>,
    /// The configured chunk stores; layers are refused if they cannot be used.
    pub sources: Result<Sources, SettingsError>,
    /// How long a reader waits for a chunk that cannot be had.
    pub timeout: Duration,
    /// The layers that are served.
    pub layers: Handovers,
    /// The chunk stores beside indexes.
    pub beside: Mutex<BTreeMap<PathBuf, Arc<Counted>>>,
}

impl Node {
    /// Returns the chunk store beside an index.
    fn beside(&self, path: &Path) -> Arc<Counted> {
        let mut known = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.entry(path.to_owned()).or_insert_with(|| Counted::new(DirectorySource::new(path)));
        Arc::clone(found)
    }

    fn status(&self) -> WorkerStatus {
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = self.sources.iter().flat_map(Sources::status);
        WorkerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache: self.queue.cache_status(),
            reads: self.queue.read_status(),
            layers: self.layers.status(),
            sources: configured.chain(beside.values().map(|source| source.status())).collect(),
            error: self.sources.as_ref().err().map(ToString::to_string),
        }
    }
}

/// Serves the layer that the agent asks for on this connection. Returns when the agent closes the connection; the layer is served on until
/// its file is used by nothing any more.
pub fn serve(channel: Channel, node: &Arc<Node>) {
    let channel = Arc::new(channel);
    match begin(&channel, node) {
        Ok(Some(name)) => tracing::info!(layer = name, "layer served"),
        Ok(None) => return,
        Err(reason) => {
            tracing::warn!(reason, "layer refused");
            let _ = channel.send(&FromWorker::Refused { reason }, &[]);
            return;
        }
    }
    loop {
        match channel.receive::<ToWorker>(None) {
            Ok((ToWorker::Ping, _)) => {
                // The agent may have ended meanwhile, which the next message shows.
                let _ = channel.send(&FromWorker::Alive, &[]);
            }
            Err(ChannelError::Closed) => return,
            other => {
                tracing::warn!(?other, "unexpected message of the agent");
                return;
            }
        }
    }
}

/// Receives the first message, and does what it asks for. Returns the layer's name; `None` if that is all.
fn begin(channel: &Arc<Channel>, node: &Arc<Node>) -> Result<Option<String>, String> {
    let (message, descriptors) =
        channel.receive(Some(FIRST_TIMEOUT)).map_err(|error| format!("no first message: {error}"))?;
    let version = match &message {
        ToWorker::Serve(layer) => layer.version,
        ToWorker::Adopt(adoption) => adoption.version,
        ToWorker::Status { version } => *version,
        ToWorker::Ping => return Err("the first message is no request to serve".to_owned()),
    };
    if version != VERSION {
        return Err(format!(
            "parallax-agent is of another release (version {version} of the messages, here {VERSION})"
        ));
    }
    match message {
        ToWorker::Adopt(adoption) => node.layers.adopt(&adoption.mount, channel).map(Some),
        ToWorker::Serve(layer) => serve_layer(&layer, descriptors, channel, node).map(Some),
        ToWorker::Status { .. } => {
            channel.send(&FromWorker::Status(node.status()), &[]).map_err(|error| error.to_string())?;
            Ok(None)
        }
        ToWorker::Ping => Err("the first message is no request to serve".to_owned()),
    }
}

/// Starts the threads that serve a layer. Returns its name.
fn serve_layer(
    layer: &Layer,
    descriptors: Vec<OwnedFd>,
    channel: &Arc<Channel>,
    node: &Arc<Node>,
) -> Result<String, String> {
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or("descriptors are missing");
    let (device, slots, index) = (Device::from(next()?), next()?, next()?);
    let trace = if layer.has_trace { Some(File::from(next()?)) } else { None };
    let whole = if layer.has_whole { Some(next()?) } else { None };
    let slots = SharedSlots::of_file(slots).map_err(|error| format!("unusable slots: {error}"))?;
    let kept = index.try_clone().map_err(|error| error.to_string())?;
    let served = served(layer, index.into(), channel, node)?;
    if let Some(trace) = trace {
        fetch_trace(&served, &trace);
    }
    served.fetch_beginning(BEGINNING.min(layer.size), layer.has_whole)?;
    let handover = Arc::new(Handover { served, device, slots, index: kept, whole });
    node.layers.add(&layer.mount, Arc::clone(&handover));
    // Before the threads, which tell the agent when a reader has to wait.
    if let Err(error) = channel.send(&FromWorker::Serving, &[]) {
        // The agent has ended. Nothing answers reads yet, so no other agent may adopt the layer: it has it served anew.
        node.layers.remove(&layer.mount, &handover);
        return Err(error.to_string());
    }
    start(&handover, &layer.mount, node).inspect_err(|reason| handover.served.fail(reason.clone()))?;
    Ok(layer.sha256.to_string())
}

fn served(layer: &Layer, index: File, channel: &Arc<Channel>, node: &Node) -> Result<Arc<Served>, String> {
    let bytes = read_file(&index).map_err(|error| format!("cannot read the index: {error}"))?;
    let index = Index::parse(&bytes).map_err(|error| format!("the index of chunks is corrupt: {error}"))?;
    if index.size() != layer.size {
        return Err(format!("the index is that of a file of {} bytes, not of {}", index.size(), layer.size));
    }
    let cached = node.queue.cache().layer(&layer.sha256, &index).map_err(|error| error.to_string())?;
    let beside = node.beside(&layer.chunk_store);
    let sources = node.sources.as_ref().map_err(ToString::to_string)?.with(beside);
    Ok(Arc::new_cyclic(|me| Served {
        me: Weak::clone(me),
        name: layer.sha256,
        layer: cached,
        sources,
        queue: Arc::clone(&node.queue),
        ahead: Arc::clone(&node.ahead),
        timeout: node.timeout,
        agent: Mutex::new(Arc::clone(channel)),
        state: State::default(),
    }))
}

/// Has fetched what an earlier start read.
fn fetch_trace(served: &Served, trace: &File) {
    let trace = read_file(trace).map_err(|error| error.to_string());
    match trace.and_then(|bytes| Trace::parse(&bytes, served.layer.index()).map_err(|error| error.to_string())) {
        Ok(trace) => served.fetch_ahead_of(&trace),
        Err(reason) => tracing::warn!(layer = %served.name, reason, "trace not used"),
    }
}

/// Reads a file from its beginning: other processes, which have the same descriptor, have moved its position.
fn read_file(file: &File) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len().min(MAX_FILE);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Starts a thread for each slot, and one that completes the layer.
fn start(layer: &Arc<Handover>, mount: &str, node: &Arc<Node>) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot start a thread: {error}");
    for number in 0..layer.slots.count() {
        let (layer, mount, node) = (Arc::clone(layer), mount.to_owned(), Arc::clone(node));
        let serve = move || {
            let Handover { served, device, slots, .. } = &*layer;
            if let Err(error) = device.serve(slots, number, &**served) {
                tracing::error!(layer = %served.name, "cannot serve: {error}");
            }
            served.end();
            node.layers.remove(&mount, &layer);
        };
        thread::Builder::new().name("serve".to_owned()).spawn(serve).map_err(failed)?;
    }
    let served = Arc::clone(&layer.served);
    thread::Builder::new().name("complete".to_owned()).spawn(move || served.complete()).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use parallax_chunks::{Algorithm, Parameters};
    use parallax_format::digest::Sha256;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::cache::bounded::Cache;

    #[test]
    fn a_layer_of_an_agent_that_has_ended_is_not_offered_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let node = Arc::new(Node {
            queue: Arc::new(Queue::new(Cache::open(&directory.path().join("cache"), 1 << 30).unwrap())),
            ahead: Ahead::start().unwrap(),
            sources: Ok(Sources::new(Vec::new())),
            timeout: Duration::from_secs(60),
            layers: Handovers::default(),
            beside: Mutex::default(),
        });
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let [agent, worker] = [pair.0, pair.1].map(|socket| Channel::accepted(socket).unwrap());
        let layer = Layer {
            version: VERSION,
            mount: "mount".to_owned(),
            sha256: Sha256::from([1; 32]),
            size: 0,
            chunk_store: directory.path().join("chunks"),
            has_trace: false,
            has_whole: false,
        };
        let mut index = tempfile::tempfile().unwrap();
        index.write_all(&Index::new(Algorithm::Sha256, Parameters::default(), &[]).to_bytes()).unwrap();
        let (device, slots) = (File::open("/dev/null").unwrap(), SharedSlots::new(1).unwrap());
        agent.send(&ToWorker::Serve(layer), &[device.as_fd(), slots.as_fd(), index.as_fd()]).unwrap();
        drop(agent);
        serve(worker, &node);
        assert_eq!(node.layers.status(), []);
    }
}
