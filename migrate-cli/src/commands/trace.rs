//! `parallax trace`.
//!
//! The command runs in a container of Podman's, on the store itself and with a graph root of its own, so nothing but the store's trace
//! remains. No agent and no privilege is needed.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parallax_chunks::Trace;
use parallax_config::{Agent, Config};
use parallax_format::digest::{DiffId, ImageId};
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_store::Store;
use parallax_sys::process::Process;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

use super::find::find;
use super::record_reads::{DIRECTORY, NAME, notes_name};
use crate::chunking::{own_record, without_files};
use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

/// Podman's exit status for an error of its own.
const PODMAN_FAILED: i32 = 125;

/// How long the end of Podman's own processes is waited for.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `parallax trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Image: name, digest or id
    image: String,
    /// Command to run in the image, with its arguments: what jobs begin with
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Further option of podman run, such as --podman-option=--volume=/data:/data; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    podman_option: Vec<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Report {
    /// The image as given.
    image: String,
    /// The image id.
    id: ImageId,
    /// The layers, base first.
    layers: Vec<LayerRow>,
}

/// A layer of the JSON form.
#[derive(Debug, Serialize)]
struct LayerRow {
    diff_id: DiffId,
    /// Number of chunks.
    chunks: usize,
    /// Number of those that the command read.
    traced: usize,
}

/// Runs the command.
///
/// # Errors
/// The image has no chunks, the command cannot be run or fails, or the store cannot be written; no trace is written then.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    let id = find(&store, &options.image)?.id;
    let record = own_record(&store, &id)?;
    if let Some(directory) = record.tree() {
        bail!("{}", without_files(&id, directory));
    }
    for layer in &record.layers {
        ensure!(
            store.chunk_totals(layer)?.is_some(),
            "the layer {} of {} has no chunks; run parallax chunk {} first",
            layer.diff_id.short(),
            options.image,
            options.image
        );
        ensure!(
            !store.is_in_chunks_only(layer)?,
            "the store has the layer {} of {} in chunks only; run parallax chunk --whole {} first, and parallax chunk --chunks-only after \
             parallax trace",
            layer.diff_id.short(),
            options.image,
            options.image
        );
    }
    let work = Work::new()?;
    let status = work.run(global, &store, &id, options)?;
    match status.code() {
        Some(0) => {}
        Some(PODMAN_FAILED) => bail!("podman failed, so no trace was written"),
        _ => bail!("the command failed ({status}), so no trace was written"),
    }
    let layers = record.layers.iter().map(|layer| work.layer(&store, &record, layer)).collect::<anyhow::Result<_>>()?;
    let report = Report { image: options.image.clone(), id, layers };
    if options.json { print_json(&report) } else { print(&report.text()) }
}

impl Report {
    fn text(&self) -> String {
        let sum = |of: fn(&LayerRow) -> usize| self.layers.iter().map(of).sum::<usize>();
        let (traced, chunks) = (sum(|layer| layer.traced), sum(|layer| layer.chunks));
        let layers = units::count(self.layers.len(), "layer");
        format!("{}: the command reads {traced} of {chunks} chunks in {layers} ({})\n", self.image, self.id.short())
    }
}

/// A directory for Podman and for what is noted, removed with this value.
struct Work(TempDir);

impl Work {
    fn new() -> anyhow::Result<Self> {
        let work = Self(tempfile::Builder::new().prefix("parallax-trace-").tempdir()?);
        for name in ["graph", "run", "reads"] {
            fs::create_dir(work.0.path().join(name))?;
        }
        Ok(work)
    }

    /// Runs the command in a container. Signals that would end this process end the container first.
    fn run(&self, global: &Global, store: &Store, id: &ImageId, options: &Options) -> anyhow::Result<ExitStatus> {
        let path = self.0.path();
        let agent = Config::load(&global.config).map_or_else(|_| Agent::default(), |config| config.agent);
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(path.join("graph")).arg("--runroot").arg(path.join("run"));
        podman.arg("--storage-opt").arg(format!("additionalimagestore={}", store.root().display()));
        podman.arg("--storage-opt").arg(format!("mount_program={}", agent.mount_program.display()));
        podman.args(["run", "--rm", "--pull=never", "--network=host", "--log-driver=none", "--entrypoint="]);
        podman.args(&options.podman_option).arg(id.as_str()).args(&options.command);
        podman
            .env("STORAGE_DRIVER", "overlay")
            .env("PARALLAX_MP_CONFIG", "/dev/null")
            .env("PARALLAX_MP_SQUASHFUSE_CMD", std::env::current_exe()?)
            .env("PARALLAX_MP_SQUASHFUSE_FLAG", NAME)
            .env(DIRECTORY, path.join("reads"));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
        let mut child = podman.spawn().context("cannot start podman, which runs the command")?;
        let process = Process::open(i32::try_from(child.id())?)?;
        let handle = signals.handle();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _ = process.kill();
            }
        });
        let status = child.wait();
        handle.close();
        Ok(status?)
    }

    /// Writes the trace of a layer.
    fn layer(&self, store: &Store, record: &ImageRecord, layer: &LayerRecord) -> anyhow::Result<LayerRow> {
        let index = store.chunk_index(layer)?.context("the index of chunks was removed meanwhile")?;
        let file = File::open(store.root().join(layer.file_path()))?;
        let notes = match fs::read_to_string(self.0.path().join("reads").join(notes_name(&file)?)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "nothing was noted of the layer {}; parallax-mount-program may be of another release",
                layer.diff_id.short()
            ),
            notes => notes?,
        };
        let read = |line: &str| -> Option<(u64, u64)> {
            let (offset, size) = line.split_once(' ')?;
            Some((offset.parse().ok()?, size.parse().ok()?))
        };
        let trace = Trace::of_reads(&index, notes.lines().filter_map(read));
        store.write_trace(&record.id, layer, &trace)?;
        Ok(LayerRow { diff_id: layer.diff_id, chunks: index.parts().len(), traced: trace.numbers().len() })
    }
}

/// Returns the processes that have a path in an argument: conmon, and the Podman that it calls last, which writes below the path.
fn processes_with(path: &Path) -> Vec<Process> {
    let path = path.as_os_str().as_bytes();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has_path = |process: &Process| {
        let arguments = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
        arguments.windows(path.len()).any(|part| part == path)
    };
    numbers.filter_map(|number| Process::open(number).ok()).filter(has_path).collect()
}

impl Drop for Work {
    fn drop(&mut self) {
        let path = self.0.path();
        let deadline = Instant::now() + CLEANUP_TIMEOUT;
        while let Some(process) = processes_with(path).first() {
            let left = deadline.saturating_duration_since(Instant::now());
            if !process.wait_until_ended(left).unwrap_or(false) {
                break;
            }
        }
        // Podman as root mounts this directory on itself.
        let _ = rustix::mount::unmount(path.join("graph/overlay"), rustix::mount::UnmountFlags::DETACH);
        // A container's files belong to ids that only a user namespace may remove.
        if fs::remove_dir_all(path.join("graph")).is_err() {
            let _ = Command::new("podman").args(["unshare", "rm", "-rf"]).arg(path.join("graph")).status();
        }
    }
}
