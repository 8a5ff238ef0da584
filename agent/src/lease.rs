//! What a step's lease is made of, in order, and its end.
//!
//! [`Leases::acquire`] reads top-down: who the user is, which image is meant, its layers, the step's directory. Every way in
//! which a step can end leads to the one routine in `release.rs`, which goes on past errors and may be called any number of times.

mod access;
mod acquire;
pub mod cause;
mod find;
mod owners;
mod recover;
pub mod refusal;
mod release;

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use parallax_config::Config;
use parallax_protocol::message::{Status, StepId, StepStatus};

pub use self::cause::Cause;
pub use self::recover::Recovered;
use self::refusal::refused;
pub use self::refusal::{Refusal, RefusalKind};
use crate::helper::Helper;
use crate::holds::{Holds, ImageHold};
pub use crate::journal::LeaseKey;
use crate::journal::{Entry, HeldImage, Journal};
use crate::ladder::{Ladder, Retry};
use crate::layers::{LayerTable, MountedLayer};
use crate::metrics::Metrics;
use crate::namespace;
use crate::step::StepDirectory;
use crate::user_namespaces::NamespaceTable;

/// All leases of this node.
#[derive(Debug)]
pub struct Leases {
    config: RwLock<Arc<Config>>,
    /// Where everything is; it stays where it is as long as the agent runs.
    runtime: PathBuf,
    ladder: Retry,
    helper: Arc<Helper>,
    layers: LayerTable,
    journal: Journal,
    namespaces: NamespaceTable,
    live: Mutex<HashMap<StepId, Arc<Lease>>>,
    /// The steps whose lease is on its way.
    beginning: Mutex<HashSet<StepId>>,
    /// Layers that an earlier agent mounted and that no lease is known to use.
    orphaned: Mutex<Vec<PathBuf>>,
    metrics: Metrics,
    holds: Holds,
}

/// A lease. What it holds is taken out by the first release.
#[derive(Debug)]
struct Lease {
    entry: Entry,
    /// Whether this agent can read the lease's journal entry; if not, `entry` says what is known all the same.
    readable: bool,
    held: Mutex<Option<Held>>,
}

/// What a lease holds; the order of the fields is the order in which they go.
#[derive(Debug)]
struct Held {
    directory: StepDirectory,
    layers: Vec<Arc<MountedLayer>>,
    hold: Option<ImageHold>,
}

impl Leases {
    /// Makes the runtime directory ready and takes over what an earlier agent left. Returns the leases that go on, and what is still to
    /// be taken down.
    ///
    /// # Errors
    /// The runtime directory can't be made or read.
    pub fn open(
        config: Config,
        ladder: Ladder,
        helper: Arc<Helper>,
        metrics: Metrics,
    ) -> io::Result<(Self, Recovered)> {
        let root = config.agent.runtime_dir.clone();
        directory(&root, 0o755)?;
        directory(&root.join("steps"), 0o711)?;
        directory(&root.join("layers"), 0o700)?;
        directory(&root.join("leases"), 0o700)?;
        let leases = Self {
            layers: LayerTable::new(root.join("layers")).configured(&config.agent),
            config: RwLock::new(Arc::new(config)),
            runtime: root.clone(),
            ladder: Retry::new(ladder, Arc::clone(&helper)),
            helper,
            journal: Journal::new(root.join("leases")),
            namespaces: NamespaceTable::default(),
            live: Mutex::default(),
            beginning: Mutex::default(),
            orphaned: Mutex::default(),
            metrics,
            holds: Holds::start(),
        };
        let recovered = leases.recover()?;
        let config = leases.config();
        // What an unreadable lease uses may be unknown.
        if config.agent.holds && leases.live().values().all(|lease| lease.readable) {
            leases.holds.tidy(&config.stores);
        }
        Ok((leases, recovered))
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
                image_id: entry.image.as_ref().map(|image| image.id.clone()),
                image_names: entry.image_names.clone(),
                mode: entry.request.mode,
                directory: self.step_path(&entry.key),
                since: entry.since,
            }
        };
        let mut steps: Vec<StepStatus> = self.live().values().map(step).collect();
        steps.sort_by_key(|status| status.step);
        let mut layers: Vec<String> = self.layers.mounted().iter().map(|layer| layer.diff_id().to_owned()).collect();
        layers.sort();
        Status { version: env!("CARGO_PKG_VERSION").to_owned(), steps, layers, node: self.ladder().status() }
    }

    /// Makes a step's directory visible in the mount namespace of a process.
    ///
    /// # Errors
    /// [`Refusal`], one sentence for the user.
    pub fn attach(&self, step: StepId, pid: i32) -> Result<(), Refusal> {
        let gone = || Refusal::user(format!("step {step} has no image on this node any more"));
        let lease = self.live().get(&step).cloned().ok_or_else(gone)?;
        // Held, so that neither another task does the same at once nor the step ends meanwhile.
        let held = lease.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            return Err(gone());
        }
        let path = self.step_path(&lease.entry.key);
        namespace::attach_tree(&path, pid)
            .map_err(|error| refused(&format!("the image can't be shown in the job's own mount namespace: {error}")))
    }

    /// The configuration that holds now.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The process that looks users up.
    #[must_use]
    pub fn helper(&self) -> &Helper {
        &self.helper
    }

    /// Which way layers come to steps now.
    fn ladder(&self) -> Arc<Ladder> {
        self.ladder.ladder()
    }

    /// Unmounts the layers that are mounted for no step.
    pub fn let_go_of_idle_layers(&self) {
        self.layers.let_go_of_idle();
    }

    /// Takes over another configuration. The runtime directory stays what it is: leases lie there. Says whether another one
    /// was wanted.
    pub fn reconfigure(&self, mut config: Config) -> bool {
        let moved = config.agent.runtime_dir != self.runtime;
        config.agent.runtime_dir.clone_from(&self.runtime);
        // Without the lock that steps take: users are looked up.
        let configured = self.ladder().configured(&config.agent, &self.helper);
        self.ladder.change(|ladder| configured.with_findings_of(ladder));
        self.layers.reconfigure(&config.agent);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        moved
    }

    /// Says in the store that this node has the image, if that is wanted.
    fn hold(&self, image: Option<&HeldImage>) -> Option<ImageHold> {
        image.filter(|_| self.config().agent.holds).map(|image| self.holds.hold(image.clone()))
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the table of leases can be looked at: it is locked for moments only, and by no one who waits for anything.
    #[must_use]
    pub fn responds(&self) -> bool {
        self.live.try_lock().is_ok()
    }

    /// How many leases are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.live().len()
    }

    /// Brings up to date what is not counted but looked at.
    pub fn observe(&self) {
        self.metrics.observe(self.held(), self.layers.mounted().len());
    }

    /// Marks a step as one whose lease is on its way, until the end of the value.
    fn begin(&self, step: StepId) -> Result<Beginning<'_>, Refusal> {
        if self.beginning.lock().unwrap_or_else(PoisonError::into_inner).insert(step) {
            Ok(Beginning { leases: self, step })
        } else {
            Err(refused(&format!("step {step} is being given an image on this node already")))
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<StepId, Arc<Lease>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn steps(&self) -> PathBuf {
        self.runtime.join("steps")
    }

    fn step_path(&self, key: &str) -> PathBuf {
        self.steps().join(key)
    }
}

/// A step whose lease is on its way.
struct Beginning<'a> {
    leases: &'a Leases,
    step: StepId,
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.leases.beginning.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.step);
    }
}

/// Makes a directory of root's with exactly this mode, or corrects the one that is there.
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}
