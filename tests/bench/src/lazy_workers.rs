//! Several workers (`parallax-lazy`) on this machine, as on so many nodes: each with a cache of its own and a layer that it serves, in which a command
//! runs. This process does what agents do otherwise.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use parallax_format::digest::Sha256;
use parallax_lazy_file::Device;
use parallax_lazy_file::message::{Channel, FromWorker, Layer, ToWorker, VERSION};
use parallax_store::hash::sha256;
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use parallax_sys::shared_slots::SharedSlots;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    /// The number of nodes.
    pub(crate) nodes: usize,
    /// The layer's SquashFS file.
    pub(crate) file: PathBuf,
    /// The index of its chunks.
    pub(crate) index: PathBuf,
    /// URL of the chunk store.
    pub(crate) source: String,
    /// A command line in the layer's root directory.
    pub(crate) command: String,
}

/// Seconds, the longest of all nodes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Until the command has ended.
    pub(crate) command: f64,
    /// Until all of the layer is there.
    pub(crate) complete: f64,
}

const SLOTS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(300);
/// The account of the workers.
const ACCOUNT: &str = "65534";

/// Measures a case, in a mount namespace of this process's own.
///
/// # Errors
/// A worker does not start, or what it serves cannot be mounted or read.
pub(crate) fn run(case: &Case) -> anyhow::Result<Found> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let content = fs::read(&case.file)?;
    let (size, hash) = (content.len() as u64, sha256(&content));
    drop(content);
    let place = tempfile::Builder::new().prefix("bench-").tempdir_in("/tmp")?;
    Command::new("chmod").arg("755").arg(place.path()).status()?;
    let workers: Vec<Worker> = (0..case.nodes)
        .map(|node| Worker::start(&place.path().join(node.to_string()), case))
        .collect::<Result<_, _>>()?;
    let found = thread::scope(|scope| -> anyhow::Result<Found> {
        let running: Vec<_> = workers.iter().map(|worker| scope.spawn(|| worker.run(case, size, hash))).collect();
        let mut longest = Found::default();
        for node in running {
            let found = node.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            longest.command = longest.command.max(found.command);
            longest.complete = longest.complete.max(found.complete);
        }
        Ok(longest)
    });
    drop(workers);
    found
}

/// A worker, which ends with this value.
#[derive(Debug)]
struct Worker {
    directory: PathBuf,
    child: Child,
}

impl Worker {
    fn start(directory: &Path, case: &Case) -> anyhow::Result<Self> {
        fs::create_dir(directory)?;
        fs::create_dir(directory.join("root"))?;
        let own = directory.join("own");
        fs::create_dir(&own)?;
        Command::new("chown").args([ACCOUNT, &own.display().to_string()]).status()?;
        let config = format!(
            "stores = [\"/shared/store\"]\n[lazy]\nenabled = true\nsocket = {:?}\ncache = {:?}\nsources = [{:?}]\n",
            own.join("socket"),
            own.join("cache"),
            case.source
        );
        let file = directory.join("parallax.toml");
        fs::write(&file, config)?;
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            ACCOUNT,
            "--regid",
            ACCOUNT,
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]);
        command
            .args(["sh", "-euc", "mkdir -m 700 $1; exec parallax-lazy --config $0"])
            .arg(&file)
            .arg(own.join("cache"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().context("no output")?);
        let worker = Self { directory: directory.to_owned(), child };
        let mut text = String::new();
        while !text.contains(" ready ") {
            ensure!(log.read_line(&mut text)? > 0, "parallax-lazy does not start: {text}");
        }
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Ok(worker)
    }

    /// Has the layer served and the command run in it; waits until the layer is complete.
    fn run(&self, case: &Case, size: u64, hash: Sha256) -> anyhow::Result<Found> {
        let begun = Instant::now();
        let (device, slots, index) = (Device::open()?, SharedSlots::new(SLOTS)?, File::open(&case.index)?);
        let file = device.make_file(size)?;
        let channel = Channel::connect(&self.directory.join("own/socket"))?;
        let layer = Layer {
            version: VERSION,
            mount: "layer".to_owned(),
            sha256: hash,
            size,
            // All comes from the source.
            chunk_store: self.directory.join("missing"),
            has_trace: false,
            has_whole: false,
        };
        channel.send(&ToWorker::Serve(layer), &[device.as_fd(), slots.as_fd(), index.as_fd()])?;
        let (answer, _) = channel.receive::<FromWorker>(Some(TIMEOUT))?;
        ensure!(answer == FromWorker::Serving, "the layer is not served: {answer:?}");
        let root = self.directory.join("root");
        let device = LoopDevice::attach(file.as_fd(), Reads::Direct)?;
        DetachedMount::squashfs(device.path())?.attach_at(&root)?;
        DetachedMount::tmpfs(&[("mode", "0755")])?.attach_at(&root.join("tmp"))?;
        let done = Command::new("sh").args(["-euc", &case.command]).current_dir(&root).output()?;
        let command = begun.elapsed().as_secs_f64();
        unmount(root.join("tmp"), UnmountFlags::empty())?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        loop {
            match channel.receive::<FromWorker>(Some(TIMEOUT))?.0 {
                FromWorker::Complete => break,
                FromWorker::Waiting { .. } => {}
                other => bail!("the layer does not become complete: {other:?}"),
            }
        }
        let complete = begun.elapsed().as_secs_f64();
        unmount(&root, UnmountFlags::empty())?;
        Ok(Found { command, complete })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
