//! The table of leases.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use parallax_config::Config;
use parallax_protocol::message::{Status, StepId, StepStatus};

use super::refusal::{Refusal, refused};
use crate::backend::{Backends, Retry};
use crate::helper::Helper;
use crate::in_use::{InUseMarker, InUseMarkers};
use crate::journal::{Entry, HeldImage, Journal};
use crate::layers::{LayerTable, MountedLayer};
use crate::metrics::Metrics;
use crate::step::StepDirectory;
use crate::step::job_namespace;
use crate::step::user_namespaces::NamespaceTable;

/// All leases of this node.
#[derive(Debug)]
pub struct Leases {
    pub(super) config: RwLock<Arc<Config>>,
    /// Where everything is; it stays where it is as long as the agent runs.
    pub(super) runtime: PathBuf,
    pub(super) ladder: Retry,
    pub(super) helper: Arc<Helper>,
    pub(super) layers: LayerTable,
    pub(super) journal: Journal,
    pub(super) namespaces: NamespaceTable,
    pub(super) live: Mutex<HashMap<StepId, Arc<Lease>>>,
    /// The steps whose lease is on its way.
    pub(super) beginning: Mutex<HashSet<StepId>>,
    /// Layers that an earlier agent mounted and that no lease is known to use.
    pub(super) orphaned: Mutex<Vec<PathBuf>>,
    pub(super) metrics: Metrics,
    pub(super) holds: InUseMarkers,
}

/// A lease. What it holds is taken out by the first release.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) entry: Entry,
    /// Whether this agent can read the lease's journal entry; if not, `entry` says what is known all the same.
    pub(super) readable: bool,
    pub(super) held: Mutex<Option<Held>>,
}

/// What a lease holds; the order of the fields is the order in which they go.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) directory: StepDirectory,
    pub(super) layers: Vec<Arc<MountedLayer>>,
    pub(super) hold: Option<InUseMarker>,
}

impl Leases {
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
        job_namespace::attach_tree(&path, pid)
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
    pub(super) fn ladder(&self) -> Arc<Backends> {
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
    pub(super) fn hold(&self, image: Option<&HeldImage>) -> Option<InUseMarker> {
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
    pub(super) fn begin(&self, step: StepId) -> Result<Beginning<'_>, Refusal> {
        if self.beginning.lock().unwrap_or_else(PoisonError::into_inner).insert(step) {
            Ok(Beginning { leases: self, step })
        } else {
            Err(refused(&format!("step {step} is being given an image on this node already")))
        }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, HashMap<StepId, Arc<Lease>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn steps(&self) -> PathBuf {
        self.runtime.join("steps")
    }

    pub(super) fn step_path(&self, key: &str) -> PathBuf {
        self.steps().join(key)
    }
}

/// A step whose lease is on its way.
pub(super) struct Beginning<'a> {
    leases: &'a Leases,
    step: StepId,
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.leases.beginning.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.step);
    }
}
