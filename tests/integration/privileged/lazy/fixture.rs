//! A store with a layer in chunks, and workers.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::Context as _;
use integration_tests::cluster::{Done, TEST_TIMEOUT, repository};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parallax_agent::layers::{Abilities, LayerTable, MountedLayer};
use parallax_chunks::{Algorithm, ChunkId, Chunks, Cutter, Index, Parameters, compress};
use parallax_config::Config;
use parallax_format::layout::CHUNK_STORE;
use parallax_format::record::LayerRecord;
use parallax_lazy_file::message::{Channel, FromWorker, ToWorker};
use parallax_lazy_file::{Content, Device};
use parallax_store::hash::{link_of_layer, sha256};
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::shared_slots::SharedSlots;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with};

/// The account of the worker.
const NOBODY: u32 = 65534;
/// Number of files in the layer.
pub(super) const FILES: usize = 40;
/// Size of each in bytes.
const SIZE: usize = 150_000;

/// A store with one layer that has chunks, and what a worker needs.
pub(super) struct Fixture {
    directory: tempfile::TempDir,
    pub(super) layer: LayerRecord,
    pub(super) ids: Vec<ChunkId>,
    table: LayerTable,
    socket: OwnedFd,
}

impl Fixture {
    pub(super) fn new(timeout: u32) -> anyhow::Result<Self> {
        Self::with(&format!("timeout = {timeout}\n"))
    }

    /// With further keys of the section `[lazy]`.
    pub(super) fn with(keys: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let root = directory.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(root.join("tree"))?;
        for number in 0..FILES {
            fs::write(root.join("tree").join(number.to_string()), content(number))?;
        }
        let hex = "0123456789abcdef".repeat(4);
        let mut layer = LayerRecord {
            id: hex.parse()?,
            link: link_of_layer(&hex),
            diff_id: hex.parse()?,
            size: 1,
            format: parallax_format::LayerFormat::Squashfs,
            squashfs_size: 0,
            squashfs_sha256: None,
            max_uid: 0,
            max_gid: 0,
            sidecar: false,
            tree: None,
            parts: Vec::new(),
        };
        let file = root.join("store").join(layer.file_path());
        fs::create_dir_all(file.parent().context("no parent")?)?;
        let mut made = Command::new("mksquashfs");
        made.arg(root.join("tree")).arg(&file).args(["-quiet", "-no-progress"]);
        Done::from(made.output()?).success()?;
        let bytes = fs::read(&file)?;
        layer.squashfs_size = bytes.len() as u64;
        layer.squashfs_sha256 = Some(sha256(&bytes));
        let ids = chunk(&root.join("store"), &layer, &bytes)?;
        let cache = root.join("cache");
        fs::create_dir(&cache)?;
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o700))?;
        chown(&cache, Some(NOBODY), Some(NOBODY))?;
        let path = root.join("lazy.sock");
        let text = format!(
            "stores = [{:?}]\n[lazy]\nenabled = true\nsocket = {path:?}\ncache = {cache:?}\n{keys}",
            root.join("store")
        );
        fs::write(root.join("parallax.toml"), &text)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(&path)?)?;
        listen(&socket, 16)?;
        fs::create_dir(root.join("mounts"))?;
        let config = Config::parse(&text).map_err(|(_, message)| anyhow::anyhow!(message))?;
        let table = LayerTable::new(root.join("mounts")).configured(&config);
        Ok(Self { directory, layer, ids, table, socket })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The layer's whole file.
    pub(super) fn whole(&self) -> PathBuf {
        self.path("store").join(self.layer.file_path())
    }

    pub(super) fn chunk_path(&self, id: &ChunkId) -> PathBuf {
        self.path("store").join(CHUNK_STORE).join(id.path())
    }

    /// Starts a worker as systemd does, by whom the socket stays. The runner has built its program.
    pub(super) fn worker(&self) -> anyhow::Result<Worker> {
        let script = r#"exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@""#;
        let nobody = NOBODY.to_string();
        let child = Command::new("sh")
            .args(["-c", script, "worker", "setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups"])
            .args(["--no-new-privs", "--bounding-set=-all"])
            .arg(repository().join("target/debug/parallax-lazy"))
            .arg("--config")
            .arg(self.path("parallax.toml"))
            .stdin(Stdio::from(self.socket.try_clone()?))
            .stderr(File::options().create(true).append(true).open(self.path("worker.log"))?)
            .spawn()?;
        Ok(Worker(child))
    }

    pub(super) fn mount(&self) -> anyhow::Result<Arc<MountedLayer>> {
        Ok(self.table.get(
            &TrustedStore::open(&self.path("store"))?,
            &self.layer,
            &Credentials::root(),
            &Abilities::default(),
        )?)
    }

    /// Puts a FIFO in place of a chunk: whoever fetches it waits for the test. Returns the chunk's file.
    pub(super) fn hold_back(&self, id: &ChunkId) -> anyhow::Result<Vec<u8>> {
        let path = self.chunk_path(id);
        let file = fs::read(&path)?;
        fs::remove_file(&path)?;
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        Ok(file)
    }

    /// Waits until somebody fetches a chunk that is held back. Whoever does waits for the returned file to be closed.
    pub(super) fn wait_for_fetch(&self, id: &ChunkId) -> anyhow::Result<File> {
        let path = self.chunk_path(id);
        let (sender, receiver) = channel();
        thread::spawn(move || sender.send(File::options().write(true).open(path)));
        Ok(receiver.recv_timeout(TEST_TIMEOUT).context("nobody fetches the chunk")??)
    }

    /// Waits until somebody fetches a chunk that is held back, and puts the chunk there for who comes next.
    pub(super) fn give(&self, id: &ChunkId, file: &[u8]) -> anyhow::Result<File> {
        let path = self.chunk_path(id);
        let fifo = self.wait_for_fetch(id)?;
        fs::write(path.with_extension("next"), file)?;
        fs::rename(path.with_extension("next"), &path)?;
        Ok(fifo)
    }
}

