//! The table of leases.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use parallax_config::Config;
use parallax_lazy_file::ask_status;
use parallax_protocol::message::{Status, StepId, StepStatus};

use super::container_locks::ContainerLocks;
use super::job_layers::JobLayers;
use super::refusal::{Refusal, refused};
use crate::backend::{Backends, Retry};
use crate::helper::Helper;
use crate::in_use::{InUseMarker, InUseMarkers};
use crate::journal::{Entry, Journal, StoreImage};
use crate::layers::{LayerTable, MountedLayer};
use crate::metrics::Metrics;
use crate::step::StepDirectory;
use crate::step::disk::DiskDirectory;
use crate::step::job_namespace;
use crate::step::user_namespaces::NamespaceTable;

/// Timeout of parallax-lazy's answer for the metrics.
const LAZY_TIMEOUT: Duration = Duration::from_secs(1);

/// All leases of this node.
#[derive(Debug)]
pub struct Leases {
    pub(super) config: RwLock<Arc<Config>>,
    /// The runtime directory; constant for as long as the agent runs.
    pub(super) runtime: PathBuf,
    pub(super) backend_retry: Retry,
    pub(super) helper: Arc<Helper>,
    pub(super) layers: LayerTable,
    pub(super) journal: Journal,
    pub(super) namespaces: NamespaceTable,
    pub(super) live: Mutex<HashMap<StepId, Arc<Lease>>>,
    /// The steps whose lease is being granted.
    pub(super) pending: Mutex<HashSet<StepId>>,
    /// Orphaned layers: mounted by an earlier agent and used by no known lease.
    pub(super) orphaned: Mutex<Vec<PathBuf>>,
    pub(super) metrics: Metrics,
    pub(super) in_use: InUseMarkers,
    pub(super) containers: ContainerLocks,
    pub(super) job_layers: JobLayers,
}

/// A lease. The first release takes its resources.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) entry: Entry,
    /// True if this agent can read the lease's journal entry; otherwise `entry` has what the file's name says.
    pub(super) readable: bool,
    pub(super) resources: Mutex<Option<Resources>>,
}

/// The resources of a lease, in the order of their release.
#[derive(Debug)]
pub(super) struct Resources {
    /// `None` for a step that shares the directory of a container.
    pub(super) directory: Option<StepDirectory>,
    /// The directory on a disk of the node for the writable layer.
    pub(super) disk: Option<DiskDirectory>,
    pub(super) layers: Vec<Arc<MountedLayer>>,
    pub(super) marker: Option<InUseMarker>,
}

impl Leases {
    /// Returns the leases, the mounted layers and the node's abilities.
    #[must_use]
    pub fn status(&self) -> Status {
        let step = |lease: &Arc<Lease>| {
            let entry = &lease.entry;
            StepStatus {
                step: entry.step(),
                uid: entry.request.uid,
                image: entry.request.image.clone(),
                image_id: entry.image.as_ref().map(|image| image.id.to_string()),
                image_names: entry.image_names.clone(),
                source: entry.source.clone(),
                mode: entry.request.mode,
                container: entry.request.container.clone(),
                directory: self.step_path(entry.directory()),
                since: entry.since,
            }
        };
        let mut steps: Vec<StepStatus> = self.live().values().map(step).collect();
        steps.sort_by_key(|status| status.step);
        let mut layers: Vec<String> = self.layers.mounted().iter().map(|layer| layer.diff_id().to_string()).collect();
        layers.sort();
        Status { version: env!("CARGO_PKG_VERSION").to_owned(), steps, layers, node: self.backends().status() }
    }

    /// Makes a step's directory visible in the mount namespace of a process.
    ///
    /// # Errors
    /// [`Refusal`], one sentence for the user.
    pub fn attach(&self, step: StepId, pid: i32) -> Result<(), Refusal> {
        let gone = || Refusal::user(format!("step {step} no longer has an image on this node"));
        let lease = self.live().get(&step).cloned().ok_or_else(gone)?;
        // Locked, so that neither another task attaches it at the same time nor the step is released meanwhile.
        let held = lease.resources.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            return Err(gone());
        }
        let path = self.step_path(lease.entry.directory());
        job_namespace::attach_tree(&path, pid)
            .map_err(|error| refused(&format!("cannot attach the image in the job's own mount namespace: {error}")))
    }

    /// Returns the configuration in effect.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the helper, which looks users up.
    #[must_use]
    pub fn helper(&self) -> &Helper {
        &self.helper
    }

    /// Returns the backends in effect.
    pub(super) fn backends(&self) -> Arc<Backends> {
        self.backend_retry.backends()
    }

    /// Unmounts the layers that no step uses: those in the idle layer cache, and those that are kept for jobs.
    pub fn unmount_idle_layers(&self) {
        drop(self.job_layers.take(None));
        self.layers.unmount_idle();
    }

    /// Applies another configuration, except for the runtime directory, which has the leases in it. Returns `true` if the
    /// runtime directory was changed.
    pub fn reconfigure(&self, mut config: Config) -> bool {
        let moved = config.agent.runtime_dir != self.runtime;
        config.agent.runtime_dir.clone_from(&self.runtime);
        // Without the lock that steps take: users are looked up.
        let configured = self.backends().configured(&config, &self.helper);
        self.backend_retry.change(|backends| configured.with_findings_of(backends));
        self.backend_retry.try_after_reload();
        self.layers.reconfigure(&config);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        moved
    }

    /// Marks the image as in use in its store, if that is configured.
    pub(super) fn mark_in_use(&self, image: Option<&StoreImage>) -> Option<InUseMarker> {
        image.filter(|_| self.config().agent.holds).map(|image| self.in_use.mark(image.clone()))
    }

    /// Returns the metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns `true` if the table of leases is not locked. It is locked for moments only, and never while waiting.
    #[must_use]
    pub fn responds(&self) -> bool {
        self.live.try_lock().is_ok()
    }

    /// Returns the number of leases.
    #[must_use]
    pub fn count(&self) -> usize {
        self.live().len()
    }

    /// Updates the gauges, also those of this node's `parallax-lazy`, whose answer is waited for.
    pub fn observe(&self) {
        self.metrics.observe(self.count(), self.layers.mounted().len());
        let config = self.config();
        if config.lazy.enabled {
            let status = ask_status(&config.lazy.socket, LAZY_TIMEOUT)
                .inspect_err(|error| tracing::debug!("no metrics of parallax-lazy: {error}"));
            self.metrics.lazy().observe(status.ok().as_ref(), self.layers.swaps().total());
        }
    }

    /// Marks a step as one whose lease is being granted, until the value is dropped.
    pub(super) fn begin(&self, step: StepId) -> Result<PendingLease<'_>, Refusal> {
        if self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(step) {
            Ok(PendingLease { leases: self, step })
        } else {
            Err(refused(&format!("a lease of step {step} is already being granted on this node")))
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

/// A lease that is being granted.
pub(super) struct PendingLease<'a> {
    leases: &'a Leases,
    step: StepId,
}

impl Drop for PendingLease<'_> {
    fn drop(&mut self) {
        self.leases.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.step);
    }
}
