//! Recovery: leases, directories and layers of an earlier agent, at the start of the next one.
//!
//! Leases whose slurmstepd is alive continue, also those whose journal entry this agent cannot read. All else is released, but not here:
//! a release may wait for stores and processes that hang, and the start of the agent must not. A new step with the number of a lease that
//! is still to be released has it released first ([`Leases::acquire`]).

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use parallax_config::Config;
use parallax_protocol::message::StepId;
use parallax_sys::mount::take_down;
use parallax_sys::process::Process;

use super::cause::Cause;
use super::container_locks::ContainerLocks;
use super::job_layers::JobLayers;
use super::table::{Lease, Leases, Resources};
use crate::backend::{Backends, Retry};
use crate::helper::Helper;
use crate::identity::Identity;
use crate::in_use::InUseMarkers;
use crate::journal::{Entry, Journal, LeaseKey, Recorded, entry_of_unreadable};
use crate::layers::{KeptLayers, LayerTable};
use crate::metrics::Metrics;
use crate::step::StepDirectory;
use crate::step::disk::{Disk, DiskDirectory, Quota};
use crate::step::user_namespaces::NamespaceTable;

/// The result of the recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The leases that continue, with their owners.
    pub alive: Vec<(LeaseKey, Process)>,
    /// The remains that are to be released.
    pub stale: Stale,
}

/// Stale leases and directories of an earlier agent. Several threads may share the work.
#[derive(Debug, Default, Clone)]
pub struct Stale {
    leases: Arc<Mutex<VecDeque<LeaseKey>>>,
    directories: Arc<Mutex<Vec<PathBuf>>>,
}

impl Leases {
    /// Prepares the runtime directory and recovers the leases of an earlier agent, of whose layers in chunks systemd has kept the
    /// descriptors. Returns the leases that continue, and the stale
    /// remains to be released.
    ///
    /// # Errors
    /// The runtime directory cannot be created or read.
    pub fn open(
        config: Config,
        backends: Backends,
        helper: Arc<Helper>,
        metrics: Metrics,
        kept: KeptLayers,
    ) -> io::Result<(Self, Recovered)> {
        let root = config.agent.runtime_dir.clone();
        directory(&root, 0o755)?;
        directory(&root.join("steps"), 0o711)?;
        directory(&root.join("layers"), 0o700)?;
        directory(&root.join("leases"), 0o700)?;
        let leases = Self {
            layers: LayerTable::new(root.join("layers")).configured(&config).with_kept(kept),
            config: RwLock::new(Arc::new(config)),
            runtime: root.clone(),
            backend_retry: Retry::new(backends, Arc::clone(&helper)),
            helper,
            journal: Journal::new(root.join("leases")),
            namespaces: NamespaceTable::default(),
            live: Mutex::default(),
            pending: Mutex::default(),
            orphaned: Mutex::default(),
            metrics,
            in_use: InUseMarkers::start(),
            containers: ContainerLocks::default(),
            job_layers: JobLayers::default(),
        };
        let recovered = leases.recover()?;
        leases.layers.forget_kept();
        let config = leases.config();
        // The image of an unreadable lease may be unknown.
        if config.agent.holds && leases.live().values().all(|lease| lease.readable) {
            leases.in_use.sweep(&config.stores);
        }
        Ok((leases, recovered))
    }

    /// Adopts all leases of an earlier agent, and determines which of them continue.
    fn recover(&self) -> io::Result<Recovered> {
        let mut recovered = Recovered::default();
        let mut stale = VecDeque::new();
        let mut known = Vec::new();
        let mut answers = true;
        for recorded in self.journal.read()? {
            let (mut entry, readable) = self.entry_of(recorded);
            self.complete(&mut entry, &mut answers);
            let key = entry.lease_key();
            let path = self.step_path(&entry.key);
            known.push(path.clone());
            let owner = entry.owner.open_process();
            let directory = entry.container.is_none().then(|| StepDirectory::adopt(&path));
            self.adopt(entry, readable, directory);
            match owner {
                Some(process) => {
                    tracing::info!(job = key.step.job, step = %key.step, readable, "lease adopted from an earlier agent");
                    recovered.alive.push((key, process));
                }
                None => stale.push_back(key),
            }
        }
        let mut directories = Vec::new();
        for entry in fs::read_dir(self.steps())? {
            let path = entry?.path();
            if !known.contains(&path) {
                directories.push(path);
            }
        }
        *self.orphaned.lock().unwrap_or_else(PoisonError::into_inner) = self.layers.orphaned()?;
        recovered.stale = Stale { leases: Arc::new(Mutex::new(stale)), directories: Arc::new(Mutex::new(directories)) };
        Ok(recovered)
    }

