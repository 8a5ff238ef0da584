//! What a step's lease is made of, in order, and its end.
//!
//! [`Leases::acquire`] reads top-down: who the user is, which image is meant, its layers, the step's directory. Every way in
//! which a step can end leads to [`Leases::release`], which goes on past errors and may be called any number of times.

mod acquire;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use parallax_config::Config;
use parallax_protocol::message::{Status, StepId, StepStatus};
use parallax_sys::mount::take_down;
use parallax_sys::process::Process;

use crate::identity::Identity;
use crate::journal::{Entry, Journal};
use crate::layers::{LayerTable, MountedLayer};
use crate::namespace;
use crate::processes;
use crate::step::StepDirectory;

/// How long the end of a step waits for its last processes to go after they were killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Why a lease was not granted: one sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// All leases of this node.
#[derive(Debug)]
pub struct Leases {
    config: Config,
    layers: LayerTable,
    journal: Journal,
    live: Mutex<HashMap<StepId, Arc<Lease>>>,
}

/// A lease. What it holds is taken out by the first release.
#[derive(Debug)]
struct Lease {
    entry: Entry,
    held: Mutex<Option<Held>>,
}

/// What a lease holds; the order of the fields is the order in which they go.
#[derive(Debug)]
struct Held {
    directory: StepDirectory,
    layers: Vec<Arc<MountedLayer>>,
}

impl Leases {
    /// Makes the runtime directory ready and takes over what an earlier agent left: leases whose slurmstepd is alive go on,
    /// all else is taken down. Returns the leases that go on, with their owners.
    ///
    /// # Errors
    /// The runtime directory can't be made or read.
    pub fn open(config: Config) -> io::Result<(Self, Vec<(StepId, Process)>)> {
        let root = config.agent.runtime_dir.clone();
        directory(&root, 0o755)?;
        directory(&root.join("steps"), 0o711)?;
        directory(&root.join("layers"), 0o700)?;
        directory(&root.join("leases"), 0o700)?;
        let leases = Self {
            config,
            layers: LayerTable::new(root.join("layers")),
            journal: Journal::new(root.join("leases")),
            live: Mutex::default(),
        };
        let owners = leases.recover()?;
        Ok((leases, owners))
    }

    /// What is held now.
    #[must_use]
    pub fn status(&self) -> Status {
        let step = |lease: &Arc<Lease>| {
            let entry = &lease.entry;
            StepStatus {
                step: entry.step(),
                uid: entry.request.uid,
                image: entry.request.image.clone(),
                mode: entry.request.mode,
                directory: self.step_path(&entry.key),
                since: entry.since,
            }
        };
        let mut steps: Vec<StepStatus> = self.live().values().map(step).collect();
        steps.sort_by_key(|status| status.step);
        let mut layers: Vec<String> = self.layers.mounted().iter().map(|layer| layer.diff_id().to_owned()).collect();
        layers.sort();
        Status { version: env!("CARGO_PKG_VERSION").to_owned(), steps, layers }
    }

    /// Makes a step's directory visible in the mount namespace of a process.
    ///
    /// # Errors
    /// [`Refusal`], one sentence for the user.
    pub fn attach(&self, step: StepId, pid: i32) -> Result<(), Refusal> {
        let gone = || Refusal(format!("step {step} has no image on this node any more"));
        let lease = self.live().get(&step).cloned().ok_or_else(gone)?;
        // Held, so that neither another task does the same at once nor the step ends meanwhile.
        let held = lease.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            return Err(gone());
        }
        let path = self.step_path(&lease.entry.key);
        namespace::attach_tree(&path, pid).map_err(|error| {
            Refusal(format!(
                "the image can't be shown in the job's own mount namespace: {error}; tell the administrator"
            ))
        })
    }

    /// Takes down all that a step holds: processes, mounts, loop devices, directories, the journal's entry. Returns what
    /// could not be, one sentence each. A step that holds nothing is no problem; a release that is under way is waited for.
    pub fn release(&self, step: StepId) -> Vec<String> {
        let Some(lease) = self.live().get(&step).cloned() else { return Vec::new() };
        let mut held = lease.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = held.take() else { return Vec::new() };
        let started = Instant::now();
        let mut problems = self.end_processes(&lease.entry);
        let ended = Instant::now();
        let path = self.step_path(&lease.entry.key);
        if let Err(error) = held.directory.take_down() {
            problems.push(format!("{} can't be taken down: {error}", path.display()));
        }
        drop(held.layers);
        if let Err(error) = self.journal.remove(&lease.entry.key) {
            problems.push(format!("the journal's entry {} can't be removed: {error}", lease.entry.key));
        }
        self.live().remove(&step);
        for problem in &problems {
            tracing::error!(step = %step, "{problem}");
        }
        let (processes, mounts) = (ended - started, ended.elapsed());
        tracing::info!(step = %step, uid = lease.entry.request.uid, ?processes, ?mounts, "released");
        problems
    }

    fn end_processes(&self, entry: &Entry) -> Vec<String> {
        let path = self.step_path(&entry.key);
        match Identity::of(entry.request.uid, entry.request.gid) {
            Ok(identity) => {
                let (ended, problems) = processes::end(&path, &identity, KILL_PATIENCE);
                if ended > 0 {
                    tracing::debug!(step = %entry.step(), ended, "ended processes that outlived the step");
                }
                problems
            }
            Err(reason) => vec![format!("the step's processes can't be found: {reason}")],
        }
    }

    /// Adopts the leases of an earlier agent that are alive and takes down all else it left.
    fn recover(&self) -> io::Result<Vec<(StepId, Process)>> {
        let mut owners = Vec::new();
        let mut keys = Vec::new();
        for entry in self.journal.read()? {
            let step = entry.step();
            let path = self.step_path(&entry.key);
            let layers = entry.layers.iter().cloned().map(|layer| self.layers.adopt(layer)).collect();
            let owner = entry.owner.hold();
            keys.push(path.clone());
            let held = Held { directory: StepDirectory::adopt(&path), layers };
            self.live().insert(step, Arc::new(Lease { entry, held: Mutex::new(Some(held)) }));
            match owner {
                Some(process) => {
                    tracing::info!(step = %step, "adopted a lease of an earlier agent");
                    owners.push((step, process));
                }
                None => drop(self.release(step)),
            }
        }
        for entry in fs::read_dir(self.steps())? {
            let path = entry?.path();
            if !keys.contains(&path) {
                if let Err(error) = take_down(&path) {
                    tracing::error!(directory = %path.display(), "a directory an earlier agent left can't be taken down: {error}");
                }
            }
        }
        self.layers.sweep()?;
        Ok(owners)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<StepId, Arc<Lease>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn steps(&self) -> PathBuf {
        self.config.agent.runtime_dir.join("steps")
    }

    fn step_path(&self, key: &str) -> PathBuf {
        self.steps().join(key)
    }
}

/// Makes a directory of root's with exactly this mode, or corrects the one that is there.
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}
