//! Layers that stay mounted until their job ends on this node, because the job's next step may use them.
//!
//! A SquashFS file that was just mounted has nothing in the kernel's caches: its directories and pages are unpacked anew for each step.
//! So the layers of a job's steps stay mounted for as long as the process that lasts as long as the job ([`keeper`]). Where there is none,
//! each step's layers end with the step. An agent that stops unmounts what no step uses; its successor keeps the layers of later steps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parallax_protocol::message::StepId;
use parallax_sys::process::Process;

use super::keeper;
use super::table::Leases;
use crate::layers::MountedLayer;

/// Maximum number of layers that stay mounted for one job; the layers that were kept first are given up for later ones.
const MAX_LAYERS: usize = 256;

/// A run of a job on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobRun {
    /// The job's number.
    pub job: u32,
    /// How often it was requeued.
    pub restart: u32,
}

impl From<StepId> for JobRun {
    fn from(step: StepId) -> Self {
        Self { job: step.job, restart: step.restart }
    }
}

/// What is kept for each job that has had a step with an image since the agent started.
#[derive(Debug, Default)]
pub(super) struct JobLayers(Mutex<HashMap<JobRun, Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Whether a process tells when the job ends. Otherwise nothing is kept, and the entry ends with the job's last lease.
    ends: bool,
    layers: Vec<Arc<MountedLayer>>,
}

impl Kept {
    /// Adds layers that are not kept yet; returns those that are given up.
    fn add(&mut self, layers: &[Arc<MountedLayer>]) -> Vec<Arc<MountedLayer>> {
        for layer in layers {
            if !self.layers.iter().any(|known| Arc::ptr_eq(known, layer)) {
                self.layers.push(Arc::clone(layer));
            }
        }
        let excess = self.layers.len().saturating_sub(MAX_LAYERS);
        self.layers.drain(..excess).collect()
    }
}

impl JobLayers {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobRun, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a job whose end nothing tells, with its last lease.
    pub(super) fn forget(&self, run: JobRun) {
        let mut jobs = self.lock();
        if jobs.get(&run).is_some_and(|kept| !kept.ends) {
            jobs.remove(&run);
        }
    }

    /// Returns the runs of a job of which something is known.
    pub(super) fn runs_of(&self, job: u32) -> Vec<JobRun> {
        self.lock().keys().filter(|run| run.job == job).copied().collect()
    }

    /// Takes what is kept for a job, or for all.
    pub(super) fn take(&self, run: Option<JobRun>) -> Vec<Arc<MountedLayer>> {
        let mut jobs = self.lock();
        match run {
            Some(run) => jobs.remove(&run).map(|kept| kept.layers).unwrap_or_default(),
            None => jobs.values_mut().flat_map(|kept| std::mem::take(&mut kept.layers)).collect(),
        }
    }
}

impl Leases {
    /// Has the layers of a step stay mounted until its job ends. Returns the process by whose end that is known, which is to be watched,
    /// for the first step of the job.
    pub fn keep_for_job(&self, step: StepId) -> Option<(JobRun, Process)> {
        if !self.config().agent.keep_for_job {
            return None;
        }
        let lease = self.live().get(&step).cloned()?;
        let run = JobRun::from(step);
        let layers = || {
            let held = lease.resources.lock().unwrap_or_else(PoisonError::into_inner);
            held.as_ref().map(|resources| resources.layers.clone()).unwrap_or_default()
        };
        let found = layers();
        if found.is_empty() {
            return None;
        }
        // A lease's resources are never looked at with this lock: a release takes it with those locked.
        let known = match self.job_layers.lock().entry(run) {
            Entry::Occupied(known) if known.get().ends => Some(known.into_mut().add(&found)),
            Entry::Occupied(_) => Some(Vec::new()),
            // Other steps of the job do not search meanwhile.
            Entry::Vacant(place) => {
                place.insert(Kept::default());
                None
            }
        };
        if let Some(given_up) = known {
            // If the step has ended since then, its layers are the job's now, or nobody's.
            self.give_up(found);
            self.give_up(given_up);
            return None;
        }
        drop(found);
        let Some(process) = keeper::of_job(step.job, lease.entry.owner).and_then(|keeper| keeper.open_process()) else {
            if !self.has_lease_of(run) {
                self.job_layers.forget(run);
            }
            return None;
        };
        // Nothing if the step has ended already: the next one's layers are kept.
        let found = layers();
        let mut jobs = self.job_layers.lock();
        let kept = jobs.entry(run).or_default();
        kept.ends = true;
        kept.add(&found);
        Some((run, process))
    }

    /// Whether a step of the job has a lease.
    pub(super) fn has_lease_of(&self, run: JobRun) -> bool {
        self.live().keys().any(|step| JobRun::from(*step) == run)
    }

    /// Unmounts the layers of a job that has ended or is to keep none, as far as nobody uses them.
    pub fn release_job_layers(&self, run: JobRun) {
        let layers = self.job_layers.take(Some(run));
        tracing::debug!(job = run.job, layers = layers.len(), "the job's layers are not kept any more");
        self.give_up(layers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_end_is_unknown_is_forgotten_with_its_last_lease() {
        let jobs = JobLayers::default();
        let runs = [1, 2].map(|job| JobRun { job, restart: 0 });
        jobs.lock().insert(runs[0], Kept::default());
        jobs.lock().insert(runs[1], Kept { ends: true, layers: Vec::new() });
        for run in runs {
            jobs.forget(run);
        }
        assert!(!jobs.lock().contains_key(&runs[0]) && jobs.lock().contains_key(&runs[1]));
        assert!(jobs.take(Some(runs[1])).is_empty() && jobs.lock().is_empty());
    }
}