    fn entry_of(&self, recorded: Recorded) -> (Entry, bool) {
        match recorded {
            Recorded::Entry(entry) => (*entry, true),
            Recorded::Unreadable { header, image, reason } => {
                tracing::warn!(
                    step = %header.key.step,
                    reason,
                    "unreadable journal entry; the step stays unchanged until its slurmstepd ends"
                );
                (entry_of_unreadable(&header, image, &self.step_path(&header.key.directory)), false)
            }
        }
    }

    fn adopt(&self, entry: Entry, readable: bool, directory: Option<StepDirectory>) {
        let layers = entry.layers.iter().cloned().map(|layer| self.layers.adopt(layer)).collect();
        let marker = self.mark_in_use(entry.image.as_ref());
        // The scratch directory of an unreadable entry is not known, but hardly another one.
        let scratch = if readable { None } else { self.config().step.scratch().map(Path::to_owned) };
        let guessed = scratch.map(|scratch| DiskDirectory { scratch, name: entry.key.clone() });
        let disk = entry.disk_directory().or(guessed);
        let held = Resources { directory, disk, layers, marker };
        let lease = Lease { entry, readable, resources: Mutex::new(Some(held)) };
        self.live().insert(lease.entry.step(), Arc::new(lease));
    }

    /// Completes an entry without an identity. A user database that does not answer is not asked again (`answers`), because the
    /// agent is not ready before. The ids, and the subordinate ids under the uid, are known in any case.
    fn complete(&self, entry: &mut Entry, answers: &mut bool) {
        if entry.identity.is_some() {
            return;
        }
        let (uid, gid) = (entry.request.uid, entry.request.gid);
        let found = if *answers {
            Identity::of(self.helper(), uid, gid)
        } else {
            Err("the user database was not asked".to_owned())
        };
        entry.identity = Some(found.unwrap_or_else(|reason| {
            *answers = false;
            tracing::warn!(step = %entry.step(), reason, "unknown user; processes are found by the uid");
            Identity::of_named(&uid.to_string(), uid, gid).unwrap_or_else(|_| Identity::of_ids(uid, gid))
        }));
    }

    /// Releases the stale remains of an earlier agent; returns when the queue is empty. All layers that stay are adopted before: a
    /// lease that ended earlier would unmount what it shares with a later one.
    pub fn release_stale(&self, stale: &Stale) {
        while let Some(path) = stale.directories.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            if let Err(error) = take_down(&path) {
                tracing::error!(directory = %path.display(), "cannot unmount the stale directory of a step: {error}");
            }
        }
        self.unmount_orphaned_layers(None);
        loop {
            let next = stale.leases.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(key) = next else { return };
            self.release(&key, Cause::Restart);
        }
    }

    /// Checks the directory for writable layers on a disk, and removes what is there of steps that this node does not have: of before a
    /// power cut, or of an agent that ended while it removed it. Problems are logged.
    pub fn clear_disk(&self) {
        let config = self.config();
        let Some(scratch) = config.step.scratch() else { return };
        let stale = || -> Result<(), String> {
            let disk = Disk::open(scratch).map_err(|error| error.to_string())?;
            if Quota::of(&config.step).is_some() && !disk.enforces_limits() {
                tracing::warn!(
                    directory = %disk.path().display(),
                    "writable layers have no limit: the file system of step.scratch enforces no project quotas; mount it with prjquota"
                );
            }
            let failed = |error: io::Error| format!("cannot read {}: {error}", disk.path().display());
            // Listed before the journal is asked: its entries are made earlier.
            for name in disk.names().map_err(failed)? {
                if !self.journal.has(&name).map_err(failed)? {
                    tracing::info!(directory = %disk.path().join(&name).display(), "removing the stale writable layer of a step");
                    DiskDirectory { scratch: scratch.to_owned(), name }.remove()?;
                }
            }
            Ok(())
        };
        if let Err(problem) = stale() {
            tracing::error!("{problem}");
        }
    }

    /// Unmounts the orphaned layers, unless a lease other than `ending` has an unreadable entry and may use them.
    pub(super) fn unmount_orphaned_layers(&self, ending: Option<StepId>) {
        if self.live().values().any(|lease| !lease.readable && Some(lease.entry.step()) != ending) {
            return;
        }
        let orphaned = std::mem::take(&mut *self.orphaned.lock().unwrap_or_else(PoisonError::into_inner));
        for path in orphaned {
            if let Err(error) = take_down(&path) {
                tracing::error!(mount_point = %path.display(), "cannot unmount an orphaned layer: {error}");
            }
        }
    }
}

/// Creates a directory of root with exactly this mode, or corrects the mode of an existing one.
fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}