/// A worker that has the whole file of the layer and answers reads, until one of the middle: then it tells the agent that the file is complete, and
/// answers no more.
pub(super) struct EndsEarly {
    file: File,
    agent: Channel,
    /// Where the middle is in bytes.
    middle: u64,
    /// Its sender is dropped when the thread may end.
    end: Mutex<Receiver<()>>,
}

impl EndsEarly {
    /// Takes the agent's request at the fixture's socket, and serves the layer from `file` until the sender of `end` is dropped.
    pub(super) fn run(fixture: &Fixture, file: File, end: Receiver<()>) -> anyhow::Result<()> {
        let agent = Channel::accepted(accept(&fixture.socket)?)?;
        let (ToWorker::Serve(layer), descriptors) = agent.receive(Some(TEST_TIMEOUT))? else {
            anyhow::bail!("another request");
        };
        let mut descriptors = descriptors.into_iter();
        let device = Device::from(descriptors.next().context("no device")?);
        let slots = SharedSlots::of_file(descriptors.next().context("no slots")?)?;
        agent.send(&FromWorker::Serving, &[])?;
        let worker = Self { file, agent, middle: layer.size / 2, end: Mutex::new(end) };
        Ok(device.serve(&slots, 0, &worker)?)
    }
}

impl Content for EndsEarly {
    fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if (offset..offset + buffer.len() as u64).contains(&self.middle) {
            self.agent.send(&FromWorker::Complete, &[self.file.as_fd()])?;
            let _ = self.end.lock().map(|end| end.recv());
        }
        self.file.read_at(buffer, offset)
    }
}

/// A process, killed with this value.
pub(super) struct Worker(pub(super) Child);

impl Worker {
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(self.0.id().try_into()?), signal)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes that cannot be compressed and differ from file to file.
pub(super) fn content(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..SIZE / 8).flat_map(|_| next()).collect()
}

/// Writes the chunks of a layer's file and their index. Returns the chunks in their order.
fn chunk(store: &Path, layer: &LayerRecord, bytes: &[u8]) -> anyhow::Result<Vec<ChunkId>> {
    let parameters = Parameters::default();
    let mut chunks = Chunks::new(bytes, Cutter::new(parameters));
    let mut found = Vec::new();
    while let Some(chunk) = chunks.next_chunk()? {
        let id = ChunkId::of(chunk, Algorithm::Sha512_256);
        let path = store.join(CHUNK_STORE).join(id.path());
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(path, compress(chunk)?)?;
        found.push((id, chunk.len() as u64));
    }
    let index = Index::new(Algorithm::Sha512_256, parameters, &found);
    fs::write(store.join(layer.chunk_index_path()), index.to_bytes())?;
    Ok(found.into_iter().map(|(id, _)| id).collect())
}
